package xds

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/translate"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

// TestClientsFollow: clients on the wire fold what they are sent. After each of a random sequence
// of changes, cuts and returns, each has what a new engine derives from the same state, as far as
// it asked for it, with nothing broken on the way; and no resource came to a client that had it.
func TestClientsFollow(t *testing.T) {
	const sequences, length = 6, 30
	if *seed != 0 {
		followSequence(t, *seed, *steps)
		return
	}
	for s := uint64(1); s <= sequences; s++ {
		if !t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) { followSequence(t, s, length) }) {
			t.Fatalf("replay with: go test ./xds -run ClientsFollow -seed=%d", s)
		}
	}
}

// named admits every stream as the proxy that its node says.
type named struct{}

func (named) Join(_ context.Context, j delta.Join) (delta.Member, error) {
	return anyProxy{proxyOf(j.NodeID)}, nil
}

func nodeOf(k mesh.Key) string { return string(k.Kind) + "." + k.Name }

func proxyOf(node string) mesh.Key {
	kind, name, _ := strings.Cut(node, ".")
	if kind == string(mesh.KindZoneIngress) {
		return mesh.Key{Kind: mesh.KindZoneIngress, Zone: testZone, Name: name}
	}
	return mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: testZone, Name: name}
}

// visitor is one client, connected or not.
type visitor struct {
	*xdstest.Client
	cancel context.CancelFunc
	done   chan error
	// twice is what came although the client had it; guarded by the client's View.
	twice []string
	// cut says that a stream ended since the client was last settled. The server cannot know what of its
	// last responses arrived: endpoints of clusters in them go once more. Guarded by the client's View.
	cut bool
}

func (v *visitor) leave(t *testing.T) {
	v.cancel()
	if err := <-v.done; err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	v.View(func(*xdstest.State) { v.cut = true })
	v.cancel = nil
}

func followSequence(t *testing.T, seed uint64, steps int) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(delta.ServerOptions()...)
	server := delta.NewServer(delta.Config{Source: w.e, Admission: named{}, MaxResponseBytes: 8 << 10})
	server.Register(g)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	visitors := map[mesh.Key]*visitor{}
	defer func() {
		for _, v := range visitors {
			if v.cancel != nil {
				v.leave(t)
			}
		}
		g.Stop()
		server.Wait()
		serving.Wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	arrive := func(k mesh.Key) {
		v := visitors[k]
		if v == nil {
			v = &visitor{}
			v.Client = xdstest.New(xdstest.Config{
				Address: l.Addr().String(),
				NodeID:  nodeOf(k),
				Verdict: func(resp xdstest.Response) xdstest.Verdict {
					v.View(func(s *xdstest.State) {
						for _, res := range resp.Resources {
							// The endpoints of a cluster that was just replaced go once more.
							again := resp.Type == xdstest.Endpoint && (s.Warming[res.Name] || v.cut)
							if held, ok := s.Resources[resp.Type][res.Name]; ok &&
								held.Version == res.Version && !again {
								v.twice = append(v.twice, resp.Type+" "+res.Name)
							}
						}
					})
					return xdstest.Verdict{}
				},
			})
			visitors[k] = v
		}
		ctx, cancel := context.WithCancel(ctx)
		v.cancel, v.done = cancel, make(chan error, 1)
		go func() { v.done <- v.Run(ctx) }()
	}
	// settle drives the engine until every client that is there, and no other, is followed and has
	// answered everything.
	settle := func(what string) {
		t.Helper()
		for {
			changed := w.e.ProgressChanged()
			done := true
			for k, v := range visitors {
				done = done && w.settled(k, v.cancel != nil)
			}
			if done {
				for _, v := range visitors {
					v.View(func(*xdstest.State) { v.cut = false })
				}
				return
			}
			select {
			case <-w.e.wake:
				w.e.processEvents()
			case <-changed:
			case <-ctx.Done():
				for k, v := range visitors {
					t.Logf("%s: there %t, settled %t", k, v.cancel != nil, w.settled(k, v.cancel != nil))
				}
				t.Fatalf("after %s: clients do not settle", what)
			}
		}
	}

	d := newDice(seed)
	d.visit = func(k mesh.Key) string {
		if v := visitors[k]; v != nil && v.cancel != nil {
			if d.half() { // perhaps in the middle of a push
				w.put(testMesh(d.of("", "STRICT")))
			}
			v.leave(t)
			if d.half() {
				arrive(k)
				return "a cut of " + k.String()
			}
			return "leaving of " + k.String()
		}
		arrive(k)
		return "coming of " + k.String()
	}
	for _, name := range []string{"p1", "p2", "p3"} {
		dp := testDataplane(name, "10.0.0.1", d.service(), 8080, "a", "b", "c")
		d.live[dp.Key] = true
		w.put(dp)
		arrive(dp.Key)
	}
	for range steps {
		what := d.step(w, nil)
		if d.IntN(3) == 0 {
			what += ", " + d.step(w, nil) // before the first is answered
		}
		settle(what)
		fresh := newEngine(testZone)
		for k := range d.ids {
			fresh.SetIdentity(k, testIdentity)
		}
		fresh.process(replica.Batch{View: w.view, Reset: true})
		for k, v := range visitors {
			if _, exists := w.view.Get(k); !exists || v.cancel == nil {
				continue // it keeps what it had
			}
			f := fresh.Open(delta.OpenRequest{Proxy: k})
			fresh.processEvents()
			want, _ := fresh.Config(k)
			f.Close()
			// A client that has just come may have answered all that it has asked for so far.
			wait, cancel := context.WithTimeout(ctx, 5*time.Second)
			problem := ""
			if err := v.Wait(wait,
				func(s *xdstest.State) bool { problem = unlike(s, want); return problem == "" }); err != nil {
				t.Fatalf("after %s: %s has %s", what, k, problem)
			}
			cancel()
			v.View(func(s *xdstest.State) {
				for _, b := range s.Broken {
					// What has no backend, or must not be passed through, is sent to a cluster that
					// is not there.
					if !strings.Contains(b, " "+translate.MissingBackend+",") &&
						!strings.Contains(b, " self_transparentproxy_passthrough_") {
						t.Fatalf("after %s: %s is broken: %s", what, k, b)
					}
				}
				if len(v.twice) > 0 {
					t.Fatalf("after %s: %s was sent what it had: %q", what, k, v.twice)
				}
			})
		}
	}
}

// settled says that a connected client has one stream, and has answered all there is; without its
// resource it may wait. A disconnected client has no stream.
func (w *world) settled(k mesh.Key, there bool) bool {
	_, exists := w.view.Get(k)
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	n := 0
	for f := range w.e.watches {
		if f.key != k {
			continue
		}
		n++
		if _, pending := w.e.outstanding[f]; (pending || f.latest == nil) && (exists || f.latest != nil) {
			return false
		}
	}
	return there && n == 1 || !there && n == 0
}

// unlike says how what a client has differs from the part of a table that it asked for; "" is not at all.
func unlike(s *xdstest.State, want *delta.Table) string {
	for _, typ := range delta.Types {
		url := typ.URL()
		names := map[string]bool{}
		for r := range want.All(typ) {
			if _, wanted := s.Subscribed[url][r.Name]; !wanted && typ != delta.TypeCluster &&
				typ != delta.TypeListener {
				continue
			}
			names[r.Name] = true
			if got := s.Resources[url][r.Name]; got.Version != r.Version {
				return fmt.Sprintf("%s %s in version %q, want %q", typ, r.Name, got.Version, r.Version)
			}
		}
		for name := range s.Resources[url] {
			if !names[name] {
				return fmt.Sprintf("%s %s, which is not there", typ, name)
			}
		}
	}
	return ""
}
