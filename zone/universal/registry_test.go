package universal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const zone = "us-east"

// fakeTokens are "good" for anything, "other" for the dataplane other, "late" expired.
type fakeTokens struct{}

func (fakeTokens) VerifyDataplane(token string) (tokens.DataplaneClaims, error) {
	switch token {
	case "good":
		return tokens.DataplaneClaims{}, nil
	case "other":
		return tokens.DataplaneClaims{Name: "other"}, nil
	case "late":
		return tokens.DataplaneClaims{}, &tokens.TokenError{Code: tokens.Expired, Reason: "the token expired"}
	}
	return tokens.DataplaneClaims{}, &tokens.TokenError{Code: tokens.UnknownKey, Reason: "no such key"}
}

func (fakeTokens) VerifyZone(token string) (tokens.ZoneClaims, error) {
	if token == "ingress" {
		return tokens.ZoneClaims{Zone: zone, Scope: []string{"ingress"}}, nil
	}
	return tokens.ZoneClaims{}, &tokens.TokenError{Code: tokens.WrongType, Reason: "not a zone token"}
}

// world is a registry inside a synctest bubble; it can be restarted on the same store.
type world struct {
	t    *testing.T
	st   store.Store
	rep  *replica.Replica
	reg  *Registry
	stop func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, st: st}
	w.put(&mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: &meshv1.Mesh{}})
	w.start("one")
	t.Cleanup(func() {
		w.stop()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) start(instance string) {
	w.rep = replica.New(replica.Config{Store: w.st})
	w.reg = New(Config{
		Deps:     reconcile.Deps{Store: w.st, Replica: w.rep},
		Zone:     zone,
		Instance: instance,
		Tokens:   fakeTokens{},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.rep.Run(ctx) }()
	go func() { done <- w.reg.Run(ctx) }()
	w.stop = func() {
		cancel()
		for range 2 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				w.t.Errorf("Run ended with %v", err)
			}
		}
	}
	synctest.Wait()
}

func (w *world) put(r *mesh.Resource) {
	w.t.Helper()
	if _, err := w.st.Commit(context.Background(),
		store.Txn{Ops: []store.Op{store.Put{Resource: r}}}); err != nil {
		w.t.Fatal(err)
	}
}

func document(name string) string {
	return fmt.Sprintf(
		`{"type":"Dataplane","mesh":"default","name":%q,"networking":{"address":"10.0.0.1","inbound":[
		{"port":8080,"tags":{"kuma.io/service":"web","kuma.io/protocol":"http"}}]}}`, name)
}

// join brings a proxy that has its configuration.
func (w *world) join(name string) delta.Member {
	w.t.Helper()
	m := w.begin(name)
	m.Configured()
	synctest.Wait()
	return m
}

// begin brings a proxy that has no configuration yet.
func (w *world) begin(name string) delta.Member {
	w.t.Helper()
	m, err := w.reg.Join(context.Background(), delta.Join{
		NodeID:   "default." + name,
		Token:    "good",
		Resource: document(name),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
	return m
}

func key(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: zone, Name: name}
}

// state is the insight's; "" if there is none.
func (w *world) state(name string) string {
	w.t.Helper()
	synctest.Wait()
	r, err := w.st.Get(context.Background(), mesh.InsightKey(key(name)))
	if errors.Is(err, store.ErrNotFound) {
		return ""
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return mesh.Spec[*meshv1.ProxyInsight](r).GetState()
}

func (w *world) exists(name string) bool {
	w.t.Helper()
	_, err := w.st.Get(context.Background(), key(name))
	return err == nil
}

func (w *world) want(name, state string, exists bool) {
	w.t.Helper()
	if got := w.state(name); got != state {
		w.t.Errorf("%s: state %q, want %q", name, got, state)
	}
	if got := w.exists(name); got != exists {
		w.t.Errorf("%s: exists %v, want %v", name, got, exists)
	}
}

func (w *world) revision() uint64 {
	w.t.Helper()
	r, err := w.st.Revision(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func TestJoinWritesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.join("a")
		k, revision := m.Proxy()
		// What came after its registration is that it has its configuration.
		if k != key("a") || revision != w.revision()-1 {
			t.Errorf("Proxy() = %v %d, want %v %d", k, revision, key("a"), w.revision()-1)
		}
		r, err := w.st.Get(context.Background(), key("a"))
		if err != nil {
			t.Fatal(err)
		}
		for label, want := range map[string]string{mesh.LabelMesh: "default", mesh.LabelZone: zone,
			mesh.LabelOrigin: "zone",
			mesh.LabelEnv:    "universal", mesh.LabelProxyType: "sidecar"} {
			if r.Labels[label] != want {
				t.Errorf("label %s = %q, want %q", label, r.Labels[label], want)
			}
		}
		if got := mesh.Spec[*meshv1.Dataplane](
			r).GetNetworking().GetInbound()[0].GetTags()[mesh.TagZone]; got != zone {
			t.Errorf("tag kuma.io/zone = %q", got)
		}
		before := w.revision()
		m.Leave(nil)
		time.Sleep(DefaultGrace / 2)
		w.join("a")
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.revision(); got != before {
			t.Errorf("a blip wrote %d revisions, want none", got-before)
		}
		w.want("a", "Online", true)
	})
}

func TestAProxyThatStartsIsJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.begin("a")
		w.want("a", "Joining", true)
		m.Configured()
		w.want("a", "Online", true)
		// A reconnect within the grace does not count as a start.
		m.Leave(errors.New("reset"))
		m = w.begin("a")
		w.want("a", "Online", true)
		// After it was lost it is.
		m.Leave(errors.New("reset"))
		time.Sleep(DefaultGrace + time.Second)
		w.want("a", "Lost", true)
		older := w.begin("a")
		w.want("a", "Joining", true)
		// What an older stream says of itself does not count.
		newer := w.begin("a")
		older.Configured()
		w.want("a", "Joining", true)
		newer.Configured()
		w.want("a", "Online", true)
	})
}

func TestLossAndLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.join("a")
		m.Leave(errors.New("reset"))
		time.Sleep(DefaultGrace - time.Millisecond)
		w.want("a", "Online", true)
		time.Sleep(2 * time.Millisecond)
		w.want("a", "Lost", true)
		time.Sleep(DefaultLease - time.Second)
		w.want("a", "Lost", true)
		time.Sleep(time.Second + time.Millisecond)
		w.want("a", "", false)
		// It comes back within a later lease.
		m = w.join("a")
		m.Leave(errors.New("reset"))
		time.Sleep(DefaultLease / 2)
		w.want("a", "Lost", true)
		w.join("a")
		w.want("a", "Online", true)
		time.Sleep(2 * DefaultLease)
		w.want("a", "Online", true)
	})
}

func TestHandWrittenDataplaneStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(&mesh.Resource{
			Key:  key("a"),
			Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Address: "10.0.0.1"}},
		})
		m, err := w.reg.Join(context.Background(), delta.Join{NodeID: "default.a", Token: "good"})
		if err != nil {
			t.Fatal(err)
		}
		m.Leave(nil)
		time.Sleep(2 * DefaultLease)
		w.want("a", "", true)
	})
}

func TestNewerStreamSupersedes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.join("a")
		second := w.join("a")
		select {
		case <-first.Superseded():
		default:
			t.Error("the older stream is not superseded")
		}
		first.Leave(errors.New("superseded"))
		time.Sleep(2 * DefaultLease)
		w.want("a", "Online", true)
		select {
		case <-second.Superseded():
			t.Error("the newer stream is superseded")
		default:
		}
	})
}

// TestStreamsOfAGRPCClient: each channel of a gRPC program has a stream under one node id.
func TestStreamsOfAGRPCClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join("a").Leave(nil)
		call := func(kind delta.ClientKind) delta.Member {
			m, err := w.reg.Join(context.Background(), delta.Join{
				NodeID: "default.a",
				Token:  "good",
				Client: delta.Client{Kind: kind},
			})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		superseded := func(m delta.Member) bool {
			select {
			case <-m.Superseded():
				return true
			default:
				return false
			}
		}
		first, second, third := call(delta.ClientGRPC), call(delta.ClientGRPC), call(delta.ClientGRPC)
		if superseded(first) || superseded(second) || superseded(third) {
			t.Fatal("a stream of a gRPC client superseded another")
		}
		third.Leave(nil)
		second.Leave(nil)
		time.Sleep(2 * DefaultLease)
		w.want("a", "Online", true)
		second = call(delta.ClientGRPC)
		envoy := call(delta.ClientEnvoy)
		if !superseded(first) || !superseded(second) || superseded(envoy) {
			t.Fatal("an Envoy takes over from all")
		}
		first.Leave(nil)
		second.Leave(nil)
		time.Sleep(2 * DefaultLease)
		w.want("a", "Online", true)
		if call(delta.ClientGRPC); !superseded(envoy) {
			t.Fatal("a gRPC client takes over from an Envoy")
		}
	})
}

func TestMassLossIsWithheld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		members := map[string]delta.Member{}
		for _, n := range []string{"a", "b", "c", "d", "e", "f"} {
			members[n] = w.join(n)
		}
		for _, n := range []string{"a", "b", "c"} {
			members[n].Leave(errors.New("cut"))
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(3 * DefaultLease)
		for _, n := range []string{"a", "b", "c"} {
			w.want(n, "Online", true)
		}
		if _, _, withheld := w.reg.Counts(); withheld != 3 {
			t.Errorf("withheld %d, want 3", withheld)
		}
		// One returns: the share falls below a half, and the others count one by one.
		w.join("a")
		w.want("a", "Online", true)
		w.want("b", "Lost", true)
		w.want("c", "Lost", true)
		time.Sleep(DefaultLease + time.Second)
		w.want("b", "", false)
		w.want("d", "Online", true)
	})
}

func TestTwoLossesAreMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.join("a"), w.join("b")
		a.Leave(errors.New("cut"))
		b.Leave(errors.New("cut"))
		time.Sleep(DefaultGrace + time.Millisecond)
		w.want("a", "Lost", true)
		w.want("b", "Lost", true)
	})
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, n := range []string{"a", "b", "c", "d", "e"} {
			w.join(n)
		}
		w.stop()
		time.Sleep(time.Hour)
		w.start("two")
		time.Sleep(DefaultReturnTime - time.Second)
		w.want("a", "Online", true)
		for _, n := range []string{"a", "b", "c"} {
			w.join(n)
		}
		time.Sleep(time.Second + time.Millisecond)
		w.want("a", "Online", true)
		w.want("d", "Lost", true)
		time.Sleep(DefaultLease + time.Second)
		w.want("e", "", false)
		// And when no proxy returns, none is marked.
		w.stop()
		w.start("three")
		time.Sleep(time.Hour)
		w.want("a", "Online", true)
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		constrained := &meshv1.Mesh{
			Constraints: &meshv1.Mesh_Constraints{DataplaneProxy: &meshv1.Mesh_DataplaneProxy{
				Restrictions: []*meshv1.Mesh_TagRules{{Tags: map[string]string{mesh.TagService: "web"}}}}}}
		w.put(&mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "closed"}, Spec: constrained})
		synctest.Wait()
		for name, c := range map[string]struct {
			join delta.Join
			code codes.Code
			text string
		}{
			"no token": {delta.Join{
				NodeID:   "default.a",
				Resource: document("a"),
			}, codes.Unauthenticated, "no token"},
			"expired token": {delta.Join{
				NodeID:   "default.a",
				Resource: document("a"),
				Token:    "late",
			}, codes.Unauthenticated, "expired"},
			"foreign token": {delta.Join{
				NodeID:   "default.a",
				Resource: document("a"),
				Token:    "x",
			}, codes.Unauthenticated, "no such key"},
			"another's": {delta.Join{
				NodeID:   "default.a",
				Resource: document("a"),
				Token:    "other",
			}, codes.PermissionDenied, "other"},
			"unknown mesh": {delta.Join{
				NodeID:   "nope.a",
				Resource: strings.Replace(document("a"), `"default"`, `"nope"`, 1),
				Token:    "good",
			}, codes.NotFound, "nope"},
			"other name": {delta.Join{
				NodeID:   "default.b",
				Resource: document("a"),
				Token:    "good",
			}, codes.InvalidArgument, "node id says name"},
			"bad node": {delta.Join{
				NodeID:   "a",
				Resource: document("a"),
				Token:    "good",
			}, codes.InvalidArgument, "node id"},
			"bad document": {delta.Join{
				NodeID:   "default.a",
				Resource: `{"type":"Dataplane","mesh":"default","name":"a","networkin":{}}`,
				Token:    "good",
			}, codes.InvalidArgument, "networkin"},
			"absent": {delta.Join{
				NodeID: "default.a",
				Token:  "good",
			}, codes.NotFound, "there is no Dataplane"},
			"unknown type": {delta.Join{
				NodeID:    "default.a",
				ProxyType: "x",
				Token:     "good",
			}, codes.InvalidArgument, "proxy type"},
			"constraint": {delta.Join{
				NodeID:   "closed.a",
				Resource: strings.Replace(document("a"), `"default"`, `"closed"`, 1),
				Token:    "good",
			}, codes.FailedPrecondition, "keeps out"},
			"ingress, token": {delta.Join{
				NodeID:    ".in",
				ProxyType: "ingress",
				Token:     "good",
				Resource:  `{"type":"ZoneIngress","name":"in","networking":{"port":10001}}`,
			}, codes.PermissionDenied, "zone token"},
		} {
			_, err := w.reg.Join(context.Background(), c.join)
			if status.Code(err) != c.code || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("%s: %v, want %s with %q", name, err, c.code, c.text)
			}
		}
		if total, online, _ := w.reg.Counts(); total != 0 || online != 0 {
			t.Errorf("refused proxies count: %d, %d", total, online)
		}
	})
}

func TestIngress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m, err := w.reg.Join(context.Background(), delta.Join{
			NodeID:    ".in",
			ProxyType: "ingress",
			Token:     "ingress",
			Resource: "type: ZoneIngress\nname: in\nnetworking: {address: 10.0.0.1, port: 10001, " +
				"advertisedAddress: 192.0.2.1, advertisedPort: 10001}\n",
		})
		if err != nil {
			t.Fatal(err)
		}
		k, _ := m.Proxy()
		r, err := w.st.Get(context.Background(), k)
		if err != nil {
			t.Fatal(err)
		}
		if got := mesh.Spec[*meshv1.ZoneIngress](r).GetZone(); got != zone || k.Kind != mesh.KindZoneIngress {
			t.Errorf("key %v zone %q", k, got)
		}
		if _, err := w.st.Get(context.Background(), mesh.InsightKey(k)); err != nil {
			t.Error(err)
		}
	})
}

func TestDrainAndGoodbye(t *testing.T) {
	for name, clean := range map[string]bool{"clean": true, "cut": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				m := w.join("a")
				mine := &session{}
				w.reg.mu.Lock()
				p := w.reg.proxies[key("a")]
				p.session = mine
				w.reg.mu.Unlock()
				ctx := context.Background()
				if _, err := w.reg.take(ctx, p, mine,
					&dataplanev1.Report{NotReady: []string{"8080"}}); err != nil {
					t.Fatal(err)
				}
				r, err := w.st.Get(ctx, mesh.InsightKey(key("a")))
				if err != nil || len(mesh.Spec[*meshv1.ProxyInsight](r).GetNotReady()) != 1 {
					t.Fatalf("insight %v %v", r, err)
				}
				revision, err := w.reg.take(ctx, p, mine, &dataplanev1.Report{Draining: true})
				if err != nil || revision != w.revision() {
					t.Fatalf("take = %d %v", revision, err)
				}
				w.want("a", "Draining", true)
				w.reg.endSession(p, mine, clean)
				time.Sleep(time.Minute)
				w.want("a", "Draining", true)
				m.Leave(nil)
				time.Sleep(DefaultGoodbyeDelay + time.Millisecond)
				w.want("a", "", false)
			})
		})
	}
}

func TestLauncherKeepsDataplane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.join("a")
		mine := &session{}
		w.reg.mu.Lock()
		p := w.reg.proxies[key("a")]
		p.session = mine
		w.reg.mu.Unlock()
		m.Leave(errors.New("envoy died"))
		time.Sleep(2 * DefaultLease)
		w.want("a", "Lost", true)
		w.reg.endSession(p, mine, false)
		time.Sleep(time.Millisecond)
		w.want("a", "", false)
	})
}
