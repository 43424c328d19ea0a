package postgres

import (
	"slices"
	"sync"
	"time"
)

// Bounds of what is kept of the log in memory.
const (
	maxRecentRows  = 2048
	maxRecentBytes = 8 << 20
)

// logRow is a row of the log as the database has it.
type logRow struct {
	revision uint64
	position int
	at       time.Time
	actor    string
	body     []byte
}

// recent is the end of the log in memory: what this process committed, and what it read of other
// replicas' commits on the way. Watches that are not far behind read it instead of the database. It
// has no holes; its zero value is empty.
type recent struct {
	mu    sync.Mutex
	rows  []logRow
	bytes int
}

// add appends rows of whole revisions, in order; those that are there already are skipped. After a
// hole only what comes behind it is kept.
func (r *recent) add(rows []logRow) {
	r.mu.Lock()
	defer r.mu.Unlock()

	if n := len(r.rows); n > 0 {
		last := r.rows[n-1].revision
		rows = rows[firstAfter(rows, last):]
		if len(rows) > 0 && rows[0].revision != last+1 {
			r.rows, r.bytes = nil, 0
		}
	}
	for _, row := range rows {
		r.rows = append(r.rows, row)
		r.bytes += len(row.body)
	}

	if len(r.rows) > maxRecentRows || r.bytes > maxRecentBytes {
		r.halve()
	}
}

// halve drops the oldest revisions until half of the bounds is left, so that not every add moves
// rows. mu is held.
func (r *recent) halve() {
	next := 0
	for len(r.rows)-next > maxRecentRows/2 || r.bytes > maxRecentBytes/2 {
		end := next + firstAfter(r.rows[next:], r.rows[next].revision)
		for _, row := range r.rows[next:end] {
			r.bytes -= len(row.body)
		}
		next = end
	}
	r.rows = slices.Delete(r.rows, 0, next)
}

// after are the rows of the revisions that follow the given one, at most limit of them; none if the
// next revision is not here.
func (r *recent) after(revision uint64, limit int) []logRow {
	r.mu.Lock()
	defer r.mu.Unlock()

	if len(r.rows) == 0 || revision+1 < r.rows[0].revision {
		return nil
	}
	from := firstAfter(r.rows, revision)
	to := firstAfter(r.rows, revision+uint64(limit))
	return slices.Clone(r.rows[from:to])
}

// last is the last revision here; 0 if there is none.
func (r *recent) last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()

	if len(r.rows) == 0 {
		return 0
	}
	return r.rows[len(r.rows)-1].revision
}

// reset forgets everything: the log was compacted, or may be that of a restored database.
func (r *recent) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.rows, r.bytes = nil, 0
}

// firstAfter is the index of the first row behind a revision.
func firstAfter(rows []logRow, revision uint64) int {
	i, _ := slices.BinarySearchFunc(rows, revision, func(row logRow, revision uint64) int {
		if row.revision <= revision {
			return -1
		}
		return 1
	})
	return i
}
