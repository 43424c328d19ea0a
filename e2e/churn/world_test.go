package churn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/dataplane/launcher"
	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/test/roletest"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/zone"
)

const (
	zoneName = "east"
	meshName = "default"
	// proxyPort and appPort of every workload, at an address of its own; its outbounds begin at
	// firstOutbound.
	proxyPort, appPort, firstOutbound = 8080, 18080, 10001
	// timeout is for one thing to happen on a machine that has much to do.
	timeout = 30 * time.Second
)

// world is a standalone zone in this process, with launchers and programs.
type world struct {
	t        *testing.T
	bin, net string
	store    store.Store
	zone     *zone.Zone
	registry *prometheus.Registry
	server   *servercert.Server
	ca       string // file
	// destinations are the services that every workload has an outbound to, whether they are there or not.
	destinations []string
	running      sync.WaitGroup

	mu      sync.Mutex
	hosts   int
	proxies map[string]*proxy
}

func newWorld(t *testing.T, destinations []string) *world {
	t.Helper()
	w := &world{
		t:            t,
		bin:          envoytest.Binary(t),
		net:          fmt.Sprintf("127.%d.%d", 150+os.Getpid()/250%100, 1+os.Getpid()%250),
		registry:     prometheus.NewRegistry(),
		destinations: destinations,
		proxies:      map[string]*proxy{},
	}
	part := roletest.New(t)
	w.store = part.Store
	w.server = part.Server
	w.ca = part.CAFile(t)
	w.zone = part.Zone(t, zone.Config{
		Config: role.Config{
			Instance: "churn",
			Registry: w.registry,
		},
		Name:    zoneName,
		XDSAddr: roletest.AnyPort,
	})
	t.Cleanup(w.running.Wait) // proxies end before their zone
	part.Ready(t, timeout)
	return w
}

// write commits documents in one transaction.
func (w *world) write(text string) (uint64, error) {
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		return 0, fmt.Errorf("%w in\n%s", err, text)
	}
	txn := store.Txn{Author: "test"}
	for _, d := range docs {
		r := d.Resource.Clone()
		if _, err := validate.Resource(r); err != nil {
			return 0, fmt.Errorf("%w in\n%s", err, text)
		}
		if r.Key.Kind == mesh.KindMeshService {
			r.Key.Zone = zoneName
		}
		txn.Ops = append(txn.Ops, store.Put{Resource: r})
	}
	res, err := w.store.Commit(context.Background(), txn)
	if err != nil {
		return 0, fmt.Errorf("%w in\n%s", err, text)
	}
	return res.Revision, nil
}

func (w *world) remove(kind mesh.Kind, name string) (uint64, error) {
	k := mesh.Key{Kind: kind, Mesh: meshName, Name: name}
	if kind == mesh.KindMeshService {
		k.Zone = zoneName
	}
	res, err := w.store.Commit(context.Background(), store.Txn{
		Author: "test",
		Ops:    []store.Op{store.Delete{Key: k}},
	})
	return res.Revision, err
}

// settled waits until every proxy has answered a revision, and fails if one refused it.
func (w *world) settled(revision uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if got := w.zone.Wait(ctx, revision); !got.GetComplete() {
		return fmt.Errorf("revision %d is not with every proxy: %v", revision, got)
	}
	return nil
}

// counter is the sum of a counter of the zone over its labels.
func (w *world) counter(name string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}

// poll waits for what nothing announces.
func poll(ctx context.Context, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// proxy is a workload: its program, and an Envoy under a launcher.
type proxy struct {
	name, service, address string
	admin                  admin
	log                    *os.File
	app                    *http.Server
	stop                   chan os.Signal
	ended                  chan struct{} // closed when the launcher has ended
	err                    error         // of the launcher, after ended

	// seen are the listeners at the last look; the goroutine of the checks owns it.
	seen map[string]loaded
}

func (p *proxy) key() mesh.Key {
	return mesh.Key{Kind: mesh.KindDataplane, Mesh: meshName, Zone: zoneName, Name: p.name}
}

// outbound is the address at which the program calls a destination.
func (w *world) outbound(p *proxy, destination int) string {
	return fmt.Sprintf("%s:%d", p.address, firstOutbound+destination)
}

// start brings a workload up and waits until its Envoy has all of its configuration.
func (w *world) start(ctx context.Context, name, service string) (*proxy, error) {
	w.mu.Lock()
	w.hosts = w.hosts%250 + 1
	p := &proxy{
		name:    name,
		service: service,
		address: fmt.Sprintf("%s.%d", w.net, w.hosts),
		stop:    make(chan os.Signal, 2),
		ended:   make(chan struct{}),
	}
	w.mu.Unlock()
	listener, err := net.Listen("tcp", net.JoinHostPort(p.address, fmt.Sprint(appPort)))
	if err != nil {
		return nil, err
	}
	p.app = &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintln(rw, name)
		}),
		ReadHeaderTimeout: timeout,
	}
	w.running.Go(func() { _ = p.app.Serve(listener) })

	doc := fmt.Sprintf(`
type: Dataplane
mesh: %s
name: %s
labels: {app: %s}
networking:
  address: %s
  inbound: [{name: http, port: %d, servicePort: %d, tags: {kuma.io/service: %s, kuma.io/protocol: http}}]
  outbound:
`, meshName, name, service, p.address, proxyPort, appPort, service)
	for i, d := range w.destinations {
		doc += fmt.Sprintf("  - {address: %s, port: %d, backendRef: {kind: MeshService, name: %s, "+
			"port: 80}}\n", p.address, firstOutbound+i, d)
	}
	token, err := w.zone.Tokens().IssueDataplane(ctx, tokens.DataplaneClaims{
		Mesh: meshName,
		Name: name,
	}, time.Hour)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "churn") // socket paths must be short
	if err != nil {
		return nil, err
	}
	if p.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	p.admin = newAdmin(filepath.Join(dir, "admin.sock"))
	l, err := launcher.New(launcher.Config{
		CP:            "https://" + w.zone.Addresses()[role.PortXDS],
		Resource:      []byte(doc),
		ProxyType:     "dataplane",
		Token:         token,
		CAFile:        w.ca,
		Envoy:         w.bin,
		EnvoyLogLevel: "warning",
		Concurrency:   1,
		WorkDir:       dir,
		DrainTime:     10 * time.Second,
		Stop:          p.stop,
		Stdout:        p.log,
		Stderr:        p.log,
	})
	if err != nil {
		return nil, err
	}
	w.running.Go(func() {
		p.err = l.Run(context.Background())
		close(p.ended)
	})
	w.t.Cleanup(func() {
		p.kill()
		w.quote(p)
		_ = os.RemoveAll(dir)
	})
	err = poll(ctx, name+" is up", func() error {
		select {
		case <-p.ended:
			return fmt.Errorf("the launcher ended: %w", p.err)
		default:
		}
		s, err := p.admin.fetch("/ready")
		if err == nil && strings.TrimSpace(string(s)) != "LIVE" {
			err = fmt.Errorf("envoy says %s", s)
		}
		return err
	})
	w.mu.Lock()
	w.proxies[name] = p
	w.mu.Unlock()
	return p, err
}

// kill ends a workload at once, if it has not ended.
func (p *proxy) kill() {
	for range 2 {
		select {
		case p.stop <- syscall.SIGTERM:
		default:
		}
	}
	<-p.ended
	_ = p.app.Close()
}

// retire ends a workload as an orchestrator does: the sidecar drains, and the program goes after it.
func (w *world) retire(p *proxy) error {
	w.mu.Lock()
	delete(w.proxies, p.name)
	w.mu.Unlock()
	p.stop <- syscall.SIGTERM
	select {
	case <-p.ended:
	case <-time.After(timeout):
		return fmt.Errorf("%s does not end", p.name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return errors.Join(p.err, p.app.Shutdown(ctx))
}

// quote shows what an Envoy had to say, of a test that failed, and fails if it complained.
func (w *world) quote(p *proxy) {
	_ = p.log.Close()
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		w.t.Error(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "[error]") || strings.Contains(line, "[critical]") {
			w.t.Errorf("%s: %s", p.name, strings.TrimSpace(line))
		} else if w.t.Failed() && strings.Contains(line, "[warning]") {
			w.t.Logf("%s: %s", p.name, strings.TrimSpace(line))
		}
	}
}

// all are the workloads that are not being retired.
func (w *world) all() []*proxy {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*proxy
	for _, p := range w.proxies {
		out = append(out, p)
	}
	return out
}

// table is what the engine believes that a proxy has; nil if it does not follow it.
func (w *world) table(p *proxy) *delta.Table {
	t, _ := w.engine().Config(p.key())
	return t
}

func (w *world) engine() *xds.Engine { return w.zone.Engine() }

// called waits until a workload is a healthy endpoint for every other one.
func (w *world) called(ctx context.Context, p *proxy) error {
	return poll(ctx, p.name+" is called", func() error {
		for _, other := range w.all() {
			table := w.table(other)
			if table == nil {
				return fmt.Errorf("nothing is known of %s", other.name)
			}
			found := false
			for r := range table.All(delta.TypeEndpoint) {
				var cla endpointv3.ClusterLoadAssignment
				if err := proto.Unmarshal(r.Body, &cla); err != nil {
					return err
				}
				for _, l := range cla.GetEndpoints() {
					for _, e := range l.GetLbEndpoints() {
						found = found ||
							e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress() == p.address &&
								e.GetHealthStatus() != corev3.HealthStatus_UNHEALTHY
					}
				}
			}
			if !found && p.service != "web" {
				return fmt.Errorf("%s does not know it", other.name)
			}
		}
		return nil
	})
}
