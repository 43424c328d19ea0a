package embedded

import (
	"context"
	"fmt"

	"github.com/meridian-mesh/meridian/store"
)

// watch implements [store.Watch] by reading the tail in memory or else the file.
type watch struct {
	store  *Store
	after  uint64
	buffer []store.Commit
	closed chan struct{}
}

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, after uint64) (store.Watch, error) {
	if err := s.queue.Check(ctx); err != nil {
		return nil, err
	}
	st := s.state.Load()
	switch {
	case after > st.revision:
		return nil, &store.InvalidError{Reason: fmt.Sprintf("cannot watch after revision %d: the "+
			"store is at "+
			"%d, so the cursor is of another store", after, st.revision)}
	case after < st.compacted:
		return nil, store.ErrCompacted
	}
	return &watch{store: s, after: after, closed: make(chan struct{})}, nil
}

// Next implements [store.Watch].
func (w *watch) Next(ctx context.Context) (store.Commit, error) {
	for {
		if err := w.store.queue.Check(ctx); err != nil {
			return store.Commit{}, err
		}
		if isClosed(w.closed) {
			return store.Commit{}, store.ErrClosed
		}
		if len(w.buffer) > 0 {
			c := w.buffer[0]
			w.buffer = w.buffer[1:]
			w.after = c.Revision
			return c, nil
		}
		st := w.store.state.Load()
		if w.after < st.compacted {
			return store.Commit{}, store.ErrCompacted
		}
		if w.after < st.revision {
			if err := w.fill(st); err != nil {
				return store.Commit{}, err
			}
			continue
		}
		select {
		case <-st.next:
		case <-ctx.Done():
		case <-w.store.queue.Closed():
		case <-w.closed:
		}
	}
}

// fill reads commits after w.after into the buffer.
func (w *watch) fill(st *state) error {
	if n := len(st.tail); n > 0 && st.tail[0].Revision <= w.after+1 {
		w.buffer = st.tail[w.after+1-st.tail[0].Revision:]
		return nil
	}
	var err error
	w.buffer, err = w.store.file.read(w.after, 128)
	if err == nil && len(w.buffer) == 0 {
		// Compacted since st was loaded.
		return store.ErrCompacted
	}
	return err
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Close implements [store.Watch].
func (w *watch) Close() {
	if !isClosed(w.closed) {
		close(w.closed)
	}
}
