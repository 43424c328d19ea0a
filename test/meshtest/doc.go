// Package meshtest runs a whole small mesh inside a test: control planes in the test's process, a
// real Envoy per sidecar, and applications whose answers the test decides. Documents are applied
// over the API, and [World.Apply] returns when every proxy has taken them.
//
// # Shape
//
// A [World] is one standalone zone, or a global with zones. Each world has a loopback network of
// its own, 127.A.B.0/24, which it holds by a lock, so that worlds of several tests and packages
// never meet; every [Workload] has an address of its own there and the same ports as all others. A
// workload is bare (callers reach the application directly, which is all that policies about
// outbounds need) or has a sidecar. An [App] answers HTTP of both versions, gRPC and TCP, counts,
// and can be told how to answer, stopped, and started again.
//
// What a test applies is taken back at its end, so that tests can share one world, which is most of
// their cost.
//
// No example: it needs an Envoy and a test; see the suites in e2e/traffic.
package meshtest
