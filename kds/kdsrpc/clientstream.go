package kdsrpc

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
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
				return nil, nil, none, status.Errorf(codes.Internal,
					"global's first message is %T, expected Welcome", f.GetMessage())
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

// runConfig runs the Config stream: this side is the Sink.
func (c *Client) runConfig(ctx context.Context, client kdsv1.KdsServiceClient, up func()) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	// The stream comes first: while global is unreachable it fails at once, and the Sink, which
	// reads all copies, is not made.
	st, err := client.Config(ctx)
	if err != nil {
		return err
	}
	sink, local, reset, err := openSink(ctx, c.cfg.Store, c.cfg.Replica, c.sinkConfig())
	if err != nil {
		return err
	}
	c.begin(sink, local)
	l, _, agreed, err := c.open(ctx, st, sink.Cursor())
	if err != nil {
		return err
	}
	sink.Agreed(agreed)
	up()
	c.heard(func(st *GlobalState) {
		st.Resumed, st.DigestsEqual, st.Rejections, st.ConfigBytes = sink.Cursor() != nil, true,
			sink.Rejections(), 0
	})
	h := &hostSink{
		sink:  sink,
		store: c.cfg.Store,
		l:     l,
		reset: reset,

		flushed: func() {},
		beat:    beatInterval(c.lease()),
	}
	h.received = func(f *kdsv1.Frame) (bool, error) {
		if f.GetHeartbeat() != nil {
			c.heard(nil)
			return true, nil
		}
		if r := f.GetClose(); r != nil {
			return true, &kds.CloseError{Close: r}
		}
		return false, nil
	}
	connection := localAddress(st.Context())
	replacing := false
	h.taken = func(f *kdsv1.Frame) {
		replacing = replacing || f.GetReset_() != nil
		if !replacing {
			c.setCurrent(connection)
		}
		if f.GetBookmark() != nil {
			c.advance(sink, local, false, false)
		}
		c.heard(func(st *GlobalState) {
			st.DigestsEqual = sink.Equal()
			st.ConfigBytes += uint64(proto.Size(f))
		})
	}
	h.applied = func(a kds.Apply, result store.Result) {
		local = max(local, result.Revision)
		c.noteApplied(&a)
		c.advance(sink, local, a.Snapshot && a.Reason != kds.ResetCompacted, true)
		replacing = replacing && !a.Snapshot
		c.setCurrent(connection)
	}
	h.mismatched = func(kinds uint64) {
		c.metrics.mismatches.WithLabelValues("down").Add(float64(kinds))
		c.cfg.Logger.Error("what this zone has of global differs from what was sent; asking for all " +
			"of the kind")
	}
	return h.run(ctx)
}

// localAddress of the connection that carries a stream, of which a frame has arrived.
func localAddress(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.LocalAddr == nil {
		return ""
	}
	return p.LocalAddr.String()
}

func (c *Client) setCurrent(connection string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != connection {
		c.current = connection
		close(c.currentChanged)
		c.currentChanged = make(chan struct{})
	}
}

// isCurrent says whether revisions can be reported on a connection, and when to ask again.
func (c *Client) isCurrent(connection string) (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current == connection, c.currentChanged
}

func (c *Client) noteApplied(a *kds.Apply) {
	if a.Snapshot {
		c.cfg.Logger.Info("took a snapshot of global", zap.String("reason", kds.ReasonText(a.Reason)),
			zap.Int("items", a.Items), zap.Uint64("global_revision", a.Revision))
		c.heard(func(st *GlobalState) { st.Resumed = false })
	}
	if !a.Committed.IsZero() {
		c.metrics.lag.WithLabelValues("down", "applied").Observe(max(0, time.Since(a.Committed).Seconds()))
	}
	c.metrics.rejections.WithLabelValues("down").Add(float64(len(a.Rejected)))
	for _, r := range a.Rejected {
		c.cfg.Logger.Warn("left out a resource of global",
			zap.Stringer("key", mesh.KeyFromProto(r.GetCause())),
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
		c.tracker.of(sink.Cursor().GetStoreId())
		c.tracker.apply(sink.Revision(), local, reset)
		if !brought {
			local = 0
		}
		c.tracker.remember(sink.Revision(), local)
	}
	c.once.Do(func() { close(c.synced) })
	c.heard(func(st *GlobalState) { st.Rejections = sink.Rejections() })
}

// runState runs the State stream: this side is the Source, and reports progress.
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
		StoreID: c.cfg.Store.Epoch(),
		Schema:  agreed.Schema,
		View:    view,
		Window:  c.cfg.Window,

		LazyBookmarks: true,
	}
	src := kds.NewSource(cfg)
	sub, _, err := openSource(ctx, c.cfg.Store, c.cfg.Replica, src, cfg, welcome.GetCursor())
	if err != nil {
		return err
	}
	up()
	reports := make(chan *kdsv1.Frame)
	reporting := make(chan struct{})
	connection := localAddress(st.Context())
	go func() { defer close(reporting); c.report(ctx, connection, reports) }()
	defer func() { end(); <-reporting }()
	h := &hostSource{
		src:         src,
		sub:         sub,
		l:           l,
		extra:       reports,
		digestAfter: digestLeases * c.lease(),
		advanced:    func(uint64, uint64) {},

		bookmarkAfter: bookmarkUp,
	}
	h.sent = func(_ *kdsv1.Frame, before, after kds.SourceStats) { c.metrics.count(kds.Up, after, before) }
	h.received = func(at time.Time, f *kdsv1.Frame, answer kds.Answer) { c.answered(src, at, answer) }
	return h.run(ctx)
}

// answered notes what global answered on the State stream.
func (c *Client) answered(src *kds.Source, at time.Time, answer kds.Answer) {
	for _, committed := range answer.Acked {
		c.metrics.lag.WithLabelValues("up", "applied").Observe(max(0, at.Sub(committed).Seconds()))
	}
	c.metrics.rejections.WithLabelValues("up").Add(float64(len(answer.Rejected)))
	for _, r := range answer.Rejected {
		c.cfg.Logger.Warn("global rejected a resource of this zone",
			zap.Stringer("key", mesh.KeyFromProto(r.GetCause())), zap.String("field", r.GetField()),
			zap.String("reason", r.GetReason()))
	}
	c.heard(func(st *GlobalState) { st.StateAcked = src.Acked() })
}

// pendingDelay is how long a report waits that only differs in the proxies whose answers are
// outstanding: most of them answer within it, and the report says so instead.
const pendingDelay = 250 * time.Millisecond

// report hands on the progress of the zone whenever it differs from the last report, until ctx ends.
func (c *Client) report(ctx context.Context, connection string, reports chan<- *kdsv1.Frame) {
	var last *kdsv1.Progress
	var delay <-chan time.Time
	ripe := true
	for {
		applied := c.tracker.watch()
		current, changed := c.isCurrent(connection)
		var local <-chan struct{}
		if c.cfg.ProgressChanged != nil {
			local = c.cfg.ProgressChanged()
		}
		p := c.progress()
		out, frame := reports, &kdsv1.Frame{Message: &kdsv1.Frame_Progress{Progress: p}}
		switch {
		case !current:
			out = nil
		case last != nil && proto.Equal(p, last):
			out, delay, ripe = nil, nil, false
		case ripe || last == nil || urgent(p, last):
		default:
			out = nil
			if delay == nil {
				delay = time.After(pendingDelay)
			}
		}
		select {
		case out <- frame:
			last, delay, ripe = p, nil, false
		case <-delay:
			delay, ripe = nil, true
		case <-applied:
		case <-changed:
		case <-local:
		case <-ctx.Done():
			return
		}
	}
}

// urgent says that p differs from last in more than what is applied and which proxies are pending.
// Global knows from the Ack what is applied.
func urgent(p, last *kdsv1.Progress) bool {
	a, b := proto.Clone(p).(*kdsv1.Progress), proto.Clone(last).(*kdsv1.Progress)
	for _, x := range []*kdsv1.Progress{a, b} {
		x.Applied, x.Pending, x.PendingCount = 0, nil, 0
	}
	return !proto.Equal(a, b)
}

func (c *Client) progress() *kdsv1.Progress {
	if c.cfg.Progress == nil {
		return c.tracker.progress(nil)
	}
	local := c.cfg.Progress()
	return c.tracker.progress(&local)
}
