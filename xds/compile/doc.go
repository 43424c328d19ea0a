// Package compile says what a proxy should have: pure functions from resources to xds/ir. It does
// no I/O, keeps no state and knows nothing of Envoy's messages; it reads resources only through
// [Reader], so that the engine (package xds) can record every read and compute again exactly what a
// change concerns.
//
// # The pieces
//
// [Indexes] is the one list of index values under which a resource is found; the engine maintains
// the ranges. Every other function is one step that the engine remembers by its arguments:
// [NewInstance] for a Dataplane, [NewDestination] for any kind of destination, [LocalEndpoints]
// and [Endpoints], [Cluster], [Outbounds] for what a proxy may dial, and a file for each policy, by
// its name in lower case.
//
// # How a policy contributes
//
// A kind of policy is one file here. Its functions, the hooks (hooks.go), turn what the policies of the
// kind say together (a policy.Effective) into fields of the ir; the engine has no query for a kind,
// and a new one adds none. The table of hooks is generated.
//
//   - What is said of a destination ("to") is an [OutboundConfig] of four parts: cluster, endpoints,
//     route, listener. A kind writes its own fields, in any of the parts, and all of them each time:
//     the kind decides the defaults without a policy and the values of unset fields. Later rows win.
//
//   - The parts are comparable structs (xds/ir, policy.go), and each part is half of the key of what
//     is made of it. So the engine compiles a cluster again only if the cluster's part differs, and
//     groups of proxies whose policies have the same result share it. A value that is not a scalar
//     goes into an ir.Shared, which compares by content.
//
//   - Causes are found by comparison, part by part: a policy is a cause of a cluster if the
//     cluster's part differs from what it would be without the kind's policies.
//
//   - What a set of policies says beyond one destination, such as tags to look at, is its [PolicySummary].
//
//   - An entry for a MeshHTTPRoute is applied over the route part of the destination
//     ([RoutePolicy]), by the same function.
//
//   - What is said of inbounds ("from", "rules") is an [InboundConfig], with two hooks: one
//     for all callers, and one for the callers that rules with matches tell apart. A request
//     takes one route, so the conditions of the kinds are crossed (callers.go): a caller meets, of
//     each kind, the first condition that it fits. A kind of which every rule counts,
//     MeshFaultInjection, is not merged and adds filters instead of routes.
//
//   - What the parts do is also told in words ([Effect]), for people who ask why a request goes as it
//     does.
//
// docs/adding-a-policy.md lists the six files of a kind. MeshHTTPRoute is not of this form: it makes
// routes instead of changing them, and reads other resources; see [Routes].
//
// # What fails
//
// A reference that finds nothing is not an error: what it would give is left out, and the backend
// of a route answers 500 instead. Errors are for resources that make no sense at all;
// the engine then keeps the last good value.
package compile
