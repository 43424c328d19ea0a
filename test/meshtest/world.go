package meshtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/global"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/test/roletest"
	"github.com/meridian-mesh/meridian/zone"
)

// Patience is how long a world waits for anything.
const Patience = 20 * time.Second

// World is a mesh; see the package comment.
type World struct {
	t       *testing.T
	binary  string // path of Envoy
	network string
	next    int
	zones   map[string]*part
	tokens  *tokens.Tokens
	// top is the API where documents are applied.
	top *client.Client
}

// part is a zone.
type part struct {
	*roletest.Part
	zone   *zone.Zone
	client *client.Client
}

// Start makes a world that ends with the test: of one zone, standalone; of several, with a global.
// Without an Envoy the test is skipped.
func Start(t *testing.T, zones ...string) *World {
	t.Helper()
	bin := envoytest.Binary(t)
	w := &World{
		t:       t,
		binary:  bin,
		network: network(t),
		next:    9,
		zones:   map[string]*part{},
	}
	log := zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	shared := role.Config{
		APIAddr:          roletest.AnyPort,
		LocalhostIsAdmin: true,
		Logger:           log,
	}

	if len(zones) == 1 {
		p := &part{Part: roletest.New(t)}
		p.zone = p.Zone(t, zone.Config{
			Config:  shared,
			Name:    zones[0],
			XDSAddr: roletest.AnyPort,
		})
		p.client = w.client(p.Part)
		w.zones[zones[0]] = p
		w.top = p.client
		w.tokens = p.zone.Tokens()
		return w
	}

	top := roletest.New(t)
	w.tokens = top.Global(t, global.Config{Config: shared, KDSAddr: roletest.AnyPort}).Tokens()
	w.top = w.client(top)

	for _, name := range zones {
		p := &part{Part: roletest.New(t)}
		p.zone = p.Zone(t, zone.Config{
			Config:    shared,
			Name:      name,
			GlobalURL: "grpcs://" + top.Address(role.PortKDS),
			TokenFile: roletest.File(t, "zone-token", []byte(w.zoneToken(name))),
			XDSAddr:   roletest.AnyPort,
		})
		p.client = w.client(p.Part)
		w.zones[name] = p
	}
	return w
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

// client waits until a control plane is ready, and gives a client of its API.
func (w *World) client(p *roletest.Part) *client.Client {
	w.t.Helper()

	p.Ready(w.t, Patience)
	c, err := client.New(client.Options{URL: "http://" + p.Address(role.PortAPI)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *World) zoneToken(name string) string {
	w.t.Helper()
	return roletest.ZoneToken(w.t, w.tokens, name)
}

func (w *World) addressAt(p Place) string {
	if p == nil {
		return w.Address()
	}
	return p.Address()
}

// Address is an address of the world's network that nothing listens on.
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
		res, err := c.Put(ctx, d.Resource, client.PutOptions{Force: true})
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
		revision, err = c.Delete(ctx, key, client.DeleteOptions{Force: true})
		if notFound(err) {
			return
		}
	} else {
		var res client.PutResult
		before.Revision = 0
		res, err = c.Put(ctx, before, client.PutOptions{Force: true})
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
	revision, err := w.top.Delete(ctx, key, client.DeleteOptions{Force: true})
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
		for _, r := range z.GetRejections() {
			t.Errorf("refused: %v", r)
		}
	}
}

// Eventually asks until f is true; its last text is in the failure if that never happens.
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
