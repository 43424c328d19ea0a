// Package global is the global control plane: it owns policies and shows every zone.
//
// # Parts
//
//	adminapi ─▶ store ─▶ replica ─┬▶ kdsrpc.Server ◀═▶ zones
//	                              ├▶ internal/members: members of MeshMultiZoneServices
//	                              ├▶ internal/meshca: roots of meshes; authority signs the zones' intermediates
//	                              └▶ zones.Zones: Zone resources, delivery statuses
//
// [Global] only wires them; each part owns its state and says in its own package what it promises.
// Any number of replicas on one Postgres are equal.
//
// # Life
//
// [Global.Listen] opens the ports, so that a port in use is an error before anything runs.
// [Global.Run] serves until its context ends: then the API lets running requests end, the zones'
// streams are ended (they go on without global and come back), and last the parts behind them stop.
// While the store is away reads and zones go on; writes fail with a clear text.
package global

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/controller/delivery"
	"github.com/meridian-mesh/meridian/controller/members"
	"github.com/meridian-mesh/meridian/controller/zones"
	"github.com/meridian-mesh/meridian/identity/authority"
	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/internal/listen"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/store/retention"
)

// Config of a Global. Store and Server are required. An empty address switches that port off.
type Config struct {
	Store store.Store
	// StoreType is "embedded" or "postgres", for status.
	StoreType string

	// APIAddr serves HTTP, APITLSAddr the same over TLS, KDSAddr the zones (TLS), DiagnosticsAddr
	// health and metrics.
	APIAddr, APITLSAddr, KDSAddr, DiagnosticsAddr string
	// Server is the certificate of all TLS ports.
	Server *pki.Server

	// Instance and Version of this process.
	Instance, Version string
	// GuardShare is the percentage of proxies that a policy may change before `meridian apply` asks
	// to be sure; 0 is any. A policy that changes fewer than GuardProxies never needs to.
	GuardShare, GuardProxies int
	// DisableLocalhostAdmin takes the administrator's rights from direct calls from loopback.
	DisableLocalhostAdmin bool
	// SkipDefaultMesh leaves out the mesh "default" at the first start.
	SkipDefaultMesh bool
	// Lease is how long a zone may be silent; 0 means kdsrpc's default.
	Lease time.Duration
	// HistoryAge and HistoryRevisions are how long, and how many, entries of the change log are
	// kept; 0 is without bound.
	HistoryAge       time.Duration
	HistoryRevisions uint64
	// ProcessConfig is the process's configuration as JSON, without secrets; may be nil.
	ProcessConfig func() ([]byte, error)

	Logger *zap.Logger
	// Level of Logger, changed over the diagnostics port.
	Level zap.AtomicLevel
	// Registry of metrics; nil makes one.
	Registry *prometheus.Registry
}

// Global is a global control plane; see the package comment.
type Global struct {
	cfg     Config
	log     *zap.Logger
	replica *replica.Replica
	tokens  *tokens.Tokens
	kds     *kdsrpc.Server
	api     *api.API
	members *members.Aggregator
	roots   *ca.Reconciler
	zones   *zones.Zones
	deliver *delivery.Writer
	history *retention.Keeper

	started time.Time
	ready   chan struct{}
	once    sync.Once

	mu        sync.Mutex
	listeners map[string]net.Listener
}

// Names of the listeners in [Global.Addresses].
const (
	API         = "api"
	APITLS      = "api-tls"
	KDS         = "kds"
	Diagnostics = "diagnostics"
)

// New makes a Global; it opens nothing.
func New(cfg Config) (*Global, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("global: Config.Store is required")
	case cfg.Server == nil && (cfg.KDSAddr != "" || cfg.APITLSAddr != ""):
		return nil, errors.New("global: Config.Server, the certificate of the TLS ports, is required")
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Level == (zap.AtomicLevel{}) {
		cfg.Level = zap.NewAtomicLevel()
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	log := cfg.Logger
	g := &Global{
		cfg:       cfg,
		log:       log,
		ready:     make(chan struct{}),
		listeners: map[string]net.Listener{},
	}
	g.replica = replica.New(replica.Config{
		Store:      cfg.Store,
		Logger:     log.Named("replica"),
		Registerer: cfg.Registry,
	})
	g.tokens = tokens.New(tokens.Config{Store: cfg.Store, View: g.replica.View, Pins: g.pins})
	signer := authority.New(authority.Config{Replica: g.replica, Logger: log.Named("authority")})
	g.kds = kdsrpc.NewServer(kdsrpc.ServerConfig{
		Store:        cfg.Store,
		Replica:      g.replica,
		Authenticate: g.authenticate,
		Instance:     cfg.Instance,
		Sign:         signer.Sign,
		Lease:        cfg.Lease,
		Validate:     checkResource,
		Logger:       log.Named("kds"),
		Registerer:   cfg.Registry,
	})
	g.members = members.New(members.Config{
		Store:      cfg.Store,
		Replica:    g.replica,
		Logger:     log.Named("members"),
		Registerer: cfg.Registry,
	})
	g.roots = ca.New(ca.Config{Store: cfg.Store, Replica: g.replica, Logger: log.Named("meshca")})
	g.deliver = delivery.New(delivery.Config{
		Store:   cfg.Store,
		Replica: g.replica,
		Logger:  log.Named("delivery"),
		Owns:    func(k mesh.Key) bool { return k.Zone == "" },
	})
	g.zones = zones.NewZones(zones.Config{
		Store:    cfg.Store,
		Replica:  g.replica,
		Sessions: g.kds,
		Delivery: g.deliver,
		Logger:   log.Named("zones"),
	})
	g.history = retention.New(retention.Config{
		Store:      cfg.Store,
		Head:       func() uint64 { return g.replica.View().Revision() },
		Age:        cfg.HistoryAge,
		Revisions:  cfg.HistoryRevisions,
		Logger:     log.Named("history"),
		Registerer: cfg.Registry,
	})
	server, err := api.New(api.Config{
		Role:             api.RoleGlobal,
		Store:            cfg.Store,
		Replica:          g.replica,
		Tokens:           g.tokens,
		Version:          cfg.Version,
		Instance:         cfg.Instance,
		Status:           g.Status,
		Wait:             g.Wait,
		Forward:          g.kds.Call,
		OnMesh:           ca.OnMesh(g.tokens, log),
		ProcessConfig:    cfg.ProcessConfig,
		GuardShare:       cfg.GuardShare,
		GuardProxies:     cfg.GuardProxies,
		LocalhostIsAdmin: !cfg.DisableLocalhostAdmin,
		Logger:           log.Named("api"),
		Registerer:       cfg.Registry,
	})
	if err != nil {
		return nil, err
	}
	g.api = server
	return g, nil
}

// checkResource rejects what a zone sends as the API would.
func checkResource(r *mesh.Resource) error {
	_, err := validate.Resource(r)
	return err
}

// pins are those of this control plane and of every zone that connected: a token issued here works
// at all of them.
func (g *Global) pins() []string {
	var out []string
	seen := map[string]bool{}
	add := func(pin string) {
		if pin != "" && !seen[pin] {
			seen[pin] = true
			out = append(out, pin)
		}
	}
	if g.cfg.Server != nil {
		add(g.cfg.Server.Pin)
	}
	for r := range g.replica.View().List(mesh.KindZone, "") {
		for _, pin := range mesh.Status[*meshv1.ZoneStatus](r).GetCaPins() {
			add(pin)
		}
	}
	return out
}

// authenticate names the zone of a KDS call by its token.
func (g *Global) authenticate(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 || values[0] == "" {
		return "", status.Error(codes.Unauthenticated,
			"no zone token: give one with --token-file; 'meridian token zone' issues it at global")
	}
	select {
	case <-g.replica.Ready():
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	}
	claims, err := g.tokens.VerifyZone(strings.TrimPrefix(values[0], "Bearer "))
	if err == nil {
		err = claims.Allows(claims.Zone, "cp")
	}
	var refused *tokens.TokenError
	switch {
	case errors.As(err, &refused):
		code := codes.Unauthenticated
		if refused.Code == tokens.Mismatch || refused.Code == tokens.WrongType {
			code = codes.PermissionDenied
		}
		return "", status.Error(code, refused.Reason)
	case err != nil:
		return "", err
	case claims.Zone == "":
		return "", status.Error(codes.PermissionDenied,
			"the zone token names no zone; issue one for this zone: 'meridian token zone --zone NAME "+
				"--scope cp'")
	}
	return claims.Zone, nil
}

// Tokens issues and checks tokens, for the command that prints the first administrator's.
func (g *Global) Tokens() *tokens.Tokens { return g.tokens }

// Replica is what this control plane reads.
func (g *Global) Replica() *replica.Replica { return g.replica }

// Ready is closed once the state is loaded and the first keys are made.
func (g *Global) Ready() <-chan struct{} { return g.ready }

// Listen opens the ports. [Global.Run] does if it was not called; call it before to learn of a port
// in use first.
func (g *Global) Listen(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.listeners) > 0 {
		return nil
	}
	for _, p := range []struct{ name, flag, address string }{
		{API, "--api-addr", g.cfg.APIAddr}, {APITLS, "--api-tls-addr", g.cfg.APITLSAddr},
		{KDS, "--kds-addr", g.cfg.KDSAddr}, {Diagnostics, "--diagnostics-addr", g.cfg.DiagnosticsAddr},
	} {
		if p.address == "" {
			continue
		}
		l, err := listen.Open(ctx, p.flag, p.address)
		if err != nil {
			for _, open := range g.listeners {
				_ = open.Close()
			}
			clear(g.listeners)
			return err
		}
		g.listeners[p.name] = l
		g.log.Info("listening", zap.String("port", p.name), zap.Stringer("address", l.Addr()))
	}
	return nil
}

// Addresses are those that the ports listen on, by name; empty before Listen.
func (g *Global) Addresses() map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]string{}
	for name, l := range g.listeners {
		out[name] = l.Addr().String()
	}
	return out
}

// Run serves until ctx ends (it returns nil then) or a part fails. It must be called once.
func (g *Global) Run(ctx context.Context) error {
	if err := g.Listen(ctx); err != nil {
		return err
	}
	g.started = time.Now()
	// The core outlives the front, so that running requests can end.
	coreCtx, stopCore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCore()
	core, coreCtx := errgroup.WithContext(coreCtx)
	for _, run := range []func(context.Context) error{
		g.replica.Run, g.members.Run, g.roots.Run, g.zones.Run, g.deliver.Run, g.history.Run, g.bootstrap,
	} {
		core.Go(func() error { return run(coreCtx) })
	}
	frontCtx, stopFront := context.WithCancel(ctx)
	defer stopFront()
	defer context.AfterFunc(coreCtx, stopFront)()
	front, frontCtx := errgroup.WithContext(frontCtx)
	g.serve(front, frontCtx)
	frontErr := front.Wait()
	stopCore()
	coreErr := core.Wait()
	for _, err := range []error{coreErr, frontErr} {
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("global: %w", err)
		}
	}
	return nil
}

func (g *Global) serve(front *errgroup.Group, ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	front.Go(func() error { return g.kds.Run(ctx) })
	if l := g.listeners[API]; l != nil {
		front.Go(func() error { return g.api.Serve(ctx, l, nil) })
	}
	if l := g.listeners[APITLS]; l != nil {
		front.Go(func() error { return g.api.Serve(ctx, l, g.tls()) })
	}
	if l := g.listeners[KDS]; l != nil {
		server := grpc.NewServer(append(kdsrpc.ServerOptions(), grpc.Creds(credentials.NewTLS(g.tls())))...)
		g.kds.Register(server)
		front.Go(func() error { return listen.GRPC(ctx, l, server) })
	}
	if l := g.listeners[Diagnostics]; l != nil {
		handler := obs.Diagnostics(g.cfg.Registry, g.cfg.Level, g.isReady)
		front.Go(func() error { return listen.HTTP(ctx, l, nil, handler) })
	}
}

func (g *Global) tls() *tls.Config { return g.cfg.Server.TLS() }

// bootstrap makes the first keys and reports readiness; it ends early.
func (g *Global) bootstrap(ctx context.Context) error {
	select {
	case <-g.replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ca.Bootstrap(ctx, g.cfg.Store, g.tokens, g.cfg.SkipDefaultMesh, g.log); err != nil {
		return err
	}
	g.once.Do(func() { close(g.ready) })
	g.log.Info("ready")
	return nil
}

func (g *Global) isReady() error {
	select {
	case <-g.ready:
		return nil
	default:
	}
	select {
	case <-g.replica.Ready():
		return errors.New("the first keys are not made yet")
	default:
		return errors.New("the state is not loaded from the store yet")
	}
}
