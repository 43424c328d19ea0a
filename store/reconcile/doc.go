// Package reconcile is the one loop under everything that derives state in a store from other
// state: follow the store, plan a transaction, commit it, and retry what failed.
//
// # Model
//
// A [Controller] decides and a [Loop] does the rest:
//
//	replica ─▶ batch ─▶ Plan ─▶ one transaction ─▶ store ─▶ replica …
//	wake, deadline, retry ─┘                └─▶ Done
//
// Plan is called with what changed (if [Config.Follow] is set), when [Config.Wake] fires, at the
// time that the last plan named, and after a failure. It returns operations with the checks under
// which they are right. The loop commits them, tells the controller with Done how that went, and
// waits until the replica shows them before the next Plan, so that a controller sees its own
// writes. A controller that writes only what differs from the view comes to rest by itself.
//
// # Failure
//
// A controller keeps what it has not written yet (its dirty set) until Done(nil). After an error
// the loop plans again with exponential backoff and jitter, or at once when something new comes. A
// conflict means that the view was old: the loop first waits until the replica shows the revision
// that was in the way. A crash at any place is harmless if Plan of an empty controller with a Reset
// writes what is missing, as every controller must.
//
// # Concurrency
//
// [Loop.Run] is one goroutine, and the only one that calls the controller.
// [Loop.WaitUntilReconciled] may be called by any.
//
// # For operators
//
// meridian_controller_reconciles_total by controller and result (written, unchanged, conflict,
// failed): a rate of conflict or failed that does not end means that what this controller derives
// is out of date; the log has the error. meridian_controller_retrying_bool is 1 while the last
// attempt failed.
package reconcile
