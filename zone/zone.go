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
// [Zone] only wires them: what global has too is a [role.ControlPlane], which also says how it starts and
// ends. Each part says in its own package what it promises. A zone without a global (standalone) also
// owns its meshes.
//
// # Readiness
//
// A zone is ready once its state is loaded, and, if it has a global, once it has received global's state
// at least once, now or before a restart: it boots from its own store while global is unreachable. A
// token that global rejects leaves the zone serving what it has; the reason is in the log and the status.
// At the end liveness stops together with the ports, so that streams which end now mark no proxy as lost.
//
// No example: a control plane needs a data directory and ports; package cli has tests that run one.
package zone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/controller/services"
	"github.com/meridian-mesh/meridian/identity/ca"
	"github.com/meridian-mesh/meridian/identity/issuer"
	"github.com/meridian-mesh/meridian/internal/listen"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/zone/universal"
)

// Zone is a zone control plane; see the package comment.
type Zone struct {
	*role.ControlPlane
	cfg      Config
	engine   *xds.Engine
	ads      *delta.Server
	registry *universal.Registry
	issuer   *issuer.Issuer
	// client is nil in a standalone zone.
	client *kdsrpc.Client

	progress *progress
	rejected rejectionLog
}

// New makes a Zone of a configuration whose Name, Store and Server are set; it opens nothing but the
// token file.
func New(cfg Config) (*Zone, error) {
	switch {
	case cfg.Name == "":
		return nil, errors.New("zone: Config.Name is required")
	case cfg.Server == nil:
		return nil, errors.New("zone: Config.Server, the certificate of the TLS ports, is required")
	}
	z := &Zone{cfg: cfg}
	var err error
	z.ControlPlane, err = role.New(cfg.Config, role.Options{
		Name:       "zone " + cfg.Name,
		Zone:       cfg.Name,
		OwnsMeshes: !z.federated(),
		Pins:       func() []string { return []string{cfg.Server.Pin} },
		OwnsStatus: z.owns,
	})
	if err != nil {
		return nil, err
	}
	z.cfg.Config = z.Config()
	z.makeEngine()
	if z.federated() {
		if z.client, err = z.newClient(); err != nil {
			return nil, err
		}
		z.AddCore(z.runClient)
		z.AddConditions(role.Condition{Done: z.client.Synced(), Missing: func() string {
			return "this zone has not received global's state yet: " +
				cmp.Or(z.client.State().Reason, "connecting")
		}})
	}
	z.AddCondition(z.engine.Ready(), "the first configuration is not computed yet")
	z.serveProxies()

	err = z.ServeAPI(api.Config{
		Role:      api.RoleZone,
		Federated: z.federated(),
		Status:    z.Status,
		Wait:      z.Wait,
		Debug:     debugger{z},
	})
	return z, err
}

// makeEngine adds what turns the replica into configuration and identities.
func (z *Zone) makeEngine() {
	cfg, log := z.cfg, z.Log()
	z.engine = xds.New(xds.Config{
		Zone:       cfg.Name,
		Replica:    z.Replica(),
		TestHooks:  cfg.TestHooks,
		Logger:     log.Named("xds"),
		Registerer: cfg.Registry,
	})
	z.progress = newProgress(z.engine)
	z.issuer = issuer.New(issuer.Config{
		Deps: z.Deps("identity"),
		Zone: cfg.Name,
		Sign: z.sign,
		Set:  z.engine.SetIdentity,
	})
	svc := services.New(services.Config{
		Deps:          z.Deps("services"),
		Zone:          cfg.Name,
		DeletionGrace: cfg.DeletionGrace,
	})
	z.AddCore(z.engine.Run, z.issuer.Run, svc.Run, z.progress.run, z.reportRefusals)
}

// serveProxies adds the port of the proxies and launchers, and what admits them.
func (z *Zone) serveProxies() {
	cfg, log := z.cfg, z.Log()
	reg := universal.Config{
		Deps:         z.Deps("universal"),
		Zone:         cfg.Name,
		Instance:     cfg.Instance,
		Tokens:       z.Tokens(),
		Issue:        z.issuer.Issue,
		Delivered:    z.delivered,
		Grace:        cfg.Grace,
		Lease:        cfg.Lease,
		ReturnTime:   cfg.ReturnTime,
		GoodbyeDelay: cfg.GoodbyeDelay,
	}
	if z.client != nil {
		reg.Synced = func() bool { return role.IsClosed(z.client.Synced()) }
	}
	z.registry = universal.New(reg)
	z.ads = delta.NewServer(delta.Config{
		Source:     z.engine,
		Admission:  z.registry,
		MaxJoining: cfg.MaxJoining,
		MaxAge:     cfg.ConnectionAge,
		Logger:     log.Named("ads"),
		Registerer: cfg.Registry,
	})
	z.AddFront(z.registry.Run, z.endDeadMeshes)
	z.AddPort(role.PortXDS, cfg.XDSAddr, z.serveXDS)
}

// endDeadMeshes ends the proxies of a mesh that is gone, once what this zone owned in it is too. A mesh that
// is merely absent does not do: a global that lost its store has none.
func (z *Zone) endDeadMeshes(ctx context.Context) error {
	sub := z.Replica().Subscribe()
	defer sub.Close()
	for {
		batch, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		for _, c := range batch.Changes {
			if c.Type != store.ChangeDelete || c.Key.Kind != mesh.KindDataplane || c.Key.Zone != z.cfg.Name {
				continue
			}
			if _, ok := batch.View.Get(mesh.Key{Kind: mesh.KindMesh, Name: c.Key.Mesh}); !ok {
				z.registry.EndMesh(c.Key.Mesh)
			}
		}
	}
}

// maxMessage bounds a message on the xDS port, in bytes.
const maxMessage = 64 << 20

func (z *Zone) serveXDS(ctx context.Context, l net.Listener) error {
	// Proxies that came earlier would be rejected and wait for their backoff.
	select {
	case <-z.Replica().Ready():
	case <-ctx.Done():
		_ = l.Close()
		return ctx.Err()
	}

	server := grpc.NewServer(append(delta.ServerOptions(),
		grpc.Creds(credentials.NewTLS(z.TLS())),
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
	return listen.GRPC(ctx, l, server)
}

func (z *Zone) federated() bool { return z.cfg.GlobalURL != "" }

// owns says whose delivery status this zone writes: at a zone with a global only that of its own policies.
func (z *Zone) owns(k mesh.Key) bool { return !z.federated() || k.Zone == z.cfg.Name }

// newClient makes the connection to global.
func (z *Zone) newClient() (*kdsrpc.Client, error) {
	u, err := url.Parse(z.cfg.GlobalURL)
	if err != nil || u.Scheme != "grpcs" || u.Host == "" {
		return nil, fmt.Errorf("--global %q: must be grpcs://HOST:5685", z.cfg.GlobalURL)
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
		Replica:         z.Replica(),
		Progress:        z.localProgress,
		ProgressChanged: z.progress.next,
		Admin: func(ctx context.Context, method string, req []byte) ([]byte, error) {
			return z.API().Call(ctx, method, req)
		},
		CAPins:     []string{z.cfg.Server.Pin},
		Validate:   checkResource,
		Logger:     z.Log().Named("kds"),
		Registerer: z.cfg.Registry,
	}), nil
}

func checkResource(r *mesh.Resource) error {
	_, err := validate.Resource(r)
	return err
}

// Engine is the xDS engine, for tests and debugging.
func (z *Zone) Engine() *xds.Engine { return z.engine }

// runClient connects to global once the replica, from which the streams read, is loaded.
func (z *Zone) runClient(ctx context.Context) error {
	select {
	case <-z.Replica().Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	return reconcile.Retry(ctx, z.Log(), "connect to global", func() error { return z.client.Run(ctx) })
}

// sign has an intermediate signed: by global, or by this zone's own root if it is standalone.
func (z *Zone) sign(ctx context.Context, meshName string, csr []byte) (ca.Signed, error) {
	if z.client == nil {
		return ca.Sign(z.Replica().View(), meshName, csr)
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
