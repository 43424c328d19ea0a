// Package grpcclients holds the tests of gRPC programs without a proxy: three independent libraries
// (grpc-go, grpc-js-xds and the C core, through Python) call a service by xds:///NAME with a real
// zone as their management server, in one scenario for each: names, weights, header
// matches, retries, endpoints that come and go, mutual TLS, and policies of which they cannot take
// all.
//
// The Go client runs in the test. The others are client.js and client.py, which take commands as
// lines of JSON; their libraries are installed into a temporary directory, by npm and pip. Without
// node or python3 their tests are skipped.
//
// grpc-js-xds can speak to its management server in clear text or with Google's credentials, and
// with nothing else: it gets to the zone through a forwarder on loopback that adds TLS.
package grpcclients
