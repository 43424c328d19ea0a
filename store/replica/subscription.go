package replica

import (
	"context"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// Batch is what changed since the last one.
type Batch struct {
	// View after the changes.
	View View
	// From is the revision of the last batch's view; 0 in a Reset.
	From uint64
	// Changes by key, in the order in which the keys first changed. They can be none, if all that
	// happened cancelled out.
	Changes []store.Change
	// Committed is when the oldest commit in the batch was made; zero in a Reset.
	Committed time.Time
	// Reset says to forget everything and take View whole: the first batch, and after the store went back.
	Reset bool
}

// Subscription is one reader's place. One goroutine calls Next or Take; Close may be called by any.
type Subscription struct {
	replica *Replica
	wake    chan struct{} // one token: something is new
	closed  chan struct{}

	// Guarded by replica.mu.
	first   bool
	from    uint64
	pending map[mesh.Key]*mesh.Resource // what the reader last saw, nil if it saw none
	order   []mesh.Key
	oldest  time.Time
}

// Next blocks until something is new. The first call returns a Reset as soon as the replica is
// ready; later calls return everything since, merged by key: Old is what this reader last saw. If
// spec and status were both written the type is ChangeSpec. Errors: ctx's, and [store.ErrClosed]
// after Close.
func (s *Subscription) Next(ctx context.Context) (Batch, error) {
	select {
	case <-s.closed:
		return Batch{}, store.ErrClosed
	case <-ctx.Done():
		return Batch{}, ctx.Err()
	case <-s.replica.ready:
	}
	for {
		if b, ok := s.Take(); ok {
			return b, nil
		}
		select {
		case <-s.closed:
			return Batch{}, store.ErrClosed
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-s.wake:
		}
	}
}

// Close ends the subscription; it is idempotent.
func (s *Subscription) Close() {
	s.replica.mu.Lock()
	defer s.replica.mu.Unlock()
	if _, ok := s.replica.subs[s]; ok {
		delete(s.replica.subs, s)
		close(s.closed)
	}
}

// Wake receives when [Subscription.Take] may have something, for a reader that waits for more than
// this subscription.
func (s *Subscription) Wake() <-chan struct{} { return s.wake }

// Take is [Subscription.Next] for a reader that does not block: ok is false if nothing is new or
// the replica is not ready.
func (s *Subscription) Take() (batch Batch, ok bool) {
	if !isClosed(s.replica.ready) {
		return Batch{}, false
	}
	s.replica.mu.Lock()
	defer s.replica.mu.Unlock()

	view := s.replica.View()
	if s.first {
		s.first = false
		s.clear(view.Revision())
		return Batch{View: view, Reset: true}, true
	}
	if view.Revision() == s.from {
		return Batch{}, false
	}
	b := Batch{
		View:      view,
		From:      s.from,
		Committed: s.oldest,
		Changes:   make([]store.Change, 0, len(s.order)),
	}
	for _, key := range s.order {
		old := s.pending[key]
		now, ok := view.Get(key)
		ch := store.Change{Key: key, Resource: now, Old: old}
		switch {
		case !ok && old == nil:
			continue
		case !ok:
			ch.Type = store.ChangeDelete
		case old == nil || old.Revision != now.Revision:
			ch.Type = store.ChangeSpec
		case old.StatusRevision != now.StatusRevision:
			ch.Type = store.ChangeStatus
		default:
			continue
		}
		b.Changes = append(b.Changes, ch)
	}
	s.clear(view.Revision())
	return b, true
}

func (s *Subscription) clear(from uint64) {
	s.from, s.oldest = from, time.Time{}
	clear(s.pending)
	s.order = s.order[:0]
}

// add merges a commit. It is called with replica.mu held, after the view was replaced.
func (s *Subscription) add(commit store.Commit) {
	if s.first {
		return
	}
	if s.oldest.IsZero() {
		s.oldest = commit.Time
	}
	for _, ch := range commit.Changes {
		if _, ok := s.pending[ch.Key]; !ok {
			s.pending[ch.Key] = ch.Old
			s.order = append(s.order, ch.Key)
		}
	}
	s.signal()
}

// reset makes the next batch a Reset. It is called with replica.mu held.
func (s *Subscription) reset() {
	s.first = true
	s.clear(0)
	s.signal()
}

func (s *Subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
