package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

const t1 = "/meshes/default/meshtimeouts/t1"

func TestIndexAndWho(t *testing.T) {
	t.Parallel()
	p := newPlane(t, nil)
	for _, headers := range [][]string{nil, bearer("x")} {
		g := p.want(p.do("GET", "/", "", headers...), 200)
		if g.json["product"] != "Meridian" || !strings.Contains(g.json["version"].(string), "preview") ||
			g.json["instanceId"] != "cp-1" ||
			g.json["clusterId"] != p.store.ID() {
			t.Errorf("index: %s", g.text)
		}
	}
	admin := map[string]any{"name": "mesh-system:admin",
		"groups": []any{"mesh-system:admin", "mesh-system:authenticated"}}
	anonymous := map[string]any{
		"name":   "mesh-system:anonymous",
		"groups": []any{"mesh-system:unauthenticated"},
	}
	for _, c := range []struct {
		name    string
		headers []string
		want    map[string]any
	}{
		{"loopback", nil, admin},
		{"loopback by name", []string{"Host", "localhost:5681"}, admin},
		{"another credential on loopback", []string{"Authorization", "Basic x"}, anonymous},
		{"behind a proxy", anon, anonymous},
		{"Forwarded", []string{"Forwarded", "for=1.2.3.4"}, anonymous},
		{"X-Real-IP", []string{"X-Real-IP", "1.2.3.4"}, anonymous},
		{"another host name", []string{"Host", "evil.example"}, anonymous},
		{"a page of another site", []string{"Origin", "http://evil.example"}, anonymous},
		{"cross-site fetch", []string{"Sec-Fetch-Site", "cross-site"}, anonymous},
		{"lower-case bearer", append([]string{"Authorization", "bearer x"}, anon...), anonymous},
		{"basic", append([]string{"Authorization", "Basic x"}, anon...), anonymous},
	} {
		g := p.want(p.do("GET", "/who-am-i", "", c.headers...), 200)
		if diff := cmp.Diff(c.want, g.json); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	for _, headers := range [][]string{bearer("x"), {"Authorization", "Bearer x"}} {
		g := p.want(p.do("GET", "/who-am-i", "", headers...), 401)
		if g.json["title"] != "Invalid authentication data" {
			t.Errorf("%s: title: %s", headers, g.text)
		}
	}
}

func TestErrorShape(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	g := p.want(p.do("GET", "/meshes/default/foos", ""), 404)
	if ct := g.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type %s", ct)
	}
	want := "{\n \"type\": \"/std-errors\",\n \"status\": 404,\n \"title\": \"Page Not Found\",\n " +
		"\"detail\": " +
		"\"there is nothing at /meshes/default/foos\"\n}\n"
	if g.text != want {
		t.Errorf("got  %q\nwant %q", g.text, want)
	}
	g = p.want(p.do("GET", "/meshtimeouts?size=0", ""), 400)
	want = "{\n \"type\": \"/std-errors\",\n \"status\": 400,\n \"title\": \"Could not retrieve " +
		"resources\",\n " +
		"\"detail\": \"Resource is not valid\",\n" +
		" \"invalid_parameters\": [\n  {\n   \"field\": \"size\",\n   \"reason\": \"is \\\"0\\\", must be " +
		"a number from 1 to 1000\"\n  }\n ]\n}\n"
	if g.text != want {
		t.Errorf("got  %q\nwant %q", g.text, want)
	}
}

func TestRejectedRequests(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	p.seed(dataplane("dp1", "east"))
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		fields                   []string
		contains                 string
	}{
		{"unknown path", "GET", "/versions", "", nil, 404, nil, "nothing at /versions"},
		{"removed token path", "POST", "/tokens/zone-ingress", "{}", nil, 404, nil, ""},
		{"POST to a collection", "POST", "/meshes", "{}", nil, 405, nil, "POST is not possible"},
		{"PATCH", "PATCH", t1, "{}", nil, 405, nil, ""},
		{"missing mesh object", "GET", "/meshes/nope", "", nil, 404, nil, "Could not retrieve a resource"},
		{"missing mesh of a list", "GET", "/meshes/nope/dataplanes", "", nil, 404, nil,
			"Failed to retrieve Mesh"},
		{"missing resource", "GET", t1, "", nil, 404, nil, "Not found"},
		{"put into a missing mesh", "PUT", "/meshes/nope/meshtimeouts/t1",
			strings.Replace(timeoutJSON("t1", ""), "default", "nope", 1), nil, 404, nil,
			"create the mesh first"},
		{"name differs", "PUT", t1, timeoutJSON("t2", ""), nil, 400, []string{"name"}, ""},
		{"mesh differs", "PUT", t1,
			strings.Replace(timeoutJSON("t1", ""), `"mesh":"default"`, `"mesh":"other"`, 1), nil, 400,
			[]string{"mesh"}, ""},
		{"kind differs", "PUT", t1, strings.Replace(timeoutJSON("t1", ""), "MeshTimeout", "MeshHTTPRoute", 1),
			nil, 400, []string{"type"}, "MeshTimeout"},
		{"unknown kind", "PUT", "/meshes/m1", `{"type":"Foo","name":"m1"}`, nil, 400, []string{"type"}, ""},
		{"not JSON", "PUT", t1, "{not json", nil, 400, nil, "Bad Request"},
		{"unknown field", "PUT", t1,
			strings.Replace(timeoutJSON("t1", ""), "requestTimeout", "requestTimeot", 1), nil, 400, nil,
			"requestTimeout"},
		{"no content type", "PUT", t1, timeoutJSON("t1", ""), []string{"Content-Type", ""}, 415, nil,
			"Content-Type is missing"},
		{"other content type", "PUT", t1, timeoutJSON("t1", ""), []string{"Content-Type", "text/html"}, 415,
			nil, "text/html"},
		{"not acceptable", "GET", t1, "", []string{"Accept", "image/png"}, 406, nil, "image/png"},
		{"labels", "PUT", t1, timeoutJSON("t1", `"labels":{"kuma.io/origin":"foo","kuma.io/zone":"other"},`),
			nil, 400,
			[]string{`labels["kuma.io/origin"]`, `labels["kuma.io/zone"]`}, "Resource is not valid"},
		{"mesh label", "PUT", t1, timeoutJSON("t1", `"labels":{"kuma.io/mesh":"m"},`), nil, 400, nil,
			"kuma.io/mesh"},
		{"origin global at a standalone zone", "PUT", t1,
			timeoutJSON("t1", `"labels":{"kuma.io/origin":"global"},`), nil, 400,
			[]string{`labels["kuma.io/origin"]`}, ""},
		{"read-only kind", "PUT", "/meshes/default/dataplane-insights/x", "{}", nil, 405, nil,
			"control planes alone"},
		{"size", "GET", "/meshtimeouts?size=1001", "", nil, 400, []string{"size"}, ""},
		{"size no number", "GET", "/meshtimeouts?size=x", "", nil, 400, []string{"size"}, ""},
		{"offset", "GET", "/meshtimeouts?offset=-1", "", nil, 400, nil, "invalid: offset"},
		{"filter", "GET", "/meshtimeouts?filter[name]=z", "", nil, 400, []string{"filter[name]"}, ""},
		{"filter cut off", "GET", "/meshtimeouts?filter[labels.a", "", nil, 400, nil, ""},
		{"gateway", "GET", "/meshes/default/dataplanes?gateway=foo", "", nil, 400, []string{"gateway"}, ""},
		{"format", "GET", "/meshes/default/dataplanes/dp1?format=foo", "", nil, 400, []string{"format"}, ""},
		{"dryRun", "PUT", t1 + "?dryRun=perhaps", timeoutJSON("t1", ""), nil, 400, []string{"dryRun"}, ""},
		{"wait", "PUT", t1 + "?wait=long", timeoutJSON("t1", ""), nil, 400, []string{"wait"}, ""},
		{"If-Match", "PUT", t1, timeoutJSON("t1", ""), []string{"If-Match", "abc"}, 400, nil, "If-Match"},
		{"stale If-Match", "PUT", t1, timeoutJSON("t1", ""), []string{"If-Match", `"77"`}, 412, nil,
			"does not exist"},
		{"If-Match of nothing", "PUT", t1, timeoutJSON("t1", ""), []string{"If-Match", `*`}, 412, nil,
			"does not exist"},
		{"delete of nothing", "DELETE", t1, "", nil, 404, nil, "Could not delete a resource"},
		{"mesh in use", "DELETE", "/meshes/default", "", nil, 400, []string{"mesh"}, "dataplanes"},
		{"since", "GET", "/meshtimeouts?watch=true&since=x", "", nil, 400, []string{"since"}, ""},
		{"token without mesh", "POST", "/tokens/dataplane", "{}", nil, 400, []string{"mesh"}, ""},
		{"token of no mesh", "POST", "/tokens/dataplane", `{"mesh":"nope"}`, nil, 404, nil,
			"Signing Key not found"},
		{"token of a name that cannot be", "POST", "/tokens/dataplane", `{"mesh":"default","name":"A B"}`,
			nil, 400,
			[]string{"name"}, "cannot be a name"},
		{"token of a zone that cannot be", "POST", "/tokens/zone",
			`{"zone":"a/b","scope":["cp"],"validFor":"1h"}`, nil, 400, []string{"zone"}, "cannot be a name"},
		{"token without a key", "POST", "/tokens/dataplane", `{"mesh":"default","name":"a"}`, nil, 404, nil,
			"mesh default has no key to sign with: apply a Secret dataplane-token-signing-key-default-1"},
		{"token of zero life", "POST", "/tokens/dataplane", `{"mesh":"default","validFor":"0s"}`, nil, 400,
			[]string{"validFor"}, ""},
		{"token of no duration", "POST", "/tokens/dataplane", `{"mesh":"default","validFor":"soon"}`, nil,
			400, []string{"validFor"}, ""},
		{"zone token without scope", "POST", "/tokens/zone", `{"zone":"z","validFor":"1h"}`, nil, 400,
			[]string{"scope"}, ""},
		{"user token of nothing", "POST", "/tokens/user", "{}", nil, 400, []string{"name", "validFor"}, ""},
		{"token body", "POST", "/tokens/user", "{zz", nil, 400, nil, "Bad Request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.t = t
			g := p.do(c.method, c.path, c.body, c.headers...)
			p.want(g, c.status, c.contains)
			if title, _ := g.json["title"].(string); title == "" || g.json["type"] != "/std-errors" ||
				g.json["status"] != float64(c.status) {
				t.Errorf("error body: %s", g.text)
			}
			if c.fields != nil {
				if diff := cmp.Diff(c.fields, g.fields()); diff != "" {
					t.Errorf("fields: %s in %s", diff, g.text)
				}
			}
			if c.status == 405 && g.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
	p.t = t
	if got := p.want(p.do("POST", "/meshes", "{}"), 405).header.Get("Allow"); got != "GET" {
		t.Errorf("Allow: %s", got)
	}
}

func TestPutGetDelete(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	g := p.want(p.do("PUT", t1, timeoutJSON("t1", `"labels":{"a":"1","c":"2"},`)), 201, "{}")
	rev := g.header.Get("X-Meridian-Revision")
	if rev == "" {
		t.Error("no revision")
	}
	g = p.want(p.do("PUT", t1, timeoutJSON("t1", `"labels":{"a":"1","c":"2"},`)), 200)
	if again := g.header.Get("X-Meridian-Revision"); again != rev {
		t.Errorf("a write of the same moved the revision from %s to %s", rev, again)
	}
	g = p.want(p.do("GET", t1, ""), 200)
	if tag := g.header.Get("ETag"); tag != `"`+rev+`"` {
		t.Errorf("ETag %s, want %s", tag, rev)
	}
	labels := map[string]any{"a": "1", "c": "2", "kuma.io/mesh": "default", "kuma.io/origin": "zone",
		"kuma.io/zone": "east", "kuma.io/env": "universal"}
	if diff := cmp.Diff(labels, g.json["labels"]); diff != "" {
		t.Errorf("labels: %s", diff)
	}
	if g.json["kri"] != "kri_mt_default_east__t1_" {
		t.Errorf("kri %v", g.json["kri"])
	}
	// Labels are replaced; what GET gave can be put back.
	p.want(p.do("PUT", t1, g.text), 200)
	p.want(p.do("PUT", t1, "type: MeshTimeout\nmesh: default\nname: t1\nlabels: {a: '1'}\nspec:\n  to:\n  - "+
		"targetRef: {kind: Mesh}\n    default: {connectionTimeout: 1s}\n"), 200)
	g = p.want(p.do("GET", t1, "", "Accept", "application/yaml"), 200, "connectionTimeout: 1s",
		"type: MeshTimeout\n")
	if strings.Contains(g.text, "c: ") || g.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("yaml: %s", g.text)
	}
	p.want(p.do("PUT", t1, g.text), 200)
	p.want(p.do("GET", t1+"?format=k8s", ""), 200, `"apiVersion": "kuma.io/v1alpha1"`, `"a": "1"`)

	// Conditions.
	g = p.want(p.do("GET", t1, ""), 200)
	tag := g.header.Get("ETag")
	p.want(p.do("PUT", t1, timeoutJSON("t1", ""), "If-None-Match", "*"), 412, "already exists")
	p.want(p.do("PUT", t1, timeoutJSON("t1", ""), "If-Match", tag), 200)
	p.want(p.do("PUT", t1, timeoutJSON("t1", `"labels":{"b":"1"},`), "If-Match", tag), 412,
		"changed in between")
	p.want(p.do("DELETE", t1, "", "If-Match", tag), 412)

	// Dry runs change nothing.
	p.want(p.do("PUT", t1+"?dryRun=true", timeoutJSON("t1", `"labels":{"b":"1"},`)), 200, `"created": false`,
		`"changed": true`)
	p.want(p.do("DELETE", t1+"?dryRun=true", ""), 200)
	if after := p.want(p.do("GET", t1, ""), 200).text; strings.Contains(after, `"b"`) {
		t.Errorf("a dry run wrote: %s", after)
	}

	// A display name may be added, and not changed.
	p.want(p.do("PUT", t1, timeoutJSON("t1", `"labels":{"kuma.io/display-name":"x"},`)), 200)
	g = p.want(p.do("PUT", t1, timeoutJSON("t1", "")), 400, "Could not update a resource")
	if diff := cmp.Diff([]string{`labels["kuma.io/display-name"]`}, g.fields()); diff != "" {
		t.Error(diff)
	}
	p.want(p.do("DELETE", t1, ""), 200, "{}")
	p.want(p.do("DELETE", t1, ""), 404)
}

func TestLists(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	p.want(p.do("GET", "/meshtimeouts", ""), 200, `"items": []`, `"next": null`, `"total": 0`)
	p.want(p.do("PUT", t1, timeoutJSON("t1", `"labels":{"a":"1"},`)), 201)
	p.want(p.do("PUT", "/meshes/default/meshtimeouts/t2", timeoutJSON("t2", `"labels":{"a":"2"},`)), 201)
	p.want(p.do("GET", "/meshtimeouts?name=t2", "", "Accept", "application/yaml"), 200, "total: 1\n",
		"items:\n  - type: MeshTimeout\n", "a: \"2\"\n", "next: null\n")
	gateway := dataplane("gw", "east")
	gateway.Spec.(*meshv1.Dataplane).Networking = &meshv1.Dataplane_Networking{Address: "10.0.0.2",
		Gateway: &meshv1.Dataplane_Gateway{Tags: map[string]string{"kuma.io/service": "edge"}}}
	p.seed(dataplane("dp1", "east"), gateway)
	for _, c := range []struct {
		path  string
		total int
		names string
		next  string
	}{
		{"/meshtimeouts?size=1", 2, "t1", "/meshtimeouts?after=default%2Ft1%2Feast%2F&offset=1&size=1"},
		{"/meshes/default/meshtimeouts?size=1&offset=1&name=t", 2, "t2", ""},
		{"/meshtimeouts?offset=100", 2, "", ""},
		{"/meshtimeouts?name=2", 1, "t2", ""},
		{"/meshtimeouts?filter[labels.kuma.io/origin]=zone", 2, "t1 t2", ""},
		{"/meshtimeouts?filter[labels.kuma.io/origin]=global", 0, "", ""},
		{"/meshtimeouts?filter%5Blabels.a%5D=2", 1, "t2", ""},
		{"/meshtimeouts?zone=east", 2, "t1 t2", ""},
		{"/meshtimeouts?zone=", 0, "", ""},
		{"/dataplanes?gateway=true", 1, "gw", ""},
		{"/dataplanes?gateway=builtin", 0, "", ""},
		{"/dataplanes?gateway=Delegated", 1, "gw", ""},
		{"/dataplanes?gateway=false", 1, "dp1", ""},
		{"/dataplanes?tag=kuma.io/service:we", 1, "dp1", ""},
		{"/dataplanes?tag=kuma.io/service:*", 2, "dp1 gw", ""},
		{"/dataplanes?tag=version:v2", 0, "", ""},
		{"/meshes/", 1, "default", ""},
	} {
		g := p.want(p.do("GET", c.path, ""), 200)
		var body struct {
			Total int
			Items []struct{ Name string }
			Next  *string
		}
		if err := json.Unmarshal([]byte(g.text), &body); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range body.Items {
			names = append(names, i.Name)
		}
		next := ""
		if body.Next != nil {
			next = strings.TrimPrefix(*body.Next, p.url)
		}
		if body.Total != c.total || strings.Join(names, " ") != c.names || next != c.next {
			t.Errorf("%s: total %d, names %v, next %q; want %d, %q, %q", c.path, body.Total, names, next,
				c.total, c.names, c.next)
		}
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	meshBody := `{"type":"Mesh","name":"m2"}`
	dp := `{"type":"Dataplane","mesh":"default","name":"dp1","networking":{"address":"10.0.0.1",` +
		`"inbound":[{"port":80,"tags":{"kuma.io/service":"web"}}]}}`
	origin := func(v string) string { return `"labels":{"kuma.io/origin":"` + v + `"},` }
	for _, c := range []struct {
		name       string
		role       func(*api.Config)
		path, body string
		status     int
		contains   string
		zone       string // of what was written
	}{
		{"policy at global", global, t1, timeoutJSON("t1", ""), 201, "", ""},
		{"policy at global that says so", global, t1, timeoutJSON("t1", origin("global")), 201, "", ""},
		{"zone's policy at global", global, t1, timeoutJSON("t1", origin("zone")), 400,
			"apply it at the zone", ""},
		{"mesh at global", global, "/meshes/m2", meshBody, 201, "", ""},
		{"dataplane at global", global, "/meshes/default/dataplanes/dp1", dp, 405,
			"apply it at the control plane of that zone", ""},
		{"policy at a zone without origin", federated, t1, timeoutJSON("t1", ""), 400, "kuma.io/origin: zone",
			""},
		{"policy at a zone with origin", federated, t1, timeoutJSON("t1", origin("zone")), 201, "", "east"},
		{"mesh at a zone", federated, "/meshes/m2", meshBody, 405, "apply it at the global control plane",
			""},
		{"dataplane at a zone", federated, "/meshes/default/dataplanes/dp1", dp, 201, "", "east"},
		{"secret at a zone", federated, "/meshes/default/secrets/s",
			`{"type":"Secret","mesh":"default","name":"s","data":"YQ=="}`, 201, "", "east"},
		{"policy at a standalone zone", nil, t1, timeoutJSON("t1", ""), 201, "", "east"},
		{"mesh at a standalone zone", nil, "/meshes/m2", meshBody, 201, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := withMesh(t, c.role)
			p.want(p.do("PUT", c.path, c.body), c.status, c.contains)
			if c.status != 201 {
				return
			}
			p.want(p.do("GET", c.path+"?zone="+c.zone, ""), 200)
			p.want(p.do("DELETE", c.path, ""), 200)
		})
	}
}

func TestOthersResources(t *testing.T) {
	t.Parallel()
	p := withMesh(t, federated)
	p.seed(timeoutResource("t1", ""), timeoutResource("both", ""), timeoutResource("both", "east"))
	p.want(p.do("DELETE", t1, ""), 400, "delete it at the global control plane")
	p.want(p.do("GET", t1, ""), 200)
	both := "/meshes/default/meshtimeouts/both"
	p.want(p.do("GET", both, ""), 409, "global (zone=), east")
	p.want(p.do("GET", both+"?zone=east", ""), 200, `"kri_mt_default_east__both_"`)
	p.want(p.do("GET", both+"?zone=", ""), 200, `"kri_mt_default___both_"`)
	p.want(p.do("GET", both+"?zone=west", ""), 404)
	p.want(p.do("DELETE", both, ""), 200)
	p.want(p.do("DELETE", both+"?zone=", ""), 400, "global")
	p.want(p.do("GET", both, ""), 200, `"kri_mt_default___both_"`)
}

func TestMeshDelete(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	p.want(p.do("PUT", t1, timeoutJSON("t1", "")), 201)
	p.seed(dataplane("dp1", "east"))
	p.want(p.do("DELETE", "/meshes/default", ""), 400)
	p.want(p.do("DELETE", "/meshes/default/dataplanes/dp1", ""), 200)
	p.want(p.do("DELETE", "/meshes/default", ""), 200)
	for r := range p.replica.View().All() {
		t.Errorf("%s is left", r.Key)
	}
}

func TestZoneDelete(t *testing.T) {
	t.Parallel()
	p := withMesh(t, global)
	zone := &mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindZone, Name: "west"},
		Spec:   &meshv1.Zone{},
		Status: &meshv1.ZoneStatus{State: "Online"},
	}
	service := &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "west", Name: "web"},
		Spec: &meshv1.MeshService{},
	}
	p.seed(zone, service)
	g := p.want(p.do("DELETE", "/zones/west", ""), 400, "it is connected")
	if diff := cmp.Diff([]string{"zone"}, g.fields()); diff != "" {
		t.Error(diff)
	}
	gone := zone.Clone()
	gone.Status = &meshv1.ZoneStatus{State: "Offline"}
	p.seed(gone)
	p.want(p.do("DELETE", "/zones/west", ""), 200)
	p.want(p.do("GET", "/meshes/default/meshservices/web", ""), 404)
}

func TestRights(t *testing.T) {
	t.Parallel()
	p := withMesh(t, func(c *api.Config) { c.LocalhostIsAdmin = false })
	p.keys()
	admin, err := p.tokens.AdminToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asAdmin := bearer(admin)
	token := p.want(p.do("POST", "/tokens/user", `{"name":"john","groups":["team-a"],"validFor":"1h"}`,
		asAdmin...), 200)
	if ct := token.header.Get("Content-Type"); ct != "text/plain" ||
		strings.ContainsAny(token.text, "\n \"") {
		t.Errorf("token answer: %s %q", ct, token.text)
	}
	asJohn := bearer(token.text)
	secret := `{"type":"Secret","mesh":"default","name":"s","data":"YQ=="}`
	for _, c := range []struct {
		who          string
		headers      []string
		method, path string
		body         string
		status       int
	}{
		{"anonymous", nil, "GET", "/", "", 200},
		{"anonymous", nil, "GET", "/who-am-i", "", 200},
		{"anonymous", nil, "GET", "/meshes", "", 403},
		{"anonymous", nil, "GET", "/status", "", 403},
		{"anonymous", nil, "GET", "/_resources", "", 403},
		{"anonymous", nil, "GET", "/meshtimeouts?watch=true", "", 403},
		{"anonymous", nil, "PUT", "/meshes/anon", `{"type":"Mesh","name":"anon"}`, 403},
		{"anonymous", nil, "DELETE", "/meshes/default/secrets/nope", "", 403},
		{"anonymous", nil, "POST", "/tokens/user",
			`{"name":"x","groups":["mesh-system:admin"],"validFor":"1h"}`, 403},
		{"john", asJohn, "GET", "/meshes", "", 200},
		{"john", asJohn, "GET", "/status", "", 200},
		{"john", asJohn, "GET", "/secrets", "", 403},
		{"john", asJohn, "GET", "/global-secrets/admin-user-token", "", 403},
		{"john", asJohn, "GET", "/globalsecrets/admin-user-token", "", 403},
		{"john", asJohn, "GET", "/secrets?watch=true", "", 403},
		{"john", asJohn, "PUT", t1, timeoutJSON("t1", ""), 403},
		{"john", asJohn, "DELETE", "/meshes/default", "", 403},
		{"john", asJohn, "POST", "/tokens/dataplane", `{"mesh":"default"}`, 403},
		{"admin", asAdmin, "PUT", "/meshes/default/secrets/s", secret, 201},
		{"admin", asAdmin, "GET", "/globalsecrets", "", 200},
		{"admin", asAdmin, "PUT", t1, timeoutJSON("t1", ""), 201},
		{"a bad token", bearer("x"), "GET", "/meshes", "", 401},
		{"a bad token", bearer("x"), "PUT", t1, timeoutJSON("t1", ""), 401},
	} {
		g := p.do(c.method, c.path, c.body, c.headers...)
		if g.status != c.status {
			t.Errorf("%s, %s %s: %d, want %d: %s", c.who, c.method, c.path, g.status, c.status, g.text)
		}
	}
	g := p.want(p.do("GET", "/secrets", "", asJohn...), 403)
	if g.json["title"] != "Access Denied" ||
		!strings.Contains(g.text, "john/team-a,mesh-system:authenticated") {
		t.Errorf("rejection: %s", g.text)
	}
	var audits []string
	for _, e := range p.logs.All() {
		if strings.HasPrefix(e.Message, "audit") {
			audits = append(audits,
				e.Message+" "+e.ContextMap()["user"].(string)+" "+e.ContextMap()["verb"].(string))
		}
		if text, _ := json.Marshal(e.ContextMap()); strings.Contains(string(text), token.text) ||
			strings.Contains(string(text), "YQ==") {
			t.Errorf("a log line holds a secret: %s", text)
		}
	}
	for _, want := range []string{"audit mesh-system:admin put", "audit mesh-system:admin issue",
		"audit: rejected john put", "audit: rejected john delete",
		"audit: rejected john issue", "audit: rejected mesh-system:anonymous put"} {
		if !contains(audits, want) {
			t.Errorf("no audit line %q among %q", want, audits)
		}
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func TestStoreUnavailable(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	p.want(p.do("PUT", t1, timeoutJSON("t1", "")), 201)
	p.store.fail = func() error { return store.ErrUnavailable }
	g := p.want(p.do("PUT", t1, timeoutJSON("t1", `"labels":{"a":"1"},`)), 503,
		"store of the control plane is unavailable")
	if g.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	p.want(p.do("DELETE", t1, ""), 503)
	p.want(p.do("GET", t1, ""), 200)
	p.store.fail = nil
	p.want(p.do("PUT", t1, timeoutJSON("t1", `"labels":{"a":"1"},`)), 200)
}

func TestPanicIsAnAnswer(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	p.store.fail = func() error { panic("boom") }
	p.want(p.do("PUT", t1, timeoutJSON("t1", "")), 500, "Internal Server Error")
	p.store.fail = nil
	if p.logs.FilterMessage("panic in a request").Len() != 1 {
		t.Error("the panic is not in the log")
	}
	p.want(p.do("PUT", t1, timeoutJSON("t1", "")), 201)
}

func TestParallelPuts(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	results := make(chan int, 30)
	for i := range 30 {
		go func() {
			req, _ := http.NewRequest("PUT", p.url+t1,
				strings.NewReader(timeoutJSON("t1", `"labels":{"n":"`+string(rune('a'+i%26))+`"},`)))
			req.Header.Set("Content-Type", "application/json")
			resp, err := p.client.Do(req)
			if err != nil {
				results <- 0
				return
			}
			resp.Body.Close()
			results <- resp.StatusCode
		}()
	}
	counts := map[int]int{}
	for range 30 {
		counts[<-results]++
	}
	if counts[201] != 1 || counts[200] != 29 {
		t.Errorf("answers %v, want one 201 and 29 times 200", counts)
	}
}
