// Package traffic holds tests of what policies do to requests: a whole zone in this process, real Envoys beside programs of the
// test, and documents that are applied as users apply them, over the management API. A policy counts as working here if
// requests say so.
//
// One mesh serves all tests, for an Envoy takes longer to start than most tests to run: a caller, web, and two instances
// each of two versions of a service behind one name. Tests put a policy in place, look at requests, and take it away again; they
// run one after the other. What needs two zones has a mesh of its own.
package traffic
