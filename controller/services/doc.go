// Package services keeps what a zone derives from its Dataplanes: generated MeshServices, the
// computed part of every MeshService of the zone (identities, state, counts), a virtual IP for
// every destination the zone knows, and hostnames.
//
// # Model
//
// The reconciler follows the replica. Each batch of changes updates indexes (Dataplanes and
// services by the selector they could meet, destinations by hostname) and marks as dirty what the
// change could touch: service names, services, destinations. A plan works the dirty off in this
// order: generate services by name, compute identities and state, bind addresses and hostnames,
// write statuses. All writes of a plan are one transaction, checked against the revisions that
// were read. What equals the stored state is not written, so a plan that follows the reconciler's
// own writes writes nothing and the loop rests. Nothing ticks: it plans after a batch, or at
// the earliest deadline (a grace period, a quarantine).
//
//	replica ─▶ batch ─▶ indexes, dirty sets ─▶ plan ─▶ one Txn ─▶ store ─▶ replica …
//
// # Rules
//
// A service is generated for each value of kuma.io/service that is a DNS label; one that a person
// wrote under the same name blocks it. A generated service without Dataplanes is stamped and deleted
// an hour later. A service without Dataplanes keeps its identities: callers must not fall back to
// weaker checks because its proxies are gone.
//
// A virtual IP belongs to a destination's identity (its key) from the first sight to the end,
// whatever happens to the Dataplanes behind it. When the destination goes the address is
// quarantined: if the destination returns it has the same address again; another one gets it after
// the quarantine, or before only if the range has nothing else left.
//
// Of HostnameGenerators those of the zone come first, then the oldest; of
// destinations that would get one hostname the oldest has it, the others get the condition
// Collision.
//
// # Concurrency and failure
//
// The reconciler is a controller on store/reconcile, which retries. A failed check means that the
// view was old: the dirty sets stay and the next plan starts from them.
//
// No example: a Reconciler needs a running store, and has no other call than Run.
package services
