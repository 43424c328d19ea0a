// Package inspect answers, for people, what policies come to and why.
//
// It looks at a [xds.Static]: the engine over one view, without streams. What a proxy's
// configuration is made of comes from there ([xds.Inspection]), by the very queries that proxies
// are served from, so that an answer cannot disagree with what Envoy has. This package adds who set
// each field and who was overruled (package policy says it), puts matches and backends into words,
// and follows a request from a caller to the instance that would answer it ([Explain]).
//
// An answer costs an index over the view and the computation of one or two proxies: milliseconds,
// spent by the caller. It takes nothing from the engine that serves.
//
// # What it does not know
//
// Of another zone only its services and ingresses are known here, not its Dataplanes. What applies at
// the inbounds of a workload there must be asked there, and answers say so. Whether an application
// answers is not known either: an explanation ends where the mesh ends.
//
// No example: an answer needs a whole mesh, which the tests set up; "meridian explain" prints one.
package inspect
