// Package compile says what a proxy should have: pure functions from resources to xds/ir. It does no I/O, keeps no
// state and knows nothing of Envoy's messages; it reads resources only through [Reader], so that the engine (package
// xds) can record every read and compute again exactly what a change concerns.
//
// # The pieces
//
// [Indexes] is the one list of index values under which a resource is found; the engine maintains the ranges. Every
// other function is one step that the engine remembers by its arguments: [NewInstance] for a Dataplane,
// [NewService] and [NewMultiZone] for destinations, [LocalEndpoints] and [Endpoints], [Cluster], [Outbounds] for what a
// proxy may dial, and a file for each policy: meshtimeout.go, meshtrafficpermission.go, meshhttproute.go.
//
// # What fails
//
// A reference that finds nothing is no error: the thing it would give is left out, or for the backend of a route
// answers 500 (design 9.2). Errors are for resources that make no sense at all; the engine then keeps the last good
// value.
package compile
