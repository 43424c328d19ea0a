package kdsrpc

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/kds"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// hostSource binds a Source to a stream: Config at global, State in a zone. One goroutine, that of
// [hostSource.run], uses the Source and calls the functions.
type hostSource struct {
	src *kds.Source
	sub *replica.Subscription
	l   *link[kdsv1.Frame]
	// first is sent before everything else, if it is not nil.
	first *kdsv1.Frame
	// extra frames of the host itself; they go before those of the Source.
	extra <-chan *kdsv1.Frame
	// slots is full when no snapshot may begin; nil if there is no limit.
	slots chan struct{}
	// digestAfter is the time from a change until digests are compared.
	digestAfter time.Duration
	// bookmarkAfter is the time until a bookmark says that nothing of a change is for the other side.
	bookmarkAfter time.Duration

	// sent is called after a frame was sent, with the stats of the Source before and after it.
	sent func(f *kdsv1.Frame, before, after kds.SourceStats)
	// advanced is called when what is local has got further, even if nothing of it is for the other
	// side: once that has needed, it has all up to head.
	advanced func(needed, head uint64)
	// received is called for every frame; answer is zero for a heartbeat.
	received func(at time.Time, f *kdsv1.Frame, answer kds.Answer)

	next     *kdsv1.Frame
	echo     bool // a heartbeat has to be answered that the reader could not answer
	holds    bool // a slot
	counted  kds.SourceStats
	unproven bool   // something was sent since the last digest
	head     uint64 // of the local store
	needed   uint64 // as advanced was told
	told     uint64 // head as advanced was told

	notBefore time.Time        // of the next delta
	resume    <-chan time.Time // when the next one may be; nil if none waits for that
}

// Bounds of the time between two deltas. The first change goes at once; those that come before the next
// delta may go are merged into it, so that what a burst of writes costs a zone, a transaction and a flush
// each, does not grow with the rate of the writers. Steady writers, of more than 250 changes a second, are
// given the longer time: for them each delta is one of many.
const (
	minDeltaInterval = 20 * time.Millisecond
	maxDeltaInterval = 60 * time.Millisecond
	intervalOfChange = 4 * time.Millisecond
)

// deltaInterval is how long the delta after d waits.
func deltaInterval(d *kdsv1.Delta) time.Duration {
	changes := len(d.GetUpserts()) + len(d.GetDeletes())
	return min(max(minDeltaInterval, time.Duration(changes)*intervalOfChange), maxDeltaInterval)
}

func (h *hostSource) run(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	batches, followErrs := follow(ctx, h.sub)
	defer h.release()

	h.next, h.head = h.first, h.src.Revision()
	var digest, bookmark <-chan time.Time
	for {
		slots, err := h.pull()
		if err != nil {
			return err
		}
		out, extra := h.l.out, h.extra
		if h.next == nil {
			out = nil
		} else {
			extra = nil
		}
		if h.unproven && digest == nil {
			digest = time.After(h.digestAfter)
		}
		if bookmark == nil && h.src.Sent() < h.src.Revision() {
			bookmark = time.After(h.bookmarkAfter)
		}
		h.advance()

		select {
		case out <- h.next:
			h.noteSent()
		case h.next = <-extra:
		case slots <- struct{}{}:
			h.holds = true
		case b := <-batches:
			if b.Reset {
				return errStartOver
			}
			// A commit without changes, such as that of a cursor, is not announced: the other side
			// would store a cursor in turn, and so on.
			if len(b.Changes) > 0 {
				h.src.Advance(b.View, b.Changes, b.Committed)
			}
			h.head = b.View.Revision()
		case f := <-h.l.in:
			if err := h.recv(f); err != nil {
				return err
			}
		case <-h.resume:
			h.resume = nil
		case <-digest:
			digest = nil
			h.src.CheckSummary()
		case <-bookmark:
			bookmark = nil
			h.src.Announce()
		case err := <-followErrs:
			return err
		case err := <-h.l.errs:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pull fetches the next frame if none waits. It returns the slots if a snapshot has to wait for one.
func (h *hostSource) pull() (slots chan struct{}, err error) {
	if h.next == nil {
		switch {
		case h.echo:
			h.next, h.echo = heartbeat(), false
		case h.slots != nil && h.src.WantsSnapshot() && !h.holds:
			slots = h.slots
		case h.early():
		default:
			if h.next, err = h.src.Next(); err != nil {
				return nil, status.Errorf(codes.Internal, "%v", err)
			}
		}
	}
	if h.holds && !h.src.WantsSnapshot() && !h.src.InSnapshot() {
		h.release()
	}
	if h.next == nil {
		return slots, nil
	}
	return slots, checkSize(h.next)
}

// early says that the next frame is a delta and that it is too early for it; then the loop is resumed
// in time.
func (h *hostSource) early() bool {
	if h.src.Pending() == 0 || h.src.WantsSnapshot() || h.src.InSnapshot() {
		return false
	}
	wait := time.Until(h.notBefore)
	if wait > 0 && h.resume == nil {
		h.resume = time.After(wait)
	}
	return wait > 0
}

// advance says how far the local store is, and what the other side needs for it.
func (h *hostSource) advance() {
	needed, ok := h.src.Settled()
	if !ok {
		needed = h.head
	}
	if needed != h.needed || h.head != h.told {
		h.needed, h.told = needed, h.head
		h.advanced(needed, h.head)
	}
}

func (h *hostSource) noteSent() {
	f := h.next
	h.next = nil
	switch f := f.GetMessage().(type) {
	case *kdsv1.Frame_Delta:
		h.unproven, h.notBefore = true, time.Now().Add(deltaInterval(f.Delta))
	case *kdsv1.Frame_Items:
		h.unproven = true
	case *kdsv1.Frame_Digest:
		h.unproven = false
	}
	if f.GetHeartbeat() != nil {
		return
	}
	stats := h.src.Stats()
	h.sent(f, h.counted, stats)
	h.counted = stats
}

func (h *hostSource) recv(f *kdsv1.Frame) error {
	now := time.Now()
	if f.GetHeartbeat() != nil {
		h.echo = true
		h.received(now, f, kds.Answer{})
		return nil
	}
	answer, err := h.src.Recv(f)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	h.received(now, f, answer)
	return nil
}

func (h *hostSource) release() {
	if h.holds {
		<-h.slots
		h.holds = false
	}
}

// flushAfter is how long a cursor that only bookmarks have moved waits until it is stored: until then
// a restart reads that much more of the log.
const flushAfter = 30 * time.Second

// maxBacklog is how many frames may wait in a hostSink, in either direction.
const maxBacklog = 1024

// hostSink binds a Sink to a stream: State at global, Config in a zone. One goroutine, that of
// [hostSink.run], uses the Sink and calls the functions; another commits.
type hostSink struct {
	sink  *kds.Sink
	store store.Store
	l     *link[kdsv1.Frame]
	// reset is closed when the local store goes back: then the Sink is of what may never have been.
	reset <-chan struct{}
	// release receives when what is kept of a former store of the other side is to go; nil never does.
	release <-chan struct{}
	// first is sent before everything else, if it is not nil.
	first *kdsv1.Frame
	// beat is the time between heartbeats; 0 sends none.
	beat time.Duration

	// received is called for every frame; handled says that the Sink must not have it.
	received func(f *kdsv1.Frame) (handled bool, err error)
	// taken is called after the Sink took a frame.
	taken func(f *kdsv1.Frame)
	// applied is called after a transaction is durable.
	applied func(a kds.Apply, result store.Result)
	// flushed is called after a transaction of the host itself.
	flushed func()
	// mismatched is called with the number of kinds that were found to differ.
	mismatched func(kinds uint64)

	outbox     []*kdsv1.Frame
	txn        *store.Txn // to hand to the committer
	busy       bool       // the committer has a transaction
	flushing   bool       // the transaction is none of the other side's
	releasing  bool
	todo       kds.Apply
	mismatches uint64
}

func (h *hostSink) run(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	work, results, idle := committer(ctx, h.store)
	// The stream that follows reads the cursor: no commit of this one may still be under way then.
	defer func() { end(); <-idle }()

	var beats <-chan time.Time
	if h.beat > 0 {
		ticker := time.NewTicker(h.beat)
		defer ticker.Stop()
		beats = ticker.C
	}
	if h.first != nil {
		h.outbox = append(h.outbox, h.first)
	}
	var flush <-chan time.Time
	for {
		h.step()
		out, next := h.l.out, (*kdsv1.Frame)(nil)
		if len(h.outbox) > 0 {
			next = h.outbox[0]
		} else {
			out = nil
		}
		// A peer that sends without reading, or faster than its changes are stored, has to wait.
		in := h.l.in
		if len(h.outbox) > maxBacklog || h.sink.Waiting() > maxBacklog {
			in = nil
		}
		commits, txn := work, store.Txn{}
		if h.txn != nil {
			txn = *h.txn
		} else {
			commits = nil
		}

		select {
		case out <- next:
			h.outbox = h.outbox[1:]
		case commits <- txn:
			h.txn = nil
		case r := <-results:
			if err := h.committed(r); err != nil {
				return err
			}
		case f := <-in:
			if err := h.recv(f); err != nil {
				return err
			}
			if f.GetBookmark() != nil && flush == nil {
				flush = time.After(flushAfter)
			}
		case <-beats:
			h.outbox = append(h.outbox, heartbeat())
		case <-flush:
			flush = nil
			h.flush()
		case <-h.release:
			h.releasing = true
		case <-h.reset:
			return errStartOver
		case err := <-h.l.errs:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// step takes what the Sink has to commit and to send.
func (h *hostSink) step() {
	if !h.busy {
		if a, ok := h.sink.Next(); ok {
			h.todo, h.txn, h.busy = a, &a.Txn, true
		} else if h.releasing {
			h.releasing = false
			if t, ok := h.sink.Release(); ok {
				h.txn, h.busy, h.flushing = &t, true, true
			}
		}
	}
	h.outbox = append(h.outbox, h.sink.Frames()...)
	if n := h.sink.Mismatches(); n > h.mismatches {
		h.mismatched(n - h.mismatches)
		h.mismatches = n
	}
}

// flush stores a cursor that only bookmarks have moved; a transaction under way stores it anyway.
func (h *hostSink) flush() {
	if h.busy {
		return
	}
	if t, ok := h.sink.Flush(); ok {
		h.txn, h.busy, h.flushing = &t, true, true
	}
}

func (h *hostSink) committed(r applied) error {
	h.busy = false
	if r.err != nil {
		return storeStatus(r.err)
	}
	if h.flushing {
		h.flushing = false
		h.flushed()
		return nil
	}
	if err := h.sink.Applied(); err != nil {
		return sinkStatus(err)
	}
	h.applied(h.todo, r.result)
	return nil
}

func (h *hostSink) recv(f *kdsv1.Frame) error {
	handled, err := h.received(f)
	if err != nil || handled {
		return err
	}
	if err := h.sink.Recv(f); err != nil {
		return sinkStatus(err)
	}
	h.taken(f)
	return nil
}

// sinkStatus is the error of a stream whose Sink refused a frame.
func sinkStatus(err error) error {
	var refused *kds.CloseError
	if errors.As(err, &refused) {
		return err
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

// beatInterval is the time between heartbeats. They are most of what an idle connection carries.
func beatInterval(lease time.Duration) time.Duration { return lease / 2 }

// staleAfter is the silence after which a zone is Stale: a heartbeat is missing, and not just late.
func staleAfter(lease time.Duration) time.Duration { return lease * 3 / 4 }

// Times until a bookmark. Down it moves what the zone says it has applied; up it only shortens what
// is read of the zone's log after a restart.
const (
	bookmarkDown = 500 * time.Millisecond
	bookmarkUp   = 5 * time.Minute
)

// digestLeases is how many leases pass from a change until digests are compared.
const digestLeases = 5

func heartbeat() *kdsv1.Frame {
	return &kdsv1.Frame{Message: &kdsv1.Frame_Heartbeat{Heartbeat: &kdsv1.Heartbeat{}}}
}

func checkSize(f *kdsv1.Frame) error {
	if n := proto.Size(f); n > MaxMessage {
		return status.Errorf(codes.ResourceExhausted,
			"a frame of %d bytes is over the limit of %d: a single resource is too large; delete or split it",
			n, MaxMessage)
	}
	return nil
}
