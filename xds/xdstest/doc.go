// Package xdstest has what stands on both sides of the engine in tests. One is an [Author] of random
// policies that can be stored. The other is a stand-in for a proxy: a client that uses
// incremental ADS as Envoy does, without moving any traffic.
//
// A [Client] folds what it gets into a [State] by type, finds in clusters and listeners what they
// refer to, subscribes to it before it acknowledges, drops what nothing refers to any more, and
// comes back after a cut with the versions it holds. It models what makes Envoy delicate: a cluster
// that arrives again warms until its endpoints arrive after it, even if the client had them.
// Whatever would break traffic (a route to a cluster that is not there or still warms) is kept in
// State.Broken.
//
// Hooks make it misbehave: reject responses, stay silent, stop reading, send any request. One
// goroutine, that of [Client.Run], reads and answers; a thousand clients share the parsed form of
// what they get through a references.Index.
//
// No example: a Client needs a running ADS server; the wire tests of xds/delta show its use.
package xdstest
