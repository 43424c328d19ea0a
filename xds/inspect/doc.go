// Package inspect shows, to people, the effective policies of proxies, and why they are so.
//
// It looks at a [xds.Static]: the engine over one view, without streams. What a proxy's
// configuration is made of comes from there ([xds.Inspection]), by the very queries that proxies
// are served from, so that an answer cannot disagree with what Envoy has. This package adds which
// policy set each field and which ones lost it, puts matches and backends into words, and follows a
// request from a caller to the instance that would answer it ([Explain]).
//
// An answer costs an index over the view and the computation of one or two proxies: milliseconds of
// the caller's request. It takes nothing from the engine that serves.
//
// # What it does not know
//
// Of another zone only its services and ingresses are known here, not its Dataplanes. The inbound
// policies of a workload there are known in that zone, and answers say so. Whether an application
// answers is not known either: an explanation ends where the mesh ends.
//
// No example: it needs an engine over a view; docs/operating.md shows its output.
package inspect
