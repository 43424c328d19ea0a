package traffic

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/test/meshtest"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// examples are the documents of docs/policies, by kind and name.
func examples(t *testing.T) map[string]string {
	t.Helper()
	pages, err := filepath.Glob("../../docs/policies/*.md")
	if err != nil || len(pages) < 9 {
		t.Fatalf("pages %v, %v", pages, err)
	}
	out := map[string]string{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := yamlBlock.FindAllSubmatch(text, -1)
		if len(blocks) == 0 {
			t.Errorf("%s has no example", page)
		}
		for _, b := range blocks {
			docs, err := codec.Decode(b[1])
			if err != nil || len(docs) != 1 {
				t.Errorf("%s: an example should be one document: %v\n%s", page, err, b[1])
				continue
			}
			name := fmt.Sprintf("%s/%s", docs[0].Resource.Key.Kind, docs[0].Resource.Key.Name)
			if out[name] != "" {
				t.Errorf("%s: there are two examples %s", page, name)
			}
			out[name] = string(b[1])
		}
	}
	return out
}

// guide is the mesh that the pages speak of.
type guide struct {
	*meshtest.World
	web, batch, legacy    *meshtest.Workload
	backend               []*meshtest.Workload
	backendV2, db, dbNext *meshtest.Workload
}

// What web calls.
const (
	backendHTTP  = "backend:80"
	backendMulti = "MeshMultiZoneService/backend:80"
	dbTCP        = "db:5432"
)

// TestExamples applies every example of docs/policies, and sees it act. An example without a check
// is a failure.
func TestExamples(t *testing.T) {
	docs := examples(t)
	g := &guide{}
	checked := []string{}
	run := func(t *testing.T, checks map[string]func(*testing.T), before string) {
		for name, check := range checks {
			checked = append(checked, name)
			t.Run(name, func(t *testing.T) {
				if docs[name] == "" {
					t.Fatalf("docs/policies has no example %s any more", name)
				}
				if before != "" && !strings.HasPrefix(name, "MeshTrafficPermission") {
					g.Apply(t, before)
				}
				_, warnings := g.Apply(t, docs[name])
				for _, w := range warnings {
					if !strings.Contains(w,
						"deprecated") { // the older form of permissions has a page's first example
						t.Errorf("an example should need no warning: %s", w)
					}
				}
				check(t)
			})
		}
	}
	t.Run("callers", func(t *testing.T) {
		g.startCallers(t)
		run(t, map[string]func(*testing.T){
			"MeshCircuitBreaker/backend":        g.breaker,
			"MeshHealthCheck/backend":           g.health,
			"MeshHTTPRoute/backend-canary":      g.canary,
			"MeshLoadBalancingStrategy/backend": g.balanced,
			"MeshRetry/backend":                 g.retried,
			"MeshTCPRoute/db-canary":            g.tcpCanary,
			"MeshTimeout/backend":               g.timeout,
		}, "")
	})
	t.Run("inbounds", func(t *testing.T) {
		g.startInbounds(t)
		run(t, map[string]func(*testing.T){
			"MeshFaultInjection/backend-chaos":          g.chaos,
			"MeshFaultInjection/backend-chaos-web":      g.chaosForWeb,
			"MeshRateLimit/backend":                     g.limited,
			"MeshRateLimit/backend-callers":             g.limitedByCaller,
			"MeshTimeout/backend-callers":               g.timeoutByCaller,
			"MeshTrafficPermission/backend":             g.permitted,
			"MeshTrafficPermission/backend-by-identity": g.permittedByIdentity,
		}, everybody)
	})
	for name := range docs {
		if !slices.Contains(checked, name) {
			t.Errorf("the example %s is not checked on traffic: add it", name)
		}
	}
}

// everybody may call, and sees what there is: no retries, no ejection.
const everybody = `
type: MeshTrafficPermission
mesh: default
name: everybody
spec:
  targetRef: {kind: Mesh}
  rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://default"}}]}}]
---
type: MeshRetry
mesh: default
name: none
spec: {to: [{targetRef: {kind: Mesh}, default: {http: {numRetries: 0}}}]}
---
type: MeshCircuitBreaker
mesh: default
name: none
spec: {to: [{targetRef: {kind: Mesh}, default: {outlierDetection: {disabled: true}}}]}
`

func serviceOf(name string, port int, protocol string) string {
	return fmt.Sprintf("type: MeshService\nmesh: default\nname: %s\nspec: {selector: {dataplaneTags: {app: "+
		"%s}}, ports: [{port: %d, targetPort: 8080, appProtocol: %s}]}\n---\n", name, name, port, protocol)
}

func (g *guide) add(name, app, protocol string, bare bool, outbounds ...string) *meshtest.Workload {
	service := app + "-workload"
	if len(outbounds) > 0 {
		service = app
	}
	return g.Add(meshtest.Spec{
		Zone:      us,
		Name:      name,
		Service:   service,
		Protocol:  protocol,
		Bare:      bare,
		Outbounds: outbounds,
		Tags:      map[string]string{"app": app},
		Labels:    map[string]string{"app": app},
	})
}

func (g *guide) startCallers(t *testing.T) {
	g.World = meshtest.Start(t, us)
	g.Apply(t, serviceOf("backend", 80, "http")+serviceOf("backend-v2", 80, "http")+
		serviceOf("db", 5432, "tcp")+serviceOf("db-next", 5432, "tcp")+`
type: MeshMultiZoneService
mesh: default
name: backend
spec:
  selector: {meshService: {matchLabels: {kuma.io/display-name: backend}}}
  ports: [{port: 80, appProtocol: http}]
`)
	g.backend = []*meshtest.Workload{g.add("backend-1", "backend", "http", true),
		g.add("backend-2", "backend", "http", true), g.add("backend-3", "backend", "http", true)}
	g.backendV2, g.db, g.dbNext = g.add("v2", "backend-v2", "http", true), g.add("db-1", "db", "tcp", true),
		g.add("db-next-1", "db-next", "tcp", true)
	g.web = g.add("web-1", "web", "http", false, backendHTTP, backendMulti, dbTCP)
	g.web.Await(t, backendHTTP, backendMulti)
}

func (g *guide) calls(n int) map[string]int {
	return tally(g.web.Many(n, 8, func(int) meshtest.Result { return g.web.Get(backendHTTP) }))
}

// avoided waits until web has 40 answers in a row without the instance.
func (g *guide) avoided(t *testing.T, x *meshtest.Workload) {
	t.Helper()
	meshtest.Eventually(t, x.Name+" gets nothing", func() (bool, string) {
		got := g.calls(40)
		return got[g.backend[1].Name]+got[g.backend[2].Name] == 40, fmt.Sprint(got)
	})
}

func (g *guide) breaker(t *testing.T) {
	g.backend[0].Fail(t, 500)
	g.avoided(t, g.backend[0])
}

func (g *guide) health(t *testing.T) {
	g.backend[0].FailAt(t, "/health", 503)
	g.avoided(t, g.backend[0])
}

func (g *guide) canary(t *testing.T) {
	got := g.calls(2000)
	chiSquared(t, map[string]int{"backend": 2000 - got["v2"], "backend-v2": got["v2"]},
		map[string]float64{"backend": 0.9, "backend-v2": 0.1})
}

func (g *guide) balanced(t *testing.T) {
	seen := map[string]bool{}
	for user := range 30 {
		mine := map[string]bool{}
		for range 5 {
			r := g.web.Call(backendMulti, "GET", "/", "x-user", fmt.Sprint(user))
			mine[r.Answer.Instance], seen[r.Answer.Instance] = true, true
		}
		if len(mine) != 1 || mine[""] {
			t.Errorf("user %d was at %v", user, mine)
		}
	}
	if len(seen) != 3 {
		t.Errorf("all users are at %v", seen)
	}
}

func (g *guide) retried(t *testing.T) {
	for _, x := range g.backend {
		x.Fail(t, 500)
	}
	if n, r := attempts(g.web, backendHTTP, g.backend...); n != 4 || r.Status != 500 {
		t.Errorf("%d attempts for %v, want 4", n, r)
	}
	g.backend[2].Fail(t, 200)
	if got := g.calls(40); got["backend-3"] != 40 {
		t.Errorf("one of three serves: %v", got)
	}
}

func (g *guide) tcpCanary(t *testing.T) {
	got := map[string]int{}
	for range 1000 {
		who, done := g.web.Connect(dbTCP)
		got[who]++
		done()
	}
	chiSquared(t, got, map[string]float64{"db-1": 0.9, "db-next-1": 0.1})
}

func (g *guide) timeout(t *testing.T) {
	for _, x := range g.backend {
		hang(t, x.App, 1)
	}
	if r := g.web.Get(backendHTTP); r.Status != 504 || r.Took < 700*time.Millisecond ||
		r.Took > 10*time.Second {
		t.Errorf("a request that hangs should end after a second: %v", r)
	}
}

func (g *guide) startInbounds(t *testing.T) {
	g.World = meshtest.Start(t, us)
	g.Apply(t, strings.Split(strict, "---")[0])
	g.Apply(t, serviceOf("backend", 80, "http"))
	g.Apply(t, everybody)
	x := g.add("backend-1", "backend", "http", false)
	g.backend = []*meshtest.Workload{x}
	g.web, g.batch, g.legacy = g.add("web-1", "web", "http", false, backendHTTP),
		g.add("batch-1", "batch", "http", false, backendHTTP),
		g.add("legacy-1", "legacy", "http", false, backendHTTP)
	for _, x := range []*meshtest.Workload{g.web, g.batch, g.legacy} {
		x.Await(t, backendHTTP)
	}
	g.Delete(t, mesh.Key{Kind: mesh.KindMeshTrafficPermission, Mesh: mesh.DefaultMesh, Name: "everybody"})
}

// until waits until a caller gets this status ten times in a row.
func (g *guide) until(t *testing.T, x *meshtest.Workload, status int) {
	t.Helper()
	row := 0
	meshtest.Eventually(t, fmt.Sprintf("%s gets %d", x.Name, status), func() (bool, string) {
		r := x.Get(backendHTTP)
		if row++; r.Status != status {
			row = 0
		}
		return row == 10, r.String()
	})
}

func (g *guide) chaos(t *testing.T) {
	meshtest.Eventually(t, "the first fault",
		func() (bool, string) { r := g.web.Get(backendHTTP); return r.Status == 503, r.String() })
	got, late := map[string]int{}, 0
	for _, r := range g.web.Many(1000, 100, func(int) meshtest.Result { return g.web.Get(backendHTTP) }) {
		got[fmt.Sprint(r.Status)]++
		if r.Status == 200 && r.Took >= 400*time.Millisecond {
			late++
		}
	}
	chiSquared(t, got, map[string]float64{"200": 0.8, "503": 0.2})
	if late < 35 { // 80 are expected, with a deviation of 9; a busy machine makes more
		t.Errorf("%d are late, want about 80", late)
	}
}

func (g *guide) chaosForWeb(t *testing.T) {
	g.until(t, g.web, 500)
	g.until(t, g.batch, 200)
}

func (g *guide) limited(t *testing.T) {
	meshtest.Eventually(t, "more than 100 in a second", func() (bool, string) {
		for _, r := range g.web.Many(200, 16, func(int) meshtest.Result { return g.web.Get(backendHTTP) }) {
			if r.Status == http.StatusTooManyRequests {
				return r.Header.Get("x-rate-limited") == "true", r.String()
			}
		}
		return false, "all passed"
	})
}

func (g *guide) limitedByCaller(t *testing.T) {
	meshtest.Eventually(t, "batch is limited to 5",
		func() (bool, string) { r := g.batch.Get(backendHTTP); return r.Status == 429, r.String() })
	if got := statuses(20, func() meshtest.Result { return g.web.Get(backendHTTP) }); got[200] != 20 {
		t.Errorf("web may do 50: %v", got)
	}
	meshtest.Eventually(t, "and no more",
		func() (bool, string) { r := g.web.Get(backendHTTP); return r.Status == 429, r.String() })
}

func (g *guide) timeoutByCaller(t *testing.T) {
	// Connections that were open obey the rules they were accepted under until they are drained: a second.
	drained := time.After(1500 * time.Millisecond)
	for waiting := true; waiting; {
		select {
		case <-drained:
			waiting = false
		case <-time.After(50 * time.Millisecond):
			g.web.Get(backendHTTP)
			g.batch.Get(backendHTTP)
		}
	}
	entered, release := slow(t, g.backend[0].App)
	get := func(x *meshtest.Workload) <-chan meshtest.Result {
		return later(func() meshtest.Result { return x.Get(backendHTTP) })
	}
	batch := get(g.batch)
	<-entered
	web := get(g.web)
	if r := <-web; r.Status != 504 || r.Took < 9*time.Second {
		t.Errorf("web waits for 10 s: %v", r)
	}
	release()
	if r := <-batch; r.Status != 200 || r.Took < 9*time.Second {
		t.Errorf("batch waits longer: %v", r)
	}
}

func (g *guide) permitted(t *testing.T) {
	g.until(t, g.web, 200)
	g.until(t, g.batch, 403)
	g.until(t, g.legacy, 403)
}

func (g *guide) permittedByIdentity(t *testing.T) {
	g.until(t, g.web, 200)
	g.until(t, g.batch, 200)
	g.until(t, g.legacy, 403)
}
