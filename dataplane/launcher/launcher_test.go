package launcher

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/identity/servercert"
	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

const dataplane = `
type: Dataplane
mesh: default
name: web-1
networking:
  address: 127.0.0.1
  inbound:
    - port: 8080
      serviceAddress: 127.0.0.1
      servicePort: 9090
      tags: {kuma.io/service: web, kuma.io/protocol: http}
    - port: 8081
      tags: {kuma.io/service: web-admin}
    - port: 8082
      name: probed
      serviceAddress: 127.0.0.2
      servicePort: 9092
      serviceProbe: {interval: 3s, timeout: 500ms, unhealthyThreshold: 2, healthyThreshold: 4, tcp: {}}
      tags: {kuma.io/service: web-probed}
`

const ingress = `
type: ZoneIngress
name: in
networking: {address: 127.0.0.1, port: 10001, advertisedAddress: 127.0.0.1, advertisedPort: 10001}
`

// envoyScript answers --version as Envoy does and runs until it gets a signal.
func envoyScript(t *testing.T, run string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "envoy")
	script := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'envoy  version: " +
		"abc/1.40.0/Clean/RELEASE/BoringSSL'; exit 0; fi\n" + run + "\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func config(t *testing.T) Config {
	t.Helper()
	return Config{
		CP:        "https://127.0.0.1:5678",
		Resource:  []byte(dataplane),
		ProxyType: "dataplane",
		DrainTime: 5 * time.Second,
		Token:     token(t, strings.Repeat("ab", 32), time.Now().Add(time.Hour)),
		Envoy:     envoyScript(t, "exit 0"),
		Logger:    zap.NewNop(),
	}
}

func TestLocalChecks(t *testing.T) {
	t.Parallel()

	secret := token(t, "ab", time.Now().Add(-time.Hour))
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"no resource", func(c *Config) { c.Resource = nil }, []string{"--dataplane-file"}},
		{"not YAML", func(c *Config) { c.Resource = []byte("a: [") }, []string{"resource"}},
		{"unknown field", func(c *Config) {
			c.Resource = []byte(strings.Replace(dataplane, "servicePort", "servicePrt", 1))
		}, []string{"servicePrt", "servicePort"}},
		{"two documents", func(c *Config) { c.Resource = []byte(dataplane + "---" + dataplane) },
			[]string{"one document, got 2"}},
		{"kind and type", func(c *Config) { c.ProxyType = "ingress" },
			[]string{"Dataplane does not go with --proxy-type ingress", "ZoneIngress"}},
		{"type and kind", func(c *Config) { c.Resource = []byte(ingress) },
			[]string{"ZoneIngress does not go with --proxy-type dataplane"}},
		{"unknown type", func(c *Config) { c.ProxyType = "gateway" },
			[]string{"must be dataplane or ingress"}},
		{"no token", func(c *Config) { c.Token = "" }, []string{"--token-file"}},
		{"no JWT", func(c *Config) { c.Token = "hunter2" }, []string{"not a token"}},
		{"two lines", func(c *Config) { c.Token = "a\nb" }, []string{"several lines"}},
		{"expired", func(c *Config) { c.Token = secret }, []string{"expired at", "meridian token dataplane"}},
		{"no Envoy", func(c *Config) { c.Envoy = filepath.Join(t.TempDir(), "envoy") },
			[]string{"no Envoy found", "--envoy"}},
		{"another program", func(c *Config) { c.Envoy = "/bin/true" },
			[]string{"does not answer as Envoy does"}},
		{"plain http", func(c *Config) { c.CP = "http://127.0.0.1:5678" }, []string{"--cp", "https://"}},
		{"no drain time", func(c *Config) { c.DrainTime = 0 }, []string{"--drain-time"}},
		{"no port", func(c *Config) { c.ReadinessPort = 70000 }, []string{"--readiness-port"}},
		{"several at once", func(c *Config) { c.Token, c.CP, c.Resource = "", "x", nil },
			[]string{"--token-file", "--cp", "--dataplane-file"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := config(t)
			tc.change(&c)
			_, err := New(c)
			if err == nil {
				t.Fatal("was accepted")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if c.Token != "" && strings.Contains(err.Error(), c.Token) {
				t.Error("the error says the token")
			}
		})
	}
	l, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	if l.proxy.nodeID != "default.web-1" || l.proxy.cluster != "web" || l.envoyVer != "1.40.0" {
		t.Errorf("%+v, Envoy %s", l.proxy, l.envoyVer)
	}
	c := config(t)
	c.Resource, c.ProxyType = []byte(ingress), "ingress"
	if l, err = New(c); err != nil || l.proxy.nodeID != ".in" {
		t.Errorf("%v %+v", err, l)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()

	l, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []target{
		{
			section:   "8080",
			address:   "127.0.0.1:9090",
			interval:  time.Second,
			timeout:   time.Second,
			unhealthy: 1,
			healthy:   1,
		},
		// 8081 has no port of its own behind it: Envoy itself would answer.
		{
			section:   "probed",
			address:   "127.0.0.2:9092",
			interval:  3 * time.Second,
			timeout:   500 * time.Millisecond,
			unhealthy: 2,
			healthy:   4,
			given:     true,
		},
	}
	if !slices.Equal(l.proxy.targets, want) {
		t.Errorf("got %+v\nwant %+v", l.proxy.targets, want)
	}
}

// newSession is a session of a fake zone that trusts it by the pin alone.
func newSession(t *testing.T, z *fakeZone) *session {
	t.Helper()
	return sessionTo(t, z, &tokenSource{last: token(t, z.server.Pin, time.Now().Add(time.Hour))})
}

// replace puts a file in the place of another, as those do who write tokens.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// sessionTo is a session with a token.
func sessionTo(t *testing.T, z *fakeZone, source *tokenSource) *session {
	t.Helper()
	tr, err := newTrust(servercert.ClientOptions{ServerName: "127.0.0.1"}, source.get)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial(z.address, tr, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &session{
		log:     zap.NewNop(),
		address: z.address,
		conn:    conn,
		trust:   tr,
		token:   source.get,
		state:   newState(),
		hello:   &dataplanev1.SessionHello{NodeId: "default.web-1"},
	}
}

func TestNoInboundIsReadyBeforeEnvoyIs(t *testing.T) {
	s := newState("http", "8081")
	if r, _ := s.report(); !slices.Equal(r.GetNotReady(), []string{"8081", "http"}) {
		t.Errorf("before Envoy is live: %v", r)
	}
	_, changed := s.report()
	s.setLive(true)
	select {
	case <-changed:
	default:
		t.Error("that Envoy is live was not announced")
	}
	s.setNotReady([]string{"http"})
	if r, _ := s.report(); !slices.Equal(r.GetNotReady(), []string{"http"}) {
		t.Errorf("while it is live: %v", r)
	}
	s.setLive(false)
	if r, _ := s.report(); len(r.GetNotReady()) != 2 {
		t.Errorf("after it ended: %v", r)
	}
}

func TestSessionSaysTheWholeStateAgain(t *testing.T) {
	z := startZone(t, &fakeZone{})
	s := newSession(t, z)
	s.state.setLive(true)
	s.state.setNotReady([]string{"8080"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	if id := receive(t, "hello", z.hellos).GetNodeId(); id != "default.web-1" {
		t.Error(id)
	}
	if tok := receive(t, "token", z.tokens); tok != s.token() {
		t.Error(tok)
	}
	if r := receive(t, "first report", z.reports); !slices.Equal(r.GetNotReady(), []string{"8080"}) {
		t.Error(r)
	}
	receive(t, "acceptance", s.accepted())
	s.state.setNotReady(nil)
	if r := receive(t, "change", z.reports); len(r.GetNotReady()) != 0 {
		t.Error(r)
	}
	s.state.setNotReady([]string{"8081"})
	receive(t, "change", z.reports)
	z.cut <- struct{}{}
	receive(t, "hello after the cut", z.hellos)
	if r := receive(t, "report after the cut", z.reports); !slices.Equal(r.GetNotReady(), []string{"8081"}) {
		t.Errorf("after the cut the state is %v", r)
	}
	cancel()
	if err := receive(t, "the end", done); err != nil {
		t.Error(err)
	}
}

func TestSessionRefusals(t *testing.T) {
	for _, code := range []codes.Code{codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument,
		codes.NotFound, codes.FailedPrecondition} {
		t.Run(code.String(), func(t *testing.T) {
			z := startZone(t,
				&fakeZone{answer: func(int, *dataplanev1.SessionHello) error {
					return status.Error(code, "because of this")
				}})
			err := newSession(t, z).run(t.Context())
			if err == nil || !strings.Contains(err.Error(), "because of this") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("transient is retried", func(t *testing.T) {
		z := startZone(t, &fakeZone{answer: func(attempt int, _ *dataplanev1.SessionHello) error {
			if attempt < 3 {
				return status.Error(codes.Unavailable, "not now")
			}
			return nil
		}})
		s := newSession(t, z)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		receive(t, "acceptance", s.accepted())
		cancel()
		receive(t, "the end", done)
	})
	t.Run("a zone that lost its state does not end an accepted proxy", func(t *testing.T) {
		z := startZone(t, &fakeZone{answer: func(attempt int, _ *dataplanev1.SessionHello) error {
			if attempt == 2 {
				return status.Error(codes.NotFound, "no mesh")
			}
			return nil
		}})
		s := newSession(t, z)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		receive(t, "acceptance", s.accepted())
		z.cut <- struct{}{}
		for range 3 {
			receive(t, "hello", z.hellos)
		}
		cancel()
		if err := receive(t, "the end", done); err != nil {
			t.Error(err)
		}
	})
	t.Run("a zone that lost its state does not end a launcher with a cache", func(t *testing.T) {
		z := startZone(t, &fakeZone{answer: func(attempt int, _ *dataplanev1.SessionHello) error {
			if attempt == 1 {
				return status.Error(codes.NotFound, "no mesh")
			}
			return nil
		}})
		s := newSession(t, z)
		s.cached = true
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		l := &Launcher{log: zap.NewNop()}
		if !l.mayStart(ctx, s, nil) {
			t.Error("Envoy does not start")
		}
		receive(t, "acceptance", s.accepted())
		cancel()
		if err := receive(t, "the end", done); err != nil {
			t.Error(err)
		}
	})
	t.Run("a token that expired does not end an accepted proxy", func(t *testing.T) {
		z := startZone(t, &fakeZone{answer: func(attempt int, _ *dataplanev1.SessionHello) error {
			if attempt == 2 {
				return status.Error(codes.Unauthenticated, "the token expired")
			}
			return nil
		}})
		file := filepath.Join(t.TempDir(), "token")
		first := token(t, z.server.Pin, time.Now().Add(time.Hour))
		second := token(t, z.server.Pin, time.Now().Add(2*time.Hour))
		replace(t, file, first)
		s := newSession(t, z)
		s.token = (&tokenSource{file: file}).get
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		if got := receive(t, "token", z.tokens); got != first {
			t.Errorf("the first token is %q", got)
		}
		receive(t, "acceptance", s.accepted())
		z.cut <- struct{}{}
		receive(t, "token after the cut", z.tokens)
		replace(t, file, second+"\n")
		for receive(t, "the new token", z.tokens) != second {
		}
		// A file that is gone, or that someone is writing, does not take the token away.
		replace(t, file, "")
		z.cut <- struct{}{}
		if got := receive(t, "token after the next cut", z.tokens); got != second {
			t.Errorf("without a file the token is %q", got)
		}
		cancel()
		if err := receive(t, "the end", done); err != nil {
			t.Error(err)
		}
	})
	t.Run("a token that is replaced may pin another certificate", func(t *testing.T) {
		z := startZone(t, &fakeZone{})
		file := filepath.Join(t.TempDir(), "token")
		replace(t, file, token(t, strings.Repeat("00", 32), time.Now().Add(time.Hour)))
		source := &tokenSource{file: file}
		s := sessionTo(t, z, source)
		s.wasKnown()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		receive(t, "the failure", s.failed())
		replace(t, file, token(t, z.server.Pin, time.Now().Add(time.Hour)))
		receive(t, "acceptance", s.accepted())
		cancel()
		if err := receive(t, "the end", done); err != nil {
			t.Error(err)
		}
	})
	t.Run("a server with another certificate gets no token", func(t *testing.T) {
		z := startZone(t, &fakeZone{})
		foreign := token(t, strings.Repeat("00", 32), time.Now().Add(time.Hour))
		s := sessionTo(t, z, &tokenSource{last: foreign})
		if err := s.run(t.Context()); err == nil || !strings.Contains(err.Error(), "--ca-file") {
			t.Errorf("got %v", err)
		}
		if len(z.tokens) > 0 {
			t.Error("the token was sent")
		}
	})
}

func TestAppWatch(t *testing.T) {
	address := freeAddress(t)
	reports := make(chan []string, 10)
	w := newAppWatch([]target{{
		section:   "8080",
		address:   address,
		interval:  200 * time.Millisecond,
		timeout:   time.Second,
		unhealthy: 1,
		healthy:   1,
	}},
		zap.NewNop(), func(s []string) { reports <- s })
	w.first(t.Context())
	if got := receive(t, "first report", reports); !slices.Equal(got, []string{"8080"}) {
		t.Fatalf("got %v", got)
	}
	app := application(t, address)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	if got := receive(t, "report of the start", reports); len(got) != 0 {
		t.Fatalf("got %v", got)
	}
	began := time.Now()
	_ = app.Process.Kill()
	if got := receive(t, "report of the death", reports); !slices.Equal(got, []string{"8080"}) {
		t.Fatalf("got %v", got)
	}
	t.Logf("the death was reported after %s", time.Since(began))
	cancel()
	receive(t, "the end", done)
}

// fakeEnvoy is an admin interface whose counters a test sets.
type fakeEnvoy struct {
	mu    sync.Mutex
	stats string
	posts []string
}

func (f *fakeEnvoy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method == http.MethodPost {
		f.posts = append(f.posts, r.URL.Path)
		return
	}
	switch r.URL.Path {
	case "/stats":
		_, _ = w.Write([]byte(f.stats))
	case "/ready":
		_, _ = w.Write([]byte("LIVE\n"))
	}
}

func (f *fakeEnvoy) set(stats string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats = stats
}

const (
	busy = `{"stats":[{"name":"http.in.downstream_rq_active","value":1},
		{"name":"http.in.downstream_cx_active","value":3},
		{"name":"listener.127.0.0.1_8080.downstream_cx_active","value":3},
		{"name":"listener.127.0.0.1_8080.worker_0.downstream_cx_active","value":3},
		{"name":"listener.admin.downstream_cx_active","value":1},
		{"name":"http.admin.downstream_rq_active","value":1}]}`
	idle = `{"stats":[{"name":"http.in.downstream_rq_active","value":0},
		{"name":"http.in.downstream_cx_active","value":3},
		{"name":"listener.127.0.0.1_8080.downstream_cx_active","value":3},
		{"name":"http.admin.downstream_rq_active","value":1}]}`
	tcp = `{"stats":[{"name":"http.in.downstream_cx_active","value":3},
		{"name":"listener.127.0.0.1_8080.downstream_cx_active","value":5}]}`
)

func TestInFlight(t *testing.T) {
	t.Parallel()

	f := &fakeEnvoy{}
	srv := httptest.NewServer(f)
	defer srv.Close()
	a := newAdmin("tcp", srv.Listener.Addr().String())
	for _, tc := range []struct {
		stats string
		want  int
	}{{busy, 1}, {idle, 0}, {tcp, 2}, {`{"stats":[]}`, 0}} {
		f.set(tc.stats)
		if n, err := a.inFlight(t.Context()); err != nil || n != tc.want {
			t.Errorf("got %d, %v, want %d of %s", n, err, tc.want, tc.stats)
		}
	}
}

func TestDrain(t *testing.T) {
	f := &fakeEnvoy{stats: busy}
	srv := httptest.NewServer(f)
	defer srv.Close()
	drained := make(chan struct{})
	st := newState()
	d := drain{
		log:     zap.NewNop(),
		admin:   newAdmin("tcp", srv.Listener.Addr().String()),
		state:   st,
		drained: drained,
		limit:   20 * time.Second,
	}
	finished := make(chan struct{})
	_, changed := st.report()
	go func() { d.run(t.Context()); close(finished) }()
	receive(t, "the draining report", changed)
	if report, _ := st.report(); !report.GetDraining() {
		t.Error("the zone was not told")
	}
	close(drained)
	select {
	case <-finished:
		t.Fatal("ended with a request in flight")
	case <-time.After(2 * quiet):
	}
	f.set(idle)
	receive(t, "the end", finished)
	if !slices.Contains(f.posts, "/healthcheck/fail") || !slices.Contains(f.posts, "/drain_listeners") {
		t.Errorf("Envoy was told %v", f.posts)
	}

	t.Run("limit", func(t *testing.T) {
		f.set(busy)
		d := drain{
			log:     zap.NewNop(),
			admin:   newAdmin("tcp", srv.Listener.Addr().String()),
			state:   newState(),
			drained: drained,
			limit:   300 * time.Millisecond,
		}
		began := time.Now()
		d.run(t.Context())
		if took := time.Since(began); took < 250*time.Millisecond || took > 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestEnvoyThatNeverComesUp(t *testing.T) {
	e := &envoy{
		log:       zap.NewNop(),
		onLive:    func(bool) {},
		binary:    envoyScript(t, "exit 3"),
		bootstrap: "none",
		drainTime: time.Second,
		admin:     newAdmin("tcp", freeAddress(t)),
	}
	err := e.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
}
