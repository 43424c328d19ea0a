package traffic

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

const us = "us-east"

// callerMesh is a world whose callers are what is tested: one with a sidecar, and bare destinations.
type callerMesh struct {
	*meshtest.World
	web                 *meshtest.Workload
	api                 []*meshtest.Workload
	next, mirror        *meshtest.Workload
	db, dbNext, greeter *meshtest.Workload
}

func startCallerMesh(t *testing.T) *callerMesh {
	m := &callerMesh{World: meshtest.Start(t, us)}
	bare := func(name, service, protocol, version string) *meshtest.Workload {
		return m.Add(meshtest.Spec{
			Zone:     us,
			Name:     name,
			Service:  service,
			Protocol: protocol,
			Bare:     true,
			Tags:     map[string]string{"version": version},
		})
	}
	for i := range 3 {
		m.api = append(m.api, bare(fmt.Sprintf("api-%d", i+1), "api", "http", "v1"))
	}
	m.next, m.mirror = bare("next", "api-next", "http", "v2"), bare("mirror", "api-mirror", "http", "v1")
	m.db, m.dbNext, m.greeter = bare("db", "db", "tcp", "v1"), bare("db-next", "db-next", "tcp", "v1"),
		bare("greeter", "greeter", "grpc", "v1")
	m.web = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "web",
		Service:   "web",
		Labels:    map[string]string{"app": "web"},
		Outbounds: []string{"api", "db", "greeter", "api-next"},
	})
	m.web.Await(t, "api", "api-next")
	return m
}

// toAPI is a policy of the caller about api.
func toAPI(kind, conf string) string { return to(kind, "api", conf) }

func to(kind, service, conf string) string {
	return fmt.Sprintf("type: %s\nmesh: default\nname: under-test-%s\nspec: {targetRef: {kind: Dataplane, "+
		"labels: {app: web}}, to: [{targetRef: {kind: MeshService, name: %s}, %s}]}\n", kind, service,
		service, conf)
}

// rule of a route that answers with its name in a header.
func rule(name, match string) string {
	return fmt.Sprintf("{matches: [%s], default: {filters: [{type: ResponseHeaderModifier, "+
		"responseHeaderModifier: {set: [{name: x-rule, value: %s}]}}]}}", match, name)
}

func TestRoutes(t *testing.T) {
	m := startCallerMesh(t)
	t.Run("matches", m.testMatches)
	t.Run("filters", m.testFilters)
	t.Run("filters in order", m.testFiltersInOrder)
	t.Run("split by hash", m.testSplitByHash)
	t.Run("mirror", m.testMirror)
	t.Run("weights", m.testWeights)
	t.Run("missing backends", m.testMissing)
	t.Run("tcp", m.testTCP)
	t.Run("tcp route loses to http route", m.testPrecedence)
	t.Run("attached to a route", m.testAttached)
	t.Run("shadow", m.testShadow)
}

func (m *callerMesh) testMatches(t *testing.T) {
	rules := []string{
		rule("exact", "{path: {type: Exact, value: /exact}}"),
		rule("prefix", "{path: {type: PathPrefix, value: /prefix}}"),
		rule("regex", "{path: {type: RegularExpression, value: '/r[0-9]+'}}"),
		rule("method", "{method: DELETE, path: {type: PathPrefix, value: /m}}"),
		rule("header-exact", "{path: {type: PathPrefix, value: /h}, headers: [{name: x-kind, "+
			"value: exact}]}"),
		rule("header-prefix",
			"{path: {type: PathPrefix, value: /h}, headers: [{type: Prefix, name: x-kind, value: pre}]}"),
		rule("header-regex", "{path: {type: PathPrefix, value: /h}, headers: [{type: "+
			"RegularExpression, name: "+
			"x-kind, value: 'r[0-9]+'}]}"),
		rule("header-present",
			"{path: {type: PathPrefix, value: /h}, headers: [{type: Present, name: x-there}]}"),
		rule("header-absent",
			"{path: {type: PathPrefix, value: /absent}, headers: [{type: Absent, name: x-there}]}"),
		rule("query-exact", "{path: {type: PathPrefix, value: /q}, queryParams: [{type: Exact, name: k, "+
			"value: v}]}"),
		rule("query-regex", "{path: {type: PathPrefix, value: /q}, queryParams: [{type: RegularExpression, "+
			"name: k, value: 'w+'}]}"),
		rule("either", "{path: {type: Exact, value: /one}}, {path: {type: Exact, value: /two}}"),
	}
	m.Apply(t, toAPI("MeshHTTPRoute", "rules: ["+strings.Join(rules, ", ")+"]"))
	for _, c := range []struct {
		want, method, path string
		headers            []string
	}{
		{"exact", "GET", "/exact", nil}, {"", "GET", "/exact/", nil}, {"exact", "GET", "/exact?k=v", nil},
		{"prefix", "GET", "/prefix", nil}, {"prefix", "GET", "/prefix/deep", nil},
		{"", "GET", "/prefixed", nil},
		{"regex", "GET", "/r12", nil}, {"", "GET", "/r12/x", nil}, {"", "GET", "/r", nil},
		{"method", "DELETE", "/m", nil}, {"", "GET", "/m", nil},
		{"header-exact", "GET", "/h", []string{"x-kind", "exact"}},
		{"header-prefix", "GET", "/h", []string{"x-kind", "prefer"}},
		{"header-regex", "GET", "/h", []string{"x-kind", "r1"}}, {"", "GET", "/h", []string{"x-kind", "r1x"}},
		{"header-present", "GET", "/h", []string{"x-there", "yes"}}, {"", "GET", "/h", nil},
		{"header-absent", "GET", "/absent", nil}, {"", "GET", "/absent", []string{"x-there", "yes"}},
		{"query-exact", "GET", "/q?k=v", nil}, {"query-regex", "GET", "/q?k=www", nil},
		{"", "GET", "/q?k=x", nil}, {"", "GET", "/q", nil},
		{"either", "GET", "/one", nil}, {"either", "GET", "/two", nil}, {"", "GET", "/", nil},
	} {
		got := m.web.Call("api", c.method, c.path, c.headers...)
		if got.Status != 200 || got.Header.Get("x-rule") != c.want {
			t.Errorf("%s %s %v: met the rule %q, want %q (%v)", c.method, c.path, c.headers,
				got.Header.Get("x-rule"), c.want, got)
		}
	}
}

func (m *callerMesh) testFilters(t *testing.T) {
	filter := func(path, filters string) string {
		return fmt.Sprintf("{matches: [{path: {type: PathPrefix, value: %s}}], default: {filters: [%s]}}",
			path, filters)
	}
	m.Apply(t, toAPI("MeshHTTPRoute", "rules: ["+strings.Join([]string{
		filter("/request", "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: "+
			"x-set, value: "+
			"new}], add: [{name: x-add, value: more}], remove: [x-gone]}}"),
		filter("/response", "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: "+
			"content-type, value: text/other}], add: [{name: x-add, value: more}], remove: [x-powered-by]}}"),
		filter("/redirect", "{type: RequestRedirect, requestRedirect: {scheme: https, hostname: "+
			"other.example, "+
			"port: 8443, path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 308}}"),
		filter("/moved", "{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, "+
			"replacePrefixMatch: /to}}}"),
		filter("/full", "{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: "+
			"ReplaceFullPath, replaceFullPath: /one}}}"),
		filter("/v1", "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, "+
			"replacePrefixMatch: /v2}}}"),
		filter("/strip", "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, "+
			"replacePrefixMatch: /}}}"),
	}, ", ")+"]"))
	r := m.web.Call("api", "GET", "/request", "x-set", "old", "x-add", "some", "x-gone", "here")
	if h := r.Answer.Header; h.Get("x-set") != "new" || len(h.Values("x-set")) != 1 ||
		strings.Join(h.Values("x-add"), ",") != "some,more" || h.Get("x-gone") != "" {
		t.Errorf("request headers: %v (%v)", h, r)
	}
	for _, a := range m.api {
		a.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("x-powered-by", "chance")
			w.Header().Set("x-add", "some")
			a.Echo(w, r)
		})
	}
	r = m.web.Call("api", "GET", "/response")
	if h := r.Header; r.Status != 200 || h.Get("content-type") != "text/other" ||
		strings.Join(h.Values("x-add"), ",") != "some,more" || h.Get("x-powered-by") != "" {
		t.Errorf("response headers: %v (%v)", h, r)
	}
	for _, c := range []struct {
		path, location string
		status         int
	}{
		{"/redirect/x?k=v", "https://other.example:8443/new?k=v", 308},
		{"/moved", "http://" + m.web.To("api") + "/to", 302},
		{"/moved/deep", "http://" + m.web.To("api") + "/to/deep", 302},
	} {
		if r := m.web.Call("api", "GET", c.path); r.Status != c.status ||
			r.Header.Get("location") != c.location {
			t.Errorf("%s: %d to %q, want %d to %q", c.path, r.Status, r.Header.Get("location"), c.status,
				c.location)
		}
	}
	for path, want := range map[string]string{"/full/x": "/one", "/v1": "/v2", "/v1/": "/v2/",
		"/v1/foo": "/v2/foo", "/v1/foo?k=v": "/v2/foo?k=v", "/v1foo": "/v1foo",
		"/strip": "/", "/strip/foo": "/foo"} {
		if r := m.web.Call("api", "GET", path); r.Answer.Path != want {
			t.Errorf("%s became %q, want %q (%v)", path, r.Answer.Path, want, r)
		}
	}
	if r := m.web.Call("api", "GET", "/full"); r.Answer.Host != "inner.example" {
		t.Errorf("the host became %q", r.Answer.Host)
	}
}

// testFiltersInOrder: a list of filters acts in its order, and what is written is what is sent.
func (m *callerMesh) testFiltersInOrder(t *testing.T) {
	request := func(edits string) string {
		return "{type: RequestHeaderModifier, requestHeaderModifier: {" + edits + "}}"
	}
	rewrite := func(parts string) string { return "{type: URLRewrite, urlRewrite: {" + parts + "}}" }
	route := func(path string, filters ...string) string {
		return fmt.Sprintf(
			"{matches: [{path: {type: PathPrefix, value: %s}}], default: {filters: [%s]}}",
			path,
			strings.Join(filters, ", "),
		)
	}
	m.Apply(t, toAPI("MeshHTTPRoute", "rules: ["+strings.Join([]string{
		route("/headers",
			request("set: [{name: x-a, value: one}, {name: x-user, value: ''}], remove: [x-b]"),
			request("add: [{name: x-a, value: two}], set: [{name: x-b, value: kept}]"),
			request("set: [{name: x-d, value: d}]"), request("remove: [x-d]"),
			request("add: [{name: x-e, value: first}]"), request("set: [{name: x-e, value: last}]")),
		route("/two", rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}"),
			rewrite("hostname: a.example")),
		route("/backslash", rewrite(`path: {type: ReplaceFullPath, replaceFullPath: '/a\1b'}`)),
		route("/nothing", rewrite(`path: {type: ReplaceFullPath, replaceFullPath: ''}`)),
	}, ", ")+"]"))
	h := m.web.Call(
		"api",
		"GET",
		"/headers",
		"x-a",
		"old",
		"x-b",
		"old",
		"x-d",
		"old",
		"x-e",
		"old",
		"x-user",
		"forged",
	).Answer.Header
	for name, want := range map[string]string{"x-a": "one,two", "x-b": "kept", "x-d": "", "x-e": "last",
		"x-user": ""} {
		if got := strings.Join(h.Values(name), ","); got != want {
			t.Errorf("%s became %q, want %q", name, got, want)
		}
	}
	if r := m.web.Call("api", "GET", "/two/x"); r.Answer.Path != "/one/x" || r.Answer.Host != "a.example" {
		t.Errorf("two rewrites: %q at %q", r.Answer.Path, r.Answer.Host)
	}
	for path, want := range map[string]string{"/backslash/x": "/a%5C1b", "/nothing/x?k=v": "/?k=v"} {
		if r := m.web.Call("api", "GET", path); r.Answer.Path != want {
			t.Errorf("%s became %q, want %q", path, r.Answer.Path, want)
		}
	}
}

// testSplitByHash: with a consistent hash, one user stays on one side of a split.
func (m *callerMesh) testSplitByHash(t *testing.T) {
	m.Apply(t, toAPI("MeshLoadBalancingStrategy", "default: {loadBalancer: {type: RingHash}, hashPolicies: "+
		"[{type: Header, header: {name: x-user}}]}"))
	m.Apply(t, toAPI("MeshHTTPRoute", "rules: [{matches: [{path: {type: PathPrefix, value: /}}], default: "+
		"{backendRefs: [{kind: MeshService, name: api, port: 8080, weight: 50}, "+
		"{kind: MeshService, name: api-next, port: 8080, weight: 50}]}}]"))
	sides := map[bool]int{}
	for user := range 40 {
		seen := map[bool]bool{}
		for range 5 {
			r := m.web.Call("api", "GET", "/", "x-user", fmt.Sprint("user-", user))
			if r.Status != 200 {
				t.Fatal(r)
			}
			seen[r.Answer.Instance == "next"] = true
		}
		if len(seen) != 1 {
			t.Errorf("user %d met both sides", user)
		}
		sides[seen[true]]++
	}
	if sides[true] < 5 || sides[false] < 5 {
		t.Errorf("users by side: %v", sides)
	}
}

func (m *callerMesh) testMirror(t *testing.T) {
	mirror := func(percentage string) string {
		return toAPI("MeshHTTPRoute",
			"rules: [{matches: [{path: {type: PathPrefix, value: /}}], default: {filters: [{type: "+
				"RequestMirror, requestMirror: {"+percentage+
				"backendRef: {kind: MeshService, name: api-mirror, port: 8080}}}]}}]")
	}
	count := func(n int) int {
		before := m.mirror.Requests()
		for range n {
			if r := m.web.Get("api"); r.Status != 200 || r.Answer.Instance == "mirror" {
				t.Fatal(r)
			}
		}
		return m.mirror.Requests() - before
	}
	// Copies are sent on their own: the last may arrive after the answer.
	before := m.mirror.Requests()
	m.Apply(t, mirror(""))
	count(100)
	meshtest.Eventually(t, "a copy of every request", func() (bool, string) {
		n := m.mirror.Requests() - before
		return n == 100, fmt.Sprint(n)
	})
	m.mirror.Fail(t, 500) // its answers are ignored
	m.Apply(t, mirror("percentage: 25, "))
	if n := count(1000); n < 180 || n > 320 { // 5 standard deviations
		t.Errorf("%d of 1000 were mirrored, want about 250", n)
	}
}

// chiSquared says how far counts are from shares; limit is that of one in a million.
func chiSquared(t *testing.T, counts map[string]int, shares map[string]float64) {
	t.Helper()
	limit := []float64{0, 23.93, 27.63, 30.66, 33.38, 35.89}[len(shares)-1]
	n, x := 0, 0.0
	for _, c := range counts {
		n += c
	}
	for name, share := range shares {
		want := share * float64(n)
		x += math.Pow(float64(counts[name])-want, 2) / want
	}
	for name := range counts {
		if _, ok := shares[name]; !ok {
			t.Errorf("%s should have got nothing: %v", name, counts)
		}
	}
	if x > limit {
		t.Errorf("%v is too far from %v: chi squared is %.1f, above %.1f", counts, shares, x, limit)
	}
	t.Logf("%v: chi squared %.1f", counts, x)
}

// tally counts who answered, or the status if it was not 200.
func tally(results []meshtest.Result) map[string]int {
	out := map[string]int{}
	for _, r := range results {
		switch {
		case r.Err != nil:
			out[r.Err.Error()]++
		case r.Status != 200:
			out[fmt.Sprint(r.Status)]++
		default:
			out[r.Answer.Instance]++
		}
	}
	return out
}

func (m *callerMesh) get(n int) map[string]int {
	return tally(m.web.Many(n, 8, func(int) meshtest.Result { return m.web.Get("api") }))
}

func backends(weights ...any) string {
	var refs []string
	for i := 0; i < len(weights); i += 2 {
		refs = append(refs, fmt.Sprintf("{kind: MeshService, name: %v, port: 8080, weight: %v}", weights[i],
			weights[i+1]))
	}
	return "rules: [{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [" +
		strings.Join(refs, ", ") + "]}}]"
}

func (m *callerMesh) testWeights(t *testing.T) {
	m.Apply(t, toAPI("MeshHTTPRoute", backends("api-mirror", 90, "api-next", 10)))
	chiSquared(t, m.get(2000), map[string]float64{"mirror": 0.9, "next": 0.1})
	m.Apply(t, toAPI("MeshHTTPRoute", backends("api", 6, "api-mirror", 3, "api-next", 1, "db", 0)))
	got := m.get(2000)
	got["api"] = got["api-1"] + got["api-2"] + got["api-3"]
	delete(got, "api-1")
	delete(got, "api-2")
	delete(got, "api-3")
	chiSquared(t, got, map[string]float64{"api": 0.6, "mirror": 0.3, "next": 0.1})
}

func (m *callerMesh) testMissing(t *testing.T) {
	m.Apply(t, toAPI("MeshHTTPRoute", backends("api-next", 50, "absent", 50)))
	chiSquared(t, m.get(2000), map[string]float64{"next": 0.5, "500": 0.5})
	for _, c := range []string{backends("absent", 1), backends("api-next", 0)} {
		m.Apply(t, toAPI("MeshHTTPRoute", c))
		if got := m.get(20); got["500"] != 20 {
			t.Errorf("%s: %v", c, got)
		}
	}
}

func (m *callerMesh) connections(n int) map[string]int {
	out := map[string]int{}
	for range n {
		who, done := m.web.Connect("db")
		out[who]++
		done()
	}
	return out
}

func (m *callerMesh) testTCP(t *testing.T) {
	split := func(weights ...any) string {
		text := backends(weights...)
		return to("MeshTCPRoute", "db",
			strings.Replace(text, "matches: [{path: {type: PathPrefix, value: /}}], ", "", 1))
	}
	if got := m.connections(10); got["db"] != 10 {
		t.Fatalf("without a route: %v", got)
	}
	m.Apply(t, split("db", 70, "db-next", 30))
	chiSquared(t, m.connections(1000), map[string]float64{"db": 0.7, "db-next": 0.3})
	m.Apply(t, split("db", 0, "db-next", 1))
	if got := m.connections(20); got["db-next"] != 20 {
		t.Errorf("all to the next: %v", got)
	}
	m.Apply(t, split("absent", 1))
	if got := m.connections(20); got[""] != 20 {
		t.Errorf("no backend: %v", got)
	}
}

// testPrecedence: a MeshTCPRoute about an HTTP port acts only while no MeshHTTPRoute is about it.
func (m *callerMesh) testPrecedence(t *testing.T) {
	tcp := to("MeshTCPRoute", "api",
		strings.Replace(backends("api-next", 1), "matches: [{path: {type: PathPrefix, value: /}}], ", "", 1))
	m.Apply(t, tcp)
	meshtest.Eventually(t, "the route of TCP takes the port", func() (bool, string) {
		r := m.web.Get("api")
		return r.Answer.Instance == "next" && r.Header.Get("server") == "", r.String()
	})
	m.Apply(t, toAPI("MeshHTTPRoute", backends("api-mirror", 1)))
	meshtest.Eventually(t, "the route of HTTP takes it back", func() (bool, string) {
		r := m.web.Get("api")
		return r.Answer.Instance == "mirror" && r.Header.Get("server") == "envoy", r.String()
	})
}

// testAttached: policies about a route hold for its requests and for no other.
func (m *callerMesh) testAttached(t *testing.T) {
	m.Apply(t, toAPI("MeshHTTPRoute",
		"rules: [{matches: [{path: {type: PathPrefix, value: /slow}}], default: {backendRefs: [{kind: "+
			"MeshService, name: api-next, port: 8080}]}}]"))
	m.Apply(t, `
type: MeshTimeout
mesh: default
name: attached
spec:
  to: [{targetRef: {kind: MeshHTTPRoute, name: under-test-api}, default: {http: {requestTimeout: 100ms}}}]
---
type: MeshRetry
mesh: default
name: attached
spec: {to: [{targetRef: {kind: MeshHTTPRoute, name: under-test-api}, default: {http: {numRetries: 0}}}]}
`)
	late := make(chan struct{})
	defer close(late)
	wait := func(a *meshtest.App) {
		a.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("wait") != "" {
				select {
				case <-late:
				case <-r.Context().Done():
				}
				return
			}
			w.WriteHeader(http.StatusBadGateway)
		})
	}
	wait(m.next.App)
	if r := m.web.Call("api", "GET", "/slow?wait=1"); r.Status != 504 {
		t.Errorf("the route's timeout: %v", r)
	}
	before := m.next.Requests()
	if r := m.web.Call("api", "GET", "/slow"); r.Status != 502 || m.next.Requests() != before+1 {
		t.Errorf("the route's retries: %d requests for %v", m.next.Requests()-before, r)
	}
	// What is not the route's is retried as the mesh's default says.
	for i, a := range m.api {
		if i > 0 {
			a.Fail(t, 502)
		}
	}
	for range 6 {
		if r := m.web.Get("api"); r.Status != 200 {
			t.Errorf("outside the route: %v", r)
		}
	}
}

func (m *callerMesh) testShadow(t *testing.T) {
	shadowed := func(doc string) string {
		return strings.Replace(doc, "spec:", "labels: {kuma.io/effect: shadow}\nspec:", 1)
	}
	m.Apply(t, shadowed(toAPI("MeshHTTPRoute", backends("absent", 1))))
	m.Apply(t, shadowed(toAPI("MeshTimeout", "default: {http: {requestTimeout: 1ms}}")))
	if got := m.get(30); got["api-1"]+got["api-2"]+got["api-3"] != 30 {
		t.Errorf("a shadow policy acts: %v", got)
	}
	m.Apply(t, toAPI("MeshHTTPRoute", backends("absent", 1))) // it would
	if got := m.get(30); got["500"] != 30 {
		t.Errorf("without the label: %v", got)
	}
}
