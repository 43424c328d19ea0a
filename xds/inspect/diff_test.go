package inspect

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
)

const zone = "east"

// decode reads documents as the zone's own.
func decode(t *testing.T, text string) []*mesh.Resource {
	t.Helper()
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var out []*mesh.Resource
	for _, d := range docs {
		if _, err := validate.Resource(d.Resource); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if k := d.Resource.Key.Kind; k == mesh.KindDataplane || k == mesh.KindMeshService {
			d.Resource.Key.Zone = zone
		}
		out = append(out, d.Resource)
	}
	return out
}

var services = []string{"web", "backend", "canary"}

// world has two instances of each service, each calling all.
func world(t *testing.T) replica.View {
	t.Helper()
	text := "type: Mesh\nname: default\nmeshServices: {mode: Exclusive}\n"
	for i, s := range services {
		text += fmt.Sprintf("---\ntype: MeshService\nmesh: default\nname: %s\nspec: {selector: "+
			"{dataplaneTags: "+
			"{kuma.io/service: %s}}, "+
			"ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}\n", s, s)
		for n := range 2 {
			text += fmt.Sprintf("---\ntype: Dataplane\nmesh: default\nname: %s-%d\nlabels: {app: "+
				"%s}\nnetworking:\n  address: 192.0.2.%d\n"+
				"  inbound: [{name: http, port: 8080, tags: {kuma.io/service: %s, kuma.io/protocol: "+
				"http}}]\n  "+
				"outbound:\n", s, n, s, 10*i+n, s)
			for p, to := range services {
				text += fmt.Sprintf("  - {port: %d, backendRef: {kind: MeshService, name: %s, port: 80}}\n",
					10001+p, to)
			}
		}
	}
	return replica.NewView(1, decode(t, text)...)
}

func pick(r *rand.Rand, list ...string) string { return list[r.IntN(len(list))] }

// randomPolicy is a policy with one of three names per kind, so that some replace others.
func randomPolicy(r *rand.Rand) string {
	target := pick(r, "{kind: Mesh}", "{kind: Dataplane, name: web-0}",
		"{kind: Dataplane, labels: {app: backend}}", "{kind: Dataplane, labels: {app: nothing}}")
	to := pick(r, "{kind: Mesh}", "{kind: MeshService, name: backend}", "{kind: MeshService, name: canary}",
		"{kind: MeshService, name: gone}")
	name := pick(r, "a", "b", "c")
	head := func(kind string) string {
		return fmt.Sprintf("type: %s\nmesh: default\nname: %s\nspec:\n  targetRef: %s\n", kind, name, target)
	}
	switch r.IntN(5) {
	case 0:
		return head("MeshTimeout") +
			fmt.Sprintf("  to: [{targetRef: %s, default: {http: {requestTimeout: %ds}}}]\n", to, 1+r.IntN(3))
	case 1:
		return head("MeshRetry") +
			fmt.Sprintf("  to: [{targetRef: %s, default: {http: {numRetries: %d}}}]\n", to, 1+r.IntN(3))
	case 2:
		return head("MeshCircuitBreaker") +
			fmt.Sprintf("  to: [{targetRef: %s, default: {connectionLimits: {maxConnections: %d}}}]\n", to,
				1+r.IntN(3))
	case 3:
		target = pick(r, "{kind: Dataplane, labels: {app: backend}}", "{kind: Dataplane}")
		return head("MeshRateLimit") +
			fmt.Sprintf("  rules: [{default: {local: {http: {requestRate: {num: %d, interval: 1s}}}}}]\n",
				1+r.IntN(3))
	default:
		return head("MeshHTTPRoute") +
			fmt.Sprintf("  to: [{targetRef: {kind: MeshService, name: %s}, rules: [{matches: [{path: {type: "+
				"PathPrefix, value: /}}], "+
				"default: {backendRefs: [{kind: MeshService, name: %s, port: 80, weight: %d}]}}]}]\n",
				pick(r, services...), pick(r, "web", "canary", "gone"), r.IntN(3))
	}
}

// TestDiffIsWhatHappens: what Diff says of a change is what two engines built from scratch differ
// in, and what it says would be empty is so after the change and was not before.
func TestDiffIsWhatHappens(t *testing.T) {
	t.Parallel()
	nothing, emptied := 0, 0
	for seed := uint64(1); seed <= 15; seed++ {
		r := rand.New(rand.NewPCG(seed, 5))
		view := world(t)
		for step := range 12 {
			text := randomPolicy(r)
			policy := decode(t, text)
			got, err := Diff(view, zone, Change{Puts: policy}, 100, true)
			if err != nil {
				t.Fatal(err)
			}
			changes := []store.Change{{Key: policy[0].Key, Resource: policy[0]}}
			next := view.With(view.Revision()+1, changes)
			was, is := xds.NewStatic(zone, view), xds.NewStatic(zone, next)
			var names, want []string
			ends := map[string]int{}
			for dp := range view.List(mesh.KindDataplane, "default") {
				before, _ := was.Table(dp.Key)
				after, _ := is.Table(dp.Key)
				if !after.Diff(before).Empty() {
					want = append(want, dp.Key.Name)
				}
				a, _ := was.Inspect(dp.Key)
				b, _ := is.Inspect(dp.Key)
				for text := range newlyEmpty(a, b, next) {
					ends[text]++
				}
			}
			for _, k := range got.GetNames() {
				names = append(names, k.GetName())
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, names); diff != "" || int(got.GetChanged()) != len(want) {
				t.Fatalf("seed %d, step %d: changed (-happens +said)\n%s\n%s", seed, step, diff, text)
			}
			if len(want) == 0 {
				nothing++
			}
			var empty []string
			for text, n := range ends {
				empty = append(empty, fmt.Sprintf("%s, at %d of 6 proxies", text, n))
			}
			slices.Sort(empty)
			if diff := cmp.Diff(empty, got.GetEmptied()); diff != "" {
				t.Fatalf("seed %d, step %d: emptied (-happens +said)\n%s\n%s", seed, step, diff, text)
			}
			emptied += len(empty)
			for _, res := range got.GetResources() {
				if res.GetAction() == adminv1.ChangeAction_CHANGE_ACTION_CHANGED && len(res.GetLines()) == 0 {
					t.Fatalf("seed %d, step %d: %s changes in nothing", seed, step, res.GetName())
				}
			}
			view = next
		}
	}
	if nothing == 0 || emptied == 0 {
		t.Errorf("%d changes without effect, %d that emptied something: the test saw too little", nothing,
			emptied)
	}
}

// TestDiffWritesNothing: the view that was asked about is as it was.
func TestDiffWritesNothing(t *testing.T) {
	t.Parallel()
	view := world(t)
	policy := decode(t, "type: MeshTimeout\nmesh: default\nname: x\nspec: {targetRef: {kind: Mesh}, to: "+
		"[{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 1s}}}]}")
	got, err := Diff(view, zone, Change{Puts: policy}, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, there := view.Get(policy[0].Key); there || got.GetChanged() != 6 || len(got.GetNames()) != 1 ||
		got.GetProxies() != 6 {
		t.Errorf("there: %t, %v", there, got)
	}
	for _, r := range got.GetResources() {
		changed := r.GetAction() == adminv1.ChangeAction_CHANGE_ACTION_CHANGED
		if !strings.HasPrefix(r.GetName(), "kri_msvc_default_east__") || !changed || r.GetLines() != nil {
			t.Errorf("%v", r)
		}
	}
}

// TestWhatEmpties: a change is reported to empty what had an instance before it, and nothing else.
func TestWhatEmpties(t *testing.T) {
	t.Parallel()
	route := func(to, backend string, weight int) string {
		return fmt.Sprintf("type: MeshHTTPRoute\nmesh: default\nname: r\nspec:\n  targetRef: "+
			"{kind: Mesh}\n  "+
			"to: [{targetRef: {kind: MeshService, name: %s}, "+
			"rules: [{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: "+
			"MeshService, name: %s, port: 80, weight: %d}]}}]}]\n", to, backend, weight)
	}
	const lonely = "type: MeshService\nmesh: default\nname: empty\nspec: {selector: {dataplaneTags: " +
		"{kuma.io/service: nothing}}, ports: [{name: http, port: 80, appProtocol: http}]}\n" +
		"---\ntype: Dataplane\nmesh: default\nname: caller\nnetworking:\n  address: 192.0.2.99\n  inbound: " +
		"[{port: 1, tags: {kuma.io/service: c}}]\n" +
		"  outbound: [{port: 10001, backendRef: {kind: MeshService, name: web, port: 80}}, {port: 10002, " +
		"backendRef: {kind: MeshService, name: empty, port: 80}}]\n"
	var rs []*mesh.Resource
	for r := range world(t).All() {
		if r.Key.Kind != mesh.KindDataplane || strings.HasPrefix(r.Key.Name, "web-") {
			r = r.Clone()
			if r.Key.Kind == mesh.KindDataplane {
				mesh.Spec[*meshv1.Dataplane](r).Networking.Outbound = nil
			}
			rs = append(rs, r)
		}
	}
	view := replica.NewView(1, append(rs, decode(t, lonely)...)...)
	for _, tt := range []struct {
		name, text string
		want       int
	}{
		{"all to an instance", route("web", "web", 1), 0},
		{"weight 0", route("web", "web", 0), 1},
		{"to a service without instances", route("web", "empty", 1), 1},
		{"to none that exists", route("web", "gone", 1), 1},
		{"of a destination that had none", route("empty", "empty", 1), 0},
		{"of a destination that had none, with weight 0", route("empty", "empty", 0), 0},
		{"of a destination that had none, to one", route("empty", "web", 1), 0},
	} {
		got, err := Diff(view, zone, Change{Puts: decode(t, tt.text)}, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.GetEmptied()) != tt.want || got.GetChanged() != 1 {
			t.Errorf("%s: %d emptied, want %d; %v", tt.name, len(got.GetEmptied()), tt.want, got)
		}
	}
}
