// Package role is what the roles of a control plane, global and zone, have in common.
//
// # Parts
//
//	Config ─ Open ─▶ data directory, keys, certificate, store
//	                        │
//	                        ▼
//	ControlPlane: replica, tokens, API, history, delivery status, diagnostics
//	              and, where meshes are owned: members, roots, first keys, mesh "default"
//
// [Config] declares every setting once, as a row of [Config.Fields]. [Config.Open] makes what the
// settings name. [ControlPlane] holds the parts of both roles and runs them; packages global and zone
// embed it and add their own with [ControlPlane.AddCore], [ControlPlane.AddFront] and
// [ControlPlane.AddPort]. A whole server is one value that a program fills from its flags and a test
// by hand:
//
//	cfg := zone.Defaults()
//	cfg.Name, cfg.DataDir, cfg.APIAddr = "here", dir, "127.0.0.1:0"
//	z, err := cfg.Complete(ctx)
//	...
//	err = z.Run(ctx)
//
// # Lifecycle
//
// [ControlPlane.Listen] opens the ports, so that a port in use is an error before anything runs.
// [ControlPlane.Run] serves until its context ends. The front (ports, and what belongs to connected
// clients) ends first; the core (replica, reconcilers) outlives it, so that running requests can end.
// If a part of either fails, both end, and Run returns its error. A control plane is ready once all of
// its conditions hold; what is missing is the answer of /ready.
//
// While the store is unavailable at the start the first keys are retried with backoff; later on reads
// go on and writes fail.
//
// No example: a control plane needs a data directory and ports; package cli has tests that run one.
package role

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/server"
	"github.com/meridian-mesh/meridian/controller/delivery"
	"github.com/meridian-mesh/meridian/controller/members"
	"github.com/meridian-mesh/meridian/controller/roots"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/internal/listen"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/store/retention"
)

// Options are what a role decides about its [ControlPlane].
type Options struct {
	// Name is for errors and logs, such as "global" or "zone east".
	Name string
	// Zone is the name of the zone; empty at global.
	Zone string
	// OwnsMeshes says that no other control plane owns the meshes: true at global and at a standalone
	// zone.
	OwnsMeshes bool
	// Pins go into the tokens that are issued here.
	Pins func() []string
	// OwnsStatus says of which policies this control plane writes the delivery status.
	OwnsStatus func(k mesh.Key) bool
}

// ControlPlane is the part of a control plane that both roles share; see the package comment.
type ControlPlane struct {
	cfg  Config
	opts Options
	log  *zap.Logger

	replica  *replica.Replica
	tokens   *tokens.Tokens
	delivery *delivery.Writer
	api      *server.Server

	core       []func(context.Context) error
	front      []func(context.Context) error
	conditions []Condition
	keys       chan struct{}
	ready      chan struct{}
	started    time.Time
	onClose    func()

	mu        sync.Mutex
	ports     []*port
	listening bool
}

// New makes a ControlPlane; it opens nothing. cfg.Store is required, and cfg.Server if there are TLS
// ports; the role adds its parts and then calls [ControlPlane.ServeAPI].
func New(cfg Config, opts Options) (*ControlPlane, error) {
	switch {
	case cfg.Store == nil:
		return nil, fmt.Errorf("%s: Config.Store is required", opts.Name)
	case cfg.Server == nil && cfg.APITLSAddr != "":
		return nil, fmt.Errorf("%s: Config.Server, the certificate of the TLS ports, is required", opts.Name)
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

	p := &ControlPlane{
		cfg:   cfg,
		opts:  opts,
		log:   cfg.Logger,
		keys:  make(chan struct{}),
		ready: make(chan struct{}),
	}
	p.replica = replica.New(replica.Config{
		Store:      cfg.Store,
		Logger:     p.log.Named("replica"),
		Registerer: cfg.Registry,
	})
	p.tokens = tokens.New(tokens.Config{
		Store: cfg.Store,
		View:  p.replica.View,
		Zone:  opts.Zone,
		Pins:  opts.Pins,
	})
	p.delivery = delivery.New(delivery.Config{Deps: p.Deps("delivery"), Owns: opts.OwnsStatus})
	history := retention.New(retention.Config{
		Store:      cfg.Store,
		Head:       func() uint64 { return p.replica.View().Revision() },
		Age:        cfg.HistoryAge,
		Revisions:  cfg.HistoryRevisions,
		AuditAge:   cfg.AuditAge,
		AuditRows:  cfg.AuditRows,
		Logger:     p.log.Named("history"),
		Registerer: cfg.Registry,
	})
	p.AddCore(p.replica.Run, p.delivery.Run, history.Run, p.bootstrap, p.becomeReady)
	if opts.OwnsMeshes {
		p.AddCore(members.New(p.Deps("members")).Run, roots.New(p.Deps("roots")).Run)
	}
	p.AddCondition(p.replica.Ready(), "the state is not loaded from the store yet")
	p.AddPort(PortDiagnostics, cfg.DiagnosticsAddr, func(ctx context.Context, l net.Listener) error {
		return listen.HTTP(ctx, l, nil, obs.Diagnostics(cfg.Registry, cfg.Level, p.notReady))
	})
	return p, nil
}

// Deps is what a controller of the role stands on; name is that of its logger.
func (p *ControlPlane) Deps(name string) reconcile.Deps {
	return reconcile.Deps{
		Store:      p.cfg.Store,
		Replica:    p.replica,
		Logger:     p.log.Named(name),
		Registerer: p.cfg.Registry,
	}
}

// ServeAPI makes the API of c, the role's part of its configuration, and adds its ports.
func (p *ControlPlane) ServeAPI(c api.Config) error {
	c.Zone = p.opts.Zone
	c.Store = p.cfg.Store
	c.Replica = p.replica
	c.Tokens = p.tokens
	c.Version = p.cfg.Version
	c.Instance = p.cfg.Instance
	c.ProcessConfig = p.cfg.ProcessConfig
	c.GuardShare = p.cfg.GuardShare
	c.GuardProxies = p.cfg.GuardProxies
	c.LocalhostIsAdmin = p.cfg.LocalhostIsAdmin
	c.Logger = p.log.Named("api")
	c.Registerer = p.cfg.Registry
	if p.cfg.AuditFile != "" {
		file, err := openAuditFile(p.cfg.AuditFile)
		if err != nil {
			return fmt.Errorf("--audit-file: %w", err)
		}
		c.AuditSink = file
		p.AddCore(file.run)
	}
	if p.opts.OwnsMeshes {
		c.OnMesh = onMesh(p.tokens, p.log)
	}

	p.api = server.New(c)
	p.AddPort(PortAPI, p.cfg.APIAddr, func(ctx context.Context, l net.Listener) error {
		return p.api.Serve(ctx, l, nil)
	})
	p.AddPort(portSocket, p.cfg.DataDir, func(ctx context.Context, l net.Listener) error {
		return p.api.Serve(ctx, l, nil)
	})
	p.AddPort(PortAPITLS, p.cfg.APITLSAddr, func(ctx context.Context, l net.Listener) error {
		return p.api.Serve(ctx, l, p.TLS())
	})
	return nil
}

// AddCore adds parts that outlive the front. Call it before Run. A part runs until its context ends or,
// if it has done its work, returns nil.
func (p *ControlPlane) AddCore(run ...func(context.Context) error) { p.core = append(p.core, run...) }

// AddFront adds parts that end before the core. Call it before Run.
func (p *ControlPlane) AddFront(run ...func(context.Context) error) {
	p.front = append(p.front, run...)
}

// Config is what the control plane was made with, its defaults filled in.
func (p *ControlPlane) Config() Config { return p.cfg }

// Log is the control plane's logger.
func (p *ControlPlane) Log() *zap.Logger { return p.log }

// Replica is what this control plane reads.
func (p *ControlPlane) Replica() *replica.Replica { return p.replica }

// Tokens issues and checks tokens.
func (p *ControlPlane) Tokens() *tokens.Tokens { return p.tokens }

// Delivery writes the delivery status of policies.
func (p *ControlPlane) Delivery() *delivery.Writer { return p.delivery }

// API is the API; nil before ServeAPI.
func (p *ControlPlane) API() *server.Server { return p.api }

// TLS is the configuration of the TLS ports.
func (p *ControlPlane) TLS() *tls.Config { return p.cfg.Server.TLS() }

// Started is when Run was called.
func (p *ControlPlane) Started() time.Time { return p.started }

// OnClose has f called at the end of Run, or by Close without one.
func (p *ControlPlane) OnClose(f func()) { p.onClose = f }

// Close closes the ports and what Complete opened, for a control plane that is not run; Run does it
// at its end.
func (p *ControlPlane) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closePorts()
	if p.onClose != nil {
		p.onClose()
		p.onClose = nil
	}
}

// Run serves until ctx ends (it returns nil then) or a part fails. It must be called once.
func (p *ControlPlane) Run(ctx context.Context) error {
	defer p.Close()
	if err := p.Listen(ctx); err != nil {
		return err
	}
	p.started = time.Now()

	// The core outlives the front, so that running requests can end.
	coreCtx, stopCore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCore()
	core, coreCtx := errgroup.WithContext(coreCtx)
	for _, run := range p.core {
		core.Go(func() error { return run(coreCtx) })
	}

	frontCtx, stopFront := context.WithCancel(ctx)
	defer stopFront()
	defer context.AfterFunc(coreCtx, stopFront)()
	front, frontCtx := errgroup.WithContext(frontCtx)
	for _, run := range p.front {
		front.Go(func() error { return run(frontCtx) })
	}
	for _, o := range p.ports {
		front.Go(func() error { return o.serve(frontCtx, o.listener) })
	}

	frontErr := front.Wait()
	stopCore()
	coreErr := core.Wait()
	for _, err := range []error{coreErr, frontErr} {
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", p.opts.Name, err)
		}
	}
	return nil
}
