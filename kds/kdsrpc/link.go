package kdsrpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/kds"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// stream is either side of a gRPC stream of frames.
type stream[F any] interface {
	Send(*F) error
	Recv() (*F, error)
}

// link is a stream's reader and sender: the owner of a stream talks to channels and never blocks on
// the network. Both goroutines end when the stream does, which its owner brings about by cancelling
// its context (client) or returning from the handler (server).
type link[F any] struct {
	in   chan *F
	out  chan *F
	errs chan error

	stream  stream[F]
	sending sync.Mutex
	// handle takes frames that the owner need not see; see [link.intercept].
	handle atomic.Pointer[func(*F) bool]
}

// intercept has f called by the reader for every frame from now on; true keeps it from the owner.
// Heartbeats are handled there: on the way through the owner they cost twice as much.
func (l *link[F]) intercept(f func(*F) bool) { l.handle.Store(&f) }

// trySend sends a frame past the owner, unless a frame of the owner is being sent.
func (l *link[F]) trySend(f *F) bool {
	if !l.sending.TryLock() {
		return false
	}
	defer l.sending.Unlock()
	return l.stream.Send(f) == nil
}

func (l *link[F]) send(f *F) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	return l.stream.Send(f)
}

func newLink[F any](ctx context.Context, s stream[F]) *link[F] {
	l := &link[F]{
		in:     make(chan *F),
		out:    make(chan *F),
		errs:   make(chan error, 2),
		stream: s,
	}
	go func() {
		for {
			f, err := s.Recv()
			if err != nil {
				l.errs <- err
				return
			}
			if handle := l.handle.Load(); handle != nil && (*handle)(f) {
				continue
			}
			select {
			case l.in <- f:
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() {
		for {
			select {
			case f := <-l.out:
				if err := l.send(f); err != nil {
					l.errs <- err
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return l
}

// errLease says that the other side was silent for too long.
var errLease = errors.New("no heartbeat for the whole lease")

// openSource readies src at the other side's cursor: the log since then if it reaches back, else
// a snapshot. What follows comes from the subscription.
func openSource(ctx context.Context, st store.Store, rep *replica.Replica, src *kds.Source,
	cfg kds.SourceConfig, cursor *kdsv1.Cursor) (*replica.Subscription, kdsv1.Reset_Reason, error) {
	reason, ok := cfg.Resumable(cursor)
	var watch store.Watch
	if ok {
		var err error
		var invalid *store.InvalidError
		watch, err = st.Watch(ctx, cursor.GetRevision())
		switch {
		case errors.Is(err, store.ErrCompacted):
			reason = kds.ResetCompacted
		case errors.As(err, &invalid):
			reason = kds.ResetStore
		case errors.Is(err, store.ErrReset):
			return nil, 0, errStartOver
		case err != nil:
			return nil, 0, fmt.Errorf("watch the store after revision %d: %w", cursor.GetRevision(), err)
		default:
			defer watch.Close()
		}
	}
	if watch != nil {
		if _, err := rep.Wait(ctx, cursor.GetRevision()); err != nil {
			return nil, 0, err
		}
	}
	sub := rep.Subscribe()
	batch, err := sub.Next(ctx)
	if err != nil {
		sub.Close()
		return nil, 0, err
	}
	if batch.View.Epoch() != cfg.StoreID {
		sub.Close()
		return nil, 0, errStartOver
	}
	if watch != nil {
		changes, committed, err := since(ctx, watch, cursor.GetRevision(), batch.View.Revision())
		switch {
		case errors.Is(err, store.ErrCompacted):
			reason = kds.ResetCompacted
		case err != nil:
			sub.Close()
			if errors.Is(err, store.ErrReset) {
				err = errStartOver
			}
			return nil, 0, err
		default:
			src.Resume(batch.View, cursor.GetRevision(), changes, committed)
			return sub, kds.NoReset, nil
		}
	}
	src.Reset(batch.View, reason)
	return sub, reason, nil
}

// since reads the changes of (after, through], and when the oldest of them was committed.
func since(ctx context.Context, w store.Watch, after, through uint64) ([]store.Change, time.Time, error) {
	var changes []store.Change
	var oldest time.Time
	delays := backoff.Backoff{Min: minStoreRetry, Max: maxStoreRetry}
	for after < through {
		c, err := w.Next(ctx)
		if errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrReset) {
			if err := backoff.Wait(ctx, delays.Next()); err != nil {
				return nil, oldest, err
			}
			continue
		}
		if err != nil {
			return nil, oldest, err
		}
		delays.Reset()
		if oldest.IsZero() {
			oldest = c.Time
		}
		changes = append(changes, c.Changes...)
		after = c.Revision
	}
	return changes, oldest, nil
}

// openSink readies a Sink with what the local store holds at a revision, until reset is closed.
func openSink(ctx context.Context, st store.Store, rep *replica.Replica,
	cfg kds.SinkConfig) (sink *kds.Sink, revision uint64, reset <-chan struct{}, err error) {
	name := kds.ConfigCursor
	if cfg.Direction == kds.Up {
		name = kds.StateCursor(cfg.Zone)
	}
	cfg.Epoch = st.Epoch()
	cursor, err := st.Meta(ctx, name)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("read %s: %w", name, err)
	}
	if cfg.Direction == kds.Up {
		if cfg.Kept, err = st.Meta(ctx, kds.StateKept(cfg.Zone)); err != nil {
			return nil, 0, nil, fmt.Errorf("read %s: %w", kds.StateKept(cfg.Zone), err)
		}
	}
	revision, err = st.Revision(ctx)
	if err != nil {
		return nil, 0, nil, err
	}
	reset = rep.Reset()
	view, err := rep.Wait(ctx, revision)
	switch {
	case err != nil:
		return nil, 0, nil, err
	case view.Epoch() != cfg.Epoch: // the cursor may be of before, and the view of after
		return nil, 0, nil, errStartOver
	}
	sink, err = kds.NewSink(cfg, cursor, view.All())
	return sink, revision, reset, err
}

// errStartOver ends a stream whose own store went back to an earlier state: what the stream knows of
// both sides may never have been.
var errStartOver = status.Error(codes.Aborted,
	"the store went back to an earlier state; the stream starts over")

// follow hands a subscription's batches to the owner, one at a time, until ctx ends.
func follow(ctx context.Context, sub *replica.Subscription) (<-chan replica.Batch, <-chan error) {
	batches, errs := make(chan replica.Batch), make(chan error, 1)
	go func() {
		defer sub.Close()
		for {
			b, err := sub.Next(ctx)
			if err != nil {
				errs <- err
				return
			}
			select {
			case batches <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return batches, errs
}

// applied is the outcome of a commit.
type applied struct {
	result store.Result
	err    error
}

// commitGrace is how long a commit under way may still take when its stream ends.
const commitGrace = 5 * time.Second

// commit applies one transaction, again and again while the store is unavailable. A commit under way is
// seen to its end when ctx ends: if it happened after the next stream had read the cursor, it could
// put back what that stream has moved on from.
func commit(ctx context.Context, st store.Store, txn store.Txn) applied {
	under, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(commitGrace, cancel) })()
	delays := backoff.Backoff{Min: 50 * time.Millisecond, Max: maxStoreRetry}
	for {
		result, err := st.Commit(under, txn)
		if err == nil || !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrReset) {
			return applied{result, err}
		}
		if err := backoff.Wait(ctx, delays.Next()); err != nil {
			return applied{err: err}
		}
	}
}

// committer applies transactions one at a time until ctx ends; done is closed after its last commit.
func committer(ctx context.Context,
	st store.Store) (work chan<- store.Txn, results <-chan applied, done <-chan struct{}) {
	w, r, d := make(chan store.Txn), make(chan applied), make(chan struct{})
	go func() {
		defer close(d)
		for {
			select {
			case txn := <-w:
				res := commit(ctx, st, txn)
				select {
				case r <- res:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return w, r, d
}
