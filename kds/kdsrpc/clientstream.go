package kdsrpc

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
)

// open says Hello on a new stream and waits for Welcome.
func (c *Client) open(ctx context.Context, st grpc.BidiStreamingClient[kdsv1.Frame, kdsv1.Frame],
	cursor *kdsv1.Cursor) (*link[kdsv1.Frame], *kdsv1.Welcome, kds.Agreement, error) {
	none := kds.Agreement{}
	l := newLink[kdsv1.Frame](ctx, st)
	hello := &kdsv1.Frame{Message: &kdsv1.Frame_Hello{Hello: c.hello(cursor)}}
	timeout := time.NewTimer(max(2*c.lease(), 5*time.Second))
	defer timeout.Stop()
	out := l.out
	for {
		select {
		case out <- hello:
			out = nil
		case f := <-l.in:
			w := f.GetWelcome()
			if w == nil {
				return nil, nil, none,
					status.Errorf(codes.Internal, "global began with %T, want Welcome", f.GetMessage())
			}
			if refused := kds.CheckWelcome(w); refused != nil {
				return nil, nil, none, refused
			}
			agreed := kds.Agree(w.GetSchemas(), c.schemas)
			c.mu.Lock()
			if w.GetLeaseMs() > 0 {
				c.leaseLength = time.Duration(w.GetLeaseMs()) * time.Millisecond
			}
			c.state.Instance, c.state.Degraded = w.GetInstance(), agreed.Degraded
			c.mu.Unlock()
			return l, w, agreed, nil
		case err := <-l.errs:
			return nil, nil, none, err
		case <-timeout.C:
			return nil, nil, none, errLease
		case <-ctx.Done():
			return nil, nil, none, context.Cause(ctx)
		}
	}
}

// runConfig is the loop that owns the Config stream: this side is the Sink.
func (c *Client) runConfig(ctx context.Context, client kdsv1.KdsServiceClient, up func()) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	// The stream comes first: while global is away it fails at once, and the Sink, which reads all
	// copies, is not made.
	st, err := client.Config(ctx)
	if err != nil {
		return err
	}
	sink, local, err := openSink(ctx, c.cfg.Store, c.cfg.Replica, c.sinkConfig())
	if err != nil {
		return err
	}
	work, results, idle := committer(ctx, c.cfg.Store)
	defer func() { end(); <-idle }()
	l, _, agreed, err := c.open(ctx, st, sink.Cursor())
	if err != nil {
		return err
	}
	sink.Agreed(agreed)
	up()
	c.heard(func(st *GlobalState) {
		st.Resumed, st.DigestsEqual, st.Refusals, st.ConfigBytes = sink.Cursor() != nil, true,
			sink.Refusals(), 0
	})
	ticker := time.NewTicker(c.lease() / 6)
	defer ticker.Stop()
	lease := kds.NewLease(c.lease(), time.Now())
	var outbox []*kdsv1.Frame
	applying, flushing, mismatches := false, false, uint64(0)
	var todo kds.Apply
	var txn *store.Txn
	lastFlush := time.Now()
	for {
		if txn == nil && !applying && !flushing {
			if a, ok := sink.Next(); ok {
				todo, txn = a, &a.Txn
			} else if time.Since(lastFlush) > 5*time.Second {
				if t, ok := sink.Flush(); ok {
					txn, flushing = &t, true
				}
				lastFlush = time.Now()
			}
		}
		outbox = append(outbox, sink.Frames()...)
		if n := sink.Mismatches(); n > mismatches {
			c.metrics.mismatches.WithLabelValues("down").Add(float64(n - mismatches))
			mismatches = n
			c.cfg.Logger.Error("what this zone has of global differs from what was sent; asking for it anew")
		}
		var out chan *kdsv1.Frame
		var next *kdsv1.Frame
		if len(outbox) > 0 {
			out, next = l.out, outbox[0]
		}
		var commits chan<- store.Txn
		var t store.Txn
		if txn != nil {
			commits, t = work, *txn
		}
		select {
		case out <- next:
			outbox = outbox[1:]
		case commits <- t:
			txn = nil
			applying = !flushing
		case r := <-results:
			if r.err != nil {
				return storeStatus(r.err)
			}
			if flushing {
				flushing = false
				continue
			}
			applying = false
			local = max(local, r.result.Revision)
			if err := sink.Applied(); err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			c.noteApplied(&todo)
			c.advance(sink, local, todo.Snapshot && todo.Reason != kds.ResetCompacted, true)
		case f := <-l.in:
			lease.Heard(time.Now())
			received := 0
			if f.GetHeartbeat() == nil {
				received = proto.Size(f)
				if r := f.GetRefuse(); r != nil {
					return &kds.RefusedError{Refuse: r}
				}
				if err := sink.Recv(f); err != nil {
					return status.Error(codes.InvalidArgument, err.Error())
				}
				if f.GetBookmark() != nil {
					c.advance(sink, local, false, false)
				}
			}
			c.heard(func(st *GlobalState) {
				st.DigestsEqual = sink.Equal()
				st.ConfigBytes += uint64(received)
			})
		case now := <-ticker.C:
			if lease.Expired(now) {
				return errLease
			}
			if lease.Due(now) {
				outbox = append(outbox, heartbeat())
			}
		case err := <-l.errs:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *Client) noteApplied(a *kds.Apply) {
	if a.Snapshot {
		c.cfg.Logger.Info("took a snapshot of global", zap.String("reason", a.Reason),
			zap.Int("items", a.Items), zap.Uint64("global_revision", a.Revision))
		c.heard(func(st *GlobalState) { st.Resumed = false })
	}
	if !a.Committed.IsZero() {
		c.metrics.lag.WithLabelValues("down", "applied").Observe(max(0, time.Since(a.Committed).Seconds()))
	}
	c.metrics.refusals.WithLabelValues("down").Add(float64(len(a.Refused)))
	for _, r := range a.Refused {
		c.cfg.Logger.Warn("left out a resource of global", zap.Stringer("key", mesh.KeyFromProto(r.GetKey())),
			zap.String("field", r.GetField()), zap.String("reason", r.GetReason()))
	}
}

// advance publishes the Sink's revision: it is in the local store at revision local. brought says
// that the local revision was made for it.
func (c *Client) advance(sink *kds.Sink, local uint64, reset, brought bool) {
	if sink.Cursor() == nil {
		return
	}
	if reset || sink.Revision() != c.tracker.revision() {
		c.tracker.apply(sink.Revision(), local, reset)
		if !brought {
			local = 0
		}
		c.tracker.remember(sink.Revision(), local)
	}
	c.once.Do(func() { close(c.synced) })
	c.heard(func(st *GlobalState) { st.Refusals = sink.Refusals() })
}

// runState is the loop that owns the State stream: this side is the Source, and reports progress.
func (c *Client) runState(ctx context.Context, client kdsv1.KdsServiceClient, up func()) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	st, err := client.State(ctx)
	if err != nil {
		return err
	}
	l, welcome, agreed, err := c.open(ctx, st, nil)
	if err != nil {
		return err
	}
	view := &kds.View{Direction: kds.Up, Zone: c.cfg.Zone, Withheld: agreed.Withheld}
	cfg := kds.SourceConfig{
		StoreID: c.cfg.Store.ID(),
		Schema:  agreed.Schema,
		View:    view,
		Window:  c.cfg.Window,
	}
	src := kds.NewSource(cfg)
	sub, _, err := openSource(ctx, c.cfg.Store, c.cfg.Replica, src, cfg, welcome.GetCursor())
	if err != nil {
		return err
	}
	up()
	batches, followErrs := follow(ctx, sub)
	ticker := time.NewTicker(c.lease() / 6)
	defer ticker.Stop()
	lease := kds.NewLease(c.lease(), time.Now())
	var next *kdsv1.Frame
	var reported *kdsv1.Progress
	var counted kds.SourceStats
	beat := false
	for {
		applied := c.tracker.watch()
		var local <-chan struct{}
		if c.cfg.ProgressChanged != nil {
			local = c.cfg.ProgressChanged()
		}
		if next == nil {
			if p := c.progress(); reported == nil || !proto.Equal(p, reported) {
				reported = p
				next = &kdsv1.Frame{Message: &kdsv1.Frame_Progress{Progress: p}}
			} else if beat {
				next, beat = heartbeat(), false
			} else if next, err = src.Next(); err != nil {
				return status.Errorf(codes.Internal, "%v", err)
			}
		}
		var out chan *kdsv1.Frame
		if next != nil {
			out = l.out
			if err := checkSize(next); err != nil {
				return err
			}
		}
		select {
		case out <- next:
			next = nil
			if st := src.Stats(); st.Frames != counted.Frames {
				c.metrics.count(kds.Up, st, counted)
				counted = st
			}
		case <-applied:
		case <-local:
		case b := <-batches:
			src.Advance(b.View, b.Changes, b.Committed)
		case f := <-l.in:
			now := time.Now()
			lease.Heard(now)
			if f.GetHeartbeat() != nil {
				c.heard(nil)
				continue
			}
			answer, err := src.Recv(f)
			if err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			for _, at := range answer.Acked {
				c.metrics.lag.WithLabelValues("up", "applied").Observe(max(0, now.Sub(at).Seconds()))
			}
			c.metrics.refusals.WithLabelValues("up").Add(float64(len(answer.Refused)))
			for _, r := range answer.Refused {
				c.cfg.Logger.Warn("global refuses a resource of this zone",
					zap.Stringer("key", mesh.KeyFromProto(r.GetKey())), zap.String("field", r.GetField()),
					zap.String("reason", r.GetReason()))
			}
			c.heard(func(st *GlobalState) { st.StateAcked = src.Acked() })
		case now := <-ticker.C:
			if lease.Expired(now) {
				return errLease
			}
			if lease.Due(now) {
				beat = true
				src.CheckDigest()
			}
		case err := <-followErrs:
			return err
		case err := <-l.errs:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *Client) progress() *kdsv1.Progress {
	if c.cfg.Progress == nil {
		return c.tracker.progress(nil)
	}
	local := c.cfg.Progress()
	return c.tracker.progress(&local)
}
