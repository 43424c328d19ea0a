package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/internal/backoff"
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
	codes.Unauthenticated: true, codes.PermissionDenied: true, codes.InvalidArgument: true,
	codes.NotFound:           true,
	codes.FailedPrecondition: true,
}

// mayMend are refusals that are final for a newcomer, but not for a proxy whose Envoy was configured
// before: a control plane that came back without its state learns the mesh again from global.
var mayMend = map[codes.Code]bool{codes.NotFound: true, codes.FailedPrecondition: true}

// The first and the longest pause between attempts.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// session keeps one stream to the zone and says state on it.
type session struct {
	log     *zap.Logger
	address string
	conn    *grpc.ClientConn
	trust   *trust
	token   func() string
	state   *state
	hello   *dataplanev1.SessionHello
	// cached says that what an earlier Envoy of this proxy acknowledged is there.
	cached bool

	admin admin
	// asking holds who asks Envoy for the zone: one answer is in memory at a time.
	asking sync.Mutex

	once      sync.Once
	acceptedC chan struct{}
	drainedC  chan struct{}
	failedC   chan struct{}
	isDrained sync.Once
	isReady   sync.Once
	isFailed  sync.Once
	known     atomic.Bool
}

func (s *session) init() {
	s.once.Do(func() {
		s.acceptedC, s.drainedC, s.failedC = make(chan struct{}), make(chan struct{}), make(chan struct{})
	})
}

// accepted is closed when the zone took the resource for the first time.
func (s *session) accepted() <-chan struct{} { s.init(); return s.acceptedC }

// drained is closed when the zone says that callers no longer pick this proxy.
func (s *session) drained() <-chan struct{} { s.init(); return s.drainedC }

// failed is closed when an attempt failed for the first time and may be repeated.
func (s *session) failed() <-chan struct{} { s.init(); return s.failedC }

// wasKnown notes that the zone accepted this proxy before this launcher was there.
func (s *session) wasKnown() {
	s.known.Store(true)
	s.state.setAccepted()
}

// wasAccepted says that Envoy may be serving. Traffic that flows is not cut for a refusal: a token may
// have expired whose file is being replaced, a control plane that came back without its state learns the
// mesh again from global.
func (s *session) wasAccepted() bool { return s.known.Load() }

// run holds the session until ctx ends (nil) or the zone refuses for good.
func (s *session) run(ctx context.Context) error {
	s.init()
	client := dataplanev1.NewDataplaneServiceClient(s.conn)
	delays := backoff.Backoff{Min: firstPause, Max: lastPause}
	for ctx.Err() == nil {
		began := time.Now()
		err := s.stream(ctx, client)
		if ctx.Err() != nil {
			break
		}
		code := status.Code(err)
		if permanent[code] && !s.wasAccepted() && !(s.cached && mayMend[code]) {
			return &RefusedError{Code: code, Reason: status.Convert(err).Message()}
		}
		if foreign := s.trust.foreign(); foreign != nil && !s.wasAccepted() {
			return fmt.Errorf("the zone at %s: %w", s.address, foreign)
		}
		s.isFailed.Do(func() { close(s.failedC) })
		if time.Since(began) > lastPause {
			delays.Reset() // it held for a while
		}
		wait := delays.Next()
		s.log.Warn("session with the zone ended; a running Envoy goes on, the session is retried",
			zap.String("zone_address", s.address), zap.String("reason", status.Convert(err).Message()),
			zap.Duration("retry_in", wait))
		_ = backoff.Wait(ctx, wait) // the loop looks at ctx
	}
	return nil
}

// stream is one attempt: hello, the whole report, then each change of it.
func (s *session) stream(ctx context.Context, client dataplanev1.DataplaneServiceClient) error {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "authorization", s.token()))
	defer cancel()
	stream, err := client.Session(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(
		&dataplanev1.SessionRequest{Message: &dataplanev1.SessionRequest_Hello{Hello: s.hello}}); err != nil {
		return reason(stream, err)
	}
	received := make(chan error, 1)
	answers := make(chan *dataplanev1.AdminAnswer)
	go func() { received <- s.receive(ctx, stream, answers) }()
	for {
		report, changed := s.state.report()
		if err := stream.Send(
			&dataplanev1.SessionRequest{
				Message: &dataplanev1.SessionRequest_Report{Report: report}}); err != nil {
			cancel()
			return firstError(<-received, err)
		}
		for waiting := true; waiting; {
			select {
			case err := <-received:
				return err
			case <-changed:
				waiting = false
			case a := <-answers:
				if err := stream.Send(
					&dataplanev1.SessionRequest{
						Message: &dataplanev1.SessionRequest_AdminAnswer{AdminAnswer: a}}); err != nil {
					cancel()
					return firstError(<-received, err)
				}
			}
		}
	}
}

func (s *session) receive(ctx context.Context,
	stream grpc.BidiStreamingClient[dataplanev1.SessionRequest, dataplanev1.SessionResponse],
	answers chan<- *dataplanev1.AdminAnswer) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the zone ended the session")
		}
		if err != nil {
			return err
		}
		if resp.GetAccepted() {
			s.wasKnown()
			s.isReady.Do(func() { close(s.acceptedC) })
			s.log.Info("the zone accepted this proxy", zap.String("zone", resp.GetZone()))
		}
		if q := resp.GetAdminQuestion(); q != nil {
			asking.Go(func() { s.answer(ctx, q, answers) })
		}
		if resp.GetDrained() {
			s.isDrained.Do(func() { close(s.drainedC) })
		}
	}
}

// reason is the status with which the server ended a stream; Send says only io.EOF.
func reason(stream grpc.BidiStreamingClient[dataplanev1.SessionRequest, dataplanev1.SessionResponse],
	err error) error {
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
	return &dataplanev1.SessionHello{
		NodeId:          l.proxy.nodeID,
		ProxyType:       proxyTypes[l.proxy.proxyType],
		Resource:        l.proxy.document,
		LauncherVersion: l.cfg.Version,
		EnvoyVersion:    l.envoyVer,
		AnswersAdmin:    true,

		LauncherInstance: l.instance,
	}
}

// questions are what the zone may ask of Envoy's admin interface: nothing that changes it.
var questions = map[dataplanev1.AdminTopic]string{
	dataplanev1.AdminTopic_ADMIN_TOPIC_CONFIG_DUMP: "/config_dump?include_eds=on",
	dataplanev1.AdminTopic_ADMIN_TOPIC_CLUSTERS:    "/clusters?format=json",
	dataplanev1.AdminTopic_ADMIN_TOPIC_STATS:       "/stats?format=json",
	dataplanev1.AdminTopic_ADMIN_TOPIC_LISTENERS:   "/listeners?format=json",
	dataplanev1.AdminTopic_ADMIN_TOPIC_SERVER_INFO: "/server_info",
}

// proxyTypes are those of --proxy-type.
var proxyTypes = map[string]dataplanev1.ProxyType{
	"dataplane": dataplanev1.ProxyType_PROXY_TYPE_DATAPLANE,
	"ingress":   dataplanev1.ProxyType_PROXY_TYPE_INGRESS,
	"egress":    dataplanev1.ProxyType_PROXY_TYPE_EGRESS,
}

// maxPart bounds a part of an answer, bytes; maxAnswer the whole.
const (
	maxPart   = 512 << 10
	maxAnswer = 64 << 20
)

// answer asks Envoy and hands the answer out in parts.
func (s *session) answer(ctx context.Context, q *dataplanev1.AdminQuestion,
	answers chan<- *dataplanev1.AdminAnswer) {
	say := func(a *dataplanev1.AdminAnswer) bool {
		a.Id = q.GetId()
		select {
		case answers <- a:
			return true
		case <-ctx.Done():
			return false
		}
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	body, err := s.ask(ctx, q)
	if err != nil {
		say(&dataplanev1.AdminAnswer{Error: err.Error(), Last: true})
		return
	}
	for {
		n := min(len(body), maxPart)
		if !say(&dataplanev1.AdminAnswer{Body: body[:n], Last: n == len(body)}) || n == len(body) {
			return
		}
		body = body[n:]
	}
}

func (s *session) ask(ctx context.Context, q *dataplanev1.AdminQuestion) ([]byte, error) {
	path, ok := questions[q.GetTopic()]
	if !ok {
		return nil, fmt.Errorf("this launcher does not answer %s", q.GetTopic())
	}
	if f := q.GetFilter(); f != "" {
		if q.GetTopic() != dataplanev1.AdminTopic_ADMIN_TOPIC_STATS {
			return nil, fmt.Errorf("%s takes no filter", q.GetTopic())
		}
		path += "&filter=" + url.QueryEscape(f)
	}
	code, body, err := s.admin.fetch(ctx, path, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("the admin interface of Envoy does not answer: %w", err)
	}
	if code != http.StatusOK {
		return nil, fmt.Errorf("the admin interface of Envoy answered %d %.200s", code, body)
	}
	return body, nil
}
