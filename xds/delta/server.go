package delta

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
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
	// MaxResponseBytes bounds one response; a larger resource goes alone. Default 2 MiB, for
	// clients take 4 MiB.
	MaxResponseBytes int
	// MaxMessageBytes bounds any one message. A resource that is larger is not sent: the proxy
	// keeps what it has of it, and the status of its cause says why. Default 32 MiB; gRPC clients
	// take 4 MiB whatever is set here.
	MaxMessageBytes int
	// JoinTimeout is how long a stream may stay without a first request. Default 15 s.
	JoinTimeout time.Duration
	// MaxJoining is how many streams may be getting their first configuration at once; the others
	// wait, first come first served. Default [DefaultMaxJoining].
	MaxJoining int
	// FirstConfigTimeout is after how long a stream that has not answered its first configuration no
	// longer counts as joining. Default 10 s.
	FirstConfigTimeout time.Duration
	// MaxAge is the age of a connection, which the grpc.Server that carries the service is given
	// too (MaxConnectionAge): streams end a little after it, so that proxies spread over the
	// instances of a control plane again. 0 is without bound.
	MaxAge time.Duration
	// Workers is how many streams are pushed to at once. Default: the number of processors.
	Workers    int
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// DefaultMaxJoining is the default of [Config.MaxJoining].
const DefaultMaxJoining = 256

// Server is the ADS server of a zone. Its streams live as long as the grpc.Server it is registered on.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cfg       Config
	metrics   *metrics
	warmups   warmups
	limiter   limiter
	queue     queue
	inspected registry
	running   sync.WaitGroup
}

// messageOfGRPC is what gRPC libraries take in one message.
const messageOfGRPC = 4 << 20

// limits are those of a stream.
func (s *Server) limits(c Client) limits {
	l := limits{response: s.cfg.MaxResponseBytes, message: s.cfg.MaxMessageBytes}
	if c.Kind == ClientGRPC {
		l.message = min(l.message, messageOfGRPC)
	}
	return l
}

// NewServer makes a server; it starts nothing.
func NewServer(c Config) *Server {
	if c.MaxResponseBytes == 0 {
		c.MaxResponseBytes = 2 << 20
	}
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = 32 << 20
	}
	if c.Workers == 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.JoinTimeout == 0 {
		c.JoinTimeout = 15 * time.Second
	}
	if c.MaxJoining == 0 {
		c.MaxJoining = DefaultMaxJoining
	}
	if c.FirstConfigTimeout == 0 {
		c.FirstConfigTimeout = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	m := newMetrics(c.Registerer)
	s := &Server{
		cfg:       c,
		metrics:   m,
		warmups:   warmups{of: map[mesh.Key]*warming{}},
		inspected: registry{of: map[mesh.Key]map[*stream]struct{}{}},
		limiter: limiter{
			places:  semaphore.NewWeighted(int64(c.MaxJoining)),
			timeout: c.FirstConfigTimeout,
			metrics: m,
		},
	}
	// What hundreds of joins took is garbage now, and a zone that is at rest would keep it for long.
	s.limiter.idle = func() { s.running.Go(debug.FreeOSMemory) }
	s.queue = queue{push: (*stream).push, limit: c.Workers, running: &s.running}
	return s
}

// Register adds the service to g, which must have been made with [ServerOptions].
func (s *Server) Register(g *grpc.Server) { discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s) }

// Wait blocks until the goroutines of all streams have ended: soon after the grpc.Server was stopped.
func (s *Server) Wait() { s.running.Wait() }

// receiveWindow is what a client may send before it is read, in bytes. It is fixed: with windows of
// its own choice gRPC sends a ping for each answer that it receives, to measure the connection, and
// that costs as much as the answer.
const receiveWindow = 256 << 10

// GCPercent is what a process that serves proxies by the thousand gives to gcpace.Start: most of
// what it holds lives long, and with Go's 100 garbage would take as much again. A change for every
// proxy leaves little, so that few collections follow even so.
const GCPercent = 40

// ServerOptions are what the grpc.Server that carries the service needs: a codec that takes encoded
// resources (and leaves other services' messages alone), keepalive that finds a lost peer within 30
// s, buffers small enough for thousands of connections, and room for the first request of a proxy
// that comes back with all that it holds.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             5 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.ReadBufferSize(1 << 10),
		grpc.InitialWindowSize(receiveWindow),
		grpc.InitialConnWindowSize(receiveWindow),
		grpc.MaxRecvMsgSize(32 << 20),
		grpc.MaxConcurrentStreams(100),
	}
}

// StreamAggregatedResources serves one state-of-the-world stream; see sotw.go.
func (s *Server) StreamAggregatedResources(
	g discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	var names subscriptions
	return s.serve(g, true, func(in *incoming) error {
		req, err := g.Recv()
		if err == nil {
			in.req = names.step(req)
		}
		return err
	})
}

// DeltaAggregatedResources serves one incremental stream.
func (s *Server) DeltaAggregatedResources(
	g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.serve(g, false, func(in *incoming) error { return g.RecvMsg(in) })
}

// serve serves a stream of either kind; sotw says that it is state-of-the-world.
func (s *Server) serve(g grpc.ServerStream, sotw bool,
	recv func(*incoming) error) error {
	ctx, cancel := context.WithCancel(g.Context())
	defer cancel()
	st := &stream{
		server:   s,
		grpc:     g,
		recv:     recv,
		sotw:     sotw,
		first:    make(chan *discoveryv3.DeltaDiscoveryRequest),
		joined:   make(chan struct{}),
		received: make(chan error, 1),
		ended:    make(chan error, 1),
	}
	s.running.Go(func() { st.received <- st.receive(ctx) })

	timeout := time.NewTimer(s.cfg.JoinTimeout)
	defer timeout.Stop()
	var first *discoveryv3.DeltaDiscoveryRequest
	select {
	case first = <-st.first:
	case err := <-st.received:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		return status.Errorf(codes.DeadlineExceeded, "no discovery request within %v of the stream's start",
			s.cfg.JoinTimeout)
	}
	join, err := joinOf(g.Context(), first.GetNode())
	if err != nil {
		return err
	}
	join.Delta = !sotw
	member, err := s.cfg.Admission.Join(ctx, join)
	if err != nil {
		s.metrics.rejected.Inc()
		s.cfg.Logger.Info("proxy rejected", zap.String("node", join.NodeID), zap.String("peer", join.Peer),
			zap.Error(err))
		return err
	}
	key, revision := member.Proxy()
	st.log = s.cfg.Logger.With(zap.Stringer("proxy", key), zap.String("peer", join.Peer))
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	st.join, st.since = join, time.Now()
	defer s.inspected.add(key, st)()
	release, err := s.limiter.acquire(ctx, member.Superseded())
	if err != nil {
		member.Leave(err)
		return err
	}
	defer release()
	st.client, st.configured = join.Client, func() { release(); member.Configured() }
	st.state = newState(s.limits(join.Client))
	st.state.sotw = sotw
	if st.client.Kind == ClientEnvoy {
		st.state.warming = s.warmups.inherit(key)
		defer func() { s.warmups.forget(key, st.state.warming) }()
	}
	st.log.Debug("proxy joined", zap.String("agent", join.UserAgent))
	st.open(OpenRequest{Proxy: key, MinRevision: revision, Client: join.Client}, first)
	err = st.wait(ctx, member.Superseded())
	st.close()
	st.log.Debug("proxy left", zap.Error(err))
	member.Leave(err)
	return err
}

// joinOf reads who the client says it is.
func joinOf(ctx context.Context, node *corev3.Node) (Join, error) {
	if node.GetId() == "" {
		return Join{}, status.Error(codes.InvalidArgument,
			"the first request must carry node with an id, <mesh>.<dataplane name>")
	}
	field := func(name string) string { return node.GetMetadata().GetFields()[name].GetStringValue() }
	j := Join{
		NodeID:    node.GetId(),
		ProxyType: field("dataplane.proxyType"),
		Resource:  field("dataplane.resource"),
		Token:     field("dataplane.token"),
		UserAgent: node.GetUserAgentName(),
	}
	switch kind := field("dataplane.client"); {
	case kind == "grpc", kind == "" && strings.HasPrefix(strings.ToLower(j.UserAgent), "grpc"):
		// "gRPC Go", "gRPC C-core <system>", "gRPC Node Pure JS", "gRPC Java".
		j.Client = Client{Kind: ClientGRPC, CertificateProvider: field("dataplane.certificateProvider")}
	case kind != "" && kind != "envoy":
		return Join{}, status.Errorf(codes.InvalidArgument,
			"node metadata dataplane.client is %q, must be envoy or grpc", kind)
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
		j.UserAgent = fmt.Sprintf("%s/%d.%d.%d", j.UserAgent, v.GetMajorNumber(), v.GetMinorNumber(),
			v.GetPatch())
	} else if v := node.GetUserAgentVersion(); v != "" {
		j.UserAgent += "/" + v
	}
	if p, ok := peer.FromContext(ctx); ok {
		j.Peer = p.Addr.String()
	}
	return j, nil
}
