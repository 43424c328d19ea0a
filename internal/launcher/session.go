package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

// RefusedError says that the zone will not have this proxy; a retry cannot mend it.
type RefusedError struct {
	Code   codes.Code
	Reason string
}

func (e *RefusedError) Error() string { return "the zone refused this proxy: " + e.Reason }

// permanent codes as DataplaneService has them.
var permanent = map[codes.Code]bool{
	codes.Unauthenticated: true, codes.PermissionDenied: true, codes.InvalidArgument: true, codes.NotFound: true,
	codes.FailedPrecondition: true,
}

// mayMend are refusals that are final for a newcomer, but not for a proxy that the zone had accepted: a control plane that
// came back without its state learns the mesh again from global. Traffic that flows is not cut for that.
var mayMend = map[codes.Code]bool{codes.NotFound: true, codes.FailedPrecondition: true}

// Pauses between attempts, before jitter.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// session keeps one stream to the zone and says state on it.
type session struct {
	log     *zap.Logger
	address string
	trust   *trust
	token   string
	state   *state
	hello   *dataplanev1.SessionHello

	once      sync.Once
	acceptedC chan struct{}
	drainedC  chan struct{}
	isDrained sync.Once
	isReady   sync.Once
}

func (s *session) init() {
	s.once.Do(func() { s.acceptedC, s.drainedC = make(chan struct{}), make(chan struct{}) })
}

// accepted is closed when the zone took the resource for the first time.
func (s *session) accepted() <-chan struct{} { s.init(); return s.acceptedC }

// drained is closed when the zone says that callers no longer pick this proxy.
func (s *session) drained() <-chan struct{} { s.init(); return s.drainedC }

func (s *session) wasAccepted() bool {
	select {
	case <-s.accepted():
		return true
	default:
		return false
	}
}

// run holds the session until ctx ends (nil) or the zone refuses for good.
func (s *session) run(ctx context.Context) error {
	s.init()
	conn, err := grpc.NewClient("passthrough:///"+s.address,
		grpc.WithTransportCredentials(credentials.NewTLS(s.trust.conf)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second, Backoff: backoff.Config{
			BaseDelay: firstPause, Multiplier: 1.6, Jitter: 0.3, MaxDelay: 2 * time.Second}}),
		// A zone that died without a word, or a broken network, is noticed within this time.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithUserAgent("meridian-dp/"+s.hello.GetLauncherVersion()))
	if err != nil {
		return fmt.Errorf("--cp: %w", err)
	}
	defer func() { _ = conn.Close() }()
	client := dataplanev1.NewDataplaneServiceClient(conn)
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := s.stream(ctx, client)
		if ctx.Err() != nil {
			break
		}
		code := status.Code(err)
		if permanent[code] && !(s.wasAccepted() && mayMend[code]) {
			return &RefusedError{Code: code, Reason: status.Convert(err).Message()}
		}
		if foreign := s.trust.foreign(); foreign != nil && !s.wasAccepted() {
			return fmt.Errorf("the zone at %s: %w", s.address, foreign)
		}
		if time.Since(began) > lastPause {
			pause = firstPause // it held for a while: begin anew
		}
		wait := pause/2 + rand.N(pause)
		s.log.Warn("session with the zone ended; a running Envoy goes on, the session is retried",
			zap.String("zone_address", s.address), zap.String("reason", status.Convert(err).Message()), zap.Duration("retry_in", wait))
		pause = min(2*pause, lastPause)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// stream is one attempt: hello, the whole report, then each change of it.
func (s *session) stream(ctx context.Context, client dataplanev1.DataplaneServiceClient) error {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "authorization", s.token))
	defer cancel()
	stream, err := client.Session(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&dataplanev1.SessionRequest{Message: &dataplanev1.SessionRequest_Hello{Hello: s.hello}}); err != nil {
		return reason(stream, err)
	}
	received := make(chan error, 1)
	go func() { received <- s.receive(stream) }()
	for {
		report, changed := s.state.report()
		if err := stream.Send(&dataplanev1.SessionRequest{Message: &dataplanev1.SessionRequest_Report{Report: report}}); err != nil {
			cancel()
			return firstError(<-received, err)
		}
		select {
		case err := <-received:
			return err
		case <-changed:
		}
	}
}

func (s *session) receive(stream grpc.BidiStreamingClient[dataplanev1.SessionRequest, dataplanev1.SessionResponse]) error {
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the zone ended the session")
		}
		if err != nil {
			return err
		}
		if resp.GetAccepted() {
			s.state.setAccepted()
			s.isReady.Do(func() { close(s.acceptedC) })
			s.log.Info("the zone accepted this proxy", zap.String("zone", resp.GetZone()))
		}
		if resp.GetDrained() {
			s.isDrained.Do(func() { close(s.drainedC) })
		}
	}
}

// reason is the status with which the server ended a stream; Send says only io.EOF.
func reason(stream grpc.BidiStreamingClient[dataplanev1.SessionRequest, dataplanev1.SessionResponse], err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	_, err = stream.Recv()
	return err
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil && status.Code(err) != codes.Canceled {
			return err
		}
	}
	return errs[0]
}

func (l *Launcher) hello() *dataplanev1.SessionHello {
	return &dataplanev1.SessionHello{NodeId: l.proxy.nodeID, ProxyType: l.proxy.proxyType, Resource: l.proxy.document,
		LauncherVersion: l.cfg.Version, EnvoyVersion: l.envoyVer}
}
