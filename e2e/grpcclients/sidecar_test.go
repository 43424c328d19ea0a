package grpcclients

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
	"github.com/meridian-mesh/meridian/test/envoytest"
)

const permission = `
type: MeshTrafficPermission
mesh: kongair
name: web
spec:
  targetRef: {kind: Mesh}
  from:
  - targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}}
    default: {action: Allow}
`

// TestSidecar: a gRPC client calls a service behind a real Envoy in a mesh that demands mTLS, if it may.
func TestSidecar(t *testing.T) {
	bin := envoytest.Binary(t)
	t.Run("envoy", func(t *testing.T) { testBetweenSidecars(t, bin) })
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			w := newWorld(t)
			s := &scenario{world: w, library: lib}
			s.write(strict)
			app := serve(t, "app", "127.0.0.1", 0, nil)
			s.sidecar(bin, "flights-1",

				flights(app.port))
			s.write(service("flight-search", app.port, "kuma.io/service: flights"))
			certificates := s.certificates("web-1",
				fmt.Sprintf(`{"type":"Dataplane","mesh":%q,"name":"web-1","networking":{"address":"127.0.0.9",
				"inbound":[{"port":9,"tags":{"kuma.io/service":"web"}}]}}`, meshName))
			s.client = s.start(t, s.bootstrap("web-1", s.address(), s.inClear, certificates))
			call := command{Target: "xds:///flight-search", Calls: 5}
			s.eventually("no client may call", call,
				func(got map[string]int) bool { return failing("RBAC: ACCESS DENIED")(got) })
			s.write(permission)
			s.eventually("who is permitted calls", call, only("app"))
		})
	}
}

// flights is the Dataplane of a gRPC server.
func flights(port int) string {
	return fmt.Sprintf(`{"type":"Dataplane","mesh":%q,"name":"flights-1","networking":{"address":"127.0.0.5",
		"inbound":[{"port":%d,"serviceAddress":"127.0.0.1",
		"tags":{"kuma.io/service":"flights","kuma.io/protocol":"grpc"}}]}}`, meshName, port)
}

// testBetweenSidecars: what gRPC clients need of a sidecar must not keep other sidecars out.
func testBetweenSidecars(t *testing.T, bin string) {
	w := newWorld(t)
	w.write(strict)
	app := serve(t, "app", "127.0.0.1", 0, nil)
	w.sidecar(bin, "flights-1",

		flights(app.port))
	w.write(service("flight-search", app.port, "kuma.io/service: flights") + "---" + permission)
	w.sidecar(bin, "web-1",
		fmt.Sprintf(`{"type":"Dataplane","mesh":%q,"name":"web-1","networking":{"address":"127.0.0.9",
		"inbound":[{"port":9999,"tags":{"kuma.io/service":"web"}}],
		"outbound":[{"address":"127.0.0.9","port":%d,
		"backendRef":{"kind":"MeshService","name":"flight-search","port":8080}}]}}`, meshName, app.port))
	s := &scenario{world: w, client: &goClient{t: t, conns: map[string]*grpc.ClientConn{}}}
	c := s.client.(*goClient)
	target := fmt.Sprintf("passthrough:///127.0.0.9:%d", app.port)
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  50 * time.Millisecond,
				MaxDelay:   100 * time.Millisecond,
				Multiplier: 1,
			},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.conns[target] = conn
	s.eventually("through two sidecars", command{Target: target, Calls: 5}, only("app"))
}

// sidecar runs an Envoy for a Dataplane until the test ends.
func (w *world) sidecar(bin, name, document string) {
	w.t.Helper()
	host, service, err := net.SplitHostPort(w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		w.t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "envoy") // socket paths must be short
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			w.t.Fatal(err)
		}
		return p
	}
	doc, err := bootstrap.Build(bootstrap.Config{
		NodeID:      meshName + "." + name,
		ProxyType:   "dataplane",
		Resource:    document,
		Host:        host,
		Port:        uint32(port),
		CA:          w.server.CAPEM,
		TokenFile:   file("token", []byte(w.token(name))),
		AdminSocket: filepath.Join(dir, "admin.sock"),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", file("bootstrap.json", doc), "--use-dynamic-base-id", "--concurrency", "1",
		"--log-level", "error")
	cmd.Stderr = &logWriter{w.t}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
