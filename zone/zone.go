// Package zone is the control plane of a zone: it serves the zone's proxies with what it knows,
// whatever happens to global.
//
// # Parts
//
//	global ◀═▶ kdsrpc.Client ─▶ store ─▶ replica ─┬▶ xds.Engine ─▶ xds/delta ◀═▶ proxies
//	                              ▲    ▲           ├▶ services: MeshServices, addresses, hostnames
//	                              │    └───────────┤
//	                              │                └▶ identity: intermediates, leaves ─▶ engine
//	                              └── universal: joins, sessions, liveness ◀═▶ proxies, launchers
//
// [Zone] only wires them; each part says in its own package what it promises. A zone without a
// global (standalone) also owns its meshes: their roots and defaults (internal/meshca) and the
// members of multi-zone services (internal/members).
//
// # Life
//
// [Zone.Listen] opens the ports, so that a port in use is an error before anything runs. [Zone.Run]
// serves until its context ends. A zone is ready once its state is loaded, and, if it has a global,
// it has had global's state at least once, now or before a restart: it boots from its own store
// with global away. A token that global refuses leaves the zone serving what it has; the reason is
// in the log and the status. At the end liveness stops first, so that streams which end now mark
// nobody; then the ports close; then the parts behind them stop.
package zone

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/controller/delivery"
	"github.com/meridian-mesh/meridian/controller/members"
	"github.com/meridian-mesh/meridian/controller/services"
	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/identity/issuer"
	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/internal/listen"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/store/retention"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/zone/universal"
)

// Config of a Zone. Name, Store and Server are required. An empty address switches that port off.
type Config struct {
	Name string
	// GlobalURL is "grpcs://HOST:5685"; empty makes a standalone zone.
	GlobalURL string
	// TokenFile holds the zone token, read at every connection. CAFile ("system": the system's
	// roots) and TLSSkipVerify replace the pins of the token.
	TokenFile, CAFile string
	TLSSkipVerify     bool

	Store store.Store
	// StoreType is "embedded" or "postgres", for status.
	StoreType string

	// APIAddr serves HTTP, APITLSAddr the same over TLS, XDSAddr the proxies (TLS), DiagnosticsAddr
	// health and metrics.
	APIAddr, APITLSAddr, XDSAddr, DiagnosticsAddr string
	// Server is the certificate of all TLS ports.
	Server *pki.Server

	// Instance and Version of this process.
	Instance, Version string
	// GuardShare is the percentage of proxies that a policy may change before `meridian apply` asks
	// to be sure; 0 is any. A policy that changes fewer than GuardProxies never needs to.
	GuardShare, GuardProxies int
	// DisableLocalhostAdmin takes the administrator's rights from direct calls from loopback.
	DisableLocalhostAdmin bool
	// TestHooks is that of package xds: for demonstrations and tests.
	TestHooks bool
	// SkipDefaultMesh leaves out the mesh "default" at the first start of a standalone zone.
	SkipDefaultMesh bool
	// ProcessConfig is the process's configuration as JSON, without secrets; may be nil.
	ProcessConfig func() ([]byte, error)

	// Grace, Lease, ReturnTime, GoodbyeDelay of proxies; 0 means the defaults of package universal.
	Grace, Lease, ReturnTime, GoodbyeDelay time.Duration
	// MaxJoining is how many proxies may be getting their first configuration at once; 0 means the
	// default of package xds/delta. ConnectionAge is after which time proxies are asked to connect
	// again; 0 is never.
	MaxJoining    int
	ConnectionAge time.Duration
	// HistoryAge and HistoryRevisions are how long, and how many, entries of the change log are
	// kept; 0 is without bound.
	HistoryAge       time.Duration
	HistoryRevisions uint64
	// DeletionGrace of generated services without Dataplanes; 0 means the default of package services.
	DeletionGrace time.Duration

	Logger *zap.Logger
	// Level of Logger, changed over the diagnostics port.
	Level zap.AtomicLevel
	// Registry of metrics; nil makes one.
	Registry *prometheus.Registry
}

// Zone is a zone control plane; see the package comment.
type Zone struct {
	cfg      Config
	log      *zap.Logger
	replica  *replica.Replica
	tokens   *tokens.Tokens
	engine   *xds.Engine
	ads      *delta.Server
	registry *universal.Registry
	issuer   *issuer.Issuer
	services *services.Reconciler
	api      *api.API
	delivery *delivery.Writer
	history  *retention.Keeper
	// client is nil in a standalone zone; members and roots are nil in any other.
	client  *kdsrpc.Client
	members *members.Aggregator
	roots   *ca.Reconciler

	progress *progress
	refusals refusalLog
	ready    chan struct{}
	keys     chan struct{}

	mu        sync.Mutex
	listeners map[string]net.Listener
}

// Names of the listeners in [Zone.Addresses].
const (
	API         = "api"
	APITLS      = "api-tls"
	XDS         = "xds"
	Diagnostics = "diagnostics"
)

// New makes a Zone; it opens nothing but the token file.
func New(cfg Config) (*Zone, error) {
	switch {
	case cfg.Name == "":
		return nil, errors.New("a zone needs a name: give --name")
	case cfg.Store == nil:
		return nil, errors.New("zone: Config.Store is required")
	case cfg.Server == nil:
		return nil, errors.New("zone: Config.Server, the certificate of the TLS ports, is required")
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
	z := &Zone{
		cfg:       cfg,
		log:       cfg.Logger,
		ready:     make(chan struct{}),
		keys:      make(chan struct{}),
		listeners: map[string]net.Listener{},
	}
	z.replica = replica.New(replica.Config{
		Store:      cfg.Store,
		Logger:     z.log.Named("replica"),
		Registerer: cfg.Registry,
	})
	z.tokens = tokens.New(tokens.Config{
		Store: cfg.Store,
		View:  z.replica.View,
		Zone:  cfg.Name,
		Pins:  func() []string { return []string{cfg.Server.Pin} },
	})
	z.engine = xds.New(xds.Config{
		Zone:       cfg.Name,
		Replica:    z.replica,
		TestHooks:  cfg.TestHooks,
		Logger:     z.log.Named("xds"),
		Registerer: cfg.Registry,
	})
	z.progress = newProgress(z.engine)
	z.issuer = issuer.New(issuer.Config{
		Zone:       cfg.Name,
		Store:      cfg.Store,
		Replica:    z.replica,
		Sign:       z.sign,
		Set:        z.engine.SetIdentity,
		Logger:     z.log.Named("identity"),
		Registerer: cfg.Registry,
	})
	z.services = services.New(services.Config{
		Zone:          cfg.Name,
		Store:         cfg.Store,
		Replica:       z.replica,
		DeletionGrace: cfg.DeletionGrace,
		Logger:        z.log.Named("services"),
		Registerer:    cfg.Registry,
	})
	reg := universal.Config{
		Zone:         cfg.Name,
		Instance:     cfg.Instance,
		Store:        cfg.Store,
		Replica:      z.replica,
		Tokens:       z.tokens,
		Issue:        z.issuer.Issue,
		Delivered:    z.delivered,
		Grace:        cfg.Grace,
		Lease:        cfg.Lease,
		ReturnTime:   cfg.ReturnTime,
		GoodbyeDelay: cfg.GoodbyeDelay,
		Logger:       z.log.Named("universal"),
		Registerer:   cfg.Registry,
	}
	z.delivery = delivery.New(delivery.Config{
		Store:   cfg.Store,
		Replica: z.replica,
		Logger:  z.log.Named("delivery"),
		Owns:    z.owns,
	})
	z.history = retention.New(retention.Config{
		Store:      cfg.Store,
		Head:       func() uint64 { return z.replica.View().Revision() },
		Age:        cfg.HistoryAge,
		Revisions:  cfg.HistoryRevisions,
		Logger:     z.log.Named("history"),
		Registerer: cfg.Registry,
	})
	conf := api.Config{
		Role:             api.RoleZone,
		Zone:             cfg.Name,
		Federated:        z.federated(),
		Store:            cfg.Store,
		Replica:          z.replica,
		Tokens:           z.tokens,
		Version:          cfg.Version,
		Instance:         cfg.Instance,
		Status:           z.Status,
		Wait:             z.Wait,
		Debug:            debugger{z},
		ProcessConfig:    cfg.ProcessConfig,
		GuardShare:       cfg.GuardShare,
		GuardProxies:     cfg.GuardProxies,
		LocalhostIsAdmin: !cfg.DisableLocalhostAdmin,
		Logger:           z.log.Named("api"),
		Registerer:       cfg.Registry,
	}
	if z.federated() {
		client, err := z.newClient()
		if err != nil {
			return nil, err
		}
		z.client = client
		reg.Synced = func() bool { return isClosed(client.Synced()) }
	} else {
		z.members = members.New(members.Config{
			Store:      cfg.Store,
			Replica:    z.replica,
			Logger:     z.log.Named("members"),
			Registerer: cfg.Registry,
		})
		z.roots = ca.New(ca.Config{Store: cfg.Store, Replica: z.replica, Logger: z.log.Named("meshca")})
		conf.OnMesh = ca.OnMesh(z.tokens, z.log)
	}
	z.registry = universal.New(reg)
	z.ads = delta.NewServer(delta.Config{
		Source:     z.engine,
		Admission:  z.registry,
		MaxJoining: cfg.MaxJoining,
		MaxAge:     cfg.ConnectionAge,
		Logger:     z.log.Named("ads"),
		Registerer: cfg.Registry,
	})
	var err error
	z.api, err = api.New(conf)
	return z, err
}

func (z *Zone) federated() bool { return z.cfg.GlobalURL != "" }

// owns says whose delivery status this zone writes: at a zone with a global only that of its own policies.
func (z *Zone) owns(k mesh.Key) bool { return !z.federated() || k.Zone == z.cfg.Name }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// newClient makes the connection to global.
func (z *Zone) newClient() (*kdsrpc.Client, error) {
	u, err := url.Parse(z.cfg.GlobalURL)
	if err != nil || u.Scheme != "grpcs" || u.Host == "" {
		return nil, fmt.Errorf("--global %q: want grpcs://HOST:5685", z.cfg.GlobalURL)
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "5685")
	}
	conf, err := z.globalTLS(u.Hostname())
	if err != nil {
		return nil, err
	}
	return kdsrpc.NewClient(kdsrpc.ClientConfig{
		Zone:            z.cfg.Name,
		Instance:        z.cfg.Instance,
		Version:         z.cfg.Version,
		Address:         address,
		TLS:             conf,
		Token:           z.token,
		Store:           z.cfg.Store,
		Replica:         z.replica,
		Progress:        z.localProgress,
		ProgressChanged: z.progress.next,
		Admin: func(ctx context.Context, method string, req []byte) ([]byte, error) {
			return z.api.Call(ctx, method, req)
		},
		CAPins:     []string{z.cfg.Server.Pin},
		Validate:   checkResource,
		Logger:     z.log.Named("kds"),
		Registerer: z.cfg.Registry,
	}), nil
}

func checkResource(r *mesh.Resource) error {
	_, err := validate.Resource(r)
	return err
}

// Tokens issues and checks tokens, for the command that prints the first administrator's.
func (z *Zone) Tokens() *tokens.Tokens { return z.tokens }

// Replica is what this control plane reads.
func (z *Zone) Replica() *replica.Replica { return z.replica }

// Engine is the xDS engine, for tests and debugging.
func (z *Zone) Engine() *xds.Engine { return z.engine }

// Ready is closed once the zone is ready; see the package comment.
func (z *Zone) Ready() <-chan struct{} { return z.ready }

// Listen opens the ports. [Zone.Run] does if it was not called; call it before to learn of a port
// in use first.
func (z *Zone) Listen(ctx context.Context) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if len(z.listeners) > 0 {
		return nil
	}
	for _, p := range []struct{ name, flag, address string }{
		{API, "--api-addr", z.cfg.APIAddr}, {APITLS, "--api-tls-addr", z.cfg.APITLSAddr},
		{XDS, "--xds-addr", z.cfg.XDSAddr}, {Diagnostics, "--diagnostics-addr", z.cfg.DiagnosticsAddr},
	} {
		if p.address == "" {
			continue
		}
		l, err := listen.Open(ctx, p.flag, p.address)
		if err != nil {
			for _, open := range z.listeners {
				_ = open.Close()
			}
			clear(z.listeners)
			return err
		}
		z.listeners[p.name] = l
		z.log.Info("listening", zap.String("port", p.name), zap.Stringer("address", l.Addr()))
	}
	return nil
}

// Addresses are those that the ports listen on, by name; empty before Listen.
func (z *Zone) Addresses() map[string]string {
	z.mu.Lock()
	defer z.mu.Unlock()
	out := map[string]string{}
	for name, l := range z.listeners {
		out[name] = l.Addr().String()
	}
	return out
}

// Run serves until ctx ends (it returns nil then) or a part fails. It must be called once.
func (z *Zone) Run(ctx context.Context) error {
	if err := z.Listen(ctx); err != nil {
		return err
	}
	// The core outlives the front, so that running requests can end.
	coreCtx, stopCore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCore()
	core, coreCtx := errgroup.WithContext(coreCtx)
	parts := []func(context.Context) error{
		z.replica.Run, z.engine.Run, z.issuer.Run, z.services.Run, z.delivery.Run, z.progress.run,
		z.reportRefusals, z.bootstrap, z.becomeReady, z.history.Run,
	}
	if z.client != nil {
		parts = append(parts, z.runClient)
	} else {
		parts = append(parts, z.members.Run, z.roots.Run)
	}
	for _, run := range parts {
		core.Go(func() error { return run(coreCtx) })
	}
	frontCtx, stopFront := context.WithCancel(ctx)
	defer stopFront()
	defer context.AfterFunc(coreCtx, stopFront)()
	front, frontCtx := errgroup.WithContext(frontCtx)
	z.serve(front, frontCtx)
	frontErr := front.Wait()
	stopCore()
	coreErr := core.Wait()
	for _, err := range []error{coreErr, frontErr} {
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("zone %s: %w", z.cfg.Name, err)
		}
	}
	return nil
}

func (z *Zone) serve(front *errgroup.Group, ctx context.Context) {
	z.mu.Lock()
	defer z.mu.Unlock()
	front.Go(func() error { return z.registry.Run(ctx) })
	if l := z.listeners[API]; l != nil {
		front.Go(func() error { return z.api.Serve(ctx, l, nil) })
	}
	if l := z.listeners[APITLS]; l != nil {
		front.Go(func() error { return z.api.Serve(ctx, l, z.tls()) })
	}
	if l := z.listeners[XDS]; l != nil {
		server := grpc.NewServer(append(delta.ServerOptions(), grpc.Creds(credentials.NewTLS(z.tls())),
			grpc.MaxRecvMsgSize(maxMessage),
			grpc.MaxSendMsgSize(maxMessage),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
				MinTime:             time.Second,
				PermitWithoutStream: true,
			}),
			grpc.KeepaliveParams(keepalive.ServerParameters{
				Time:             10 * time.Second,
				Timeout:          5 * time.Second,
				MaxConnectionAge: z.cfg.ConnectionAge,
			}))...)
		z.ads.Register(server)
		z.registry.Register(server)
		front.Go(func() error {
			// Proxies that came early would be told to try again, and lose their backoff's time.
			select {
			case <-z.replica.Ready():
			case <-ctx.Done():
				_ = l.Close()
				return ctx.Err()
			}
			return listen.GRPC(ctx, l, server)
		})
	}
	if l := z.listeners[Diagnostics]; l != nil {
		handler := obs.Diagnostics(z.cfg.Registry, z.cfg.Level, z.isReady)
		front.Go(func() error { return listen.HTTP(ctx, l, nil, handler) })
	}
}

// maxMessage bounds a message on the xDS port, in bytes.
const maxMessage = 64 << 20

func (z *Zone) tls() *tls.Config { return z.cfg.Server.TLS() }

// runClient connects to global once the replica is there, from which the streams read.
func (z *Zone) runClient(ctx context.Context) error {
	select {
	case <-z.replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	return ca.Retry(ctx, z.log, "connect to global", func() error { return z.client.Run(ctx) })
}

// bootstrap makes the first keys; it ends early.
func (z *Zone) bootstrap(ctx context.Context) error {
	select {
	case <-z.replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	var err error
	if z.federated() {
		err = ca.Retry(ctx, z.log, "make the first keys", func() error { return z.tokens.EnsureUserKey(ctx) })
	} else {
		err = ca.Bootstrap(ctx, z.cfg.Store, z.tokens, z.cfg.SkipDefaultMesh, z.log)
	}
	if err == nil {
		close(z.keys)
	}
	return err
}

// becomeReady closes ready when everything is there; it ends early.
func (z *Zone) becomeReady(ctx context.Context) error {
	waits := []<-chan struct{}{z.replica.Ready(), z.engine.Ready(), z.keys}
	if z.client != nil {
		waits = append(waits, z.client.Synced())
	}
	for _, c := range waits {
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	close(z.ready)
	z.log.Info("ready", zap.String("zone", z.cfg.Name))
	return nil
}

func (z *Zone) isReady() error {
	switch {
	case isClosed(z.ready):
		return nil
	case !isClosed(z.replica.Ready()):
		return errors.New("the state is not loaded from the store yet")
	case z.client != nil && !isClosed(z.client.Synced()):
		return fmt.Errorf("this zone has never heard from global: %s",
			cmp.Or(z.client.State().Reason, "connecting"))
	}
	return errors.New("still starting")
}

// sign has an intermediate signed: by global, or by this zone's own root if it is standalone.
func (z *Zone) sign(ctx context.Context, meshName string, csr []byte) (ca.Signed, error) {
	if z.client == nil {
		return ca.Sign(z.replica.View(), meshName, csr)
	}
	resp, err := z.client.IssueIntermediate(ctx, meshName, csr)
	if err != nil {
		return ca.Signed{}, err
	}
	signed := ca.Signed{Chain: []byte(resp.GetChain()), Root: []byte(resp.GetRoot())}
	if resp.GetProvidedKey() != "" {
		signed.ProvidedKey = []byte(resp.GetProvidedKey())
	}
	return signed, nil
}
