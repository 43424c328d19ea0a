package kdsrpc

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// Server is global's side; see the package comment.
type Server struct {
	kdsv1.UnimplementedKdsServiceServer

	cfg       ServerConfig
	metrics   *metrics
	schemas   []*kdsv1.KindSchema
	snapshots chan struct{} // holds a token per snapshot under way

	mu      sync.Mutex
	fence   kds.Fence
	zones   map[string]*zone
	changed chan struct{}
	stopped bool
}

// zone is what the server keeps of one zone; guarded by Server.mu.
type zone struct {
	state ZoneState
	// store is the epoch of global's store that the revisions of state count in.
	store   string
	oldest  time.Time // commit time of the oldest change that the zone has not acked
	streams map[string]*slot
	admin   *tunnel

	// totals are how many proxies the zone had, as it last said with the store of an id; expected is how
	// many of a former store are to come back.
	totals   map[string]int
	refused  string // the last process of its name that was
	expected int
	// release holds a token when what is kept of a former store is to go.
	release chan struct{}

	// head is global's revision as the Config stream has read it; a zone that has applied needed, the
	// last revision with something for it, has all up to head.
	head   uint64
	needed uint64

	// silence ends the streams after a lease without a word; nil before the first stream.
	silence *time.Timer
}

// slot is a running stream.
type slot struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// Names of the streams.
const (
	streamConfig = "config"
	streamState  = "state"
	streamAdmin  = "admin"
)

// NewServer makes a Server; it does nothing before Register and Run.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Lease == 0 {
		cfg.Lease = DefaultLease
	}
	if cfg.DegradedAfter == 0 {
		cfg.DegradedAfter = 5 * time.Second
	}
	if cfg.MaxZoneBytes == 0 {
		cfg.MaxZoneBytes = kds.DefaultMaxBytes
	}
	if cfg.Snapshots == 0 {
		cfg.Snapshots = 4
	}
	return &Server{
		cfg:       cfg,
		metrics:   newMetrics(cfg.Registerer),
		schemas:   kds.Schemas(),
		snapshots: make(chan struct{}, cfg.Snapshots),
		zones:     map[string]*zone{},
		changed:   make(chan struct{}),
	}
}

// ServerOptions are what the gRPC server must be made with: message sizes and keepalive.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             5 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	}
}

// Register adds the service to a gRPC server, which is best made with [ServerOptions].
func (s *Server) Register(r grpc.ServiceRegistrar) { kdsv1.RegisterKdsServiceServer(r, s) }

// Run watches leases until ctx ends, then ends all streams.
func (s *Server) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.Lease / 6)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			s.mu.Lock()
			s.judge(now)
			s.mu.Unlock()
		case <-ctx.Done():
			s.stop()
			return ctx.Err()
		}
	}
}

func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, z := range s.zones {
		for _, sl := range z.streams {
			sl.cancel(status.Error(codes.Unavailable, "global is stopping"))
		}
	}
}

// judge brings the states of all zones up to date, and ends the streams of those that were silent
// for a lease; s.mu is held.
func (s *Server) judge(now time.Time) {
	changed := false
	for _, z := range s.zones {
		changed = s.judgeZone(z, now) || changed
	}
	if changed {
		s.signal()
	}
}

// judgeZone brings the state of one zone up to date and says whether it differs; s.mu is held.
func (s *Server) judgeZone(z *zone, now time.Time) bool {
	latest := s.renew(z)
	st := &z.state
	before, reason, lag := st.State, st.Reason, st.LagRevisions
	silent := now.Sub(st.LastSeen)
	_, config := z.streams[streamConfig]
	_, state := z.streams[streamState]
	// What the Config stream has read can be ahead of this process's view of the replica and behind it.
	st.Revision = max(st.Revision, latest)
	z.lift()
	st.LagRevisions, st.LagSeconds = 0, 0
	if st.Revision > st.Applied {
		st.LagRevisions = st.Revision - st.Applied
	}
	if z.oldest.IsZero() && !config && st.Revision > st.Applied {
		z.oldest = now // nothing reads the log for the zone; this is when it fell behind, nearly
	}
	if !z.oldest.IsZero() {
		st.LagSeconds = max(0, now.Sub(z.oldest).Seconds())
	}
	switch {
	case silent >= s.cfg.Lease:
		st.State = Offline
		st.Reason = fmt.Sprintf("silent since %s", st.LastSeen.UTC().Format(time.RFC3339))
		for _, sl := range z.streams {
			sl.cancel(status.Error(codes.DeadlineExceeded, errLease.Error()))
		}
	case !config || !state:
		st.State, st.Reason = Stale, "the connection is gone"
	case silent >= staleAfter(s.cfg.Lease):
		st.State, st.Reason = Stale, "heartbeats are missing"
	case st.LagSeconds > s.cfg.DegradedAfter.Seconds():
		st.State = Degraded
		st.Reason = fmt.Sprintf("%d revisions behind", st.LagRevisions)
	case !st.DigestsEqual:
		st.State, st.Reason = Degraded,
			"what the zone has differs from what was sent; it is being sent again"
	case st.Kept > 0:
		st.State = Degraded
		st.Reason = fmt.Sprintf("the zone has another store than before (%s): %d resources that it had are "+
			"kept until %s or %s", st.StoreID, st.Kept, z.until(), hint.AcceptZone(st.Name))
		if r, ok := s.cfg.Replica.View().Get(mesh.Key{Kind: mesh.KindZone, Name: st.Name}); ok &&
			st.StoreID != "" && r.Labels[mesh.LabelAcceptStore] == st.StoreID {
			z.letGo()
		}
	case len(st.Degraded) > 0:
		st.State = Degraded
		st.Reason = fmt.Sprintf("kind %s does not flow: %s", st.Degraded[0].GetKind(),
			st.Degraded[0].GetReason())
	default:
		st.State, st.Reason = Online, ""
	}
	if st.State != before {
		s.cfg.Logger.Info("zone is "+string(st.State), zap.String("zone", st.Name),
			zap.String("reason", st.Reason), zap.String("was", string(before)))
	}
	return st.State != before || st.Reason != reason || st.LagRevisions != lag
}

// renew forgets how far a zone is when global's store went back: its revisions count something else
// since. It returns the store's revision; s.mu is held.
func (s *Server) renew(z *zone) (latest uint64) {
	view := s.cfg.Replica.View()
	if z.store != view.Epoch() {
		z.store = view.Epoch()
		z.state.Revision, z.state.Applied, z.state.Answered, z.state.Progress = view.Revision(), 0, 0, nil
		z.head, z.needed, z.oldest = 0, 0, time.Time{}
	}
	return view.Revision()
}

// until says for whom what is kept waits.
func (z *zone) until() string {
	if z.expected == 0 {
		return "they are back one by one"
	}
	return fmt.Sprintf("its %d proxies are back", z.expected)
}

// letGo has what is kept of a former store removed.
func (z *zone) letGo() {
	select {
	case z.release <- struct{}{}:
	default:
	}
}

// lift counts revisions without anything for the zone as applied and answered, once all before them
// is. It says whether that made a difference.
func (z *zone) lift() bool {
	before := z.state.Applied + z.state.Answered
	if z.needed > 0 && z.state.Applied >= z.needed {
		z.state.Applied = max(z.state.Applied, z.head)
	}
	if z.needed > 0 && z.state.Progress.GetAnswered() >= z.needed {
		z.state.Answered = max(z.state.Answered, z.head)
	}
	return z.state.Applied+z.state.Answered != before
}

func (s *Server) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed is closed at the next change of any ZoneState; take it before Zones.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Zones lists every zone seen since the start, by name.
func (s *Server) Zones() []ZoneState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ZoneState, 0, len(s.zones))
	for _, z := range s.zones {
		s.renew(z)
		out = append(out, z.state)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// current is the zone that a process speaks for; nil if another process has superseded it. s.mu is held.
func (s *Server) current(hello *kdsv1.Hello) *zone {
	z := s.zones[hello.GetZone()]
	if z == nil || z.state.Epoch != hello.GetEpoch() || z.state.Instance != hello.GetInstance() {
		return nil
	}
	return z
}

// update changes the state of a process's zone under the lock and tells the watchers; heard says that
// the zone itself spoke.
func (s *Server) update(hello *kdsv1.Hello, heard time.Time, change func(*zone)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.current(hello)
	if z == nil {
		return
	}
	if !heard.IsZero() {
		z.state.LastSeen = heard
	}
	if change != nil {
		change(z)
		s.judgeZone(z, time.Now())
		s.signal()
	}
}

// authenticate names the zone that a call's credentials prove.
func (s *Server) authenticate(ctx context.Context) (string, error) {
	name, err := s.cfg.Authenticate(ctx)
	if err == nil {
		return name, nil
	}
	if _, ok := status.FromError(err); ok {
		return "", err
	}
	return "", status.Error(codes.Unauthenticated, err.Error())
}

// statusOf maps a rejection to the status that ends the stream.
func statusOf(err error) error {
	var refused *kds.CloseError
	if !errors.As(err, &refused) {
		return err
	}
	code := codes.FailedPrecondition
	switch refused.Close.GetCode() {
	case kdsv1.Close_CODE_ZONE:
		code = codes.PermissionDenied
	case kdsv1.Close_CODE_BUSY:
		code = codes.ResourceExhausted
	}
	st := status.New(code, refused.Close.GetReason())
	if d, err := st.WithDetails(refused.Close); err == nil {
		st = d
	}
	return st.Err()
}

// attach makes a stream the zone's one of its sort: it fences older processes and waits until the
// former stream ended.
func (s *Server) attach(ctx context.Context, sort string,
	hello *kdsv1.Hello) (context.Context, func(), error) {
	name, now := hello.GetZone(), time.Now()
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return nil, nil, status.Error(codes.Unavailable, "global is stopping")
	}
	z := s.zones[name]
	gone := z == nil || now.Sub(z.state.LastSeen) >= s.cfg.Lease
	former, held := s.fence.Holder(name)
	superseded, refused := s.fence.Admit(name, hello.GetInstance(), hello.GetEpoch(),
		hello.GetStoreId(), gone, now)
	if refused != nil {
		// It tries again and again; once says it.
		again := z != nil && z.refused == hello.GetInstance()
		if z != nil {
			z.refused = hello.GetInstance()
		}
		s.mu.Unlock()
		if again {
			return nil, nil, refused
		}
		s.cfg.Logger.Warn("refuse a second control plane of one zone name", zap.String("zone", name),
			zap.String("instance", hello.GetInstance()), zap.String("held_by", former.Instance),
			zap.String("reason", refused.Close.GetReason()))
		return nil, nil, refused
	}
	fresh := superseded || !held || z == nil
	if z == nil {
		z = &zone{
			store:   s.cfg.Replica.View().Epoch(),
			totals:  map[string]int{},
			release: make(chan struct{}, 1),
			streams: map[string]*slot{},
			state:   ZoneState{Name: name, DigestsEqual: true},
		}
		s.zones[name] = z
	}
	if superseded {
		by, _ := s.fence.Holder(name)
		for _, sl := range z.streams {
			sl.cancel(kds.Fenced(name, by))
		}
	}
	if fresh {
		z.state.Instance, z.state.Epoch, z.state.Version = hello.GetInstance(), hello.GetEpoch(),
			hello.GetVersion()
		z.state.CAPins, z.state.Connected = hello.GetCaPins(), now
		z.state.StoreID = kds.StoreOf(hello.GetStoreId())
		z.state.Progress, z.state.Applied, z.state.Answered = nil, 0, 0
		z.head, z.needed = 0, 0
	}
	z.state.LastSeen = now
	ctx, cancel := context.WithCancelCause(ctx)
	mine := &slot{cancel: cancel, done: make(chan struct{})}
	before := z.streams[sort]
	z.streams[sort] = mine
	if z.silence == nil {
		z.silence = time.AfterFunc(s.cfg.Lease, func() { s.endSilent(z) })
	} else if len(z.streams) == 1 {
		z.silence.Reset(s.cfg.Lease)
	}
	if before != nil {
		before.cancel(status.Error(codes.Aborted, "a newer stream of the same process took over"))
	}
	s.mu.Unlock()
	if fresh && s.cfg.OnHello != nil {
		s.cfg.OnHello(name, hello)
	}
	release := func() {
		cancel(nil)
		s.mu.Lock()
		if z.streams[sort] == mine {
			delete(z.streams, sort)
		}
		s.judge(time.Now())
		s.mu.Unlock()
		close(mine.done)
	}
	if before != nil {
		select {
		case <-before.done:
		case <-ctx.Done():
			// The former still has to end before anyone else may follow, so this one waits for it
			// in its place.
			<-before.done
			release()
			return nil, nil, context.Cause(ctx)
		}
	}
	return ctx, release, nil
}

// endSilent ends the streams of a zone that was silent for a lease, and looks again when that can be
// the case next, as long as it has streams.
func (s *Server) endSilent(z *zone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.judgeZone(z, now) {
		s.signal()
	}
	if len(z.streams) == 0 {
		return
	}
	left := s.cfg.Lease - now.Sub(z.state.LastSeen)
	if left <= 0 {
		left = s.cfg.Lease
	}
	z.silence.Reset(left)
}

// greet checks a Hello, nil if the first frame was something else.
func (s *Server) greet(ctx context.Context, name string,
	hello *kdsv1.Hello) (*kdsv1.Hello, kds.Agreement, error) {
	if hello == nil {
		return nil, kds.Agreement{},
			status.Error(codes.InvalidArgument, "the first frame of a stream must be Hello")
	}
	if refused := kds.CheckHello(hello, name); refused != nil {
		return nil, kds.Agreement{}, refused
	}
	kds.CutHello(hello)
	return hello, kds.Agree(s.schemas, hello.GetSchemas()), nil
}

func (s *Server) welcome(a kds.Agreement, cursor *kdsv1.Cursor) *kdsv1.Frame {
	return &kdsv1.Frame{Message: &kdsv1.Frame_Welcome{Welcome: &kdsv1.Welcome{
		Instance:   s.cfg.Instance,
		Capability: kds.Capability,
		Schemas:    s.schemas,
		Cursor:     cursor,
		Degraded:   a.Degraded,
		LeaseMs:    uint32(s.cfg.Lease.Milliseconds()),
	}}}
}

// IssueIntermediate signs for the zone that the credentials prove.
func (s *Server) IssueIntermediate(ctx context.Context,
	req *kdsv1.IssueIntermediateRequest) (*kdsv1.IssueIntermediateResponse, error) {
	name, err := s.authenticate(ctx)
	if err != nil {
		return nil, err
	}
	if s.cfg.Sign == nil {
		return nil, status.Error(codes.Unimplemented, "this global signs no intermediates")
	}
	resp, err := s.cfg.Sign(ctx, name, req.GetMesh(), req.GetCsr())
	if err == nil {
		return resp, nil
	}
	if _, ok := status.FromError(err); ok {
		return nil, err
	}
	return nil, status.Errorf(codes.FailedPrecondition, "sign the intermediate of mesh %s for zone %s: %v",
		req.GetMesh(), name, err)
}

// frameBytes is what a frame costs on the stream, with gRPC's own header of a message.
func frameBytes(f *kdsv1.Frame) uint64 { return uint64(proto.Size(f)) + 5 }
