// Package policy decides which policies select a proxy, in which order they rank, and what they say
// together. It is pure: no I/O, no clock, no state between calls.
//
// # Model
//
// A policy is a [mesh.Resource] whose kind has a PolicyInfo. Its [Head] is all that decides whom it
// selects and how it ranks; a change of a policy that leaves its Head equal changes what the
// selected proxies get, never which proxies. A proxy, with the MeshServices that select it, is a
// [Subject].
//
//	policies of a kind
//	  ──Bucket/Select──▶ those that select a proxy
//	  ──sort by Compare──▶ ascending list
//	  ──ForDestination / ForInbound / HTTPRoutes / Permissions──▶ effective configuration with provenance
//
// # Index
//
// A mesh has many policies and a proxy is selected by few. Every Head has one [Bucket] and every
// Subject looks into a few ([Buckets]): a policy that selects a subject is always in one of the
// subject's buckets. An index from bucket to policies therefore finds all candidates without a look
// at the others; [Head.Select] then decides.
//
// # Rank
//
// [Compare] orders policies ascending: a later one overrides an earlier one. Policies that the
// system made as defaults rank below all that people wrote. Then come the kind of the top-level
// target, name before labels for a Dataplane target, origin, role, and the display name, where the
// smaller name has the higher rank. Keys break the last tie, so the order is total and the result
// of a merge does not depend on the order of the input. Entries of "to" put their own target's kind
// between role and display name. In one point the order departs from Kuma's, whose comparison
// is not transitive there: see dataplaneRank.
//
// # References
//
// A name refers to a resource of the policy's mesh. A policy of a zone means its own zone's
// resource, or one that global owns. A policy of global means the resources of that name in every
// zone: it has no zone of its own, and the alternative would be that it means none. Without a
// namespace, in the reference and in the policy, every namespace is meant. Labels mean every
// resource that carries all of them; the labels that follow from a key need not be stored.
//
// # Merge
//
// [Merge] is the merge of RFC 7396 on typed messages: messages recurse, everything else that is set
// replaces. It walks descriptors, so a new policy kind whose message has target_ref, to, from,
// rules and default needs no code here. Results share leaves with the policies they came from and
// must not be changed. Each leaf keeps who set it ([Effective.Fields]), which is how a person
// learns why a timeout is what it is.
//
// Three kinds need more. What a person says of outlier detection in a MeshCircuitBreaker replaces
// what the defaults of the system say, since their detectors would go on ejecting beside the
// person's. A MeshTCPRoute's conf is that of its one rule. A policy about a MeshHTTPRoute holds for
// that route as a whole: what is said of the whole mesh lies under it, what is said of the service
// does not ([ForRoute]).
//
// # Inbound
//
// [ForInbound] gives one conf for every caller and one for each condition on callers, in the order
// in which they must be tried. In a MeshRateLimit the former lies under the latter; in a
// MeshTimeout it does not, for the route of such callers is a copy of the common one that has it
// already. Rules of MeshFaultInjection are not merged at all: each that fits acts, and [Faults]
// gives them in order. Its older form, "from", is a list in which the last entry that fits decides.
//
// # Permissions
//
// Rules of MeshTrafficPermission accumulate: what any policy denies is denied, else what any allows
// is allowed. The older form, "from", is a list in which the last entry that fits a caller decides;
// [Permissions] turns it into principals that need no order.
package policy
