package translate

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// site is a real Envoy with static clusters and listeners made of ir, and workloads that say who they are.
type site struct {
	t         *testing.T
	clusters  []*clusterv3.Cluster
	listeners []*listenerv3.Listener
	ports     map[string]int
	client    *http.Client
}

func newSite(t *testing.T) *site {
	s := &site{
		t:      t,
		ports:  map[string]int{},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 10 * time.Second},
	}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// in is the site as a subtest sees it.
func (s *site) in(t *testing.T) *site {
	c := *s
	c.t = t
	return &c
}

// workload answers every request with its name, after enter returns.
func workload(t *testing.T, name string, enter func()) (ir.Endpoint, *http.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &p, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if enter != nil {
			enter()
		}
		_, _ = io.WriteString(w, name)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return ir.Endpoint{
		Address: "127.0.0.1",
		Port:    uint32(l.Addr().(*net.TCPAddr).Port),
		Weight:  1,
		Zone:    "east",
	}, s
}

// cluster adds a cluster; http adds a listener that sends to it.
func (s *site) cluster(c ir.Cluster, e ir.Endpoints) {
	s.t.Helper()
	conf, _ := compile.NewOutboundConfig(nil, policy.Destination{}, compile.Port{Protocol: c.Port})
	conf.Cluster.Balancer, conf.Cluster.LocalityWeighted = c.Balancer, c.LocalityWeighted
	c.ClusterPolicy = conf.Cluster
	s.add(c, e)
}

// add adds a cluster as it is.
func (s *site) add(c ir.Cluster, e ir.Endpoints) {
	s.t.Helper()
	c.Type, c.Keepalive = ir.ClusterEDS, true
	out, err := Cluster(c)
	if err != nil {
		s.t.Fatal(err)
	}
	e.Cluster = c.Name
	out.EdsClusterConfig, out.ClusterDiscoveryType, out.LoadAssignment = nil,
		&clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, Endpoints(e)
	s.clusters = append(s.clusters, out)
}

func (s *site) http(p ir.ClusterPolicy, e ir.Endpoints, name string, hash ...ir.HashPolicy) {
	s.t.Helper()
	s.cluster(ir.Cluster{Name: name, Upstream: ir.HTTP2, Port: ir.HTTP1, ClusterPolicy: p}, e)
	conf, _ := compile.NewOutboundConfig(nil, policy.Destination{}, compile.Port{Protocol: ir.HTTP1})
	route := ir.Route{
		Match:       ir.Match{Path: "/"},
		Backends:    []ir.Backend{{Cluster: name, Weight: 1}},
		RoutePolicy: conf.Route,
	}
	if len(hash) > 0 {
		route.Hash = ir.Share(hash)
	}
	s.listen(name, ir.Chain{HTTP: &ir.HTTP{
		StatPrefix: name,
		Routes:     &ir.RouteConfig{Name: name, Common: conf.Route, Routes: []ir.Route{route}},
	}})
}

func (s *site) listen(name string, c ir.Chain) {
	s.t.Helper()
	s.ports[name] = freePort(s.t)
	l, err := Listener(ir.Listener{
		Name:    name,
		Address: "127.0.0.1",
		Port:    uint32(s.ports[name]),
		Chains:  []ir.Chain{c},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.listeners = append(s.listeners, l)
}

func (s *site) start(envoy string) {
	s.t.Helper()
	// One thread: each has a balancer of its own, which would blur small numbers.
	j, err := protojson.Marshal(&bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "test", Cluster: "test"},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: s.clusters, Listeners: s.listeners},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, j, 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(envoy, "-c", path, "-l", "error", "--concurrency", "1", "--use-dynamic-base-id")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for name := range s.ports {
		until(ctx, s.t, func() bool {
			c, err := net.Dial("tcp", s.address(name))
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
}

func (s *site) address(name string) string { return fmt.Sprintf("127.0.0.1:%d", s.ports[name]) }

// ask is the name of who answers; user goes into the header x-user.
func (s *site) ask(name, user string) string {
	s.t.Helper()
	body, err := s.try(name, user)
	if err != nil {
		s.t.Fatal(err)
	}
	return body
}

func (s *site) try(name, user string) (string, error) {
	req, err := http.NewRequest("GET", "http://"+s.address(name)+"/", nil)
	if err != nil {
		return "", err
	}
	if user != "" {
		req.Header.Set("x-user", user)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("%s: status %d, %s", name, res.StatusCode, body)
	}
	return string(body), err
}

// counts of n requests by who answered.
func (s *site) counts(name string, n int) map[string]int {
	s.t.Helper()
	out := map[string]int{}
	for range n {
		out[s.ask(name, "")]++
	}
	return out
}

// shares checks counts against the shares expected, by chi-squared at a level that a right balancer
// misses once in some 100,000 runs.
func shares(t *testing.T, got map[string]int, want map[string]float64) {
	t.Helper()
	n, total := 0, 0.0
	for _, c := range got {
		n += c
	}
	for _, w := range want {
		total += w
	}
	chi := 0.0
	for name, w := range want {
		e := float64(n) * w / total
		d := float64(got[name]) - e
		chi += d * d / e
	}
	for name := range got {
		if want[name] == 0 {
			t.Errorf("%s served and should not have: %v", name, got)
		}
	}
	if limit := []float64{0, 19.5, 23.0, 25.9}[len(want)-1]; chi > limit {
		t.Errorf("%v, want shares %v: chi-squared %.1f over %.1f", got, want, chi, limit)
	}
}

// TestBalancers: each algorithm does with real requests what its name says.
func TestBalancers(t *testing.T) {
	envoy := envoytest.Binary(t)
	s := newSite(t)
	var three ir.Endpoints
	var servers []*http.Server
	for _, n := range []string{"a", "b", "c"} {
		e, server := workload(t, n, nil)
		three.Endpoints, servers = append(three.Endpoints, e), append(servers, server)
	}
	lb := func(a ir.Algorithm) ir.ClusterPolicy {
		return ir.ClusterPolicy{Balancer: ir.LoadBalancer{Algorithm: a}}
	}
	s.http(lb(ir.RoundRobin), three, "robin")
	s.http(lb(ir.Random), three, "random")
	byUser := ir.HashPolicy{Name: "x-user"}
	s.http(ir.ClusterPolicy{Balancer: ir.LoadBalancer{
		Algorithm: ir.RingHash,
		MinRing:   1024,
		MaxRing:   4096,
	}}, three, "ring", byUser)
	s.http(ir.ClusterPolicy{Balancer: ir.LoadBalancer{
		Algorithm: ir.Maglev,
		Table:     1009,
	}}, three, "maglev", byUser)
	s.http(lb(ir.Maglev), three, "cookie", ir.HashPolicy{
		Source: ir.HashCookie,
		Name:   "c",
		HasTTL: true,
		TTL:    time.Hour,
		Path:   "/",
	})

	// One of two is stuck with a request: who has fewer in flight gets all others.
	entered, release := make(chan struct{}), make(chan struct{})
	stuck, _ := workload(t, "stuck", func() {
		entered <- struct{}{}
		<-release
	})
	free, _ := workload(t, "free", nil)
	s.http(ir.ClusterPolicy{Balancer: ir.LoadBalancer{
		Algorithm: ir.LeastRequest,
		Choices:   50,
	}}, ir.Endpoints{Endpoints: []ir.Endpoint{stuck, free}}, "least")
	s.start(envoy)

	t.Run("round robin", func(t *testing.T) {
		s := s.in(t)
		got := s.counts("robin", 300)
		for _, n := range []string{"a", "b", "c"} {
			if got[n] < 99 || got[n] > 101 {
				t.Errorf("%v", got)
			}
		}
	})
	t.Run("random", func(t *testing.T) {
		s := s.in(t)
		shares(t, s.counts("random", 1500), map[string]float64{"a": 1, "b": 1, "c": 1})
	})
	t.Run("least request", func(t *testing.T) {
		s := s.in(t)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		done := make(chan struct{})
		go func() { // until one of them meets the stuck one
			defer close(done)
			for ctx.Err() == nil {
				if got, err := s.try("least", ""); err != nil || got == "stuck" {
					return
				}
			}
		}()
		select {
		case <-entered:
		case <-ctx.Done():
			t.Fatal("no request reached it")
		}
		if got := s.counts("least", 100); got["free"] != 100 {
			t.Errorf("%v", got)
		}
		close(release)
		<-done
	})
	t.Run("cookie", func(t *testing.T) {
		s := s.in(t)
		res, err := s.client.Get("http://" + s.address("cookie") + "/")
		if err != nil {
			t.Fatal(err)
		}
		first, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if len(res.Cookies()) != 1 || res.Cookies()[0].Name != "c" {
			t.Fatalf("cookies: %v", res.Cookies())
		}
		for range 20 {
			req, _ := http.NewRequest("GET", "http://"+s.address("cookie")+"/", nil)
			req.AddCookie(res.Cookies()[0])
			again, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(again.Body)
			_ = again.Body.Close()
			if string(body) != string(first) {
				t.Fatalf("first %s, then %s", first, body)
			}
		}
	})
	t.Run("hashes", func(t *testing.T) {
		s := s.in(t)
		const users = 90
		home := map[string]map[int]string{}
		for _, name := range []string{"ring", "maglev"} {
			home[name] = map[int]string{}
			of := map[string]int{}
			for u := range users {
				home[name][u] = s.ask(name, fmt.Sprint(u))
				of[home[name][u]]++
				for range 4 {
					if got := s.ask(name, fmt.Sprint(u)); got != home[name][u] {
						t.Fatalf("%s: user %d was at %s and is at %s", name, u, home[name][u], got)
					}
				}
			}
			for _, n := range []string{"a", "b", "c"} {
				if of[n] < users/8 {
					t.Errorf("%s: %v", name, of)
				}
			}
		}
		// One is gone: its users go elsewhere without a failed request, the others stay but for few.
		_ = servers[0].Close()
		for _, name := range []string{"ring", "maglev"} {
			moved := 0
			for range 5 { // meanwhile it is ejected
				moved = 0
				for u := range users {
					if got := s.ask(name, fmt.Sprint(u)); got != home[name][u] && home[name][u] != "a" {
						moved++
					}
				}
			}
			// A ring gives its freed points to those that stay, which moves about a sixth.
			if moved > users/4 {
				t.Errorf("%s: %d users moved whose instance is there", name, moved)
			}
		}
	})
}

// TestLocalities: shares of traffic by the weights of localities, and when it spills over to the
// next priority.
func TestLocalities(t *testing.T) {
	envoy := envoytest.Binary(t)
	s := newSite(t)
	place := func(name string, f func(*ir.Endpoint)) ir.Endpoint {
		e, _ := workload(t, name, nil)
		f(&e)
		return e
	}
	s.http(ir.ClusterPolicy{LocalityWeighted: true}, ir.Endpoints{
		Overprovisioning: 200,
		Endpoints: []ir.Endpoint{
			place("rest", func(e *ir.Endpoint) { e.LocalityWeight = 1 }),
			place("node", func(e *ir.Endpoint) { e.SubZone, e.LocalityWeight = "node=n1", 90 }),
			place("rack", func(e *ir.Endpoint) { e.SubZone, e.LocalityWeight = "rack=r1", 9 }),
			place("west", func(e *ir.Endpoint) { e.Zone, e.Priority, e.LocalityWeight = "west", 1, 1 }),
		},
	}, "affinity")
	half := func(factor uint32) ir.Endpoints {
		e := ir.Endpoints{Overprovisioning: factor}
		for i := range 4 {
			e.Endpoints = append(e.Endpoints, place("east", func(e *ir.Endpoint) {
				if i < 2 {
					e.Health = ir.Unhealthy
				}
			}))
		}
		e.Endpoints = append(e.Endpoints,
			place("west", func(e *ir.Endpoint) { e.Zone, e.Priority = "west", 1 }))
		return e
	}
	s.http(ir.ClusterPolicy{}, half(200), "threshold50")
	s.http(ir.ClusterPolicy{}, half(143), "threshold70")
	s.http(ir.ClusterPolicy{}, half(100), "threshold100")
	s.start(envoy)
	shares(t, s.counts("affinity", 2000), map[string]float64{"node": 90, "rack": 9, "rest": 1})
	if got := s.counts("threshold50", 200); got["east"] != 200 {
		t.Errorf("half are healthy, and the threshold is 50 %%: %v", got)
	}
	shares(t, s.counts("threshold70", 1500), map[string]float64{"east": 71, "west": 29})
	shares(t, s.counts("threshold100", 1500), map[string]float64{"east": 50, "west": 50})
}

// TestConnections: a MeshTCPRoute's shares, of which one has no backend, and a chain that closes.
func TestConnections(t *testing.T) {
	envoy := envoytest.Binary(t)
	s := newSite(t)
	for _, name := range []string{"a", "b"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, name)
				_ = c.Close()
			}
		}()
		s.cluster(ir.Cluster{Name: name, Upstream: ir.TCP, Port: ir.TCP},
			ir.Endpoints{Endpoints: []ir.Endpoint{{
				Address: "127.0.0.1",
				Port:    uint32(l.Addr().(*net.TCPAddr).Port),
				Weight:  1,
			}}})
	}
	s.listen("split", ir.Chain{ListenerPolicy: ir.ListenerPolicy{ConnectAttempts: 5},
		TCP: &ir.TCPProxy{StatPrefix: "split",
			Backends: []ir.Backend{{Cluster: "a", Weight: 70}, {Cluster: "b", Weight: 20}, {Weight: 10}}}})
	s.listen("closed", ir.Chain{})
	s.start(envoy)
	connect := func(name string) string {
		c, err := net.Dial("tcp", s.address(name))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		body, _ := io.ReadAll(c)
		if len(body) == 0 {
			return "closed"
		}
		return string(body)
	}
	got := map[string]int{}
	for range 1000 {
		got[connect("split")]++
	}
	shares(t, got, map[string]float64{"a": 70, "b": 20, "closed": 10})
	for range 5 {
		if got := connect("closed"); got != "closed" {
			t.Errorf("%s answered", got)
		}
	}
}
