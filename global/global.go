// Package global is the global control plane: it owns policies and shows every zone.
//
// # Parts
//
//	api ─▶ store ─▶ replica ─┬▶ kdsrpc.Server ◀═▶ zones
//	                         ├▶ controller/members: members of MeshMultiZoneServices
//	                         ├▶ controller/roots: roots of meshes; they sign the zones' intermediates
//	                         └▶ controller/zones: Zone resources, delivery statuses
//
// [Global] only wires them: what a zone has too is a [role.ControlPlane], which also says how it starts
// and ends. Each part owns its state and says in its own package what it promises. Any number of
// replicas on one Postgres are equal.
//
// At the end the streams of the zones are ended; zones go on without global and come back.
//
// No example: a control plane needs a data directory and ports; package cli has tests that run one.
package global

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/controller/zones"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/internal/config"
	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/internal/listen"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/store"
)

// Config of a Global; see [role.Config].
type Config struct {
	role.Config

	// KDSAddr serves the zones (TLS); empty turns the port off.
	KDSAddr string

	// The rest has no flags.

	// Lease is how long a zone may be silent; 0 means kdsrpc's default.
	Lease time.Duration
}

// Fields declares the settings.
func (c *Config) Fields() []config.Field {
	return append(c.Config.Fields(),
		config.Address(&c.KDSAddr, "kds-addr", "127.0.0.1:5685", "address that zones connect to (TLS)"),
	)
}

// Defaults is the configuration of a program that was given no flags.
func Defaults() *Config {
	c := &Config{}
	config.Defaults(c.Fields())
	return c
}

// Complete checks the settings, opens what they name and returns the server. [role.ControlPlane.Run]
// closes what was opened, or Close for a server that is not run.
func (c *Config) Complete(ctx context.Context) (*Global, error) {
	cfg := *c
	if err := config.Check(cfg.Fields()); err != nil {
		return nil, err
	}
	closeAll, err := cfg.Open(ctx, store.Owner{Role: store.RoleGlobal})
	if err != nil {
		return nil, err
	}
	g, err := New(cfg)
	if err != nil {
		closeAll()
		return nil, err
	}
	g.OnClose(closeAll)
	return g, nil
}

// Global is a global control plane; see the package comment.
type Global struct {
	*role.ControlPlane
	kds   *kdsrpc.Server
	zones *zones.Zones
}

// New makes a Global of a configuration whose Store and Server are set; it opens nothing.
func New(cfg Config) (*Global, error) {
	if cfg.Server == nil && cfg.KDSAddr != "" {
		return nil, errors.New("global: Config.Server, the certificate of the TLS ports, is required")
	}
	g := &Global{}
	var err error
	g.ControlPlane, err = role.New(cfg.Config, role.Options{
		Name:       "global",
		OwnsMeshes: true,
		Pins:       g.pins,
		OwnsStatus: func(k mesh.Key) bool { return k.Zone == "" },
	})
	if err != nil {
		return nil, err
	}
	cfg.Config = g.Config()
	log := g.Log()

	g.kds = kdsrpc.NewServer(kdsrpc.ServerConfig{
		Store:        cfg.Store,
		Replica:      g.Replica(),
		Authenticate: g.authenticate,
		Instance:     cfg.Instance,
		Sign:         g.signIntermediate,
		Lease:        cfg.Lease,
		Validate:     checkResource,
		Logger:       log.Named("kds"),
		Registerer:   cfg.Registry,
	})
	g.zones = zones.New(zones.Config{
		Deps:     g.Deps("zones"),
		Sessions: g.kds,
		Delivery: g.Delivery(),
	})
	g.AddCore(g.zones.Run)
	g.AddFront(g.kds.Run)
	g.AddPort(role.PortKDS, cfg.KDSAddr, func(ctx context.Context, l net.Listener) error {
		server := grpc.NewServer(append(kdsrpc.ServerOptions(), grpc.Creds(credentials.NewTLS(g.TLS())))...)
		g.kds.Register(server)
		return listen.GRPC(ctx, l, server)
	})

	err = g.ServeAPI(api.Config{
		Role:    api.RoleGlobal,
		Status:  g.Status,
		Wait:    g.Wait,
		Forward: g.kds.Call,
	})
	return g, err
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
	if server := g.Config().Server; server != nil {
		add(server.Pin)
	}
	for r := range g.Replica().View().List(mesh.KindZone, "") {
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
			"no zone token: "+hint.GiveZoneToken+"; "+hint.ZoneToken(""))
	}
	select {
	case <-g.Replica().Ready():
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	}

	claims, err := g.Tokens().VerifyZone(strings.TrimPrefix(values[0], "Bearer "))
	if err == nil {
		err = claims.Allows(claims.Zone, tokens.ScopeControlPlane)
	}
	var rejected *tokens.TokenError
	switch {
	case errors.As(err, &rejected):
		code := codes.Unauthenticated
		if rejected.Code == tokens.Mismatch || rejected.Code == tokens.WrongType {
			code = codes.PermissionDenied
		}
		return "", status.Error(code, rejected.Reason)
	case err != nil:
		return "", err
	case claims.Zone == "":
		return "", status.Error(codes.PermissionDenied,
			"the zone token names no zone; "+hint.ZoneToken("NAME", tokens.ScopeControlPlane))
	}
	return claims.Zone, nil
}
