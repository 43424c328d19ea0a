package delta_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

// with is the table of a world in which the route of a service has about so many bytes.
func (w world) with(t testing.TB, name string, bytes int) *delta.Table {
	t.Helper()
	large := encode(t, delta.TypeRoute, name, &routev3.RouteConfiguration{
		Name:                name,
		InternalOnlyHeaders: []string{strings.Repeat("x", bytes)},
	})
	// The first of a name counts.
	return &delta.Table{Segments: []*delta.Segment{delta.NewSegment(append([]*delta.Resource{large},
		w.resources(t)...))}}
}

// A resource that no message can carry is suppressed and named; everything else comes, whether it is
// there when a proxy joins or grows later. It comes when it is small enough again.
func TestOversized(t *testing.T) {
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("early=%t", early), func(t *testing.T) {
			r := newRig(t, func(c *delta.Config) { c.MaxMessageBytes = 10_000 })
			w := services("a", "b")
			had := w
			if !early {
				r.engine.set(t, w)
			}
			if early {
				r.engine.setTable(w.with(t, "b", 20_000))
				had = w.clone()
				delete(had.routes, "b")
			}
			c := r.connect(t)
			if early {
				c.until(t, func(s *xdstest.State) bool { return slices.Contains(s.Log, "route+a") })
			} else {
				c.until(t, holds(t, w))
			}
			c.log()
			w = w.clone()
			w.endpoints["a"]++
			w.routes["a"]++
			had = had.clone()
			had.endpoints["a"]++
			had.routes["a"]++
			rev := r.engine.setTable(w.with(t, "b", 30_000))
			r.engine.wait(t, "a rejection", func(a uint64, got []delta.Rejection) bool {
				return a == rev && len(got) == 1 && got[0].Type == delta.TypeRoute &&
					got[0].Resource == "b" && got[0].Revision == rev &&
					slices.Equal(got[0].Cause, []mesh.Key{{
						Kind: mesh.KindMeshTimeout,
						Mesh: "default",
						Name: "b",
					}}) &&
					strings.Contains(got[0].Reason, "bytes") && strings.Contains(got[0].Reason, "10000")
			})
			c.until(t, holds(t, had))
			if n := r.sum(t, "meridian_delta_resources_withheld_total"); n == 0 {
				t.Error("nothing was counted")
			}
			w = w.clone()
			w.routes["b"] += 5
			r.engine.answered(t, r.engine.set(t, w))
			c.until(t, holds(t, w))
		})
	}
}

// What one message carries depends on the client: a gRPC library takes 4 MiB, an Envoy what is configured.
func TestLargeFrames(t *testing.T) {
	r := newRig(t)
	w := services("a", "b")
	table := w.with(t, "b", 5<<20)
	r.engine.setTable(table)
	got := 0
	c := r.connect(t, func(x *xdstest.Config) {
		x.MaxMessage = 8 << 20
		x.Verdict = func(resp xdstest.Response) xdstest.Verdict {
			got = max(got, resp.Bytes)
			return xdstest.Verdict{}
		}
	})
	r.engine.answered(t, 1)
	c.until(t, func(s *xdstest.State) bool { return s.Resources[xdstest.Route]["b"].Version != "" })
	c.View(func(*xdstest.State) {
		if got < 5<<20 {
			t.Errorf("the largest message had %d bytes", got)
		}
	})

	g := r.connect(t, func(x *xdstest.Config) { x.Metadata = map[string]string{"dataplane.client": "grpc"} })
	r.engine.wait(t, "the route is suppressed from a gRPC client",
		func(a uint64, got []delta.Rejection) bool {
			return a == 1 && len(got) == 1 && got[0].Resource == "b" &&
				strings.Contains(got[0].Reason, fmt.Sprint(4<<20))
		})
	g.until(t, func(s *xdstest.State) bool { return s.Resources[xdstest.Route]["a"].Version != "" })
}

// A state-of-the-world response cannot be divided: the stream ends, and says why.
func TestWholeTooLarge(t *testing.T) {
	r := newRig(t, func(c *delta.Config) { c.MaxMessageBytes = 2_000 })
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("service-%02d", i))
	}
	r.engine.set(t, services(names...))
	c := r.whole(t, "envoy", nil)
	c.ask(delta.TypeCluster)
	if err := <-r.gate.left; status.Code(err) != codes.ResourceExhausted ||
		!strings.Contains(err.Error(), "50 resources of type cluster") {
		t.Errorf("left with %v", err)
	}
}

// A proxy comes back with more than 4 MiB of names that are not there any more: it is understood,
// and told in messages of the size that one may have.
func TestReturnsWithMuch(t *testing.T) {
	r := newRig(t)
	w := services("a")
	r.engine.set(t, w)
	first := r.connect(t)
	first.until(t, holds(t, w))
	_ = first.stop()
	largest, sent := 0, 0
	config := r.config()
	config.Verdict = func(resp xdstest.Response) xdstest.Verdict {
		largest, sent = max(largest, resp.Bytes), sent+len(resp.Resources)
		return xdstest.Verdict{}
	}
	back := xdstest.New(config)
	var held map[string]xdstest.Resource
	first.View(func(s *xdstest.State) { held = s.Resources[xdstest.Cluster] })
	back.View(func(s *xdstest.State) {
		for n, res := range held {
			s.Resources[xdstest.Cluster][n] = res
		}
		for i := range 40_000 {
			s.Resources[xdstest.Cluster][fmt.Sprintf("%s-%05d", strings.Repeat("gone", 25),
				i)] = xdstest.Resource{Version: "0123456789abcdef"}
		}
	})
	again := start(t, back)
	again.until(t, func(s *xdstest.State) bool {
		return len(s.Resources[xdstest.Cluster]) == 1 && len(s.Resources[xdstest.Listener]) == 1
	})
	r.engine.answered(t, 1)
	again.View(func(*xdstest.State) {
		if largest > 2<<20+1000 || sent > 3 {
			t.Errorf("a message has %d bytes, %d resources were sent", largest, sent)
		}
	})
}

// A proxy is cut off between a cluster and what depends on it. It comes back, gets the rest, and
// nothing twice.
func TestCutInTheMiddle(t *testing.T) {
	r := newRig(t)
	w := services("a")
	r.engine.set(t, w)
	silent := false
	c := r.connect(t, func(x *xdstest.Config) {
		x.Verdict = func(resp xdstest.Response) xdstest.Verdict {
			return xdstest.Verdict{Silent: silent && resp.Type == xdstest.Cluster}
		}
	})
	r.engine.answered(t, 1)
	c.until(t, holds(t, w))
	c.View(func(*xdstest.State) { silent = true })
	c.log()
	w = w.clone()
	n := services("b")
	w.clusters["b"], w.endpoints["b"], w.listeners["b"], w.routes["b"] = n.clusters["b"], n.endpoints["b"],
		n.listeners["b"], n.routes["b"]
	w.routes["a"]++
	rev := r.engine.set(t, w)
	c.until(t, func(s *xdstest.State) bool { return slices.Contains(s.Log, "cluster+b") })
	_ = c.stop()
	<-r.gate.left
	if got := c.log(); slices.Contains(got, "listener+b") || slices.Contains(got, "route+a") {
		t.Errorf("got %q before the cluster was answered", got)
	}
	c.View(func(*xdstest.State) { silent = false })
	again := start(t, c.Client)
	again.until(t, holds(t, w))
	r.engine.answered(t, rev)
	got := again.log()
	for _, l := range got {
		if strings.HasPrefix(l, "cluster") || strings.Contains(l, "listener+a") {
			t.Errorf("sent again: %s of %q", l, got)
		}
	}
	again.unbroken(t)
}

// What a proxy has answered it cannot answer again: a repeated, a late and an invented answer say
// nothing, whatever they say.
func TestAnswersThatAreNone(t *testing.T) {
	r := newRig(t)
	w := services("a", "b")
	r.engine.set(t, w)
	nonce := ""
	c := r.connect(t, func(x *xdstest.Config) {
		x.Verdict = func(resp xdstest.Response) xdstest.Verdict {
			if resp.Type == xdstest.Route {
				nonce = resp.Nonce
			}
			return xdstest.Verdict{}
		}
	})
	r.engine.answered(t, 1)
	c.until(t, holds(t, w))
	var answered string
	c.View(func(*xdstest.State) { answered = nonce })
	late := &rpcstatus.Status{Message: "route a: late"}
	for _, req := range []*discoveryv3.DeltaDiscoveryRequest{
		{TypeUrl: xdstest.Route, ResponseNonce: answered, ErrorDetail: late},
		{TypeUrl: xdstest.Route, ResponseNonce: answered},
		{TypeUrl: xdstest.Cluster, ResponseNonce: answered, ErrorDetail: late}, // of another type
		{TypeUrl: xdstest.Route, ResponseNonce: "1", ErrorDetail: late},
		{TypeUrl: xdstest.Listener, ErrorDetail: late},
	} {
		if err := c.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	c.log()
	w = w.clone()
	w.routes["a"]++
	r.engine.answered(t, r.engine.set(t, w)) // rejects nothing
	if got := c.log(); !slices.Equal(got, []string{"route+a"}) {
		t.Errorf("got %q", got)
	}
}

// A peer that is gone without a word is found by keepalive; nothing else is ever sent for that.
func TestLostPeer(t *testing.T) {
	r := newRigWith(t, []grpc.ServerOption{grpc.KeepaliveParams(keepalive.ServerParameters{
		Time:    time.Second,
		Timeout: 50 * time.Millisecond,
	})})
	w := services("a")
	r.engine.set(t, w)
	wire := newWire(t, r.address)
	c := r.connect(t, func(x *xdstest.Config) {
		x.Address = wire.address
		x.TLS = &tls.Config{RootCAs: r.roots, ServerName: "localhost", NextProtos: []string{"h2"}}
	})
	c.until(t, holds(t, w))
	r.engine.answered(t, 1)
	wire.silence()
	select {
	case err := <-r.gate.left:
		if err == nil {
			t.Error("the loss was taken for an orderly end")
		}
	case <-time.After(wireTimeout):
		t.Error("a silent peer is not found")
	}
}

// wire forwards one connection until it must swallow everything.
type wire struct {
	address string
	mute    chan struct{}
	once    sync.Once
}

func (w *wire) silence() { w.once.Do(func() { close(w.mute) }) }

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: l.Addr().String(), mute: make(chan struct{})}
	var group sync.WaitGroup
	group.Go(func() {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			t.Error(err)
			return
		}
		pass := func(to io.Writer, from io.Reader) {
			buf := make([]byte, 4096)
			for {
				n, err := from.Read(buf)
				if err != nil {
					return
				}
				select {
				case <-w.mute: // read, and lost
					continue
				default:
				}
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		group.Go(func() { pass(in, out) })
		group.Go(func() { pass(out, in) })
		t.Cleanup(func() {
			_ = in.Close()
			_ = out.Close()
			group.Wait()
		})
	})
	t.Cleanup(func() { _ = l.Close() })
	return w
}
