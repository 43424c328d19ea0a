package api_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// documents reads resources; those that belong to a zone are of the zone given.
func documents(t *testing.T, zone, text string) []*mesh.Resource {
	t.Helper()
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var out []*mesh.Resource
	for _, d := range docs {
		if k := d.Resource.Key.Kind; k == mesh.KindDataplane || k == mesh.KindMeshService {
			d.Resource.Key.Zone = zone
		}
		out = append(out, d.Resource)
	}
	return out
}

const (
	callers = `
type: MeshService
mesh: default
name: backend
spec:
  selector: {dataplaneTags: {kuma.io/service: backend}}
  ports: [{port: 80, targetPort: 8080, appProtocol: http}]
---
type: Dataplane
mesh: default
name: backend
networking:
  address: 192.0.2.1
  inbound: [{port: 8080, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]
---
type: Dataplane
mesh: default
name: web
networking:
  address: 192.0.2.2
  inbound: [{port: 8080, tags: {kuma.io/service: web, kuma.io/protocol: http}}]
  outbound: [{port: 10001, backendRef: {kind: MeshService, name: backend, port: 80}}]
`
	fasterText = `
type: MeshTimeout
mesh: default
name: faster
spec: {targetRef: {kind: Mesh}, to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 1s}}}]}
`
	nowhereText = `
type: MeshHTTPRoute
mesh: default
name: nowhere
spec:
  targetRef: {kind: Mesh}
  to:
  - targetRef: {kind: MeshService, name: backend}
    rules:
    - matches: [{path: {type: PathPrefix, value: /}}]
      default: {backendRefs: [{kind: MeshService, name: backend, port: 80, weight: 0}]}
`
	nowhereGuard = "the route of everything to kri_msvc_default_east__backend_80 would have no " +
		"instance, at 1 " +
		"of 2 proxies"
)

// TestDiffOverZones: global has every zone compare, merges, names the zones that are unreachable, and none
// of them writes.
func TestDiffOverZones(t *testing.T) {
	t.Parallel()
	zones := map[string]*plane{}
	for _, name := range []string{"east", "north"} {
		zones[name] = withMesh(t,
			func(c *api.Config) { c.Zone, c.Federated, c.LocalhostIsAdmin = name, true, false })
		zones[name].seed(documents(t, name, callers)...)
	}
	var asked atomic.Int64
	g := withMesh(t, func(c *api.Config) {
		global(c)
		c.GuardShare, c.GuardProxies = 50, 2
		c.Forward = func(ctx context.Context, zone, method string, req []byte) ([]byte, error) {
			asked.Add(1)
			if z := zones[zone]; z != nil {
				return z.server.Call(ctx, method, req)
			}
			return nil, status.Error(codes.Unavailable, "its connection is lost")
		}
	})
	zone := func(name, state string) *mesh.Resource {
		return &mesh.Resource{
			Key:    mesh.Key{Kind: mesh.KindZone, Name: name},
			Spec:   &meshv1.Zone{},
			Status: &meshv1.ZoneStatus{State: state},
		}
	}
	g.seed(zone("east", "Online"), zone("north", "Online"))
	c := g.grpc("")
	diff := func(text string, o client.DiffOptions) *adminv1.DiffResponse {
		t.Helper()
		got, err := c.Diff(t.Context(), documents(t, "", text), o)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	revisions := func() (out []uint64) {
		for _, p := range []*plane{g, zones["east"], zones["north"]} {
			r, err := p.store.Revision(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, r)
		}
		return out
	}
	before := revisions()

	got := diff(fasterText+"---"+nowhereText, client.DiffOptions{Verbose: true})
	if len(got.GetZones()) != 2 || got.GetZones()[0].GetZone() != "east" ||
		got.GetZones()[1].GetZone() != "north" {
		t.Fatalf("zones: %v", got)
	}
	for _, z := range got.GetZones() {
		if z.GetProxies() != 2 || z.GetChanged() != 1 || len(z.GetNames()) != 1 ||
			z.GetNames()[0].GetName() != "web" || z.GetNames()[0].GetZone() != z.GetZone() {
			t.Errorf("zone %s: %v", z.GetZone(), z)
		}
		for _, r := range z.GetResources() {
			if len(r.GetLines()) == 0 || len(r.GetNames()) != 1 {
				t.Errorf("zone %s: %v", z.GetZone(), r)
			}
		}
	}
	want := []string{"zone east: " + nowhereGuard,
		"zone north: " + strings.ReplaceAll(nowhereGuard, "_east_", "_north_")}
	if d := cmp.Diff(want, got.GetGuards()); d != "" {
		t.Errorf("guards (2 of 4 proxies are not more than 50 %%): %s", d)
	}
	// What every proxy has is more than half of them.
	every := strings.ReplaceAll(fasterText, "{kind: Mesh}, to: [{targetRef: {kind: Mesh}, ",
		"{kind: Mesh}, rules: [{")
	if got := diff(every, client.DiffOptions{}); len(got.GetGuards()) != 1 ||
		!strings.Contains(got.GetGuards()[0],
			"of 4 proxies would change; this control plane lets 50 % pass") {
		t.Errorf("guards: %v", got.GetGuards())
	}
	if d := cmp.Diff(before, revisions()); d != "" {
		t.Errorf("something was written: %s", d)
	}

	// Zones are not asked about what they would not get, and none is asked for a guard that no
	// document can need.
	kept := strings.Replace(fasterText, "name: faster",
		"name: faster\nlabels: {"+mesh.LabelSync+": "+mesh.SyncDisabled+"}", 1)
	for _, z := range diff(kept, client.DiffOptions{}).GetZones() {
		if z.GetChanged() != 0 {
			t.Errorf("a policy that stays at global would change %d proxies of zone %s", z.GetChanged(),
				z.GetZone())
		}
	}
	asked.Store(0)
	if diff("type: MeshMultiZoneService\nmesh: default\nname: m\nspec: {selector: {meshService: "+
		"{matchLabels: "+
		"{a: b}}}, ports: [{port: 80}]}",
		client.DiffOptions{Guard: true}); asked.Load() != 0 {
		t.Errorf("%d zones were asked for nothing", asked.Load())
	}

	// Of two documents of one key the later holds, as with a write of both.
	late := strings.Replace(nowhereText, "weight: 0", "weight: 1", 1)
	if got := diff(nowhereText+"---"+late, client.DiffOptions{}); len(got.GetGuards()) != 0 {
		t.Errorf("guards: %v", got.GetGuards())
	}

	// A zone that is unreachable is named.
	g.seed(zone("south", "Online"), zone("west", "Offline"))
	got = diff(fasterText, client.DiffOptions{})
	if d := cmp.Diff([]string{"zone south is left out: its connection is lost",
		"zone west is left out: it is offline"}, got.GetWarnings()); d != "" || len(got.GetZones()) != 2 {
		t.Errorf("warnings: %s, %v", d, got)
	}
}

// TestDiffAdmits: what a write would reject, the comparison rejects, with every violation; and
// readers may not compare.
func TestDiffAdmits(t *testing.T) {
	t.Parallel()
	z := withMesh(t, nil)
	z.seed(documents(t, "east", callers)...)
	c := z.grpc("")
	bad := documents(t, "", strings.ReplaceAll(fasterText, "requestTimeout: 1s", "requestTimeout: -1s")+"---"+
		strings.ReplaceAll(nowhereText, "value: /", "value: x"))
	_, err := c.Diff(t.Context(), bad, client.DiffOptions{})
	failed, ok := err.(*client.Error)
	if !ok || failed.Code != codes.InvalidArgument || len(failed.Violations) != 2 ||
		failed.Violations[0].Field != "MeshTimeout faster: spec.to[0].default.http.requestTimeout" ||
		failed.Violations[1].Field != "MeshHTTPRoute nowhere: spec.to[0].rules[0].matches[0].path.value" {
		t.Errorf("%+v", err)
	}
	elsewhere := strings.ReplaceAll(fasterText, "mesh: default", "mesh: other")
	if _, err := c.Diff(t.Context(), documents(t, "", elsewhere), client.DiffOptions{}); err == nil ||
		!strings.Contains(err.Error(), `mesh "other" not found`) {
		t.Errorf("%v", err)
	}
	if _, err := c.Diff(t.Context(), documents(t, "", "type: Mesh\nname: other\n---"+elsewhere),
		client.DiffOptions{}); err != nil {
		t.Errorf("a mesh that comes with its policies: %v", err)
	}
	if n := z.logs.FilterMessage("audit").Len(); n != 0 {
		t.Errorf("%d writes in the audit log", n)
	}
	z.keys()
	token, err := c.IssueUserToken(t.Context(), "reader", []string{"readers"}, wait)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.dial(z.strict(), token).Diff(t.Context(), documents(t, "", fasterText),
		client.DiffOptions{}); err == nil || err.(*client.Error).Code != codes.PermissionDenied {
		t.Errorf("%v", err)
	}
}

// TestGuardHoldsForEveryWriter: what would leave a route or a destination without an instance is refused
// over REST and gRPC, as a put and as a delete, unless it is forced; a dry run says the same.
func TestGuardHoldsForEveryWriter(t *testing.T) {
	t.Parallel()

	p := withMesh(t, func(c *api.Config) { c.Zone = "east" })
	p.seed(documents(t, "east", callers)...)
	const route, service = "/meshes/default/meshhttproutes/nowhere", "/meshes/default/meshservices/backend"

	p.want(
		p.do("PUT", route, nowhereText),
		409,
		"needs to be forced, with --force, over REST with ?force=true",
		nowhereGuard,
	)
	p.want(p.do("GET", route, ""), 404)
	p.want(
		p.do("PUT", route+"?dryRun=true", nowhereText),
		200,
		"this would need force: zone east: "+nowhereGuard,
	)
	c := p.grpc("")
	nowhere := documents(t, "east", nowhereText)[0]
	_, err := c.Put(t.Context(), nowhere, client.PutOptions{})
	wantError(t, err, codes.FailedPrecondition, nowhereGuard)

	other := "type: MeshService\nmesh: default\nname: backend\nspec:\n  selector: {dataplaneTags: " +
		"{kuma.io/service: none}}\n  ports: [{port: 80, targetPort: 8080, appProtocol: http}]\n"
	p.want(p.do("PUT", service, other), 409, "kri_msvc_default_east__backend_80 would have no endpoint")
	p.want(p.do("DELETE", service, ""), 409, "kri_msvc_default_east__backend_80 would no longer exist")
	_, err = c.Delete(t.Context(), documents(t, "east", callers)[0].Key, client.DeleteOptions{})
	wantError(t, err, codes.FailedPrecondition, "would no longer exist")
	relabelled := "type: Dataplane\nmesh: default\nname: backend\nnetworking:\n  address: " +
		"192.0.2.1\n  inbound: " +
		"[{port: 8080, tags: {kuma.io/service: other, kuma.io/protocol: http}}]\n"
	p.want(p.do("PUT", "/meshes/default/dataplanes/backend", relabelled), 409, "would have no endpoint")

	p.want(p.do("PUT", route+"?force=true", nowhereText), 201)
	// What leads nowhere already can be changed.
	p.want(p.do("PUT", route, nowhereText+"      \n"), 200)
	if _, err := c.Delete(t.Context(), nowhere.Key, client.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	p.want(p.do("DELETE", service+"?force=true", ""), 200)
}
