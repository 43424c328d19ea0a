// Package postgres is the store of any number of equal replicas on PostgreSQL 13 or later.
//
// # Model
//
// All tables are in the schema meridian. One row of meridian.store holds the latest revision; a
// writer locks it, so the order of its locks is the order of commits, and a reader of the log never
// sees revision R+1 without R. There is no leader: every replica writes.
//
// # Commits
//
// Concurrent Commits of one process are written as a group: one database transaction that locks the
// counter row and reads what others added to the log, then evaluates every transaction in turn
// (package txn), writes all rows, and notifies. It takes two round trips however large the group is.
// All that came until the lock was had are of the group, so that the wait for another replica makes
// groups larger. What the group reads is known from former groups and the log; what is not takes a
// third round trip. That the row at the head is still the one that was known shows that the
// database is the same; otherwise everything is forgotten.
//
// # Watch
//
// The log table is the truth. One connection listens for notifications, which carry the revision of
// a commit; it also looks at the counter every second, in case one was lost. Watches then read the
// log by revision. What this process committed, and what others committed before that, it has in
// memory (at most 2,048 commits and 8 MB), so that a watch that keeps up reads nothing from the
// database while this process writes: a notification waits for a group that is about to read what
// it is of, at most 20 ms. When the listening connection breaks it is opened again with
// backoff (0.1 s to 5 s, with jitter).
//
// # Failure
//
// What a lost, refused or overloaded connection causes is [store.ErrUnavailable]. Writes fail
// within [writeTimeout]; if the answer to COMMIT was lost, the write may have happened. Reads are
// tried again twice before they fail. A replica that hangs in a transaction loses its locks after
// idle_in_transaction_session_timeout (5 s).
//
// # A database that goes back
//
// A failover to a standby that lagged, or a restore, takes the database back to an earlier state. Each
// commit, poll and reconnect compares the commit at the head that was read last (its revision, time
// and author) with the log, in the one function that does so. If it is not there, this process forgets
// all it has read, the epoch in meridian.store changes, and watches end with [store.ErrReset]. Compaction
// leaves the last commits in the table, so that the comparison is possible.
//
// # Schema
//
// Migrations are numbered files, forward only, applied by Open under an advisory lock in one
// transaction. A database that a newer program has migrated is refused.
//
// # For operators
//
// Each process uses at most MaxConns connections and one to listen. The database user needs CREATE
// on the database at the first start. LISTEN and advisory locks need session pooling if a pooler
// stands between; Open refuses another ([ErrPooled]). Do not set synchronous_commit to off: a database
// that forgets commits after a crash has lost what was answered, and everything starts over. A database
// that is restored while no process runs needs another epoch in meridian.store, at random. Every commit
// waits for the counter row: its rate is bounded by the database's flush time, divided by the size of
// groups.
//
// No example: a Store needs a running PostgreSQL.
package postgres
