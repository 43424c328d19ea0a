package delta_test

import (
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

func TestJoin(t *testing.T) {
	r := newRig(t)
	r.engine.set(t, services("a"))
	fields := map[string]string{"dataplane.proxyType": "ingress", "dataplane.resource": "type: ZoneIngress"}
	for _, c := range []struct {
		name, header, field string
		want                codes.Code
	}{
		{"bare token", "good", "", codes.OK},
		{"bearer token", "Bearer good", "", codes.OK},
		{"lower case scheme", "bearer good", "", codes.OK},
		{"metadata token", "", "good", codes.OK},
		{"header wins", "good", "bad", codes.OK},
		{"wrong token", "bad", "", codes.Unauthenticated},
		{"no token", "", "", codes.Unauthenticated},
	} {
		t.Run(c.name, func(t *testing.T) {
			c0 := r.connect(t, func(x *xdstest.Config) {
				x.Token = c.header
				x.Metadata = map[string]string{"dataplane.token": c.field, "dataplane.proxyType": "ingress",
					"dataplane.resource": fields["dataplane.resource"]}
			})
			if c.want != codes.OK {
				if err := c0.wait(); status.Code(err) != c.want ||
					!strings.Contains(err.Error(), "token is of another mesh") {
					t.Errorf("ended with %v", err)
				}
				return
			}
			c0.until(t, holds(t, services("a")))
			r.gate.mu.Lock()
			j := r.gate.joins[len(r.gate.joins)-1]
			r.gate.mu.Unlock()
			j.Peer = ""
			want := delta.Join{
				NodeID:    "default.web",
				ProxyType: "ingress",
				Token:     "good",
				Resource:  "type: ZoneIngress",
				UserAgent: "xdstest",
				Delta:     true,
			}
			if diff := cmp.Diff(want, j); diff != "" {
				t.Error(diff)
			}
			_ = c0.stop()
			<-r.gate.left
		})
	}
	t.Run("no node", func(t *testing.T) {
		c := r.connect(t, func(x *xdstest.Config) { x.NodeID = "" })
		if err := c.wait(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestSilentClientIsEnded(t *testing.T) {
	r := newRig(t, func(c *delta.Config) { c.JoinTimeout = time.Millisecond })
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(credentials.NewTLS(r.config().TLS)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestFirstPushAndSteps(t *testing.T) {
	r := newRig(t)
	w := services("a", "b")
	first := r.engine.set(t, w)
	c := r.connect(t)
	r.engine.answered(t, first)
	c.until(t, holds(t, w))
	var types []string
	for _, l := range c.log() {
		typ, _, _ := strings.Cut(l, "+")
		if typ != "secret" && !slices.Contains(types, typ) {
			types = append(types, typ)
		}
	}
	if diff := cmp.Diff([]string{"cluster", "endpoint", "listener", "route"}, types); diff != "" {
		t.Error(diff)
	}

	for _, step := range []struct {
		name   string
		change func(*world)
		want   []string
	}{
		{"endpoints alone", func(w *world) { w.endpoints["a"]++ }, []string{"endpoint+a"}},
		{"a replaced cluster gets its endpoints again", func(w *world) { w.clusters["b"]++ },
			[]string{"cluster+b", "endpoint+b"}},
		{"everything of one",
			func(w *world) { w.clusters["a"]++; w.endpoints["a"]++; w.listeners["a"]++; w.routes["a"]++ },
			[]string{"cluster+a", "endpoint+a", "listener+a", "route+a"}},
		{"every route", func(w *world) { w.routes["a"]++; w.routes["b"]++ }, []string{"route+a+b"}},
		{"secret", func(w *world) { w.secret++ }, []string{"secret+identity"}},
		{"removal goes the other way", func(w *world) { *w = w.without("b") },
			[]string{"listener-b", "cluster-b"}},
		{"swap adds before it removes",
			func(w *world) { *w = w.without("a"); n := services("c"); n.secret = w.secret; *w = n },
			[]string{"cluster+c", "endpoint+c", "listener+c", "route+c", "listener-a", "cluster-a"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			w = w.clone()
			step.change(&w)
			r.engine.answered(t, r.engine.set(t, w))
			c.until(t, holds(t, w))
			if diff := cmp.Diff(step.want, c.log()); diff != "" {
				t.Error(diff)
			}
			c.unbroken(t)
		})
	}
}

// TestSameRevisionIsAnswered: what changes without a change of the store, such as a certificate, is
// answered when the client has it, though the revision was answered before.
func TestSameRevisionIsAnswered(t *testing.T) {
	r := newRig(t)
	w := services("a")
	first := r.engine.set(t, w)
	c := r.connect(t)
	r.engine.answered(t, first)
	c.until(t, holds(t, w))
	calls := 0
	r.engine.watch(t, func(f *watch) bool { calls = f.answers; return true })
	w.secret++
	r.engine.mu.Lock()
	r.engine.revision-- // setTable counts one up
	r.engine.mu.Unlock()
	if again := r.engine.set(t, w); again != first {
		t.Fatalf("revision %d, want %d again", again, first)
	}
	r.engine.watch(t, func(f *watch) bool { return f.answers > calls })
	c.until(t, holds(t, w))
}

func TestEndpointsWaitForNothing(t *testing.T) {
	r := newRig(t)
	w := services("a", "b")
	r.engine.set(t, w)
	mute := false
	c := r.connect(t, func(x *xdstest.Config) {
		x.Verdict = func(resp xdstest.Response) xdstest.Verdict {
			return xdstest.Verdict{Silent: mute && resp.Type == xdstest.Cluster}
		}
	})
	r.engine.answered(t, 1)
	c.View(func(*xdstest.State) { mute = true })
	w = w.clone()
	w.clusters["a"]++
	w.routes["a"]++
	r.engine.set(t, w)
	c.until(t, func(s *xdstest.State) bool { return slices.Contains(s.Log, "cluster+a") })
	w = w.clone()
	w.endpoints["b"]++
	r.engine.set(t, w)
	c.until(t, func(s *xdstest.State) bool { return slices.Contains(s.Log, "endpoint+b") })
	// The route must not have gone: its cluster was never acknowledged.
	c.View(func(s *xdstest.State) {
		if slices.Contains(s.Log, "route+a") {
			t.Errorf("route went before its cluster was acknowledged: %q", s.Log)
		}
	})
	r.engine.wait(t, "the second revision is not answered",
		func(a uint64, _ []delta.Rejection) bool { return a == 1 })
}

func TestRejections(t *testing.T) {
	setup := func(t *testing.T, verdict func(xdstest.Response) xdstest.Verdict) (*rig, *client, world) {
		r := newRig(t)
		w := services("a", "b", "c", "d", "e")
		r.engine.set(t, w)
		bad := false
		c := r.connect(t, func(x *xdstest.Config) {
			x.Verdict = func(resp xdstest.Response) xdstest.Verdict {
				if !bad {
					return xdstest.Verdict{}
				}
				return verdict(resp)
			}
		})
		r.engine.answered(t, 1)
		c.until(t, holds(t, w))
		c.View(func(*xdstest.State) { bad = true })
		c.log()
		w = w.clone()
		for n := range w.routes {
			w.routes[n]++
		}
		return r, c, w
	}
	reject := func(name, text string) func(xdstest.Response) xdstest.Verdict {
		return func(resp xdstest.Response) xdstest.Verdict {
			for _, res := range resp.Resources {
				if res.Name == name && resp.Type == xdstest.Route {
					return xdstest.Verdict{Reject: text}
				}
			}
			return xdstest.Verdict{}
		}
	}
	for _, text := range []string{"route c: domains are not unique", "constraint validation failed"} {
		t.Run(text, func(t *testing.T) {
			r, c, w := setup(t, reject("c", text))
			rev := r.engine.set(t, w)
			want := []delta.Rejection{{
				Type:     delta.TypeRoute,
				Resource: "c",
				Cause:    []mesh.Key{{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "c"}},
				Reason:   text,
				Revision: rev,
			}}
			// What was rejected, and what the client has, are said with it.
			same := func(got []delta.Rejection) bool {
				got = slices.Clone(got)
				for i := range got {
					if c, h := got[i].Content, got[i].Held; c == nil || h == nil || c.Name != "c" ||
						h.Name != "c" ||
						c.Version == h.Version {
						return false
					}
					got[i].Content, got[i].Held = nil, nil
				}
				return cmp.Equal(want, got)
			}
			r.engine.wait(t, "one rejection",
				func(a uint64, got []delta.Rejection) bool { return a == rev && same(got) })
			good := w.clone()
			good.routes["c"]--
			c.until(t, holds(t,
				good)) // the others came, c is the last good one
			if n := r.sum(t, "meridian_delta_nacks_total"); n < 1 || n > 8 { // halving five, in any order
				t.Errorf("%v NACKs", n)
			}
			// It is not sent again when something else changes.
			c.log()
			w = w.clone()
			w.endpoints["a"]++
			rev = r.engine.set(t, w)
			r.engine.wait(t, "the rejection stands",
				func(a uint64, got []delta.Rejection) bool { return a == rev && same(got) })
			if diff := cmp.Diff([]string{"endpoint+a"}, c.log()); diff != "" {
				t.Error(diff)
			}
			// Back to the last good content: nothing to send, nothing rejected.
			w = w.clone()
			w.routes["c"]--
			r.engine.answered(t, r.engine.set(t, w))
			if l := c.log(); len(l) > 0 {
				t.Errorf("sent %q", l)
			}
		})
	}
	t.Run("new content is sent", func(t *testing.T) {
		r, c, w := setup(t, func(resp xdstest.Response) xdstest.Verdict {
			for _, res := range resp.Resources {
				if res.Name == "c" && strings.Contains(string(res.Body), "2") && resp.Type == xdstest.Route {
					return xdstest.Verdict{Reject: "no"}
				}
			}
			return xdstest.Verdict{}
		})
		rev := r.engine.set(t, w)
		r.engine.wait(t, "one rejection",
			func(a uint64, got []delta.Rejection) bool { return a == rev && len(got) == 1 })
		w = w.clone()
		w.routes["c"]++
		r.engine.answered(t, r.engine.set(t, w))
		c.until(t, holds(t, w))
	})
	t.Run("everything is rejected", func(t *testing.T) {
		r, _, w := setup(t, func(xdstest.Response) xdstest.Verdict { return xdstest.Verdict{Reject: "no"} })
		w.clusters["a"]++
		rev := r.engine.set(t, w)
		// Five routes, one cluster, and its endpoints once more.
		r.engine.wait(t, "all rejected",
			func(a uint64, got []delta.Rejection) bool { return a == rev && len(got) == 7 })
		if n := r.sum(t, "meridian_delta_pushes_total"); n > 40 {
			t.Errorf("%v pushes for resources that are rejected", n)
		}
	})
}

// subscribed says that the server knows of a client that asks for a resource.
func (r *rig) subscribed(typ delta.Type, name string) bool {
	proxy, _ := (*member)(nil).Proxy()
	for _, stream := range r.server.Describe(proxy) {
		for _, res := range stream.Resources {
			if res.Type == typ && res.Name == name && res.Status != delta.NotSubscribed {
				return true
			}
		}
	}
	return false
}

func TestReconnect(t *testing.T) {
	r := newRig(t)
	w := services("a", "b", "c")
	r.engine.set(t, w)
	c := r.connect(t)
	r.engine.answered(t, 1)
	c.until(t, holds(t, w))
	_ = c.stop()
	<-r.gate.left
	c.log()

	// Nothing changed: nothing comes.
	watches := func() int { r.engine.mu.Lock(); defer r.engine.mu.Unlock(); return len(r.engine.watches) }
	again := start(t, c.Client)
	again.until(t, func(s *xdstest.State) bool { return s.Connected == 2 })
	n := watches()
	for n < 2 {
		n = watches()
	}
	r.engine.answered(t, 1)
	// It asks for one type after the other; before it has asked for endpoints, a change of these is
	// answered with nothing.
	for !r.subscribed(delta.TypeEndpoint, "a") {
		runtime.Gosched()
	}
	w2 := w.clone()
	w2.endpoints["a"]++
	r.engine.answered(t, r.engine.set(t, w2))
	if diff := cmp.Diff([]string{"endpoint+a"}, again.log()); diff != "" {
		t.Error(diff)
	}
	_ = again.stop()
	<-r.gate.left

	// Changed, gone and new while it was disconnected.
	w3 := w2.without("b")
	w3.routes["a"]++
	w3.clusters["d"], w3.endpoints["d"], w3.listeners["d"], w3.routes["d"] = 1, 1, 1, 1
	rev := r.engine.set(t, w3)
	third := start(t, c.Client)
	third.until(t, func(s *xdstest.State) bool { return s.Connected == 3 })
	third.until(t, holds(t, w3))
	r.engine.answered(t, rev)
	for _, l := range third.log() {
		if strings.Contains(l, "+c") || strings.Contains(l, "+b") {
			t.Errorf("sent again: %s", l)
		}
	}
	third.unbroken(t)
}

func TestSuperseded(t *testing.T) {
	r := newRig(t)
	r.engine.set(t, services("a"))
	c := r.connect(t)
	r.engine.answered(t, 1)
	c.Pause() // even a client that does not read is ended
	r.gate.mu.Lock()
	close(r.gate.members[0].superseded)
	r.gate.mu.Unlock()
	if cause := <-r.gate.left; status.Code(cause) != codes.Aborted {
		t.Errorf("left with %v", cause)
	}
	c.Resume()
	if err := c.wait(); status.Code(err) != codes.Aborted {
		t.Errorf("ended with %v", err)
	}
	if n := r.sum(t, "meridian_delta_streams"); n != 0 {
		t.Errorf("%v streams", n)
	}
}

func TestClientBugs(t *testing.T) {
	r := newRig(t)
	w := services("a", "b")
	r.engine.set(t, w)
	c := r.connect(t)
	r.engine.answered(t, 1)
	c.until(t, holds(t, w))
	c.log()
	send := func(req *discoveryv3.DeltaDiscoveryRequest) {
		t.Helper()
		if err := c.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	// taken returns when the server has taken the requests before it: it answers them in order.
	taken := func() {
		t.Helper()
		c.log()
		send(&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl:                xdstest.Secret,
			ResourceNamesSubscribe: []string{"identity"},
		})
		c.until(t, func(s *xdstest.State) bool { return slices.Contains(s.Log, "secret+identity") })
	}
	settle := func() {
		t.Helper()
		w = w.clone()
		w.secret++
		r.engine.answered(t, r.engine.set(t, w))
	}
	// A stale nonce with an error says nothing.
	send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl:       xdstest.Route,
		ResponseNonce: "of another stream",
		ErrorDetail:   &rpcstatus.Status{Message: "route a is bad"},
	})
	settle()
	if diff := cmp.Diff([]string{"secret+identity"}, c.log()); diff != "" {
		t.Error(diff)
	}
	// Asking again gets it again, once.
	send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl:                xdstest.Endpoint,
		ResourceNamesSubscribe: []string{"a", "a"},
	})
	c.until(t, func(s *xdstest.State) bool { return slices.Contains(s.Log, "endpoint+a") })
	settle()
	if got := c.log(); strings.Join(got, " ") != "endpoint+a secret+identity" {
		t.Errorf("got %q", got)
	}
	// A name that does not exist is said to be absent, and comes when it appears.
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xdstest.Endpoint, ResourceNamesSubscribe: []string{"z"}})
	c.until(t, func(s *xdstest.State) bool { return s.Absent[xdstest.Endpoint]["z"] })
	w = w.clone()
	w.endpoints["z"] = 1
	r.engine.set(t, w)
	c.until(t, func(s *xdstest.State) bool { _, ok := s.Resources[xdstest.Endpoint]["z"]; return ok })
	c.log()
	// What is not asked for any more does not come; an unknown name or type does no harm.
	send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl:                  xdstest.Endpoint,
		ResourceNamesUnsubscribe: []string{"z", "never"},
	})
	send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl:                "type.googleapis.com/envoy.service.runtime.v3.Runtime",
		ResourceNamesSubscribe: []string{"x"},
	})
	taken()
	c.log()
	w = w.clone()
	w.endpoints["z"]++
	r.engine.set(t, w)
	settle()
	if diff := cmp.Diff([]string{"secret+identity"}, c.log()); diff != "" {
		t.Error(diff)
	}
	// Explicit wildcard on top of the old form, then without it: only named clusters go on.
	send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl:                xdstest.Cluster,
		ResourceNamesSubscribe: []string{"*", "a"},
	})
	c.until(t, func(s *xdstest.State) bool { return slices.Contains(s.Log, "cluster+a") })
	send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl:                  xdstest.Cluster,
		ResourceNamesUnsubscribe: []string{"*"},
	})
	taken()
	c.log()
	w = w.clone()
	w.clusters["a"]++
	w.clusters["b"]++
	r.engine.answered(t, r.engine.set(t, w))
	if got := strings.Join(c.log(), " "); got != "cluster+a endpoint+a" {
		t.Errorf("got %q", got)
	}
}
