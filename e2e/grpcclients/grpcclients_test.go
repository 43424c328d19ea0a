package grpcclients

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/mesh"
)

// installed are directories with libraries, by language; TestMain removes them.
var installed = map[string]string{}

func libs(t *testing.T, language string, install func(dir string)) string {
	t.Helper()
	if dir := installed[language]; dir != "" {
		return dir
	}
	dir, err := os.MkdirTemp("", "meridian-grpc-"+language+"-")
	if err != nil {
		t.Fatal(err)
	}
	installed[language+" to remove"] = dir
	install(dir)
	installed[language] = dir
	return dir
}

func TestMain(m *testing.M) {
	code := m.Run()
	// grpc-go keeps watching a client's files after its last connection has ended.
	if err := goleak.Find(
		goleak.IgnoreAnyFunction(
			"google.golang.org/grpc/credentials/tls/certprovider/pemfile.(*watcher).run")); err != nil &&
		code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	for _, dir := range installed {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// scenario is one library against one zone.
type scenario struct {
	*world
	library
	client client
}

// eventually calls until the counts are as wanted: a change reaches a client's calls some moments
// after it took it.
func (s *scenario) eventually(what string, cmd command, ok func(map[string]int) bool) {
	s.t.Helper()
	if cmd.Timeout == 0 {
		cmd.Timeout = 10
	}
	var got map[string]int
	began := time.Now()
	for s.ctx.Err() == nil {
		if got = s.client.call(cmd); ok(got) {
			s.t.Logf("%s: %v, after %v", what, got, time.Since(began).Round(time.Millisecond))
			return
		}
	}
	s.t.Fatalf("%s: got %v", what, got)
}

func only(names ...string) func(map[string]int) bool {
	return func(got map[string]int) bool {
		for _, n := range names {
			if got[n] == 0 {
				return false
			}
		}
		return len(got) == len(names)
	}
}

func failing(text string) func(map[string]int) bool {
	return func(got map[string]int) bool {
		for who := range got {
			if !strings.HasPrefix(who, "error") || !strings.Contains(strings.ToUpper(who), text) {
				return false
			}
		}
		return true
	}
}

const aMesh = `
type: Mesh
name: kongair
---
type: HostnameGenerator
name: services
spec:
  selector: {meshService: {matchLabels: {}}}
  template: "{{ .DisplayName }}.svc.kongair.mesh"
`

func route(rules string) string {
	return fmt.Sprintf(`
type: MeshHTTPRoute
mesh: kongair
name: flights
spec:
  targetRef: {kind: Mesh}
  to:
  - targetRef: {kind: MeshService, name: flight-search}
    rules:
    %s
`, indent(rules, 4))
}

const retry = `
type: MeshRetry
mesh: kongair
name: exhausted
spec:
  targetRef: {kind: Mesh}
  to:
  - targetRef: {kind: MeshService, name: flight-search}
    default:
      grpc:
        numRetries: 9
        backOff: {baseInterval: 100us, maxInterval: 1000h}
        retryOn: [ResourceExhausted]
`

func TestClients(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			w := newWorld(t)
			s := &scenario{world: w, library: lib}
			s.tell()
		})
	}
}

func (s *scenario) address() string {
	if s.inClear {
		return s.forward()
	}
	return s.addr
}

func (s *scenario) tell() {
	t := s.t
	one := serve(t, "one", "127.0.0.1", 0, nil)
	two := serve(t, "two", "127.0.0.2", one.port, nil)
	s.write(aMesh + one.dataplane("v1") + two.dataplane("v2") +
		service("flight-search", one.port, "kuma.io/service: flights") +
		service("flights-v1", one.port, "kuma.io/service: flights, version: v1") +
		service("flights-v2", one.port, "kuma.io/service: flights, version: v2"))
	s.client = s.start(t, s.bootstrap("web-1", s.address(), s.inClear, ""))

	for _, name := range []string{"flight-search", "flight-search:8080", "flight-search.svc.kongair.mesh",
		"flight-search.svc.kongair.mesh:8080"} {
		s.eventually("both instances by "+name, command{
			Target: "xds:///" + name,
			Calls:  20,
		}, only("one", "two"))
	}
	target := "xds:///flight-search.svc.kongair.mesh:8080"

	s.apply(route(`
- matches: [{path: {type: PathPrefix, value: /}}]
  default:
    backendRefs:
    - {kind: MeshService, name: flights-v1, port: 8080, weight: 90}
    - {kind: MeshService, name: flights-v2, port: 8080, weight: 10}`))
	s.eventually("90 to 10", command{Target: target, Calls: 300}, func(got map[string]int) bool {
		return len(got) == 2 && got["two"] >= 10 && got["two"] <= 60
	})

	s.apply(route(`
- matches: [{path: {type: PathPrefix, value: /}, headers: [{name: x-version, type: Exact, value: v2}]}]
  default: {backendRefs: [{kind: MeshService, name: flights-v2, port: 8080}]}
- matches:
  - path: {type: PathPrefix, value: /}
    headers: [{name: x-version, type: RegularExpression, value: "v[3-9]"}]
  default: {backendRefs: [{kind: MeshService, name: flights-v2, port: 8080}]}
- matches: [{path: {type: PathPrefix, value: /}}]
  default: {backendRefs: [{kind: MeshService, name: flights-v1, port: 8080}]}`))
	s.eventually("by a header", command{
		Target:   target,
		Calls:    20,
		Metadata: map[string]string{"x-version": "v2"},
	}, only("two"))
	s.eventually("by a pattern", command{
		Target:   target,
		Calls:    20,
		Metadata: map[string]string{"x-version": "v7"},
	}, only("two"))
	s.eventually("without the header", command{Target: target, Calls: 20}, only("one"))

	one.flaky.Store(uint32(codes.Unavailable))
	before := one.calls.Load()
	s.eventually("retried", command{Target: target, Calls: 20}, only("one"))
	if n := one.calls.Load() - before; n < 40 {
		t.Errorf("%d attempts for 20 calls of which each fails once", n)
	}
	// What a policy says of gRPC's own conditions holds, and pauses that a library would refuse, or
	// not wait for, are bounded.
	s.apply(retry)
	one.flaky.Store(uint32(codes.ResourceExhausted))
	s.eventually("retried as a policy says", command{Target: target, Calls: 20}, only("one"))
	one.flaky.Store(uint32(codes.Unavailable))
	s.eventually("not retried against a policy", command{Target: target, Calls: 5}, failing("UNAVAILABLE"))
	one.flaky.Store(0)
	s.remove(mesh.Key{Kind: mesh.KindMeshRetry, Mesh: meshName, Name: "exhausted"})

	// Weights that no library takes as they are.
	s.apply(route(`
- matches: [{path: {type: PathPrefix, value: /}, headers: [{name: x-none, type: Present}]}]
  default:
    backendRefs:
    - {kind: MeshService, name: flights-v1, port: 8080, weight: 0}
    - {kind: MeshService, name: flights-v2, port: 8080, weight: 0}
- matches: [{path: {type: PathPrefix, value: /}}]
  default:
    backendRefs:
    - {kind: MeshService, name: flights-v1, port: 8080, weight: 4294967295}
    - {kind: MeshService, name: flights-v2, port: 8080, weight: 4294967295}`))
	s.eventually("half and half", command{Target: target, Calls: 50}, only("one", "two"))
	s.eventually("no weight fails", command{
		Target:   target,
		Calls:    2,
		Metadata: map[string]string{"x-none": "1"},
	}, failing("UNAVAILABLE"))

	// What the library cannot take is left out; the rest holds. What it would be wrong without fails.
	s.apply(route(`
- matches: [{path: {type: PathPrefix, value: /}, queryParams: [{type: Exact, name: a, value: b}]}]
  default: {backendRefs: [{kind: MeshService, name: flights-v1, port: 8080}]}
- matches: [{path: {type: PathPrefix, value: /}, method: GET}]
  default: {backendRefs: [{kind: MeshService, name: flights-v1, port: 8080}]}
- matches: [{path: {type: PathPrefix, value: /}, headers: [{name: x-away, type: Present}]}]
  default: {filters: [{type: RequestRedirect, requestRedirect: {hostname: example.com}}]}
- matches: [{path: {type: PathPrefix, value: /}, headers: [{name: x-absent, type: Present}]}]
  default: {backendRefs: [{kind: MeshService, name: absent, port: 8080}]}
- matches: [{path: {type: PathPrefix, value: /}}]
  default:
    filters:
    - type: URLRewrite
      urlRewrite:
        hostname: other
        path: {type: ReplaceFullPath, replaceFullPath: /meridian.test.Echo/Who}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}
    - type: RequestMirror
      requestMirror: {percentage: 50, backendRef: {kind: MeshService, name: flights-v1, port: 8080}}
    backendRefs: [{kind: MeshService, name: flights-v2, port: 8080}]`))
	s.eventually("rewrites are left out", command{Target: target, Calls: 20}, only("two"))
	s.eventually("a redirect fails", command{
		Target:   target,
		Calls:    2,
		Metadata: map[string]string{"x-away": "1"},
	}, failing("UNAVAILABLE"))
	s.eventually("no backend fails", command{
		Target:   target,
		Calls:    2,
		Metadata: map[string]string{"x-absent": "1"},
	}, failing("UNAVAILABLE"))

	s.remove(mesh.Key{Kind: mesh.KindMeshHTTPRoute, Mesh: meshName, Name: "flights"})
	s.eventually("both again", command{Target: target, Calls: 20}, only("one", "two"))
	three := serve(t, "three", "127.0.0.3", one.port, nil)
	again := &backend{
		name:    "three-again",
		address: three.address,
		port:    three.port,
	} // as after a restart under another name
	s.apply(three.dataplane("v3") + again.dataplane("v3"))
	s.eventually("a new instance", command{Target: target, Calls: 30}, only("one", "two", "three"))
	s.remove(mesh.Key{Kind: mesh.KindDataplane, Mesh: meshName, Zone: zoneName, Name: "one"})
	s.eventually("an instance less", command{Target: target, Calls: 30}, only("two", "three"))
	if n := s.refusals(); n > 0 {
		t.Errorf("the client refused %v responses", n)
	}
}
