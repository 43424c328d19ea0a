// Package store is the contract of a control plane's versioned store. Implementations:
// store/embedded (one process, durable in a directory) and store/postgres (any number of replicas).
// Both pass all of store/storetest. Readers other than the implementations use store/replica, an
// in-memory copy that follows the watch.
//
// # Revisions
//
// Every committed transaction that changes something gets the next revision of the store: 1, 2, 3,
// without holes. All changes of one transaction carry that one revision and are seen together or
// not at all. Revisions compare only within one [Store.Epoch].
//
// # Transactions
//
// A [Txn] is a value: checks and operations. It commits if every check holds at its place in the
// order of commits, else nothing of it happens and [*ConflictError] names the first check that
// failed. A reader who decides from a snapshot at revision R and checks what it read (a key's
// revision, or that a whole kind of a mesh has not changed since R) gets a serializable history.
// Concurrent Commits of one process are written in groups (one flush, one counter update), each
// still its own revision.
//
// Spec and status are separate: Put keeps the status, PutStatus keeps the spec, and a change says
// which it is. A write that changes nothing yields no change; a Txn of such writes alone commits at
// the current revision and uses none up.
//
// # Watch
//
// [Store.Watch] delivers every commit after a revision, in order, each once, without holes. A watch
// can lag without limit, for it reads the log: it holds no queue. When the log no longer reaches
// back, Next returns [ErrCompacted], and the reader must take a [Store.Snapshot] and watch from its
// revision.
//
// # Failure
//
// Commit has happened exactly when it returned nil. After [ErrUnavailable] it may or may not have:
// the store became unavailable before the answer was known; read before trying again. Damage to a store's
// files is reported as [*CorruptError] with the file's name, and nothing is recreated in its place.
//
// A store that went back under a running process (a failover to a standby that lagged, a restored
// database) gets another epoch: watches, and transactions that name the former, fail with [ErrReset],
// and everything that was read of it is read again.
//
// # Secrets
//
// Specs of secret kinds are sealed by the [Sealer] before they reach a row or file, in the log as well.
package store
