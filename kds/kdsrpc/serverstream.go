package kdsrpc

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Config serves one zone's Config stream: this side is the Source.
func (s *Server) Config(st grpc.BidiStreamingServer[kdsv1.Frame, kdsv1.Frame]) error {
	return s.serve(st, streamConfig, s.config)
}

// State serves one zone's State stream: this side is the Sink.
func (s *Server) State(st grpc.BidiStreamingServer[kdsv1.Frame, kdsv1.Frame]) error {
	return s.serve(st, streamState, s.state)
}

type session struct {
	hello  *kdsv1.Hello
	agreed kds.Agreement
	link   *link[kdsv1.Frame]
	log    *zap.Logger
}

func (s *Server) serve(st grpc.BidiStreamingServer[kdsv1.Frame, kdsv1.Frame], sort string,
	run func(context.Context, *session) error) error {
	err := s.session(st, sort, run)
	result := "ended"
	var refused *kds.CloseError
	if errors.As(err, &refused) {
		result = "refused"
	}
	s.metrics.connects.WithLabelValues(sort, result).Inc()
	return statusOf(err)
}

func (s *Server) session(st grpc.BidiStreamingServer[kdsv1.Frame, kdsv1.Frame], sort string,
	run func(context.Context, *session) error) error {
	name, err := s.authenticate(st.Context())
	if err != nil {
		return err
	}
	base, end := context.WithCancel(st.Context())
	defer end()
	l := newLink[kdsv1.Frame](base, st)
	timeout := time.NewTimer(s.cfg.Lease)
	defer timeout.Stop()
	var first *kdsv1.Frame
	select {
	case first = <-l.in:
	case err := <-l.errs:
		return err
	case <-base.Done():
		return context.Cause(base)
	case <-timeout.C:
		return status.Error(codes.DeadlineExceeded, "no Hello")
	}
	hello, agreed, err := s.greet(base, name, first.GetHello())
	if err != nil {
		return err
	}
	ctx, release, err := s.attach(base, sort, hello)
	if err != nil {
		return err
	}
	defer release()
	log := s.cfg.Logger.With(zap.String("zone", name), zap.String("stream", sort),
		zap.String("instance", hello.GetInstance()))
	log.Info("zone stream opened")
	err = run(ctx, &session{
		hello:  hello,
		agreed: agreed,
		link:   l,
		log:    log,
	})
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	log.Info("zone stream ended", zap.Error(err))
	return err
}

// config runs a Config stream.
func (s *Server) config(ctx context.Context, se *session) error {
	name := se.hello.GetZone()
	view := &kds.View{Direction: kds.Down, Zone: name, Withheld: se.agreed.Withheld}
	if s.cfg.Hold != nil {
		view.Hold = func(r *mesh.Resource) *mesh.Resource { return s.cfg.Hold(name, r) }
	}
	cfg := kds.SourceConfig{
		StoreID: s.cfg.Store.Epoch(),
		Schema:  se.agreed.Schema,
		View:    view,
		Window:  s.cfg.Window,

		LazyBookmarks: true,
	}
	src := kds.NewSource(cfg)
	sub, reset, err := openSource(ctx, s.cfg.Store, s.cfg.Replica, src, cfg, se.hello.GetCursor())
	if err != nil {
		return err
	}
	s.update(se.hello, time.Now(), func(z *zone) {
		z.state.Resumed, z.state.ResetReason, z.state.ConfigBytes = reset == kds.NoReset, reset, 0
		z.state.Degraded, z.state.DigestsEqual, z.state.Rejections = se.agreed.Degraded, true, nil
		z.state.Revision = src.Revision()
		if reset != kds.NoReset {
			z.state.Applied = 0
		} else {
			z.state.Applied = min(z.state.Applied, se.hello.GetCursor().GetRevision())
		}
		z.head, z.needed = src.Revision(), src.Revision()
	})
	var bytes uint64
	h := &hostSource{
		src:         src,
		sub:         sub,
		l:           se.link,
		first:       s.welcome(se.agreed, nil),
		slots:       s.snapshots,
		digestAfter: digestLeases * s.cfg.Lease,

		bookmarkAfter: bookmarkDown,
	}
	h.sent = func(f *kdsv1.Frame, before, after kds.SourceStats) {
		bytes += frameBytes(f)
		s.metrics.count(kds.Down, after, before)
		s.note(se.hello, src, bytes)
	}
	h.advanced = func(needed, head uint64) { s.noteHead(se.hello, src, needed, head) }
	h.received = func(at time.Time, f *kdsv1.Frame, answer kds.Answer) {
		if f.GetHeartbeat() != nil {
			s.update(se.hello, at, nil)
			return
		}
		s.answered(se, src, at, answer)
	}
	se.link.intercept(func(f *kdsv1.Frame) bool {
		if f.GetHeartbeat() == nil {
			return false
		}
		s.update(se.hello, time.Now(), nil)
		return se.link.trySend(heartbeat())
	})
	return h.run(ctx)
}

// answered publishes what a zone answered on its Config stream.
func (s *Server) answered(se *session, src *kds.Source, at time.Time, answer kds.Answer) {
	for _, committed := range answer.Acked {
		s.metrics.lag.WithLabelValues("down", "applied").Observe(at.Sub(committed).Seconds())
	}
	s.metrics.rejections.WithLabelValues("down").Add(float64(len(answer.Rejected)))
	for _, r := range answer.Rejected {
		se.log.Warn("zone rejected a resource", zap.Stringer("key", mesh.KeyFromProto(r.GetCause())),
			zap.String("field", r.GetField()), zap.String("reason", r.GetReason()))
	}
	if len(answer.Mismatch) > 0 {
		se.log.Error("what the zone has differs from what was sent", zap.Any("kinds", answer.Mismatch))
	}
	s.update(se.hello, at, func(z *zone) {
		if s.renew(z); z.store != src.StoreID() {
			return
		}
		z.state.Applied = max(z.state.Applied, src.Acked())
		z.state.DigestsEqual, z.state.Rejections = src.Equal(), src.Rejections()
		z.oldest = src.Oldest()
	})
}

// note publishes how far a Config stream has read and sent, without waking watchers: an ack or the
// lease does.
func (s *Server) note(hello *kdsv1.Hello, src *kds.Source, bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.current(hello)
	if z == nil || z.store != src.StoreID() {
		return
	}
	z.state.Revision, z.state.ConfigBytes, z.oldest = max(z.head, src.Revision()), bytes, src.Oldest()
}

// noteHead publishes the revision of global's store, and the last one that has something for the zone.
func (s *Server) noteHead(hello *kdsv1.Hello, src *kds.Source, needed, head uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.current(hello)
	if z == nil {
		return
	}
	if s.renew(z); z.store != src.StoreID() {
		return
	}
	z.needed, z.head = needed, head
	z.state.Revision, z.oldest = head, src.Oldest()
	if z.lift() {
		s.signal()
	}
}

// state runs a State stream.
func (s *Server) state(ctx context.Context, se *session) error {
	name := se.hello.GetZone()
	sink, _, reset, err := openSink(ctx, s.cfg.Store, s.cfg.Replica, kds.SinkConfig{
		Direction: kds.Up,
		Zone:      name,
		Author:    "zone:" + name,
		Validate:  s.cfg.Validate,
		MaxBytes:  s.cfg.MaxZoneBytes,
		Proxies:   func(storeID string) int { return s.proxiesOf(name, storeID) },
	})
	if err != nil {
		return err
	}
	sink.Agreed(se.agreed)
	count := func() {
		s.update(se.hello, time.Time{}, func(z *zone) { z.state.Kept, z.expected = sink.Kept() })
	}
	count()
	h := &hostSink{
		sink:    sink,
		store:   s.cfg.Store,
		l:       se.link,
		reset:   reset,
		release: s.releaseOf(name),
		flushed: count,
		first:   s.welcome(se.agreed, sink.Cursor()),
		taken:   func(*kdsv1.Frame) {},
	}
	h.received = func(f *kdsv1.Frame) (bool, error) {
		now := time.Now()
		p := f.GetProgress()
		if p == nil {
			s.update(se.hello, now, nil)
			return false, nil
		}
		kds.CutProgress(p)
		s.update(se.hello, now, func(z *zone) {
			if s.renew(z); p.GetStoreId() != "" && p.GetStoreId() != z.store {
				return // in revisions that no longer count
			}
			z.state.Progress = p
			z.note(int(p.GetProxiesTotal()))
			if z.expected > 0 && int(p.GetProxiesOnline()) >= z.expected {
				z.letGo()
			}
			z.state.Applied = max(z.state.Applied, p.GetApplied())
			z.state.Answered = p.GetAnswered()
		})
		return true, nil
	}
	h.applied = func(a kds.Apply, _ store.Result) {
		if !a.Committed.IsZero() {
			s.metrics.lag.WithLabelValues("up", "applied").Observe(max(0, time.Since(a.Committed).Seconds()))
		}
		s.metrics.rejections.WithLabelValues("up").Add(float64(len(a.Rejected)))
		s.update(se.hello, time.Time{}, func(z *zone) { z.state.StateRevision = sink.Revision() })
		count()
		if kept, _ := sink.Kept(); a.Snapshot && kept > 0 {
			se.log.Warn("the zone has another store than before; what it had is kept until its proxies "+
				"are back",
				zap.Int("resources", kept))
		}
	}
	h.mismatched = func(kinds uint64) {
		s.metrics.mismatches.WithLabelValues("up").Add(float64(kinds))
		se.log.Error("what global has of the zone differs from what was sent; asking for all of the kind")
	}
	return h.run(ctx)
}

// proxiesOf is how many proxies a zone had with a store when it last said; 0 if it has not.
func (s *Server) proxiesOf(name, storeID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zones[name].totals[storeID]
}

// maxTotals bounds the stores of a zone that are remembered.
const maxTotals = 8

// note remembers how many proxies the zone has with its store.
func (z *zone) note(total int) {
	if _, ok := z.totals[z.state.StoreID]; !ok && len(z.totals) >= maxTotals {
		clear(z.totals)
	}
	z.totals[z.state.StoreID] = total
}

func (s *Server) releaseOf(name string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zones[name].release
}

func storeStatus(err error) error {
	var invalid *store.InvalidError
	if errors.As(err, &invalid) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return err
}

var _ kds.State = replica.View{}
