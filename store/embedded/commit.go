package embedded

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// maxGroup bounds how many transactions share a flush, so that the first of them does not wait for
// a group that keeps growing.
const maxGroup = 1024

// group is what one flush writes.
type group struct {
	revision uint64 // of the last commit
	overlay  *txn.Overlay
	commits  []store.Commit
	rows     []commitRows // of commits, if there is a file
	meta     map[string][]byte
	audit    []store.AuditEntry
	// inMemory says that there is no file, which would hold the audit.
	inMemory bool
}

// Commit implements [store.Store].
func (s *Store) Commit(ctx context.Context, t store.Txn) (store.Result, error) {
	return s.queue.Commit(ctx, t)
}

// write evaluates and writes one group and fills in the answers.
func (s *Store) write(take func() []*txn.Request) {
	requests := take()
	if s.failed != nil {
		for _, r := range requests {
			r.Err = s.failed
		}
		return
	}
	start := time.Now()
	st := s.state.Load()
	g := &group{
		revision: st.revision,
		overlay:  txn.NewOverlay(st),
		meta:     map[string][]byte{},
		inMemory: s.file == nil,
	}
	at := now()
	for _, r := range requests {
		if r.Err = txn.CheckEpoch(r.Txn, s.Epoch()); r.Err != nil {
			continue
		}
		effects, err := txn.Evaluate(g.overlay, r.Txn, g.revision+1, at)
		if err != nil {
			r.Err = err
			continue
		}
		changes := effects.Changes
		if len(changes) > 0 {
			commit := store.Commit{
				Revision: g.revision + 1,
				Time:     at,
				Author:   r.Txn.Author,
				Changes:  changes,
			}
			if s.file != nil {
				// What cannot become a row fails alone, before the group is written.
				rows, err := s.file.encode(commit)
				if err != nil {
					r.Err = &store.InvalidError{Reason: err.Error()}
					continue
				}
				g.rows = append(g.rows, rows)
			}
			g.revision++
			g.overlay.Apply(changes, g.revision)
			g.commits = append(g.commits, commit)
		}
		for _, m := range effects.Metas {
			g.meta[m.Name] = slices.Clone(m.Value)
		}
		g.audit = append(g.audit, effects.Audit...)
		r.Result = effects.Result(g.revision)
	}
	if len(g.commits) == 0 && len(g.meta) == 0 && len(g.audit) == 0 {
		return
	}
	if s.file != nil {
		if err := s.file.write(g); err != nil {
			s.fail(st, err)
			for _, r := range requests {
				r.Result, r.Err = store.Result{}, err
			}
			return
		}
	}
	s.publish(st.with(g))
	s.metrics.commits.Add(float64(len(g.commits)))
	s.metrics.group.Observe(float64(len(requests)))
	s.metrics.write.Observe(time.Since(start).Seconds())
}

// fail decides after a failed write whether the store can go on: only if the file is where the last
// answer said.
func (s *Store) fail(st *state, cause error) {
	revision, err := s.file.head()
	if err == nil && revision == st.revision {
		return
	}
	s.failed = fmt.Errorf("%w: a write failed and the file may be ahead of what was answered; restart this "+
		"process (%w)", store.ErrUnavailable, cause)
}
