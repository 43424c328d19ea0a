package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/meridian-mesh/meridian/internal/adminclient"
	"github.com/meridian-mesh/meridian/internal/auth"
	"github.com/meridian-mesh/meridian/internal/pki"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/xds/bootstrap"
	"github.com/meridian-mesh/meridian/zone"
)

const (
	meshName = "default"
	patience = 15 * time.Second
	// Ports of every workload, at an address of its own: those of its sidecar, and those of its program.
	httpPort, tcpPort, grpcPort    = 8080, 9090, 7070
	appHTTP, appTCP, appGRPC       = 18080, 19090, 17070
	outHTTP, outV1, outV2, outGRPC = 10001, 10002, 10003, 10004
	outTCP, outTCPV1, outTCPV2     = 10005, 10006, 10007
)

var networks atomic.Int32

// network is a /24 of loopback that no other test of this machine is likely to have: two runs at once must not meet.
func network() string {
	return fmt.Sprintf("127.%d.%d", 60+networks.Add(1), 1+os.Getpid()%250)
}

func envoyBinary(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("MERIDIAN_ENVOY")
	if bin == "" {
		var err error
		if bin, err = filepath.Abs("../../.tools/envoy"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skip("no Envoy: set MERIDIAN_ENVOY or run make tools")
	}
	return bin
}

// logs goes to the test that is running; what a background goroutine says after it has ended is lost.
type logs struct {
	mu sync.Mutex
	t  testing.TB
}

func (l *logs) set(t testing.TB) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t = t
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// world is a zone with its workloads.
type world struct {
	t     *testing.T
	ctx   context.Context
	bin   string
	net   string
	zone  *zone.Zone
	api   *adminclient.Client
	pki   *pki.Server
	apps  map[string]*app
	logs  *logs
	fresh *http.Client
	kept  *http.Client
}

// start runs a standalone zone.
func start(t *testing.T) *world {
	t.Helper()
	bin := envoyBinary(t)
	server, err := pki.LoadOrCreateServer(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, bin, server)
	w.runZone(zone.Config{Name: "east"})
	return w
}

func newWorld(t *testing.T, bin string, server *pki.Server) *world {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, bin: bin, net: network(), pki: server, apps: map[string]*app{}, logs: &logs{t: t},
		fresh: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second},
		kept:  &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 10 * time.Second}}
	for _, c := range []*http.Client{w.fresh, w.kept} {
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		t.Cleanup(c.CloseIdleConnections)
	}
	t.Cleanup(func() { w.logs.set(nil) })
	return w
}

// runner is a control plane.
type runner interface {
	Listen(ctx context.Context) error
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

func (w *world) run(r runner) {
	w.t.Helper()
	if err := r.Listen(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-r.Ready():
	case <-time.After(patience):
		w.t.Fatal("a control plane is not ready")
	}
}

// runZone starts a zone of the config on a store of its own.
func (w *world) runZone(c zone.Config) {
	w.t.Helper()
	st, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = st.Close() })
	c.Store, c.Server, c.Instance, c.XDSAddr, c.APIAddr = st, w.pki, "test", "127.0.0.1:0", "127.0.0.1:0"
	c.Logger = zaptest.NewLogger(w.t, zaptest.Level(zap.ErrorLevel))
	if w.zone, err = zone.New(c); err != nil {
		w.t.Fatal(err)
	}
	w.run(w.zone)
	w.connect(w.zone.Addresses()[zone.API])
}

func (w *world) connect(address string) {
	w.t.Helper()
	api, err := adminclient.New(adminclient.Options{URL: "http://" + address})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = api.Close() })
	w.api = api
}

// with is the world in a subtest.
func (w *world) with(t *testing.T) *world {
	c := *w
	c.t = t
	w.logs.set(t)
	t.Cleanup(func() { w.logs.set(w.t) })
	return &c
}

// decode reads documents and checks them as `meridian apply` does.
func decode(t *testing.T, text string) []mesh.Document {
	t.Helper()
	docs, err := mesh.Decode([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, d := range docs {
		if _, err := mesh.Validate(d.Resource); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
	}
	return docs
}

// apply writes documents and waits until every proxy has them.
func (w *world) apply(text string) []mesh.Key {
	w.t.Helper()
	var keys []mesh.Key
	revision := uint64(0)
	for _, d := range decode(w.t, text) {
		res, err := w.api.Put(w.ctx, d.Resource, adminclient.PutOptions{})
		if err != nil {
			w.t.Fatalf("%v in\n%s", err, text)
		}
		keys, revision = append(keys, res.Resource.Key), max(revision, res.Revision)
	}
	w.delivered(revision)
	return keys
}

func (w *world) delivered(revision uint64) {
	w.t.Helper()
	resp, err := w.api.Wait(w.ctx, revision, patience)
	if err != nil {
		w.t.Fatal(err)
	}
	if !resp.GetComplete() {
		w.t.Fatalf("revision %d is not with every proxy: %v", revision, resp)
	}
}

// policy applies documents for the time of a test.
func (w *world) policy(text string) {
	w.t.Helper()
	keys := w.apply(text)
	w.t.Cleanup(func() { w.remove(keys...) })
}

func (w *world) remove(keys ...mesh.Key) {
	w.t.Helper()
	for _, k := range keys {
		revision, err := w.api.Delete(w.ctx, k, adminclient.DeleteOptions{})
		var gone *adminclient.Error
		if errors.As(err, &gone) && strings.Contains(err.Error(), "Not found") {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.delivered(revision)
	}
}

// address is that of a workload.
func (w *world) address(host int) string { return fmt.Sprintf("%s.%d", w.net, host) }

// sidecar runs an Envoy for a document until the world ends.
func (w *world) sidecar(name, document string) {
	w.t.Helper()
	w.proxy(name, "dataplane", meshName+"."+name, document, func() (string, error) {
		return w.zone.Tokens().IssueDataplane(w.ctx, auth.DataplaneClaims{Mesh: meshName, Name: name}, time.Hour)
	})
}

func (w *world) proxy(name, kind, id, document string, issue func() (string, error)) {
	w.t.Helper()
	host, service, err := net.SplitHostPort(w.zone.Addresses()[zone.XDS])
	if err != nil {
		w.t.Fatal(err)
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := issue()
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
	b, err := bootstrap.Build(bootstrap.Config{NodeID: id, ProxyType: kind, Resource: document, Host: host, Port: uint32(port), CA: w.pki.CAPEM,
		TokenFile: file("token", []byte(token)), AdminSocket: filepath.Join(dir, "admin.sock")})
	if err != nil {
		w.t.Fatal(err)
	}
	doc, err := bootstrap.JSON(b)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(w.bin, "-c", file("bootstrap.json", doc), "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error", "--drain-time-s", "1")
	cmd.Stderr = w.logs
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// answer is what came back for a request.
type answer struct {
	status int
	// app is the program that answered, empty if none did; seen is what it saw.
	app     string
	seen    seen
	headers http.Header
	took    time.Duration
	err     error
}

func (a answer) String() string {
	return fmt.Sprintf("%d from %q after %s (%v)", a.status, a.app, a.took.Round(time.Millisecond), a.err)
}

type option func(*http.Request)

func header(name, value string) option { return func(r *http.Request) { r.Header.Set(name, value) } }
func method(m string) option           { return func(r *http.Request) { r.Method = m } }

// outbound is the address of one of the caller's outbounds.
func (w *world) outbound(port int) string { return fmt.Sprintf("http://%s:%d", w.address(1), port) }

// get calls the service over a connection of its own; keep reuses connections.
func (w *world) get(path string, o ...option) answer {
	return w.call(w.fresh, w.outbound(outHTTP)+path, o...)
}
func (w *world) keep(path string, o ...option) answer {
	return w.call(w.kept, w.outbound(outHTTP)+path, o...)
}

func (w *world) call(c *http.Client, url string, o ...option) answer {
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	for _, f := range o {
		f(req)
	}
	begin := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		return answer{err: err, took: time.Since(begin)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, headers: resp.Header, took: time.Since(begin), err: err}
	if s, ok := parseSeen(body); ok {
		a.app, a.seen = s.App, s
	}
	return a
}

// eventually tries until f is nil.
func (w *world) eventually(what string, f func() error) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			w.t.Fatalf("%s: %v", what, err)
		}
	}
}

// want is an error unless the answer has the status, and comes from one of the apps if there are any.
func want(a answer, status int, apps ...string) error {
	if a.err != nil || a.status != status || len(apps) > 0 && !slices.Contains(apps, a.app) {
		return fmt.Errorf("got %v, want %d from %v", a, status, apps)
	}
	return nil
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Error(err)
	}
}

// spread counts who answers n requests.
func (w *world) spread(n int, path string, o ...option) map[string]int {
	out := map[string]int{}
	for range n {
		a := w.keep(path, o...)
		if a.err != nil || a.status != http.StatusOK {
			out[fmt.Sprint(a.status)]++
			continue
		}
		out[a.app]++
	}
	return out
}

// versions sums a spread by version.
func versions(counts map[string]int) map[string]int {
	out := map[string]int{}
	for name, n := range counts {
		v, _, _ := strings.Cut(name, "-")
		out[v] += n
	}
	return out
}
