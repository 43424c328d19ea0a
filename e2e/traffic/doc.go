// Package traffic proves the nine traffic policies on traffic: documents are applied to a whole
// zone (or a global and two zones), and requests go through real Envoys.
//
// Tests of one world share its proxies; each takes its policies back. Where Envoy draws lots a test
// says how sure it is: a limit is passed by chance once in a million runs or less. A busy machine
// bends times: an Envoy that is starved measures from a moment that is past, so lower bounds leave
// it a third, and upper ones stand only where the thing would else take several times as long.
//
//   - routes_test.go: matches, filters, weights, mirror, policies attached to a route, shadow policies
//   - resilience_test.go, limits_test.go, health_test.go, balancing_test.go: what a caller's sidecar does
//   - inbound_test.go: what a workload's own sidecar does: rate limits, faults
//   - zones_test.go: failover between two zones
//   - scenarios_test.go: what users of the public guides write, as it stands
//   - examples_test.go: every example of docs/policies
package traffic
