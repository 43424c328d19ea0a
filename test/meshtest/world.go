package meshtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/global"
	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/zone"
)

// Patience is how long a world waits for anything.
const Patience = 20 * time.Second

// World is a mesh; see the package comment.
type World struct {
	t       *testing.T
	network string
	next    int
	zones   map[string]*part
	tokens  *tokens.Tokens
	// top is the API where documents are applied.
	top *client.Client
}

// part is a zone.
type part struct {
	zone   *zone.Zone
	server *servercert.Server
	client *client.Client
}

type runner interface {
	Listen(ctx context.Context) error
	Addresses() map[string]string
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

// Start makes a world that ends with the test: of one zone, standalone; of several, with a global.
// Without an Envoy the test is skipped.
func Start(t *testing.T, zones ...string) *World {
	t.Helper()
	if envoy() == "" {
		t.Skip("no Envoy: set MERIDIAN_ENVOY or run make tools")
	}
	w := &World{
		t:       t,
		network: network(t),
		next:    9,
		zones:   map[string]*part{},
	}
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	log := zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	if len(zones) == 1 {
		p := &part{server: certificate(t)}
		p.zone, err = zone.New(zone.Config{
			Config: role.Config{
				Store:            st,
				Server:           p.server,
				Instance:         zones[0],
				APIAddr:          "127.0.0.1:0",
				LocalhostIsAdmin: true,
				Logger:           log,
			},
			Name:    zones[0],
			XDSAddr: "127.0.0.1:0",
		})
		if err != nil {
			t.Fatal(err)
		}
		p.client = w.run(p.zone, role.PortAPI)
		w.zones[zones[0]], w.top, w.tokens = p, p.client, p.zone.Tokens()
		return w
	}
	g, err := global.New(global.Config{
		Config: role.Config{
			Store:            st,
			Server:           certificate(t),
			Instance:         "global",
			APIAddr:          "127.0.0.1:0",
			LocalhostIsAdmin: true,
			Logger:           log,
		},
		KDSAddr: "127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	w.top, w.tokens = w.run(g, role.PortAPI), g.Tokens()
	for _, name := range zones {
		zoneStore, err := embedded.Open(embedded.Config{InMemory: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = zoneStore.Close() })
		p := &part{server: certificate(t)}
		p.zone, err = zone.New(zone.Config{
			Config: role.Config{
				Store:            zoneStore,
				Server:           p.server,
				Instance:         name,
				APIAddr:          "127.0.0.1:0",
				LocalhostIsAdmin: true,
				Logger:           log,
			},
			Name:      name,
			GlobalURL: "grpcs://" + g.Addresses()[role.PortKDS],
			TokenFile: w.file("zone-token", []byte(w.zoneToken(name))),
			XDSAddr:   "127.0.0.1:0",
		})
		if err != nil {
			t.Fatal(err)
		}
		p.client = w.run(p.zone, role.PortAPI)
		w.zones[name] = p
	}
	return w
}

func certificate(t *testing.T) *servercert.Server {
	t.Helper()
	s, err := servercert.LoadOrCreate(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// network claims 127.A.B for this test, by a listener at its last address.
func network(t *testing.T) string {
	t.Helper()
	for range 100 {
		n := fmt.Sprintf("127.%d.%d", 100+rand.IntN(100), 1+rand.IntN(250))
		l, err := net.Listen("tcp", n+".254:9")
		if err != nil {
			l, err = net.Listen("tcp", n+".254:10009")
		}
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
			return n
		}
	}
	t.Fatal("no loopback network is free")
	return ""
}

// run starts a control plane, waits until it is ready, and gives a client of its API.
func (w *World) run(r runner, api string) *client.Client {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.Listen(ctx); err != nil {
		cancel()
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t := w.t
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-r.Ready():
	case <-time.After(Patience):
		t.Fatal("a control plane is not ready in time")
	}
	c, err := client.New(client.Options{URL: "http://" + r.Addresses()[api]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *World) zoneToken(name string) string {
	w.t.Helper()
	token, err := w.tokens.IssueZone(context.Background(), tokens.ZoneClaims{
		Zone:  name,
		Scope: []string{"cp", "ingress"},
	}, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func (w *World) file(name string, data []byte) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// Address is an address of the world's network that nobody has.
func (w *World) Address() string {
	w.next++
	return fmt.Sprintf("%s.%d", w.network, w.next)
}

// Apply writes YAML documents at the top, as `meridian apply --wait` does, and returns their keys
// and warnings when every proxy has taken them. At the end of the test everything is as it was
// before.
func (w *World) Apply(t *testing.T, text string) ([]mesh.Key, []string) {
	t.Helper()
	return w.apply(t, w.top, "", text)
}

// ApplyAt is Apply at a zone.
func (w *World) ApplyAt(t *testing.T, zoneName, text string) ([]mesh.Key, []string) {
	t.Helper()
	return w.apply(t, w.zones[zoneName].client, zoneName, text)
}

func (w *World) apply(t *testing.T, c *client.Client,
	zoneName, text string) (keys []mesh.Key, warnings []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var revision uint64
	for _, d := range docs {
		more, err := validate.Resource(d.Resource)
		if err != nil {
			t.Fatal(err)
		}
		key := d.Resource.Key
		key.Zone = zoneName // another zone may have one of this name
		before, err := c.Get(ctx, key)
		if err != nil && !notFound(err) {
			t.Fatal(err)
		}
		res, err := c.Put(ctx, d.Resource, client.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		revision = max(revision, res.Revision)
		keys = append(keys, d.Resource.Key)
		warnings = append(append(append(warnings, d.Warnings...), more...), res.Warnings...)
		t.Cleanup(func() { w.restore(t, c, key, before) })
	}
	w.wait(t, c, revision)
	return keys, warnings
}

func notFound(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Code == codes.NotFound
}

func (w *World) restore(t *testing.T, c *client.Client, key mesh.Key, before *mesh.Resource) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var revision uint64
	var err error
	if before == nil {
		revision, err = c.Delete(ctx, key, client.DeleteOptions{})
		if notFound(err) {
			return
		}
	} else {
		var res client.PutResult
		before.Revision = 0
		res, err = c.Put(ctx, before, client.PutOptions{})
		revision = res.Revision
	}
	if err != nil {
		t.Errorf("taking %v back: %v", key, err)
		return
	}
	w.wait(t, c, revision)
}

// Delete removes a resource before the test ends, and waits as Apply does.
func (w *World) Delete(t *testing.T, key mesh.Key) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	revision, err := w.top.Delete(ctx, key, client.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.wait(t, w.top, revision)
}

func (w *World) wait(t *testing.T, c *client.Client, revision uint64) {
	t.Helper()
	resp, err := c.Wait(context.Background(), revision, Patience)
	if err != nil {
		t.Fatal(err)
	}
	if !resp.GetComplete() {
		t.Errorf("revision %d has not reached every proxy: %v", revision, resp)
	}
	for _, z := range resp.GetZones() {
		for _, r := range z.GetRefusals() {
			t.Errorf("refused: %v", r)
		}
	}
}

// Eventually asks until f is true; what it says last is told if that never happens.
func Eventually(t *testing.T, what string, f func() (bool, string)) {
	t.Helper()
	end := time.After(Patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, seen := f()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not in time; last seen: %s", what, seen)
		}
	}
}

// Resource is a resource with its status, as YAML.
func (w *World) Resource(t *testing.T, key mesh.Key) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	r, err := w.top.Get(ctx, key)
	if err != nil {
		return err.Error()
	}
	text, err := codec.EncodeYAML(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
