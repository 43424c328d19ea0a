package delta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/mesh"
)

// Config of a [Server].
type Config struct {
	Source    Source
	Admission Admission
	// MaxResponseBytes bounds one response; a larger resource goes alone. Default 2 MiB, for clients take 4 MiB.
	MaxResponseBytes int
	// JoinTimeout is how long a stream may stay without a first request. Default 15 s.
	JoinTimeout time.Duration
	// MaxJoining is how many streams may be getting their first configuration at once; the others wait in the order of
	// their coming. Default [DefaultMaxJoining].
	MaxJoining int
	// JoiningPatience is after how long a stream that has not answered its first configuration no longer counts as
	// joining. Default 10 s.
	JoiningPatience time.Duration
	// MaxAge is the age of a connection, which the grpc.Server that carries the service is given too (MaxConnectionAge):
	// streams end a little after it, so that proxies spread over the instances of a control plane again. 0 is without bound.
	MaxAge     time.Duration
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// DefaultMaxJoining is the default of [Config.MaxJoining].
const DefaultMaxJoining = 256

// Server is the ADS server of a zone. Its streams live as long as the grpc.Server it is registered on.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	config  Config
	metrics *metrics
	debts   debts
	door    door
	running sync.WaitGroup
}

// NewServer makes a server; it starts nothing.
func NewServer(c Config) *Server {
	if c.MaxResponseBytes == 0 {
		c.MaxResponseBytes = 2 << 20
	}
	if c.JoinTimeout == 0 {
		c.JoinTimeout = 15 * time.Second
	}
	if c.MaxJoining == 0 {
		c.MaxJoining = DefaultMaxJoining
	}
	if c.JoiningPatience == 0 {
		c.JoiningPatience = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	m := newMetrics(c.Registerer)
	return &Server{config: c, metrics: m, debts: debts{of: map[mesh.Key]*debt{}},
		door: door{places: semaphore.NewWeighted(int64(c.MaxJoining)), patience: c.JoiningPatience, metrics: m}}
}

// Register adds the service to g, which must have been made with [ServerOptions].
func (s *Server) Register(g *grpc.Server) { discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s) }

// Wait blocks until the goroutines of all streams have ended: soon after the grpc.Server was stopped.
func (s *Server) Wait() { s.running.Wait() }

// ServerOptions are what the grpc.Server that carries the service needs: a codec that takes encoded resources (and leaves
// other services' messages alone), keepalive that finds a lost peer within 30 s, and buffers small enough for thousands of
// connections.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ReadBufferSize(4 << 10),
		grpc.MaxConcurrentStreams(100),
	}
}

// StreamAggregatedResources serves one state-of-the-world stream; see world.go.
func (s *Server) StreamAggregatedResources(g discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	var names subscriptions
	return s.serve(g, true, func() (*discoveryv3.DeltaDiscoveryRequest, error) {
		req, err := g.Recv()
		if err != nil {
			return nil, err
		}
		return names.step(req), nil
	})
}

// DeltaAggregatedResources serves one incremental stream.
func (s *Server) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.serve(g, false, g.Recv)
}

// serve serves a stream of either kind; world says that it is state-of-the-world.
func (s *Server) serve(g grpc.ServerStream, world bool, recv func() (*discoveryv3.DeltaDiscoveryRequest, error)) error {
	ctx, cancel := context.WithCancel(g.Context())
	defer cancel()
	st := &stream{
		server: s, grpc: g, recv: recv, world: world, state: newState(s.config.MaxResponseBytes),
		requests: make(chan *discoveryv3.DeltaDiscoveryRequest), received: make(chan error, 1),
		responses: make(chan *response), sent: make(chan error, 1),
		updates: make(chan Update), ended: make(chan error, 1),
	}
	s.running.Go(func() { st.received <- st.receive(ctx) })

	timeout := time.NewTimer(s.config.JoinTimeout)
	defer timeout.Stop()
	var first *discoveryv3.DeltaDiscoveryRequest
	select {
	case first = <-st.requests:
	case err := <-st.received:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		return status.Errorf(codes.DeadlineExceeded, "no discovery request within %v of the stream's start", s.config.JoinTimeout)
	}
	join, err := joinOf(g.Context(), first.GetNode())
	if err != nil {
		return err
	}
	join.Delta = !world
	member, err := s.config.Admission.Join(ctx, join)
	if err != nil {
		s.metrics.refused.Inc()
		s.config.Logger.Info("proxy refused", zap.String("node", join.NodeID), zap.String("peer", join.Peer), zap.Error(err))
		return err
	}
	key, revision := member.Proxy()
	st.logger = s.config.Logger.With(zap.Stringer("proxy", key), zap.String("peer", join.Peer))
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	leave, err := s.door.enter(ctx, member.Superseded())
	if err != nil {
		member.Leave(err)
		return err
	}
	defer leave()
	st.client, st.settledIn = join.Client, leave
	if st.client.Kind == ClientEnvoy {
		st.state.warming = s.debts.inherit(key)
		defer func() { s.debts.settle(key, st.state.warming) }()
	}
	st.feed = s.config.Source.Open(Opening{Proxy: key, MinRevision: revision, Client: join.Client})
	defer st.feed.Close()
	s.running.Go(func() { st.ended <- st.follow(ctx) })
	s.running.Go(func() { st.send(ctx) })
	st.logger.Debug("proxy joined", zap.String("agent", join.UserAgent))
	err = st.run(ctx, first, member)
	st.logger.Debug("proxy left", zap.Error(err))
	member.Leave(err)
	return err
}

// joinOf reads who the client says it is.
func joinOf(ctx context.Context, node *corev3.Node) (Join, error) {
	if node.GetId() == "" {
		return Join{}, status.Error(codes.InvalidArgument, "the first request must carry node with an id, <mesh>.<dataplane name>")
	}
	field := func(name string) string { return node.GetMetadata().GetFields()[name].GetStringValue() }
	j := Join{
		NodeID: node.GetId(), ProxyType: field("dataplane.proxyType"), Resource: field("dataplane.resource"),
		Token: field("dataplane.token"), UserAgent: node.GetUserAgentName(),
	}
	switch kind := field("dataplane.client"); {
	case kind == "grpc", kind == "" && strings.HasPrefix(strings.ToLower(j.UserAgent), "grpc"):
		// "gRPC Go", "gRPC C-core <system>", "gRPC Node Pure JS", "gRPC Java".
		j.Client = Client{Kind: ClientGRPC, CertificateProvider: field("dataplane.certificateProvider")}
	case kind != "" && kind != "envoy":
		return Join{}, status.Errorf(codes.InvalidArgument, "node metadata dataplane.client is %q, want envoy or grpc", kind)
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if h := md.Get("authorization"); len(h) > 0 && h[0] != "" {
			j.Token = h[0]
		}
	}
	if scheme, rest, ok := strings.Cut(j.Token, " "); ok && strings.EqualFold(scheme, "bearer") {
		j.Token = rest
	}
	j.Token = strings.TrimSpace(j.Token)
	if v := node.GetUserAgentBuildVersion().GetVersion(); v != nil {
		j.UserAgent = fmt.Sprintf("%s/%d.%d.%d", j.UserAgent, v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	} else if v := node.GetUserAgentVersion(); v != "" {
		j.UserAgent += "/" + v
	}
	if p, ok := peer.FromContext(ctx); ok {
		j.Peer = p.Addr.String()
	}
	return j, nil
}

// stream is one client. The goroutine of run owns state and feed.Answered; the channels connect the three that carry.
type stream struct {
	server *Server
	grpc   grpc.ServerStream
	recv   func() (*discoveryv3.DeltaDiscoveryRequest, error)
	world  bool
	client Client
	logger *zap.Logger
	feed   Feed
	state  *state
	asked  asked
	// owes says that the engine has not heard yet that the last update is answered.
	owes bool
	// settledIn gives up the stream's place among those that are joining.
	settledIn func()

	requests  chan *discoveryv3.DeltaDiscoveryRequest
	received  chan error
	responses chan *response
	sent      chan error
	updates   chan Update
	ended     chan error
}

// receive hands requests over; it returns nil when the client has closed its side.
func (st *stream) receive(ctx context.Context) error {
	for {
		req, err := st.recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case st.requests <- req:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow hands updates over.
func (st *stream) follow(ctx context.Context) error {
	for {
		u, err := st.feed.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case st.updates <- u:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send writes one response at a time. A client that does not read blocks it, and it alone.
func (st *stream) send(ctx context.Context) {
	for {
		select {
		case r := <-st.responses:
			err := st.grpc.SendMsg(r)
			st.sent <- err
			if err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// settleTime is how long a client that asks for no routes is waited for before anything is taken from it.
const settleTime = 200 * time.Millisecond

// run owns the stream until it ends.
func (st *stream) run(ctx context.Context, first *discoveryv3.DeltaDiscoveryRequest, member Member) error {
	var (
		sending    bool
		configured bool
		answered   uint64
		refusals   int
	)
	superseded := member.Superseded()
	aged, stop := st.server.config.lifetime()
	defer stop()
	grace := time.NewTimer(settleTime)
	defer grace.Stop()
	st.request(first)
	for {
		if !sending {
			if r := st.next(time.Now()); r != nil {
				select {
				case st.responses <- r:
					sending = true
					st.server.metrics.push(r)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		// An update may be of a revision that was answered before: a certificate has none of its own.
		if revision, ok := st.state.answered(); ok && (revision > answered || st.state.refusals != refusals || st.owes && revision == st.state.revision) {
			answered, refusals = max(answered, revision), st.state.refusals
			st.owes = revision < st.state.revision
			st.feed.Answered(answered, st.state.standing())
		}
		if !configured && st.configured() {
			configured = true
			st.settledIn()
			member.Configured()
		}
		select {
		case req := <-st.requests:
			st.request(req)
		case u := <-st.updates:
			st.update(u)
		case err := <-st.sent:
			if err != nil {
				return err
			}
			sending = false
		case <-grace.C:
			st.state.settled = true
		case err := <-st.received:
			return err
		case err := <-st.ended:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return status.Errorf(codes.Unavailable, "the control plane stops serving this proxy: %v", err)
		case <-superseded:
			return errSuperseded
		case <-aged:
			return ErrAged
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// configured says that the client has what it needs before others call it. A gRPC client may ask for as little as its
// certificate.
func (st *stream) configured() bool {
	if st.client.Kind == ClientGRPC {
		revision, ok := st.state.answered()
		return ok && revision == st.state.revision
	}
	return st.state.configured()
}

// next is the next response to send now, or nil.
func (st *stream) next(now time.Time) *response {
	if st.world {
		return st.state.nextWorld(now)
	}
	return st.state.next(now)
}

// request takes one request.
func (st *stream) request(req *discoveryv3.DeltaDiscoveryRequest) {
	t, ok := TypeOf(req.GetTypeUrl())
	if !ok {
		st.logger.Debug("request of a type that is not served", zap.String("type", req.GetTypeUrl()))
		return
	}
	r := st.take(t, req)
	if r == nil {
		return
	}
	m := st.server.metrics
	m.answer(r, time.Now())
	if d := req.GetErrorDetail(); d != nil {
		m.nacks.WithLabelValues(t.String()).Inc()
		st.logger.Warn("proxy refused a response", zap.Stringer("type", t), zap.Int("resources", len(r.resources)), zap.String("reason", d.GetMessage()))
	}
}
