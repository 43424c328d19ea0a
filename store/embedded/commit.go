package embedded

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// maxGroup bounds how many transactions share a flush, so that the first of them does not wait for ever longer groups.
const maxGroup = 1024

// request is a Commit that waits.
type request struct {
	txn    store.Txn
	result store.Result
	err    error
	done   chan struct{}
}

// group is what one flush writes.
type group struct {
	revision uint64 // of the last commit
	overlay  *txn.Overlay
	commits  []store.Commit
	rows     []commitRows // of commits, if there is a file
	meta     map[string][]byte
}

// Commit implements [store.Store].
func (s *Store) Commit(ctx context.Context, t store.Txn) (store.Result, error) {
	if err := s.check(ctx); err != nil {
		return store.Result{}, err
	}
	if err := txn.Validate(t); err != nil {
		return store.Result{}, err
	}
	r := &request{txn: t, done: make(chan struct{})}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return store.Result{}, store.ErrClosed
	}
	s.waiting = append(s.waiting, r)
	s.mu.Unlock()

	select {
	case <-r.done:
		return r.result, r.err
	case s.writing <- struct{}{}:
		s.lead(r)
		<-s.writing
	case <-s.closed:
		if s.withdraw(r) {
			return store.Result{}, store.ErrClosed
		}
	case <-ctx.Done():
		if s.withdraw(r) {
			return store.Result{}, ctx.Err()
		}
	}
	<-r.done // it is in the hands of a writer, which the disk alone can delay
	return r.result, r.err
}

// withdraw takes a request out of the queue; false means that a writer has it already.
func (s *Store) withdraw(r *request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, r)
	if i < 0 {
		return false
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	return true
}

func (s *Store) lock(ctx context.Context) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-s.closed:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) unlock() { <-s.writing }

// lead writes groups of waiting requests until own is answered. The caller holds the write lock.
func (s *Store) lead(own *request) {
	for {
		select {
		case <-own.done:
			return
		default:
		}
		s.mu.Lock()
		n := min(len(s.waiting), maxGroup)
		requests := slices.Clone(s.waiting[:n])
		s.waiting = slices.Delete(s.waiting, 0, n)
		s.mu.Unlock()
		s.write(requests)
		for _, r := range requests {
			close(r.done)
		}
	}
}

// write evaluates and writes one group and fills in the answers.
func (s *Store) write(requests []*request) {
	if s.failed != nil {
		for _, r := range requests {
			r.err = s.failed
		}
		return
	}
	start := time.Now()
	st := s.state.Load()
	g := &group{revision: st.revision, overlay: txn.NewOverlay(st), meta: map[string][]byte{}}
	at := now()
	for _, r := range requests {
		changes, metas, err := txn.Evaluate(g.overlay, r.txn, g.revision+1, at)
		if err != nil {
			r.err = err
			continue
		}
		if len(changes) > 0 {
			commit := store.Commit{Revision: g.revision + 1, Time: at, Actor: r.txn.Actor, Changes: changes}
			if s.file != nil {
				// What cannot become a row fails alone, before the group is written.
				rows, err := s.file.encode(commit)
				if err != nil {
					r.err = &store.InvalidError{Reason: err.Error()}
					continue
				}
				g.rows = append(g.rows, rows)
			}
			g.revision++
			g.overlay.Apply(changes, g.revision)
			g.commits = append(g.commits, commit)
		}
		for _, m := range metas {
			g.meta[m.Name] = slices.Clone(m.Value)
		}
		r.result = store.Result{Revision: g.revision, Changed: len(changes) > 0}
	}
	if len(g.commits) == 0 && len(g.meta) == 0 {
		return
	}
	if s.file != nil {
		if err := s.file.write(g); err != nil {
			s.fail(st, err)
			for _, r := range requests {
				r.result, r.err = store.Result{}, err
			}
			return
		}
	}
	s.publish(st.with(g))
	s.metrics.commits.Add(float64(len(g.commits)))
	s.metrics.group.Observe(float64(len(requests)))
	s.metrics.write.Observe(time.Since(start).Seconds())
}

// fail decides after a failed write whether the store can go on: only if the file is where the last answer said.
func (s *Store) fail(st *state, cause error) {
	revision, err := s.file.head()
	if err == nil && revision == st.revision {
		return
	}
	s.failed = fmt.Errorf("%w: a write failed and the file may be ahead of what was answered; restart this process (%w)", store.ErrUnavailable, cause)
}
