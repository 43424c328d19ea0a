// Package api is the management API of both roles: REST and gRPC (meridian.admin.v1, with
// reflection) on one port, over one service.
//
// # Model
//
//	REST ──┐                          ┌─▶ replica.View            reads
//	gRPC ──┼─▶ Caller ─▶ core service ┼─▶ store.Commit ─▶ replica writes, answered once this process reads them
//	tunnel ┘                          └─▶ Forward ─▶ a zone       Dataplanes at global
//
// A write is: authenticate, authorize, is the kind written here, decode, validate, compare with the
// URL, label rules, kind rules, the mesh exists, commit with checks of all that was read. A write
// without a condition is tried again when a check fails; one with a condition fails with 412. Every
// violation of a document is reported at once.
//
// # Ownership
//
// A resource has one writer, its origin. Global writes resources of no zone; a zone with a global
// writes its own, of kinds that zones may own, and a resource that could be global's too must say
// kuma.io/origin: zone; a standalone zone writes all. A write at the wrong place fails and says
// where the right one is. Dataplanes are not stored at global: reads there ask the zones through
// the tunnel and name the zones that are away.
//
// What policies come to (InspectService, and the REST paths that begin with an underscore) is
// computed where the proxies are, by package inspect over a view of its own; global asks the zones.
//
// # Who may
//
// One function, [API.authorize], decides. A direct call from loopback is the administrator (unless
// switched off), a Bearer token is its user, everybody else is anonymous and sees the index and
// /who-am-i alone. Administrators write and see secrets, every authenticated user reads the rest.
// Every write, tried or done, is a line of the audit log.
//
// # Failure
//
// Failures are a [*Problem], made where they arise and turned into problem+json or a gRPC status
// once, at the edge. While the store is away writes fail with 503 and Retry-After, and reads go on
// from the replica. A panic in a handler is a 500 for its caller and a line in the log.
//
// # Concurrency
//
// An [API] is safe for concurrent use and starts nothing by itself; [API.Serve] owns its listener
// and ends with its context. Watches hold a subscription each, whose memory is bounded by the
// number of keys; a slow reader gets merged changes.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Roles.
const (
	RoleGlobal = "global"
	RoleZone   = "zone"
)

// Config of an [API].
type Config struct {
	// Role is RoleGlobal or RoleZone.
	Role string
	// Zone is this zone's name; empty at global.
	Zone string
	// Federated says that the zone has a global.
	Federated bool

	Store   store.Store
	Replica *replica.Replica
	Tokens  *tokens.Tokens

	Version, Instance string

	// Status answers GetStatus; nil gives role, revision and version alone.
	Status func(ctx context.Context) *adminv1.GetStatusResponse
	// Wait answers WaitRevision; it returns at ctx's end at the latest. Nil: this control plane cannot tell.
	Wait func(ctx context.Context, revision uint64) *adminv1.WaitRevisionResponse
	// Forward, at global, calls a method of meridian.admin.v1 at a zone; errors are gRPC status errors.
	Forward func(ctx context.Context, zone, method string, req []byte) ([]byte, error)
	// Debug knows how this zone's proxies are; nil: this control plane has none.
	Debug Debugger
	// OnMesh gives what else to write in the transaction that creates or replaces a Mesh.
	OnMesh func(view replica.View, m *mesh.Resource, created bool) []store.Op
	// ProcessConfig is the process's configuration as JSON, without secrets, for GET /config; nil:
	// there is none.
	ProcessConfig func() ([]byte, error)

	// GuardShare is the percentage of proxies that a policy may change before `meridian apply` asks
	// to be sure; 0 is any. A policy that changes fewer than GuardProxies never needs to.
	GuardShare, GuardProxies int

	// LocalhostIsAdmin makes direct calls from loopback the administrator's.
	LocalhostIsAdmin bool

	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Limits and times.
const (
	maxBody        = 8 << 20 // bytes of a REST body
	maxMessage     = 64 << 20
	maxPage        = 1000
	forwardTimeout = 5 * time.Second
	// settleTimeout bounds how long a write waits until this process reads it back.
	settleTimeout  = 2 * time.Second
	atLeastTimeout = 10 * time.Second
	maxWait        = 10 * time.Minute
	drainTimeout   = 5 * time.Second
)

// API is the management API; see the package comment.
type API struct {
	conf     Config
	log      *zap.Logger
	hostname string
	grpc     *grpc.Server
	methods  map[string]func(ctx context.Context, req []byte) ([]byte, error)
	metrics  metrics
}

type metrics struct {
	duration *prometheus.HistogramVec
	retries  prometheus.Counter
	panics   prometheus.Counter
}

// New makes an API. It fails only if the registerer has metrics of these names already.
func New(conf Config) (*API, error) {
	if conf.Logger == nil {
		conf.Logger = zap.NewNop()
	}
	a := &API{conf: conf, log: conf.Logger}
	a.hostname, _ = os.Hostname()
	a.metrics = metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meridian_api_request_duration_seconds",
			Help: "Time to answer a request of the management API, watches and waits left out. High write " +
				"times mean a slow store.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"verb", "result"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_api_write_retries_total",
			Help: "Writes tried again because somebody else wrote in between. A steady rise means that two " +
				"writers fight over one resource.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_api_panics_total",
			Help: "Requests that ended in a bug of ours. Anything but 0 is worth a report with the log line.",
		}),
	}
	if conf.Registerer != nil {
		for _, c := range []prometheus.Collector{a.metrics.duration, a.metrics.retries, a.metrics.panics} {
			if err := conf.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("management API: %w", err)
			}
		}
	}
	a.grpc = grpc.NewServer(grpc.UnaryInterceptor(a.unary), grpc.StreamInterceptor(a.stream),
		grpc.MaxRecvMsgSize(maxMessage))
	svc := &service{api: a}
	adminv1.RegisterResourceServiceServer(a.grpc, svc)
	adminv1.RegisterStatusServiceServer(a.grpc, svc)
	adminv1.RegisterTokenServiceServer(a.grpc, svc)
	inspection, comparison, looking := &inspector{api: a}, &differ{api: a}, &debugService{api: a}
	adminv1.RegisterInspectServiceServer(a.grpc, inspection)
	adminv1.RegisterDiffServiceServer(a.grpc, comparison)
	adminv1.RegisterDebugServiceServer(a.grpc, looking)
	reflection.Register(a.grpc)
	a.methods = svc.methods()
	add := func(method string, f func(context.Context, []byte) ([]byte, error)) { a.methods[method] = f }
	inspection.methods(add)
	comparison.methods(add)
	looking.methods(add)
	return a, nil
}

// Handler serves REST and gRPC. Its server must speak HTTP/2, cleartext (prior knowledge) or TLS,
// for gRPC; [API.Serve] sets that up.
func (a *API) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), identityKey{}, a.identify(r))
		r = r.WithContext(ctx)
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			a.grpc.ServeHTTP(w, r)
			return
		}
		a.serveREST(w, r)
	})
}

type drainKey struct{}

// onDrain calls f when the server of ctx's request begins to stop, for what would never end by
// itself; the function it returns calls that off.
func onDrain(ctx context.Context, f func()) (undo func()) {
	d, ok := ctx.Value(drainKey{}).(context.Context)
	if !ok {
		return func() {}
	}
	stop := context.AfterFunc(d, f)
	return func() { stop() }
}

// Serve serves on l until ctx ends: with TLS if t is set, else in cleartext; HTTP/1.1 and HTTP/2
// either way. At the end watches are told to finish and other requests get some seconds. It closes
// l, and returns nil if ctx ended.
func (a *API) Serve(ctx context.Context, l net.Listener, t *tls.Config) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           a.Handler(),
		Protocols:         protocols,
		TLSConfig:         t,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithoutCancel(ctx), drainKey{}, ctx)
		},
		ErrorLog: zap.NewStdLog(a.log.Named("http")),
	}
	ended := make(chan error, 1)
	go func() { // ends with server.Serve, which Shutdown and Close below end
		if t != nil {
			ended <- server.ServeTLS(l, "", "")
		} else {
			ended <- server.Serve(l)
		}
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("management API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		a.log.Info("requests were cut off at the end", zap.Error(err))
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Call runs one unary method of meridian.admin.v1 as the control plane itself: the zone's end of
// the admin tunnel. Errors are gRPC status errors.
func (a *API) Call(ctx context.Context, method string, req []byte) ([]byte, error) {
	f, ok := a.methods[method]
	if !ok {
		return nil, problem(http.StatusNotImplemented, "Could not execute admin operation",
			"this control plane (%s) does not know method %s",
			a.conf.Version, method).grpc()
	}
	return f(context.WithValue(ctx, identityKey{}, identity{caller: Caller{
		Name:   tokens.ControlPlaneUser,
		Groups: []string{tokens.AdminGroup},
	}}), req)
}

// recovered turns a panic into a problem; use as defer a.recovered(&err, what).
func (a *API) recovered(err *error, what string) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // it is compared so in net/http
		panic(p)
	}
	a.metrics.panics.Inc()
	a.log.Error("panic in a request", zap.String("request", what), zap.Any("panic", p),
		zap.ByteString("stack", debug.Stack()))
	*err = problem(http.StatusInternalServerError, "Internal Server Error",
		"this is a bug; the control plane's log has a line about it")
}

// view is the state to read: at least revision atLeast, or a problem if this process has not read
// the store yet.
func (a *API) view(ctx context.Context, atLeast uint64) (replica.View, error) {
	select {
	case <-a.conf.Replica.Ready():
	default:
		p := problem(http.StatusServiceUnavailable, "Not ready",
			"the control plane has not read its store yet; try again soon, and if this stays, see /ready on "+
				"the diagnostics port")
		p.retryAfter = time.Second
		return replica.View{}, p
	}
	v := a.conf.Replica.View()
	if v.Revision() >= atLeast {
		return v, nil
	}
	wait, cancel := context.WithTimeout(ctx, atLeastTimeout)
	defer cancel()
	got, err := a.conf.Replica.Wait(wait, atLeast)
	if err != nil {
		if ctx.Err() != nil {
			return replica.View{}, ctx.Err()
		}
		p := problem(http.StatusServiceUnavailable, "Not there yet",
			"this control plane is at revision %d, %d was asked for", v.Revision(), atLeast)
		p.retryAfter = time.Second
		return replica.View{}, p
	}
	return got, nil
}

// settle waits until this process reads what it wrote, so that a caller's next read shows it.
func (a *API) settle(ctx context.Context, revision uint64) {
	wait, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if _, err := a.conf.Replica.Wait(wait, revision); err != nil && ctx.Err() == nil {
		a.log.Warn("the replica has not shown a write yet", zap.Uint64("revision", revision), zap.Error(err))
	}
}
