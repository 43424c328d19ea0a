package traffic

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// instances of the service, by the last number of their address; the names begin with the version.
var instances = map[string]int{"v1-a": 11, "v1-b": 12, "v2-a": 13, "v2-b": 14}

const setup = `
type: Mesh
name: default
meshServices: {mode: Exclusive}
mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}
---
type: MeshTrafficPermission
mesh: default
name: everybody
spec:
  targetRef: {kind: Dataplane}
  rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://default/"}}]}}]
`

// service is a MeshService over all ports of the workloads with a label.
func service(name, selector string) string {
	return fmt.Sprintf(`---
type: MeshService
mesh: default
name: %s
spec:
  selector: {dataplaneLabels: {matchLabels: {%s}}}
  ports:
  - {name: http, port: 80, targetPort: http, appProtocol: http}
  - {name: tcp, port: 90, targetPort: tcp, appProtocol: tcp}
  - {name: grpc, port: 70, targetPort: grpc, appProtocol: grpc}
`, name, selector)
}

// workload is the document of an instance.
func (w *world) workload(name, service, labels string, host int) string {
	return fmt.Sprintf(`
type: Dataplane
mesh: default
name: %s
labels: {%s}
networking:
  address: %s
  inbound:
  - {name: http, port: %d, servicePort: %d, tags: {kuma.io/service: %s, kuma.io/protocol: http}}
  - {name: tcp, port: %d, servicePort: %d, tags: {kuma.io/service: %s-tcp, kuma.io/protocol: tcp}}
  - {name: grpc, port: %d, servicePort: %d, tags: {kuma.io/service: %s-grpc, kuma.io/protocol: grpc}}
`, name, labels, w.address(host), httpPort, appHTTP, service, tcpPort, appTCP, service, grpcPort, appGRPC, service)
}

// caller is the document of web, which calls everything.
func (w *world) caller() string {
	text := fmt.Sprintf(`
type: Dataplane
mesh: default
name: web-1
labels: {app: web}
networking:
  address: %s
  inbound: [{name: http, port: %d, servicePort: %d, tags: {kuma.io/service: web, kuma.io/protocol: http}}]
  outbound:
`, w.address(1), httpPort, appHTTP)
	for _, o := range []struct {
		port int
		name string
		at   int
	}{{outHTTP, "backend", 80}, {outV1, "backend-v1", 80}, {outV2, "backend-v2", 80}, {outGRPC, "backend", 70}, {outTCP, "backend", 90},
		{outTCPV1, "backend-v1", 90}, {outTCPV2, "backend-v2", 90}} {
		text += fmt.Sprintf("  - {address: %s, port: %d, backendRef: {kind: MeshService, name: %s, port: %d}}\n", w.address(1), o.port, o.name, o.at)
	}
	return text
}

// populate brings the mesh of the package up and waits until every instance answers.
func (w *world) populate() {
	w.t.Helper()
	w.apply(setup + service("backend", "app: backend") + service("backend-v1", "version: v1") + service("backend-v2", "version: v2"))
	for name, host := range instances {
		version, _, _ := strings.Cut(name, "-")
		w.serve(name, w.address(host))
		w.sidecar(name, w.workload(name, "backend", "app: backend, version: "+version+", instance: "+name, host))
	}
	w.serve("web", w.address(1))
	w.sidecar("web-1", w.caller())
	left := map[string]bool{}
	for name := range instances {
		left[name] = true
	}
	w.eventually("every instance answers", func() error {
		a := w.get("/")
		delete(left, a.app)
		if len(left) > 0 {
			return fmt.Errorf("%v have not answered; got %v", left, a)
		}
		return nil
	})
}

// TestPolicies is every test that the one mesh of the package serves.
func TestPolicies(t *testing.T) {
	if testing.Short() {
		t.Skip("starts five Envoys")
	}
	w := start(t)
	w.populate()
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) { c.run(w.with(t)) })
	}
}

type test struct {
	name string
	run  func(w *world)
}

// all are the tests, file by file.
var all = slices.Concat([]test{{"PlainCalls", plainCalls}}, routeTests, faultTests, breakerTests, balancerTests, scenarioTests, loadTests)

func plainCalls(w *world) {
	got := w.spread(40, "/")
	for name := range instances {
		if got[name] != 10 {
			w.t.Errorf("round robin gave %v", got)
			break
		}
	}
	a := w.get("/some/path?x=1")
	w.check(want(a, 200))
	if a.seen.Path != "/some/path" || a.seen.Query != "x=1" {
		w.t.Errorf("seen %+v", a.seen)
	}
	if c := a.seen.Headers.Get("X-Forwarded-Client-Cert"); !strings.Contains(c, "spiffe://default/web") {
		w.t.Errorf("the program is not told who calls: %q", c)
	}
}
