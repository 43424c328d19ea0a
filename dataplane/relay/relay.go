package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/internal/backoff"
)

const (
	// maxMessage is what a message of either side may have, in bytes: twice what a zone sends.
	maxMessage = 64 << 20
	// window is what may be on its way before it is read, in bytes, of a stream and of a connection. It is
	// fixed: with windows of its own choice gRPC sends a ping for each message.
	window = 1 << 20
	// silence is how long a zone may leave an Envoy that is not live without a first answer before the
	// cache serves it.
	silence = 2 * time.Second
	// startTime is how long an Envoy that is served from the cache may take until it is live, before the
	// zone is tried even so.
	startTime = 5 * time.Second
	// startPause is how long the zone is not tried after it failed an Envoy that is not live: longer than
	// Envoy waits before its next stream.
	startPause = 2 * time.Second
	// soon is within which a stream that ends without an answer counts as refused.
	soon = 5 * time.Second
	// The first and the longest pause before the zone is tried again after it failed to answer.
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second
)

// method is that of ADS which is carried.
const method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

// Config of a [Relay].
type Config struct {
	// Socket is the path of the UNIX socket for Envoy. Its folder is made with mode 0700, and must
	// be used for nothing else; an earlier launcher's is replaced.
	Socket string
	// Zone is the connection to the zone. The relay neither makes nor closes it.
	Zone *grpc.ClientConn
	// Token gives the bare token of this moment. It is asked for each stream.
	Token func() string
	// Cache of the Envoy. The relay runs it.
	Cache  *Cache
	Logger *zap.Logger

	silence time.Duration // 0 means silence; for tests
}

// Relay carries the ADS stream of one Envoy.
type Relay struct {
	cfg      Config
	log      *zap.Logger
	listener net.Listener
	streams  sync.WaitGroup

	mu sync.Mutex // guards what follows
	// newest is Envoy's present stream, if the zone has it.
	newest *stream
	live   bool
	// lives is closed when Envoy becomes live.
	lives chan struct{}
	// zoneAt is when the zone may be tried again; delays counts its failures.
	zoneAt time.Time
	delays backoff.Backoff
}

// New makes a relay that listens: Envoy may be started. Run must follow, or Close. It fails if the socket
// cannot be made.
func New(cfg Config) (*Relay, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.silence == 0 {
		cfg.silence = silence
	}
	dir := filepath.Dir(cfg.Socket)
	// A new folder: a former one may be open to others.
	err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700))
	var l net.Listener
	if err == nil {
		l, err = net.Listen("unix", cfg.Socket)
	}
	if err == nil {
		err = os.Chmod(cfg.Socket, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("socket for Envoy's configuration: %w", err)
	}
	return &Relay{
		cfg:      cfg,
		log:      cfg.Logger,
		listener: l,
		lives:    make(chan struct{}),
		delays:   backoff.Backoff{Min: firstPause, Max: lastPause},
	}, nil
}

// Close is for a relay that does not run.
func (r *Relay) Close() error { return r.listener.Close() }

// Run carries streams until ctx ends.
func (r *Relay) Run(ctx context.Context) error {
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return r.serve(s) }),
	)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.cfg.Cache.Run(ctx) })
	g.Go(func() error {
		stop := context.AfterFunc(ctx, server.Stop)
		defer stop()
		err := server.Serve(r.listener)
		server.Stop() // returns when every stream has ended
		r.streams.Wait()
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("socket for Envoy's configuration: %w", err)
	})
	return g.Wait()
}

// SetLive says whether Envoy is live. One that became so has all that it was to have: what the zone did
// not give it is no longer kept.
func (r *Relay) SetLive(live bool) {
	r.mu.Lock()
	if live && !r.live {
		close(r.lives)
	}
	if !live && r.live {
		r.lives = make(chan struct{})
	}
	r.live = live
	s := r.newest
	r.mu.Unlock()
	if live && s != nil {
		s.sweep()
	}
}

func (r *Relay) isLive() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live
}

// serve serves one stream of Envoy.
func (r *Relay) serve(down grpc.ServerStream) error {
	if name, _ := grpc.MethodFromServerStream(down); name != method {
		return status.Errorf(codes.Unimplemented, "%s is not served here", name)
	}
	var first message
	if err := down.RecvMsg(&first); err != nil {
		return err
	}
	req, err := parseRequest(first.data)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "the first request is malformed: %v", err)
	}
	ctx, cancel := context.WithCancelCause(down.Context())
	defer cancel(nil)
	s := &stream{
		relay:     r,
		down:      down,
		cancel:    cancel,
		starting:  !r.isLive(),
		pending:   map[string][]byte{},
		room:      make(chan struct{}, 1),
		requested: map[string]bool{},
	}
	s.generation = r.cfg.Cache.begin(s.starting)
	cached := r.cfg.Cache.Len() > 0
	r.mu.Lock()
	r.newest = nil
	tryNow := !time.Now().Before(r.zoneAt)
	r.mu.Unlock()

	if tryNow || !cached {
		err := s.carry(ctx, &first, req, cached)
		if !errors.Is(err, errNotReached) || !cached {
			return err
		}
	}
	return s.fromCache(ctx, req)
}

// errNotReached says that no stream to the zone was opened.
var errNotReached = status.Error(codes.Unavailable, "the zone cannot be reached")

// errSilent ends a stream that the zone does not answer.
var errSilent = status.Error(codes.Unavailable, "the zone does not answer")

// failed notes that the zone did not answer, so that the cache serves for some time.
func (r *Relay) failed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := r.delays.Next()
	if !r.live {
		pause = max(pause, startPause)
	}
	r.zoneAt = time.Now().Add(pause)
}

// answered notes that it did.
func (r *Relay) answered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delays.Reset()
	r.zoneAt = time.Time{}
}

// open opens a stream to the zone.
func (r *Relay) open(ctx context.Context) (grpc.ClientStream, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", r.cfg.Token())
	return r.cfg.Zone.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method,
		grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))
}

// awaitZone returns when the zone may be tried again: Envoy is live, a connection is there, and the pause
// after its last failure is over. It returns ctx's error if that ends first.
func (r *Relay) awaitZone(ctx context.Context) error {
	r.mu.Lock()
	at, lives := r.zoneAt, r.lives
	r.mu.Unlock()
	timer := time.NewTimer(startTime)
	defer timer.Stop()
	select {
	case <-lives:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := backoff.Wait(ctx, time.Until(at)); err != nil {
		return err
	}
	for {
		state := r.cfg.Zone.GetState()
		if state == connectivity.Ready {
			return nil
		}
		if state == connectivity.Idle {
			r.cfg.Zone.Connect()
		}
		if !r.cfg.Zone.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}

// refuses says that an error is the zone's word that this proxy is not wanted.
func refuses(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument:
		return true
	}
	return false
}
