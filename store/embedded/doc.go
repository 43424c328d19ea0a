// Package embedded is the store of a control plane with one process: durable in a directory, with
// all current state in memory.
//
// # Model
//
// The file store.db (bbolt) holds current resources, the log by revision, an index of the log by
// key, and meta values. All current resources are also in memory as a copy-on-write tree; reads and
// snapshots come from there and never block. A recent tail of commits is in memory too, so a watch
// near the head does not read the file.
//
// # Commits
//
// Commit puts its transaction into a queue. The caller that gets the write lock next evaluates all
// that wait, in order, against the state so far, and writes them in one file transaction with one flush;
// each is its own revision. Nothing is visible to readers, and no caller is answered, before the
// flush. There is no goroutine of the store's own.
//
// # Failure
//
// A lock file keeps a second process out. The file is made complete under another name and then
// renamed, so a file that is there but short, empty or altered is damage: Open walks every page of
// the file with bounds checked, before bbolt sees it, and then checks the checksum of every row,
// that the log has no holes, and that index and rows agree. Damage is reported as
// [*store.CorruptError] and nothing is recreated. Both header pages must be intact, for falling
// back to the older one would lose the last commits in silence. If a write fails (disk full), the
// store goes on if the file still is at the last answered revision, else it refuses further writes
// until restarted.
//
// # For operators
//
// Put the directory on a local disk that honours fsync; network file systems that do not lock will
// let two processes in. Every commit waits for a flush, so the disk's flush time is the latency of
// a write. The file does not shrink: after compaction its free pages are used again. Back it up
// with the process stopped, together with the encryption key.
package embedded
