package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/internal/child"
	"github.com/meridian-mesh/meridian/test/envoytest"
)

// plugs are a global, a zone and three sidecars, each a process that can be killed.
type plugs struct {
	t                  *testing.T
	programs, dir, net string
	global, zone       *child.Process
	launchers          map[string]*child.Process
	envoy              string
}

// plugTime is how long anything may take to come up on a machine that has much to do.
const plugTime = 60 * time.Second

func (p *plugs) process(name string, args ...string) *child.Process {
	p.t.Helper()
	c := &child.Process{
		Name: name,
		Args: append([]string{filepath.Join(p.programs, args[0])}, args[1:]...),
		Env:  []string{"HOME=" + p.dir},
		Log:  filepath.Join(p.dir, name+".log"),
	}
	p.t.Cleanup(func() {
		c.Kill()
		if p.t.Failed() {
			text, _ := os.ReadFile(c.Log)
			p.t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
	return c
}

func (p *plugs) start(c *child.Process) {
	p.t.Helper()
	if err := c.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// run runs a verb at global, or another address.
func (p *plugs) run(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(p.programs, "meridian"), args...)
	cmd.Env = append(os.Environ(), "HOME="+p.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("meridian %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (p *plugs) must(args ...string) string {
	p.t.Helper()
	out, err := p.run(args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *plugs) write(name, text string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// until waits for what nothing announces, and says how long it took.
func (p *plugs) until(what string, limit time.Duration, f func() error) time.Duration {
	p.t.Helper()
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			p.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		<-tick.C
	}
}

func (p *plugs) ready(address string) {
	p.t.Helper()
	p.until(address+" is ready", plugTime, func() error { return get("http://" + address + "/ready") })
}

// get is a request over a connection of its own.
func get(url string) error {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", resp.StatusCode, body)
	}
	return err
}

// sidecar starts a workload with its launcher, in a work folder that stays.
func (p *plugs) sidecar(name, service, address, outbound string) {
	p.t.Helper()
	l, err := net.Listen("tcp", address+":9090")
	if err != nil {
		p.t.Fatal(err)
	}
	app := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, name)
		}),
		ReadHeaderTimeout: plugTime,
	}
	done := make(chan struct{})
	go func() { _ = app.Serve(l); close(done) }()
	p.t.Cleanup(func() { _ = app.Close(); <-done })

	document := p.write(name+".yaml", fmt.Sprintf(`
type: Dataplane
mesh: default
name: %s
networking:
  address: %s
  inbound: [{port: 8080, servicePort: 9090, tags: {kuma.io/service: %s, kuma.io/protocol: http}}]
%s`, name, address, service, outbound))
	token := p.write(name+".token", p.must("token", "dataplane", "--name", name, "--address", p.api(2)))
	launcher := p.process(name, "meridian-dp", "run", "--cp", "https://"+p.net+".2:5678", "--envoy", p.envoy,
		"--dataplane-file", document, "--token-file", token, "--work-dir", p.work(name), "--concurrency", "1",
		"--log-format", "json")
	p.launchers[name] = launcher
	p.start(launcher)
}

func (p *plugs) work(name string) string { return filepath.Join(p.dir, "w-"+name) }

func (p *plugs) api(host int) string { return fmt.Sprintf("http://%s.%d:5681", p.net, host) }

var envoyPID = regexp.MustCompile(`"msg":"Envoy started","pid":(\d+)`)

// killEnvoy kills the Envoy of a launcher as a crash would.
func (p *plugs) killEnvoy(name string) {
	p.t.Helper()
	text, err := os.ReadFile(p.launchers[name].Log)
	if err != nil {
		p.t.Fatal(err)
	}
	found := envoyPID.FindAllSubmatch(text, -1)
	if len(found) == 0 {
		p.t.Fatalf("no Envoy of %s", name)
	}
	pid, err := strconv.Atoi(string(found[len(found)-1][1]))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
}

// ask asks the admin interface of an Envoy.
func (p *plugs) ask(name, path string) []byte {
	p.t.Helper()
	socket := filepath.Join(p.work(name), "admin.sock")
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := c.Get("http://envoy" + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return body
}

// versions are those of all that an Envoy has, by kind and name, but for endpoints, whose dump has none.
func (p *plugs) versions(name string) map[string]string {
	p.t.Helper()
	var dump struct{ Configs []map[string]any }
	if err := json.Unmarshal(p.ask(name, "/config_dump"), &dump); err != nil {
		p.t.Fatal(err)
	}
	out := map[string]string{}
	var walk func(kind string, v any)
	walk = func(kind string, v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(kind, e)
			}
		case map[string]any:
			version, _ := v["version_info"].(string)
			if version == "" {
				for k, e := range v {
					walk(kind+"/"+k, e)
				}
				return
			}
			resource := v["name"] // of a secret
			for _, k := range []string{"cluster", "listener", "route_config"} {
				if m, ok := v[k].(map[string]any); ok {
					resource = m["name"]
				}
			}
			out[fmt.Sprint(kind, " ", resource)] = version
		}
	}
	for _, c := range dump.Configs {
		for k, v := range c {
			if strings.HasPrefix(k, "dynamic_") {
				walk(k, v)
			}
		}
	}
	return out
}

// counter of an Envoy.
func (p *plugs) counter(name, counter string) int {
	p.t.Helper()
	body := p.ask(name, "/stats?filter=^"+counter+"$")
	_, value, _ := strings.Cut(strings.TrimSpace(string(body)), ": ")
	n, err := strconv.Atoi(value)
	if err != nil {
		p.t.Fatalf("%s of %s: %q", counter, name, body)
	}
	return n
}

// steady sends requests until stop, each over a connection of its own.
type steady struct {
	mu       sync.Mutex
	requests int
	failures []string
	cancel   context.CancelFunc
	done     chan struct{}
}

func load(url string) *steady {
	ctx, cancel := context.WithCancel(context.Background())
	s := &steady{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			err := get(url)
			s.mu.Lock()
			s.requests++
			if err != nil {
				s.failures = append(s.failures, time.Now().Format("15:04:05.000 ")+err.Error())
			}
			s.mu.Unlock()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// since gives the requests and failures since the last call.
func (s *steady) since() (requests int, failures []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests, failures = s.requests, s.failures
	s.requests, s.failures = 0, nil
	return requests, failures
}

// clean fails the test if a request failed since the last call.
func (s *steady) clean(t *testing.T, during string) {
	t.Helper()
	n, failures := s.since()
	if len(failures) > 0 || n == 0 {
		t.Errorf("%s: %d of %d requests failed: %v", during, len(failures), n,
			failures[:min(5, len(failures))])
	}
	t.Logf("%s: %d requests, %d failed", during, n, len(failures))
}

// TestPullEveryPlug kills global and the zone, takes their stores away, and then kills Envoys, and a
// launcher: each Envoy serves within 5 s what it last accepted. Then everything comes back.
func TestPullEveryPlug(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two control planes and three Envoys")
	}
	dir, err := os.MkdirTemp("", "plugs") // socket paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &plugs{
		t:         t,
		envoy:     envoytest.Binary(t),
		programs:  binaries(t),
		dir:       dir,
		net:       fmt.Sprintf("127.%d.%d", 90, 1+os.Getpid()%250),
		launchers: map[string]*child.Process{},
	}
	p.global = p.process("global", "meridian", "global", "--data-dir", filepath.Join(dir, "g"),
		"--api-addr", p.net+".1:5681", "--api-tls-addr", p.net+".1:5682", "--kds-addr", p.net+".1:5685",
		"--diagnostics-addr", p.net+".1:5680", "--log-level", "warn")
	p.start(p.global)
	p.ready(p.net + ".1:5680")
	token := p.write("east.token", p.must("token", "zone", "--zone", "east", "--address", p.api(1)))
	p.zone = p.process("zone", "meridian", "zone", "--name", "east", "--global", "grpcs://"+p.net+".1:5685",
		"--token-file", token, "--data-dir", filepath.Join(dir, "z"), "--api-addr", p.net+".2:5681",
		"--api-tls-addr", p.net+".2:5682", "--xds-addr", p.net+".2:5678", "--diagnostics-addr",
		p.net+".2:5680", "--log-level", "warn")
	p.start(p.zone)
	p.ready(p.net + ".2:5680")
	p.must("apply", "--address", p.api(1), "-f", p.write("mesh.yaml", `
type: Mesh
name: default
mtls:
  enabledBackend: ca-1
  backends: [{name: ca-1, type: builtin, mode: STRICT}]
---
type: MeshTrafficPermission
mesh: default
name: whole-mesh
spec:
  targetRef: {kind: Mesh}
  from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]
`))
	p.sidecar("backend-1", "backend", p.net+".11", "")
	p.sidecar("backend-2", "backend", p.net+".12", "")
	p.sidecar("web", "web", p.net+".21", "  outbound: [{address: "+p.net+".21, port: 20001, "+
		"backendRef: {kind: MeshService, name: backend, port: 8080}}]\n")
	url := "http://" + p.net + ".21:20001/"
	p.until("web reaches backend", plugTime, func() error { return get(url) })
	online := func() error {
		out, err := p.run("status", "--address", p.api(1))
		if err == nil && !regexp.MustCompile(`(?m)^east +Online .* equal +3/3 +3 `).MatchString(out) {
			err = fmt.Errorf("status is\n%s", out)
		}
		return err
	}
	p.until("all are online", plugTime, online)

	requests := load(url)
	defer func() { requests.cancel(); <-requests.done }()
	requests.since()

	had := map[string]map[string]string{}
	for name := range p.launchers {
		had[name] = p.versions(name)
	}
	if len(had["web"]) < 5 {
		t.Fatalf("web has only %v", had["web"])
	}

	// Every plug.
	p.global.Kill()
	p.zone.Kill()
	for _, store := range []string{"g", "z"} {
		if err := os.Rename(filepath.Join(dir, store), filepath.Join(dir, store+"-away")); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		if err := get(url); err != nil {
			t.Error(err)
		}
	}
	requests.clean(t, "global and zone die")

	const within = 5 * time.Second
	p.killEnvoy("web")
	t.Logf("the caller's Envoy serves after %v", p.until("the caller's Envoy serves", within,
		func() error { return get(url) }))
	for _, name := range []string{"backend-1", "backend-2"} {
		p.killEnvoy(name)
	}
	t.Logf("those of the called serve after %v", p.until("the Envoys of the called serve", within,
		func() error { return get(url) }))
	p.launchers["web"].Kill()
	p.start(p.launchers["web"])
	t.Logf("another launcher's Envoy serves after %v", p.until("another launcher's Envoy serves", within,
		func() error { return get(url) }))
	for range 20 {
		if err := get(url); err != nil {
			t.Error(err)
		}
	}

	for name := range p.launchers {
		if has := p.versions(name); !maps.Equal(has, had[name]) {
			t.Errorf("%s has\n%v\nand had\n%v", name, has, had[name])
		}
	}

	// Everything comes back, and no request fails.
	requests.since()
	before := map[string]int{}
	updates := []string{"cluster_manager.cds.update_success", "listener_manager.lds.update_success"}
	for name := range p.launchers {
		for _, u := range updates {
			before[name+" "+u] = p.counter(name, u)
		}
	}
	for _, store := range []string{"g", "z"} {
		if err := os.Rename(filepath.Join(dir, store+"-away"), filepath.Join(dir, store)); err != nil {
			t.Fatal(err)
		}
	}
	p.start(p.global)
	p.ready(p.net + ".1:5680")
	p.start(p.zone)
	p.ready(p.net + ".2:5680")
	t.Logf("everything is back %v after the zone", p.until("all are online again", plugTime, online))
	for name := range p.launchers {
		for _, u := range updates {
			if n := p.counter(name, u); n != before[name+" "+u] {
				t.Errorf("%s of %s: %d, was %d before the zone came back", u, name, n, before[name+" "+u])
			}
		}
	}
	requests.clean(t, "everything comes back")

	// And changes act.
	p.must("apply", "--wait", "--address", p.api(1), "-f", p.write("timeout.yaml", `
type: MeshTimeout
mesh: default
name: later
spec:
  targetRef: {kind: Mesh}
  to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 7s}}}]
`))
	if maps.Equal(p.versions("web"), had["web"]) {
		t.Error("web does not have the change")
	}
	requests.clean(t, "a change")

	// A zone that is there and says nothing, as one whose host vanished.
	p.zone.Signal(syscall.SIGSTOP)
	p.killEnvoy("web")
	t.Logf("beside a silent zone an Envoy serves after %v", p.until("an Envoy serves beside a silent zone",
		within, func() error { return get(url) }))
	p.launchers["web"].Kill()
	p.start(p.launchers["web"])
	t.Logf("another launcher's Envoy after %v", p.until("another launcher's Envoy serves", within,
		func() error { return get(url) }))
	requests.since()
	p.zone.Signal(syscall.SIGCONT)
	p.until("all are online after the silence", plugTime, online)
	requests.clean(t, "the zone speaks again")
}
