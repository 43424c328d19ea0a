package api

import (
	"context"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/api/fanout"
	"github.com/meridian-mesh/meridian/api/problem"
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

// Config of a [Service].
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

	// LocalhostIsAdmin makes direct calls from loopback the administrator's: those without TLS and
	// without an Authorization header.
	LocalhostIsAdmin bool

	// AuditSink takes the rows of the audit too; nil: none.
	AuditSink AuditSink

	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Limits and times.
const (
	// MaxPage is the most resources of one page of a list.
	MaxPage = 1000
	// MaxWait bounds how long a caller may wait for delivery.
	MaxWait = 10 * time.Minute

	maxMessage     = 64 << 20
	forwardTimeout = 5 * time.Second
	// visibleTimeout bounds how long a write waits until this process reads it back.
	visibleTimeout = 2 * time.Second
	atLeastTimeout = 10 * time.Second
)

// Service is the management service; see the package comment. What it offers is grouped by the
// unexported types it embeds; their exported methods are the service's.
type Service struct {
	*base
	*reader
	*writer
	*issuer
	*delivery
	*inspector
	*differ
	*proxies
	*auditor

	edge    *problem.Edge
	grpc    *grpc.Server
	methods map[string]tunnelMethod
}

// base is what every part of the service knows.
type base struct {
	cfg   Config
	log   *zap.Logger
	zones *fanout.Zones
	audit *audit
}

// New makes a Service. It panics if the registerer has metrics of these names already.
func New(cfg Config) *Service {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	b := &base{cfg: cfg, log: cfg.Logger, audit: newAudit(cfg)}
	b.zones = &fanout.Zones{Call: cfg.Forward, Offline: b.offline}
	r := &reader{base: b}
	i := &inspector{base: b, reader: r}
	w := newWriter(b, r, admission.NewTargets(i.matches))
	d := &differ{base: b, writer: w}
	w.guard = d.Guard
	s := &Service{
		base:      b,
		reader:    r,
		writer:    w,
		issuer:    &issuer{base: b},
		delivery:  &delivery{base: b},
		inspector: i,
		differ:    d,
		proxies:   &proxies{base: b, reader: r},
		auditor:   &auditor{base: b},
		edge:      problem.NewEdge(cfg.Logger, cfg.Registerer),
	}
	s.serveGRPC()
	return s
}

// Edge is what requests of other protocols go through, too.
func (s *Service) Edge() *problem.Edge { return s.edge }

// GRPC serves meridian.admin.v1 and reflection over HTTP/2; the context of a request carries its
// identity, see package authn.
func (s *Service) GRPC() http.Handler { return s.grpc }

// Info is what a control plane says of itself to every caller.
type Info struct {
	Version, Hostname, Instance string
	// StoreID is the id of the store: replicas on one store share it.
	StoreID string
	// Role is RoleGlobal or RoleZone.
	Role string
	// Zone is empty at global.
	Zone string
	// Federated says that the zone has a global.
	Federated bool
}

// Info of this control plane.
func (s *Service) Info() Info {
	hostname, _ := os.Hostname()
	return Info{
		Version:   s.cfg.Version,
		Hostname:  hostname,
		Instance:  s.cfg.Instance,
		StoreID:   s.cfg.Store.ID(),
		Role:      s.cfg.Role,
		Zone:      s.cfg.Zone,
		Federated: s.cfg.Federated,
	}
}

func (b *base) global() bool { return b.cfg.Role == RoleGlobal }

// view is the state to read: at least revision atLeast, or a problem if this process has not read
// the store yet.
func (b *base) view(ctx context.Context, atLeast uint64) (replica.View, error) {
	select {
	case <-b.cfg.Replica.Ready():
	default:
		p := problem.New(http.StatusServiceUnavailable, "Not ready",
			"the control plane has not read its store yet; try again soon, and if this stays, see /ready on "+
				"the diagnostics port")
		p.RetryAfter = time.Second
		return replica.View{}, p
	}
	v := b.cfg.Replica.View()
	if v.Revision() >= atLeast {
		return v, nil
	}
	wait, cancel := context.WithTimeout(ctx, atLeastTimeout)
	defer cancel()
	got, err := b.cfg.Replica.Wait(wait, atLeast)
	switch {
	case err == nil:
		return got, nil
	case ctx.Err() != nil:
		return replica.View{}, ctx.Err()
	}
	p := problem.New(http.StatusServiceUnavailable, "Not there yet",
		"this control plane is at revision %d, %d was asked for", v.Revision(), atLeast)
	p.RetryAfter = time.Second
	return replica.View{}, p
}

// visible waits until this process reads what it wrote, so that a caller's next read shows it.
func (b *base) visible(ctx context.Context, revision uint64) {
	wait, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	if _, err := b.cfg.Replica.Wait(wait, revision); err != nil && ctx.Err() == nil {
		b.log.Warn("the replica has not shown a write yet", zap.Uint64("revision", revision), zap.Error(err))
	}
}
