package grpcclients

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/test/roletest"
	"github.com/meridian-mesh/meridian/zone"
)

const (
	zoneName = "us-east"
	meshName = "kongair"
	timeout  = 60 * time.Second
)

// world is a standalone zone that runs in this process.
type world struct {
	t        *testing.T
	ctx      context.Context
	store    store.Store
	zone     *zone.Zone
	registry *prometheus.Registry
	server   *servercert.Server
	addr     string
	ca       string // file
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	part := roletest.New(t)
	w := &world{
		t:        t,
		ctx:      ctx,
		store:    part.Store,
		server:   part.Server,
		registry: prometheus.NewRegistry(),
		ca:       part.CAFile(t),
	}
	w.zone = part.Zone(t, zone.Config{
		Config: role.Config{
			Instance: "test",
			Registry: w.registry,
		},
		Name:    zoneName,
		XDSAddr: roletest.AnyPort,
	})
	w.addr = part.Address(role.PortXDS)
	part.Ready(t, timeout)
	return w
}

// apply writes YAML documents and waits until every client has them.
func (w *world) apply(text string) {
	w.t.Helper()
	revision := w.write(text)
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	if got := w.zone.Wait(ctx, revision); !got.GetComplete() {
		w.t.Fatalf("not taken by all: %v", got)
	}
}

func (w *world) write(text string) uint64 {
	w.t.Helper()
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	txn := store.Txn{Author: "test"}
	for _, d := range docs {
		r := d.Resource.Clone()
		if r.Key.Kind == mesh.KindDataplane || r.Key.Kind == mesh.KindMeshService {
			r.Key.Zone = zoneName
		}
		txn.Ops = append(txn.Ops, store.Put{Resource: r})
	}
	res, err := w.store.Commit(w.ctx, txn)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Revision
}

func (w *world) remove(k mesh.Key) {
	w.t.Helper()
	if _, err := w.store.Commit(w.ctx, store.Txn{
		Author: "test",
		Ops:    []store.Op{store.Delete{Key: k}},
	}); err != nil {
		w.t.Fatal(err)
	}
}

// refusals is what clients have refused so far.
func (w *world) refusals() float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() == "meridian_delta_nacks_total" {
			for _, m := range f.GetMetric() {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}

func (w *world) token(name string) string {
	w.t.Helper()
	if err := w.zone.Tokens().EnsureMeshKey(w.ctx, meshName); err != nil {
		w.t.Fatal(err)
	}
	token, err := w.zone.Tokens().IssueDataplane(w.ctx, tokens.DataplaneClaims{
		Mesh: meshName,
		Name: name,
	}, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// bootstrap is the document that a gRPC client of a dataplane starts with. in says that it reaches
// the zone in clear text at the address; certificates is the directory with its files, or empty.
func (w *world) bootstrap(name, address string, inClear bool, certificates string) []byte {
	w.t.Helper()
	type object = map[string]any
	creds := object{"type": "tls", "config": object{"ca_certificate_file": w.ca}}
	if inClear {
		creds = object{"type": "insecure"}
	}
	meta := object{"dataplane.token": w.token(name), "dataplane.resource": document(name)}
	doc := object{"xds_servers": []any{object{"server_uri": address, "channel_creds": []any{creds},
		"server_features": []any{"xds_v3"}}},
		"node": object{"id": meshName + "." + name, "locality": object{"zone": zoneName}, "metadata": meta}}
	if certificates != "" {
		meta["dataplane.certificateProvider"] = "mesh"
		doc["certificate_providers"] = object{"mesh": object{"plugin_name": "file_watcher", "config": object{
			"certificate_file":    filepath.Join(certificates, "cert.pem"),
			"private_key_file":    filepath.Join(certificates, "key.pem"),
			"ca_certificate_file": filepath.Join(certificates, "ca.pem"), "refresh_interval": "1s"}}}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func document(name string) string {
	return fmt.Sprintf(`{"type":"Dataplane","mesh":%q,"name":%q,"networking":{"address":"127.0.0.1"}}`,
		meshName, name)
}

// forward listens on loopback in clear text for clients that cannot do better, and passes bytes to
// the zone over TLS.
func (w *world) forward() string {
	w.t.Helper()
	config, err := servercert.ClientTLS(servercert.ClientOptions{Pins: []string{w.server.Pin}})
	if err != nil {
		w.t.Fatal(err)
	}
	config.NextProtos = []string{"h2"}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer in.Close()
				out, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", w.addr)
				if err != nil {
					return
				}
				defer out.Close()
				stop := context.AfterFunc(ctx, func() { _ = in.Close(); _ = out.Close() })
				defer stop()
				running.Go(func() {
					_, _ = io.Copy(out, in)
					_ = out.Close()
				})
				_, _ = io.Copy(in, out)
			})
		}
	})
	w.t.Cleanup(func() {
		cancel()
		_ = l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

// backend is a plain gRPC server that says its name.
type backend struct {
	name, address string
	port          int
	// flaky backends answer a call's first attempt with this code; 0 is OK.
	flaky atomic.Uint32
	calls atomic.Int64
	stop  func()
}

// serve starts a backend on a loopback address; port 0 picks one. config is nil for clear text.
func serve(t *testing.T, name, address string, port int, config *tls.Config) *backend {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{name: name, address: address, port: l.Addr().(*net.TCPAddr).Port}
	var opts []grpc.ServerOption
	if config != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
	}
	g := grpc.NewServer(opts...)
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: "meridian.test.Echo",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Who",
			Handler: func(_ any, ctx context.Context, decode func(any) error,
				_ grpc.UnaryServerInterceptor) (any, error) {
				if err := decode(&emptypb.Empty{}); err != nil {
					return nil, err
				}
				b.calls.Add(1)
				md, _ := metadata.FromIncomingContext(ctx)
				if code := codes.Code(b.flaky.Load()); code != codes.OK &&
					len(md.Get("grpc-previous-rpc-attempts")) == 0 {
					return nil, status.Error(code, "not at the first attempt")
				}
				return wrapperspb.String(name), nil
			},
		}},
	}, struct{}{})
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			g.Stop()
			if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				t.Error(err)
			}
		})
	}
	t.Cleanup(b.stop)
	return b
}

// dataplane is the resource of a backend.
func (b *backend) dataplane(version string) string {
	return fmt.Sprintf(`---
type: Dataplane
mesh: %s
name: %s
networking:
  address: %s
  inbound:
  - port: %d
    tags: {kuma.io/service: flights, version: %s, kuma.io/protocol: grpc}
`, meshName, b.name, b.address, b.port, version)
}

func service(name string, port int, tags string) string {
	return fmt.Sprintf(`---
type: MeshService
mesh: %s
name: %s
spec:
  selector: {dataplaneTags: {%s}}
  ports:
  - {port: 8080, targetPort: %d, appProtocol: grpc, name: main}
`, meshName, name, tags, port)
}

func indent(text string, by int) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+strings.Repeat(" ", by))
}
