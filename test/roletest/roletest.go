// Package roletest runs global and zones in the process of a test.
//
// A [Part] is the place of one control plane: a store in memory, a certificate, and addresses that stay the
// same when the control plane is stopped and started again.
//
//	part := roletest.New(t)
//	z := part.Zone(t, zone.Config{Name: "east", XDSAddr: roletest.AnyPort})
//	part.Ready(t, 10*time.Second)
//
// Everything ends with the test. Cleanups that need a running control plane are registered after it.
//
// No example: it needs a test; see the suites in e2e.
package roletest

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/meridian-mesh/meridian/global"
	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/zone"
)

// AnyPort is an address with a free port.
const AnyPort = "127.0.0.1:0"

// Part is the place of one control plane.
type Part struct {
	Store  store.Store
	Server *servercert.Server

	addresses map[string]string
	ready     <-chan struct{}
	ended     <-chan struct{}
	stop      func()
}

// New makes a place with an empty store in memory and a certificate for 127.0.0.1.
func New(t testing.TB) *Part {
	t.Helper()

	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })

	server, err := servercert.LoadOrCreate(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return &Part{Store: st, Server: server, addresses: map[string]string{}}
}

// CAFile writes the CA of the part's certificate to a file of the test and gives its path.
func (p *Part) CAFile(t testing.TB) string {
	t.Helper()
	return File(t, "ca.pem", p.Server.CAPEM)
}

// Zone starts a zone; [Part.Ready] waits for it. It uses the part's store and certificate, the addresses of
// a former start, and a logger of the test's warnings if cfg has none.
func (p *Part) Zone(t testing.TB, cfg zone.Config) *zone.Zone {
	t.Helper()

	p.fill(t, &cfg.Config, cfg.Name)
	p.keep(&cfg.XDSAddr, role.PortXDS)
	z, err := zone.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.run(t, z)
	return z
}

// Global starts a global control plane, as [Part.Zone] does with a zone.
func (p *Part) Global(t testing.TB, cfg global.Config) *global.Global {
	t.Helper()

	p.fill(t, &cfg.Config, "global")
	p.keep(&cfg.KDSAddr, role.PortKDS)
	g, err := global.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.run(t, g)
	return g
}

func (p *Part) fill(t testing.TB, cfg *role.Config, name string) {
	cfg.Store = p.Store
	cfg.Server = p.Server
	if cfg.Instance == "" {
		cfg.Instance = name
	}
	if cfg.Logger == nil {
		cfg.Logger = zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)).Named(name)
	}
	p.keep(&cfg.APIAddr, role.PortAPI)
}

// keep replaces an address by that of a former start.
func (p *Part) keep(address *string, port string) {
	if former := p.addresses[port]; former != "" && *address != "" {
		*address = former
	}
}

type runner interface {
	Listen(ctx context.Context) error
	Addresses() map[string]string
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

func (p *Part) run(t testing.TB, r runner) {
	t.Helper()

	ctx, cancel := context.WithCancel(context.Background())
	if err := r.Listen(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	p.addresses = r.Addresses()
	p.ready = r.Ready()

	var failure error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		failure = r.Run(ctx)
	}()

	p.ended = ended
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		if failure != nil {
			t.Errorf("Run: %v", failure)
		}
	})
	t.Cleanup(p.stop)
}

// Ready waits until the control plane is ready, and fails the test after the limit.
func (p *Part) Ready(t testing.TB, limit time.Duration) {
	t.Helper()

	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ready:
	case <-p.ended:
		t.Fatal("the control plane ended before it was ready")
	case <-timer.C:
		t.Fatalf("the control plane is not ready after %v", limit)
	}
}

// Stop ends the control plane and keeps the part. Stopping twice does nothing.
func (p *Part) Stop() { p.stop() }

// Address is that of a port, such as [role.PortAPI], once the control plane was started.
func (p *Part) Address(port string) string { return p.addresses[port] }

// ZoneToken issues a token with which a zone and its ingress join for an hour.
func ZoneToken(t testing.TB, issuer *tokens.Tokens, name string) string {
	t.Helper()

	claims := tokens.ZoneClaims{Zone: name, Scope: []string{"cp", "ingress"}}
	token, err := issuer.IssueZone(context.Background(), claims, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// File writes a file that only its owner may read, in a folder of the test, and gives its path.
func File(t testing.TB, name string, data []byte) string {
	t.Helper()

	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
