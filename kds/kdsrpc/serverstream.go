package kdsrpc

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

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
	var refused *kds.RefusedError
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

// config is the loop that owns a Config stream.
func (s *Server) config(ctx context.Context, se *session) error {
	name := se.hello.GetZone()
	view := &kds.View{Direction: kds.Down, Zone: name, Withheld: se.agreed.Withheld}
	if s.cfg.Hold != nil {
		view.Hold = func(r *mesh.Resource) *mesh.Resource { return s.cfg.Hold(name, r) }
	}
	cfg := kds.SourceConfig{
		StoreID: s.cfg.Store.ID(),
		Schema:  se.agreed.Schema,
		View:    view,
		Window:  s.cfg.Window,
	}
	src := kds.NewSource(cfg)
	sub, reset, err := openSource(ctx, s.cfg.Store, s.cfg.Replica, src, cfg, se.hello.GetCursor())
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	batches, followErrs := follow(ctx, sub)
	s.update(name, time.Now(), func(z *zone) {
		z.state.Resumed, z.state.ResetReason, z.state.ConfigBytes = reset == "", reset, 0
		z.state.Degraded, z.state.DigestsEqual, z.state.Refusals = se.agreed.Degraded, true, nil
		z.state.Revision = src.Revision()
	})

	ticker := time.NewTicker(s.cfg.Lease / 6)
	defer ticker.Stop()
	lease := kds.NewLease(s.cfg.Lease, time.Now())
	next := s.welcome(se.agreed, nil)
	var counted kds.SourceStats
	var bytes uint64
	beat, slot := false, false
	releaseSlot := func() {
		if slot {
			<-s.snapshots
			slot = false
		}
	}
	defer releaseSlot()
	for {
		var wantSlot chan struct{}
		if next == nil {
			switch {
			case beat:
				next, beat = heartbeat(), false
			case src.WantsSnapshot() && !slot:
				wantSlot = s.snapshots
			default:
				if next, err = src.Next(); err != nil {
					return status.Errorf(codes.Internal, "%v", err)
				}
			}
		}
		if slot && !src.WantsSnapshot() && !src.InSnapshot() {
			releaseSlot()
		}
		var out chan *kdsv1.Frame
		if next != nil {
			out = se.link.out
			if err := checkSize(next); err != nil {
				return err
			}
		}
		select {
		case out <- next:
			bytes += frameBytes(next)
			next = nil
			if st := src.Stats(); st.Frames != counted.Frames {
				s.metrics.count(kds.Down, st, counted)
				counted = st
			}
			s.note(name, src, bytes)
		case wantSlot <- struct{}{}:
			slot = true
		case b := <-batches:
			src.Advance(b.View, b.Changes, b.Committed)
			s.note(name, src, bytes)
		case f := <-se.link.in:
			now := time.Now()
			lease.Heard(now)
			if f.GetHeartbeat() != nil {
				s.update(name, now, nil)
				continue
			}
			answer, err := src.Recv(f)
			if err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			for _, at := range answer.Acked {
				s.metrics.lag.WithLabelValues("down", "applied").Observe(now.Sub(at).Seconds())
			}
			if len(answer.Refused) > 0 {
				s.metrics.refusals.WithLabelValues("down").Add(float64(len(answer.Refused)))
				for _, r := range answer.Refused {
					se.log.Warn("zone refuses a resource", zap.Stringer("key", mesh.KeyFromProto(r.GetKey())),
						zap.String("field", r.GetField()), zap.String("reason", r.GetReason()))
				}
			}
			if len(answer.Mismatch) > 0 {
				se.log.Error("what the zone has differs from what was sent",
					zap.Any("kinds", answer.Mismatch))
			}
			s.update(name, now, func(z *zone) {
				z.state.Applied = max(z.state.Applied, src.Acked())
				z.state.DigestsEqual, z.state.Refusals = src.Equal(), src.Refusals()
				z.oldest = src.Oldest()
			})
		case now := <-ticker.C:
			if lease.Expired(now) {
				return status.Error(codes.DeadlineExceeded, errLease.Error())
			}
			if lease.Due(now) {
				beat = true
				src.CheckDigest()
			}
		case err := <-followErrs:
			return err
		case err := <-se.link.errs:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// note publishes how far a Config stream has read and sent, without waking watchers: an ack or the
// lease does.
func (s *Server) note(name string, src *kds.Source, bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.zones[name]
	z.state.Revision, z.state.ConfigBytes, z.oldest = src.Revision(), bytes, src.Oldest()
}

// state is the loop that owns a State stream.
func (s *Server) state(ctx context.Context, se *session) error {
	name := se.hello.GetZone()
	sink, _, err := openSink(ctx, s.cfg.Store, s.cfg.Replica, kds.SinkConfig{
		Direction: kds.Up,
		Zone:      name,
		Actor:     "zone:" + name,
		Validate:  s.cfg.Validate,
	})
	if err != nil {
		return err
	}
	sink.Agreed(se.agreed)
	ctx, end := context.WithCancel(ctx)
	work, results, idle := committer(ctx, s.cfg.Store)
	// The stream that follows reads the cursor: no commit of this one may still be under way then.
	defer func() { end(); <-idle }()

	ticker := time.NewTicker(s.cfg.Lease / 6)
	defer ticker.Stop()
	lease := kds.NewLease(s.cfg.Lease, time.Now())
	outbox := []*kdsv1.Frame{s.welcome(se.agreed, sink.Cursor())}
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
			s.metrics.mismatches.WithLabelValues("up").Add(float64(n - mismatches))
			mismatches = n
			se.log.Error("what global has of the zone differs from what was sent; asking for it anew")
		}
		var out chan *kdsv1.Frame
		var next *kdsv1.Frame
		if len(outbox) > 0 {
			out, next = se.link.out, outbox[0]
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
			if err := sink.Applied(); err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			if !todo.Committed.IsZero() {
				s.metrics.lag.WithLabelValues("up", "applied").Observe(max(0,
					time.Since(todo.Committed).Seconds()))
			}
			s.metrics.refusals.WithLabelValues("up").Add(float64(len(todo.Refused)))
			s.update(name, time.Time{}, func(z *zone) { z.state.StateRevision = sink.Revision() })
		case f := <-se.link.in:
			now := time.Now()
			lease.Heard(now)
			switch m := f.GetMessage().(type) {
			case *kdsv1.Frame_Heartbeat:
				s.update(name, now, nil)
			case *kdsv1.Frame_Progress:
				s.update(name, now, func(z *zone) {
					z.state.Progress = m.Progress
					z.state.Applied = max(z.state.Applied, m.Progress.GetApplied())
					z.state.Answered = m.Progress.GetAnswered()
				})
			default:
				if err := sink.Recv(f); err != nil {
					return status.Error(codes.InvalidArgument, err.Error())
				}
				s.update(name, now, nil)
			}
		case now := <-ticker.C:
			if lease.Expired(now) {
				return status.Error(codes.DeadlineExceeded, errLease.Error())
			}
			if lease.Due(now) {
				outbox = append(outbox, heartbeat())
			}
		case err := <-se.link.errs:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func heartbeat() *kdsv1.Frame {
	return &kdsv1.Frame{Message: &kdsv1.Frame_Heartbeat{Heartbeat: &kdsv1.Heartbeat{Sent: timestamppb.Now()}}}
}

func checkSize(f *kdsv1.Frame) error {
	if n := proto.Size(f); n > MaxMessage {
		return status.Errorf(codes.ResourceExhausted,
			"a frame of %d bytes is over the limit of %d: a single resource is too large; delete or split it",
			n, MaxMessage)
	}
	return nil
}

func storeStatus(err error) error {
	var invalid *store.InvalidError
	if errors.As(err, &invalid) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return err
}

var _ kds.State = replica.View{}
