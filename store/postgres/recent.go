package postgres

import (
	"sync"

	"github.com/meridian-mesh/meridian/store"
)

// Bounds of what is kept of the log in memory.
const (
	maxRecentCommits = 2048
	maxRecentBytes   = 8 << 20
)

// entry is a commit and the size of its rows in bytes.
type entry struct {
	commit store.Commit
	size   int
}

// recent is the end of the log in memory: what this process committed, and what it read of other
// replicas' commits on the way. Watches that are not far behind read it instead of the database, and
// share its commits. It has no holes; its zero value is empty.
type recent struct {
	mu      sync.Mutex
	history uint64 // of the position that the entries belong to
	entries []entry
	bytes   int
}

// restart forgets everything, because the database went back; what was read before is not added.
func (r *recent) restart(history uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history, r.entries, r.bytes = history, nil, 0
}

// add appends commits that were read at a position of a history, in order and without holes; those
// that are there already are skipped. If they begin behind a hole, only they are kept; if the history
// is a former one, none.
func (r *recent) add(history uint64, entries []entry) {
	r.mu.Lock()
	defer r.mu.Unlock()

	if history != r.history {
		return
	}
	if n := len(r.entries); n > 0 && len(entries) > 0 {
		next := r.entries[n-1].commit.Revision + 1
		if first := entries[0].commit.Revision; first > next {
			r.entries, r.bytes = nil, 0
		} else {
			entries = entries[min(next-first, uint64(len(entries))):]
		}
	}
	for _, e := range entries {
		r.bytes += e.size
	}
	r.entries = append(r.entries, entries...)

	if len(r.entries) > maxRecentCommits || r.bytes > maxRecentBytes {
		r.halve()
	}
}

// halve drops the oldest commits until half of the bounds is left, so that not every add moves
// entries. mu is held.
func (r *recent) halve() {
	gone := 0
	for len(r.entries)-gone > maxRecentCommits/2 || r.bytes > maxRecentBytes/2 {
		r.bytes -= r.entries[gone].size
		gone++
	}
	r.entries = append([]entry(nil), r.entries[gone:]...)
}

// after are the commits that follow a revision, at most limit of them; none if the next one is not
// here.
func (r *recent) after(revision uint64, limit int) []store.Commit {
	r.mu.Lock()
	defer r.mu.Unlock()

	if len(r.entries) == 0 {
		return nil
	}
	first := r.entries[0].commit.Revision
	if revision+1 < first || revision+1-first >= uint64(len(r.entries)) {
		return nil
	}
	entries := r.entries[revision+1-first:]
	commits := make([]store.Commit, min(len(entries), limit))
	for i := range commits {
		commits[i] = entries[i].commit
	}
	return commits
}

// last is the last revision here; 0 if there is none.
func (r *recent) last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()

	if len(r.entries) == 0 {
		return 0
	}
	return r.entries[len(r.entries)-1].commit.Revision
}

// reset forgets everything: the log was compacted.
func (r *recent) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.entries, r.bytes = nil, 0
}
