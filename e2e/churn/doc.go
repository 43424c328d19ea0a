// Package churn holds the test of real Envoys under change: a zone, its sidecars as real Envoys
// under real launchers, HTTP load through them, and all the while services, routes, policies and
// instances that come, change and go. It is about what only the real thing can show: that an Envoy
// loses no request, refuses nothing, drains no listener that did not change, and has in the end
// what the engine believes that it has.
//
// # Parts
//
// Callers (world_test.go) stay for the whole test and send requests (load_test.go) to every
// service, over one connection for each, of which they count how often it had to be opened.
// Instances of services are replaced one after the other as a rolling update does it: the new one
// is started, the old one drains once the new one is called, and its program ends after its
// sidecar. Beside that goes the churn of services, routes and policies (steps_test.go), a seeded
// random walk in which every step is written whole without a pause in between and then waited for.
// After every step, and at length every few steps, each Envoy's own account is compared with the
// engine's table (check_test.go): the content of clusters, listeners and routes, the hosts of every
// cluster with their health, priority and weight, the versions of secrets, and its counters of what
// it rejected. A listener whose content is as before must not have been loaded again.
//
// One service is called without any retry, so that nothing is hidden by one.
//
// # Flags
//
//	go test ./e2e/churn -churn 5m -envoys 20 -seed 7
//
// The short form is a part of every test run. Every Envoy has a loopback address of its own.
package churn
