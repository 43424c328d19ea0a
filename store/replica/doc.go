// Package replica keeps an in-memory copy of a store and is what everything but the stores
// themselves reads from.
//
// # Model
//
// A [Replica] takes a snapshot and follows the store's watch from its revision. Its state is a
// copy-on-write B-tree in the order of keys: [Replica.View] is a pointer, costs nothing, never
// changes and stays valid for as long as it is held. Views are read without locks by any number of
// goroutines.
//
// # Subscriptions
//
// A [Subscription] tells one reader what changed since it last asked. Pending changes are merged by
// key, so a slow reader costs at most one entry per key and never slows the others or the store.
// The reader sees, for each key, the state it last saw and the state now: a resource that came and
// went in between does not show, a deletion followed by a creation is one change. Nothing is ever
// dropped.
//
// # Failure
//
// While the store is unavailable the replica keeps serving what it has and tries again with growing pauses
// (0.1 s to 5 s with jitter). When the log was compacted past its place it takes a new snapshot and
// turns the difference into changes. When the store went back ([store.ErrReset]), subscribers get a
// Reset instead, and [Replica.Reset] notifies those that work on the former view. Any other error,
// such as damage, ends
// [Replica.Run].
//
// # For operators
//
// A replica holds all resources in memory, about 1 to 2 kB each. meridian_replica_delay_seconds
// says how old a commit is when it arrives; a growing delay means that the store or this process is
// overloaded, or that clocks of replicas differ.
package replica
