package kdsrpc

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// emptied is a zone with three services whose control plane starts again with an empty store.
type emptied struct {
	g      *global
	second *node
	client *Client
	// online is how many proxies have come back to it, of three.
	online  atomic.Int64
	changed chan struct{}
}

func newEmptied(t *testing.T) *emptied {
	t.Helper()
	g := startGlobal(t, globalOptions{edit: func(c *ServerConfig) { c.Lease = time.Second }})
	first := newNode(t)
	for _, name := range []string{"a", "b", "c"} {
		first.commit(t, store.Put{Resource: service("default", "east", name)})
	}
	progress := func(online int) func() LocalProgress {
		return func() LocalProgress { return LocalProgress{Answered: 1 << 40, Total: online, Online: online} }
	}
	stop := run(t, g.client("east", first, func(c *ClientConfig) { c.Progress = progress(3) }).Run)
	g.awaitServices(t, "a", "b", "c")
	g.awaitZone(t, "east", "three proxies",
		func(z ZoneState) bool { return z.Progress.GetProxiesTotal() == 3 })
	stop()

	e := &emptied{g: g, second: newNode(t), changed: make(chan struct{}, 1)}
	e.client = g.client("east", e.second, func(c *ClientConfig) {
		c.Instance = "east-2"
		c.Progress = func() LocalProgress { return progress(int(e.online.Load()))() }
		c.ProgressChanged = func() <-chan struct{} { return e.changed }
	})
	return e
}

func (g *global) awaitServices(t *testing.T, names ...string) {
	t.Helper()
	g.await(t, strings.Join(names, ", "), func(v replica.View) bool {
		var found []string
		for r := range v.List(mesh.KindMeshService, "default") {
			found = append(found, r.Key.Name)
		}
		return strings.Join(found, " ") == strings.Join(names, " ")
	})
}

func (e *emptied) services() (names []string) {
	for r := range e.g.replica.View().List(mesh.KindMeshService, "default") {
		names = append(names, r.Key.Name)
	}
	return names
}

// TestZoneWithAnEmptyStoreWithdrawsNothing: what global has of the zone stays until its proxies are back;
// what the zone sends is its own again at once.
func TestZoneWithAnEmptyStoreWithdrawsNothing(t *testing.T) {
	e := newEmptied(t)
	stop := run(t, e.client.Run)
	kept := func(n int) func(ZoneState) bool {
		return func(z ZoneState) bool { return z.Kept == n && z.Instance == "east-2" && z.State == Degraded }
	}
	z := e.g.awaitZone(t, "east", "three kept", kept(3))
	if z.State != Degraded || !strings.Contains(z.Reason, "its 3 proxies are back") ||
		!strings.Contains(z.Reason, "meridian zone accept east") {
		t.Errorf("state %s: %s", z.State, z.Reason)
	}
	e.second.commit(t, store.Put{Resource: service("default", "east", "b")})
	e.g.awaitZone(t, "east", "two kept", kept(2))
	if got := e.services(); len(got) != 3 {
		t.Errorf("services are %v", got)
	}

	// It is remembered: over another connection, and by another process of the same store.
	stop()
	again := e.g.client("east", e.second, func(c *ClientConfig) {
		c.Instance = "east-3"
		c.Progress = e.client.cfg.Progress
		c.ProgressChanged = e.client.cfg.ProgressChanged
	})
	run(t, again.Run)
	e.g.awaitZone(t, "east", "two kept",
		func(z ZoneState) bool { return z.Kept == 2 && z.Instance == "east-3" })

	// A service that the zone takes back and then deletes is deleted.
	e.second.commit(t, store.Put{Resource: service("default", "east", "c")})
	e.g.awaitZone(t, "east", "one kept", func(z ZoneState) bool { return z.Kept == 1 })
	e.second.commit(t, store.Delete{Key: service("default", "east", "c").Key})
	e.g.awaitServices(t, "a", "b")

	for n := range 3 {
		if got := e.services(); len(got) != 2 {
			t.Fatalf("services are %v with %d proxies back", got, n)
		}
		e.online.Store(int64(n + 1))
		e.changed <- struct{}{}
	}
	e.g.awaitServices(t, "b")
	e.g.awaitZone(t, "east", "Online",
		func(z ZoneState) bool { return z.Kept == 0 && z.State == Online && z.DigestsEqual })
}

// TestOperatorAcceptsAnEmptyStore: an operator may say that what is gone is meant to be.
func TestOperatorAcceptsAnEmptyStore(t *testing.T) {
	e := newEmptied(t)
	run(t, e.client.Run)
	z := e.g.awaitZone(t, "east", "three kept", func(z ZoneState) bool { return z.Kept == 3 })
	accept := func(id string) {
		e.g.commit(t, store.Put{Resource: &mesh.Resource{
			Key:    mesh.Key{Kind: mesh.KindZone, Name: "east"},
			Labels: map[string]string{mesh.LabelAcceptStore: id},
			Spec:   &meshv1.Zone{},
		}})
	}
	accept("another")
	accept(z.StoreID)
	e.g.awaitServices(t)
	e.g.awaitZone(t, "east", "nothing kept", func(z ZoneState) bool { return z.Kept == 0 })
}

// TestSecondProcessWithAnotherStore: a second control plane of the name does not take the zone over while
// the first is there, and says why.
func TestSecondProcessWithAnotherStore(t *testing.T) {
	g := startGlobal(t, globalOptions{})
	first := newNode(t)
	first.commit(t, store.Put{Resource: service("default", "east", "a")})
	run(t, g.client("east", first, nil).Run)
	g.awaitServices(t, "a")

	second := g.client("east", newNode(t), func(c *ClientConfig) { c.Instance = "mistake" })
	run(t, second.Run)
	deadline := time.Now().Add(10 * time.Second)
	for st := second.State(); !strings.Contains(st.Reason, "another store"); st = second.State() {
		if time.Now().After(deadline) {
			t.Fatalf("the second says %q", st.Reason)
		}
	}
	z := g.awaitZone(t, "east", "the first", func(z ZoneState) bool { return z.Instance == "east-1" })
	if z.State != Online {
		t.Errorf("the first is %s: %s", z.State, z.Reason)
	}
	g.awaitServices(t, "a")
}
