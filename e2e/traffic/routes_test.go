package traffic

import (
	"bufio"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"time"
)

var routeTests = []test{
	{"Matches", matches},
	{"HeaderModifiers", headerModifiers},
	{"Redirect", redirect},
	{"Rewrite", rewrite},
	{"Mirror", mirror},
	{"Weights", weights},
	{"MissingBackends", missingBackends},
	{"TCPSplit", tcpSplit},
	{"TCPRouteAndHTTPRoute", tcpRouteAndHTTPRoute},
	{"AttachedToARoute", attached},
	{"Shadow", shadow},
	{"Roles", moreSpecificWins},
}

// route is a MeshHTTPRoute of web to backend with the rules, YAML of a list in one line.
func route(name, rules string) string {
	return fmt.Sprintf(`
type: MeshHTTPRoute
mesh: default
name: %s
spec:
  targetRef: {kind: Dataplane, labels: {app: web}}
  to: [{targetRef: {kind: MeshService, name: backend, sectionName: http}, rules: %s}]
`, name, rules)
}

// toV2 is a default that sends everything to version 2.
const toV2 = "default: {backendRefs: [{kind: MeshService, name: backend-v2, port: 80}]}"

// matches: each kind of match takes the requests that it is about to version 2, and leaves the others.
func matches(w *world) {
	for _, c := range []struct {
		name, match string
		yes, no     []func() answer
	}{
		{"path exact", "{path: {type: Exact, value: /exact}}", w.asks("/exact", "/exact?q=1"), w.asks("/exact/", "/exactly", "/")},
		{"path prefix", "{path: {type: PathPrefix, value: /v2}}", w.asks("/v2", "/v2/", "/v2/x"), w.asks("/v2x", "/v1/v2", "/")},
		{"path regex", `{path: {type: RegularExpression, value: "/items/[0-9]+"}}`, w.asks("/items/7", "/items/42?x=y"), w.asks("/items/", "/items/x", "/items/7/x")},
		{"method", "{method: POST}", []func() answer{w.ask("/", method("POST"))}, w.asks("/")},
		{"header exact", "{headers: [{type: Exact, name: x-canary, value: 'yes'}]}", []func() answer{w.ask("/", header("X-Canary", "yes"))},
			[]func() answer{w.ask("/"), w.ask("/", header("x-canary", "no"))}},
		{"header regex", "{headers: [{type: RegularExpression, name: x-user, value: 'a.*z'}]}", []func() answer{w.ask("/", header("x-user", "abcz"))},
			[]func() answer{w.ask("/", header("x-user", "abc")), w.ask("/", header("x-user", "xabcz"))}},
		{"header prefix", "{headers: [{type: Prefix, name: x-user, value: ab}]}", []func() answer{w.ask("/", header("x-user", "abc"))}, []func() answer{w.ask("/", header("x-user", "ba"))}},
		{"header present", "{headers: [{type: Present, name: x-debug}]}", []func() answer{w.ask("/", header("x-debug", ""))}, w.asks("/")},
		{"header absent", "{headers: [{type: Absent, name: x-old}]}", w.asks("/"), []func() answer{w.ask("/", header("x-old", "1"))}},
		{"query exact", "{queryParams: [{type: Exact, name: version, value: '2'}]}", w.asks("/?version=2", "/?a=b&version=2"), w.asks("/?version=22", "/")},
		{"query regex", "{queryParams: [{type: RegularExpression, name: version, value: '[2-9]'}]}", w.asks("/?version=3"), w.asks("/?version=1", "/?version=33")},
		{"all of one match", "{path: {type: PathPrefix, value: /both}, method: POST, headers: [{name: x-a, value: '1'}]}",
			[]func() answer{w.ask("/both/x", method("POST"), header("x-a", "1"))}, []func() answer{w.ask("/both/x", method("POST")), w.ask("/both/x", header("x-a", "1"))}},
	} {
		w.apply(route("matches", fmt.Sprintf("[{matches: [%s], %s}]", c.match, toV2)))
		for i, ask := range c.yes {
			for range 3 {
				if err := want(ask(), 200, "v2-a", "v2-b"); err != nil {
					w.t.Errorf("%s: request %d should match: %v", c.name, i, err)
				}
			}
		}
		for i, ask := range c.no {
			// Of four requests that are not matched, and so go round all instances, some reach version 1.
			v1 := 0
			for range 4 {
				if a := ask(); strings.HasPrefix(a.app, "v1") {
					v1++
				}
			}
			if v1 == 0 {
				w.t.Errorf("%s: request %d should not match", c.name, i)
			}
		}
	}
	w.remove(w.apply(route("matches", "[{matches: [{method: PUT}], "+toV2+"}]"))...)
}

func (w *world) ask(path string, o ...option) func() answer {
	return func() answer { return w.keep(path, o...) }
}

func (w *world) asks(paths ...string) []func() answer {
	var out []func() answer
	for _, p := range paths {
		out = append(out, w.ask(p))
	}
	return out
}

func headerModifiers(w *world) {
	w.policy(route("headers", `[{matches: [{path: {type: PathPrefix, value: /}}], default: {filters: [
		{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-add, value: second}], remove: [x-gone]}},
		{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-app, value: hidden}], add: [{name: x-more, value: added}]}}]}}]`))
	a := w.get("/", header("x-set", "old"), header("x-add", "first"), header("x-gone", "there"))
	w.check(want(a, 200))
	if got := a.seen.Headers; got.Get("X-Set") != "new" || fmt.Sprint(got.Values("X-Add")) != "[first second]" && got.Get("X-Add") != "first,second" || got.Get("X-Gone") != "" {
		w.t.Errorf("the program saw %v", got)
	}
	if got := a.headers; got.Get("X-App") != "hidden" || got.Get("X-More") != "added" {
		w.t.Errorf("the caller saw %v", got)
	}
}

func redirect(w *world) {
	w.policy(route("redirect", `[{matches: [{path: {type: PathPrefix, value: /old}}], default: {filters: [{type: RequestRedirect, requestRedirect:
		{scheme: https, hostname: elsewhere.test, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}}]`))
	a := w.get("/old/thing?x=1")
	if got := a.headers.Get("Location"); a.status != 301 || got != "https://elsewhere.test:8443/new/thing?x=1" {
		w.t.Errorf("%v to %q", a, got)
	}
}

// rewrite: slashes are neither lost nor doubled.
func rewrite(w *world) {
	for _, c := range []struct{ prefix, to, ask, seen string }{
		{"/v1", "/v2", "/v1/foo", "/v2/foo"}, {"/v1", "/v2", "/v1", "/v2"}, {"/v1", "/v2/", "/v1/foo", "/v2/foo"},
		{"/v1", "/", "/v1/foo", "/foo"}, {"/v1", "/", "/v1", "/"}, {"/", "/api", "/foo", "/api/foo"},
	} {
		w.apply(route("rewrite", fmt.Sprintf(`[{matches: [{path: {type: PathPrefix, value: %s}}], default: {filters: [{type: URLRewrite, urlRewrite:
			{hostname: other.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: %s}}}]}}]`, c.prefix, c.to)))
		a := w.get(c.ask)
		if a.seen.Path != c.seen || a.seen.Host != "other.test" {
			w.t.Errorf("%s to %s: %s became %q at host %q, want %q (%v)", c.prefix, c.to, c.ask, a.seen.Path, a.seen.Host, c.seen, a)
		}
	}
	w.policy(route("rewrite", `[{matches: [{path: {type: PathPrefix, value: /}}], default: {filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /all}}}]}}]`))
	if a := w.get("/a/b/c"); a.seen.Path != "/all" {
		w.t.Errorf("the whole path: %v saw %q", a, a.seen.Path)
	}
}

func mirror(w *world) {
	w.policy(route("mirror", `[{matches: [{path: {type: PathPrefix, value: /}}], default: {
		filters: [{type: RequestMirror, requestMirror: {percentage: 100, backendRef: {kind: MeshService, name: backend-v2, port: 80}}}],
		backendRefs: [{kind: MeshService, name: backend-v1, port: 80}]}}]`))
	before := w.apps["v2-a"].requests.Load() + w.apps["v2-b"].requests.Load()
	for range 20 {
		w.check(want(w.keep("/mirrored"), 200, "v1-a", "v1-b"))
	}
	w.eventually("every request is copied", func() error {
		if n := w.apps["v2-a"].requests.Load() + w.apps["v2-b"].requests.Load() - before; n != 20 {
			return fmt.Errorf("version 2 got %d copies of 20", n)
		}
		return nil
	})
}

// weights: 2,000 requests follow the weights as chance would have it (chi-squared with two degrees of freedom, one in a
// hundred thousand is worse).
func weights(w *world) {
	w.policy(route("weights", `[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [
		{kind: MeshService, name: backend-v1, port: 80, weight: 70}, {kind: MeshService, name: backend-v2, port: 80, weight: 20}, {kind: MeshService, name: backend, port: 80, weight: 10}]}}]`))
	const n = 2000
	got := versions(w.spread(n, "/"))
	// backend itself is half of each version.
	chi := 0.0
	for v, share := range map[string]float64{"v1": 0.75, "v2": 0.25} {
		chi += math.Pow(float64(got[v])-share*n, 2) / (share * n)
	}
	if chi > 23 || got["v1"]+got["v2"] != n {
		w.t.Errorf("%v of %d, chi-squared %.1f", got, n, chi)
	}
}

// missingBackends: the share of a backend that is not there is answered 500, and so is everything if none is.
func missingBackends(w *world) {
	w.apply(route("missing", `[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [
		{kind: MeshService, name: backend-v1, port: 80, weight: 50}, {kind: MeshService, name: gone, port: 80, weight: 50}]}}]`))
	got := w.spread(200, "/")
	if lost := got["500"]; lost < 60 || lost > 140 || lost+got["v1-a"]+got["v1-b"] != 200 {
		w.t.Errorf("half of the backends are missing: %v", got)
	}
	for _, refs := range []string{"{kind: MeshService, name: gone, port: 80}", "{kind: MeshService, name: backend, port: 80, weight: 0}"} {
		w.apply(route("missing", "[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: ["+refs+"]}}]"))
		w.check(want(w.keep("/"), 500))
	}
	w.remove(w.apply(route("missing", "[{matches: [{method: PUT}], "+toV2+"}]"))...)
	w.check(want(w.keep("/"), 200))
}

// dial opens a connection to an outbound and returns the name that the program says; empty if there is none.
func (w *world) dial(port int) string {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", w.address(1), port), 5*time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	line, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line)
}

func (w *world) dials(n, port int) map[string]int {
	out := map[string]int{}
	for range n {
		out[w.dial(port)]++
	}
	return out
}

func tcpSplit(w *world) {
	w.policy(`
type: MeshTCPRoute
mesh: default
name: split
spec:
  targetRef: {kind: Dataplane, labels: {app: web}}
  to: [{targetRef: {kind: MeshService, name: backend, sectionName: tcp}, rules: [{default: {backendRefs: [
    {kind: MeshService, name: backend-v1, port: 90, weight: 80}, {kind: MeshService, name: backend-v2, port: 90, weight: 20}]}}]}]
`)
	got := versions(w.dials(200, outTCP))
	if n := got["v2"]; n < 15 || n > 70 || got["v1"]+n != 200 {
		w.t.Errorf("80 to 20: %v", got)
	}
}

// tcpRouteAndHTTPRoute: a MeshTCPRoute takes the connections of an HTTP port unless a MeshHTTPRoute is about it.
func tcpRouteAndHTTPRoute(w *world) {
	w.policy(`
type: MeshTCPRoute
mesh: default
name: all-to-v2
spec:
  targetRef: {kind: Dataplane, labels: {app: web}}
  to: [{targetRef: {kind: MeshService, name: backend, sectionName: http}, rules: [{default: {backendRefs: [{kind: MeshService, name: backend-v2, port: 80}]}}]}]
`)
	w.all("connections go to version 2", "v2-a", "v2-b")
	w.policy(route("first", `[{matches: [{path: {type: PathPrefix, value: /}}], default: {backendRefs: [{kind: MeshService, name: backend-v1, port: 80}]}}]`))
	w.all("the MeshHTTPRoute goes first", "v1-a", "v1-b")
}

// all waits until ten requests in a row are answered by the apps: what a listener does follows its acknowledgement by a moment.
func (w *world) all(what string, apps ...string) {
	w.t.Helper()
	w.eventually(what, func() error {
		for range 10 {
			if err := want(w.get("/"), 200, apps...); err != nil {
				return err
			}
		}
		return nil
	})
}

// attached: a policy about a MeshHTTPRoute holds for its requests and no others.
func attached(w *world) {
	w.policy(route("attachable", "[{matches: [{path: {type: PathPrefix, value: /slow}}], "+toV2+"}]"))
	w.policy(`
type: MeshTimeout
mesh: default
name: attached
spec:
  targetRef: {kind: Dataplane, labels: {app: web}}
  to: [{targetRef: {kind: MeshHTTPRoute, name: attachable}, default: {http: {requestTimeout: 200ms}}}]
`)
	for _, a := range w.apps {
		a.behave(w.t, slow(500*time.Millisecond))
	}
	if a := w.keep("/slow"); a.status != 504 || a.took > 450*time.Millisecond {
		w.t.Errorf("the route's requests: %v", a)
	}
	w.check(want(w.keep("/other"), 200))
}

// shadow: a policy with the effect shadow does nothing.
func shadow(w *world) {
	text := strings.Replace(route("shadow", "[{matches: [{path: {type: PathPrefix, value: /}}], "+toV2+"}]"), "name: shadow\n", "name: shadow\nlabels: {kuma.io/effect: shadow}\n", 1)
	w.policy(text)
	if got := versions(w.spread(40, "/")); got["v1"] != 20 {
		w.t.Errorf("a shadow policy acts: %v", got)
	}
	w.policy(strings.Replace(text, "labels: {kuma.io/effect: shadow}\n", "", 1))
	if got := versions(w.spread(20, "/")); got["v2"] != 20 {
		w.t.Errorf("without the label it does not: %v", got)
	}
}

// moreSpecificWins: a policy for a Dataplane by name ranks above one by labels, above one for the mesh; an entry about the service above
// one about the mesh.
func moreSpecificWins(w *world) {
	timeout := func(name, target, to, d string) string {
		return fmt.Sprintf("\n---\ntype: MeshTimeout\nmesh: default\nname: %s\nspec:\n  targetRef: %s\n  to: [{targetRef: %s, default: {http: {requestTimeout: %s}}}]\n", name, target, to, d)
	}
	for _, a := range w.apps {
		a.behave(w.t, slow(400*time.Millisecond))
	}
	w.policy(timeout("by-mesh", "{kind: Mesh}", "{kind: MeshService, name: backend}", "100ms") + timeout("by-labels", "{kind: Dataplane, labels: {app: web}}", "{kind: Mesh}", "5s"))
	w.check(want(w.keep("/"), 200)) // the kind of the top-level target goes before that of the entry
	w.policy(timeout("by-name", "{kind: Dataplane, name: web-1}", "{kind: Mesh}", "150ms"))
	w.check(want(w.keep("/"), 504))
	w.policy(timeout("by-name-and-service", "{kind: Dataplane, name: web-1}", "{kind: MeshService, name: backend}", "5s"))
	w.check(want(w.keep("/"), 200))
}

var _ http.Handler = (*app)(nil)
