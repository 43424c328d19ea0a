package traffic

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/test/meshtest"
)

// scenario is a document of testdata/scenarios: what users of the public guides write.
func scenario(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "scenarios", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type airline struct {
	*meshtest.World
	gateway, v1, v2, flights, frontend *meshtest.Workload
	others                             []*meshtest.Workload
	backend                            *meshtest.Workload
}

// TestScenarios applies the documents as they stand. 02 is in TestZones.
func TestScenarios(t *testing.T) {
	m := &airline{World: meshtest.Start(t, us)}
	tickets := map[string]string{"app": "ticket-booking"}
	m.gateway = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "booking-gateway-1",
		Service:   "booking-gateway",
		Outbounds: []string{"ticket-booking", "flight-search", "ticket-booking-v1"},
	})
	m.v1 = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "v1",
		Service:   "ticket-booking-v1",
		Tags:      tickets,
		Outbounds: []string{"flight-search"},
	})
	m.v2 = m.Add(meshtest.Spec{Zone: us, Name: "v2", Service: "ticket-booking-v2", Tags: tickets, Bare: true})
	m.flights = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "flights-1",
		Service:   "flight-search",
		Outbounds: []string{"backend", "ticket-booking"},
	})
	for _, name := range []string{"flights-2", "flights-3"} {
		m.others = append(m.others, m.Add(meshtest.Spec{
			Zone:    us,
			Name:    name,
			Service: "flight-search",
			Bare:    true,
		}))
	}
	m.frontend = m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "frontend-1",
		Service:   "frontend",
		Outbounds: []string{"backend"},
	})
	m.backend = m.Add(meshtest.Spec{Zone: us, Name: "backend-1", Service: "backend", Bare: true})
	m.Apply(t, "type: MeshService\nmesh: default\nname: ticket-booking\nspec: {selector: "+
		"{dataplaneTags: {app: "+
		"ticket-booking}}, ports: [{port: 8080, targetPort: 8080, appProtocol: http}]}\n")
	m.gateway.Await(t, m.gateway.Outbounds...)
	m.v1.Await(t, "flight-search")
	m.flights.Await(t, "ticket-booking", "backend")
	m.frontend.Await(t, "backend")
	t.Run("01", m.testHostnames)
	t.Run("04", m.testCanary)
	t.Run("05", m.testLeast)
	t.Run("06", m.testHundredASecond)
	t.Run("07", m.testHealth)
	t.Run("08", m.testFiveFailures)
	t.Run("09", m.testThreeRetries)
	t.Run("12", m.testLegacyRetry)
	t.Run("11", m.testLegacyPermission)
}

func (m *airline) testHostnames(t *testing.T) {
	m.Apply(t, scenario(t, "01-hostname-generator"))
	for _, name := range []string{"ticket-booking", "flight-search", "backend"} {
		host := name + ".svc.kongair.mesh"
		meshtest.Eventually(t, host+" is a name of the service", func() (bool, string) {
			s := m.Resource(t, mesh.Key{Kind: mesh.KindMeshService, Mesh: mesh.DefaultMesh, Name: name})
			return strings.Contains(s, host), s
		})
	}
}

func (m *airline) testCanary(t *testing.T) {
	keys, _ := m.Apply(t, scenario(t, "04-canary"))
	if len(keys) != 1 || keys[0].Name == "" {
		t.Errorf("a document without a name got %v", keys)
	}
	call := func(x *meshtest.Workload, n int) map[string]int {
		return tally(x.Many(n, 8, func(int) meshtest.Result { return x.Get("ticket-booking") }))
	}
	chiSquared(t, call(m.gateway, 2000), map[string]float64{"v1": 0.9, "v2": 0.1})
	if got := call(m.flights, 40); got["v1"] != 20 || got["v2"] != 20 {
		t.Errorf("callers that are not booking-gateway: %v", got)
	}
}

// testLeast: ticket-booking's own calls avoid who is busy, others' do not.
func (m *airline) testLeast(t *testing.T) {
	m.Apply(t, scenario(t, "05-least-request"))
	busy := m.others[0]
	entered, release := slow(t, busy.App)
	for range 6 { // least request draws two instances at a time
		later(func() meshtest.Result { return m.gateway.Get("flight-search") })
	}
	<-entered
	defer release()
	var held int
	meshtest.Eventually(t, "ticket-booking holds requests at the busy instance, and goes elsewhere",
		func() (bool, string) {
			before := busy.Requests()
			c := later(func() meshtest.Result { return m.v1.Get("flight-search") })
			select {
			case <-c:
			case <-time.After(300 * time.Millisecond):
				held += busy.Requests() - before
			}
			return held >= 3, fmt.Sprint(held)
		})
	// Each caller counts its own. With three instances and two draws the busy one is taken when it
	// is drawn twice: one in nine.
	before, answered := busy.Requests(), 0
	for range 60 {
		c := later(func() meshtest.Result { return m.v1.Get("flight-search") })
		select {
		case r := <-c:
			if r.Status == 200 {
				answered++
			}
		case <-time.After(300 * time.Millisecond):
		}
	}
	if n := busy.Requests() - before; n > 17 ||
		answered < 43 { // 6.7 are expected, with a deviation of 2.4; by turns it would be 20
		t.Errorf("the busy instance got %d of 60, %d were answered", n, answered)
	}
}

func (m *airline) testHundredASecond(t *testing.T) {
	m.Apply(t, scenario(t, "06-rate-limit"))
	settled(t, m.v1)
	meshtest.Eventually(t, "more than 100 in a second", func() (bool, string) {
		began := time.Now()
		got := map[int]int{}
		for _, r := range m.gateway.Many(200, 16, func(int) meshtest.Result { return direct(m.v1, "/") }) {
			got[r.Status]++
		}
		most := 101 + int(100*time.Since(began).Seconds())
		if got[200]+got[429] != 200 || got[200] > most {
			t.Errorf("%v in %s", got, time.Since(began))
		}
		return got[429] > 0, fmt.Sprint(got)
	})
}

func (m *airline) testHealth(t *testing.T) {
	paths := m.v2.Paths(t)
	m.Apply(t, scenario(t, "07-health-check"))
	meshtest.Eventually(t, "flight-search's proxies ask ticket-booking on /health",
		func() (bool, string) { return paths("/health") > 0, fmt.Sprint(paths("/health")) })
	m.v2.FailAt(t, "/health", 503)
	used := func(want bool) {
		t.Helper()
		meshtest.Eventually(t, fmt.Sprintf("v2 is used: %t", want), func() (bool, string) {
			got := tally(m.flights.Many(20, 4,
				func(int) meshtest.Result { return m.flights.Get("ticket-booking") }))
			if got["v1"]+got["v2"] != 20 {
				t.Errorf("a request failed: %v", got)
			}
			return got["v2"] == 10 == want && (got["v2"] == 0) != want, fmt.Sprint(got)
		})
	}
	used(false)
	m.v2.FailAt(t, "/health", 200)
	used(true)
}

func (m *airline) testFiveFailures(t *testing.T) {
	m.Apply(t, "type: MeshRetry\nmesh: default\nname: none\nspec: {to: [{targetRef: {kind: Mesh}, "+noRetries+
		"}]}")
	m.Apply(t, scenario(t, "08-circuit-breaker"))
	ill := m.others[0]
	ill.Fail(t, 500)
	failed, quiet := 0, 0
	meshtest.Eventually(t, "it rests", func() (bool, string) {
		if r := m.v1.Get("flight-search"); r.Status == 500 {
			failed++
			quiet = 0
		} else if r.Status == 200 {
			quiet++
		}
		return quiet >= 40, fmt.Sprintf("%d failures, then %d without", failed, quiet)
	})
	if failed < 5 || failed > 25 {
		t.Errorf("%d failures in a row, want 5", failed)
	}
	ill.Fail(t, 200)
	// For 30 s: it is not back at once.
	before := ill.Requests()
	for range 30 {
		m.v1.Get("flight-search")
	}
	if ill.Requests() != before {
		t.Error("it is back already")
	}
}

// attempts at an instance for one request.
func attempts(x *meshtest.Workload, destination string, at ...*meshtest.Workload) (int, meshtest.Result) {
	sum := func() (n int) {
		for _, a := range at {
			n += a.Requests()
		}
		return n
	}
	before := sum()
	r := x.Get(destination)
	return sum() - before, r
}

func (m *airline) testThreeRetries(t *testing.T) {
	m.Apply(t, scenario(t, "09-retry"))
	all := append([]*meshtest.Workload{m.flights}, m.others...)
	for _, x := range all {
		x.Fail(t, 500)
	}
	if n, r := attempts(m.v1, "flight-search", all...); n != 4 || r.Status != 500 {
		t.Errorf("%d attempts for %v, want 4", n, r)
	}
	m.others[1].Fail(t, 200)
	for range 20 {
		if r := m.v1.Get("flight-search"); r.Status != 200 {
			t.Errorf("one of three serves: %v", r)
		}
	}
	m.others[0].Stop()
	defer m.others[0].Start(t)
	for range 20 {
		if r := m.v1.Get("flight-search"); r.Status != 200 {
			t.Errorf("one fails, one is not there, one serves: %v", r)
		}
	}
}

func (m *airline) testLegacyRetry(t *testing.T) {
	_, warnings := m.Apply(t, scenario(t, "12-retry-legacy"))
	if len(warnings) == 0 {
		t.Error("an older kind should be warned of")
	}
	m.backend.Fail(t, 503)
	if n, r := attempts(m.frontend, "backend", m.backend); n != 4 || r.Status != 503 {
		t.Errorf("frontend: %d attempts for %v, want 4", n, r)
	}
	seen := hang(t, m.backend.App, 1)
	if r := m.frontend.Get("backend"); r.Status != 200 || seen.Load() != 2 ||
		r.Took < 1500*time.Millisecond || r.Took > 12*time.Second {
		t.Errorf("an attempt that hangs ends after 2 s: %d attempts, %v", seen.Load(), r)
	}
}

func (m *airline) testLegacyPermission(t *testing.T) {
	m.Apply(t, strings.Split(strict, "---")[0])
	meshtest.Eventually(t, "no client may call", func() (bool, string) {
		r := m.gateway.Get("ticket-booking-v1")
		return r.Status == 403, r.String()
	})
	m.Apply(t, scenario(t, "11-traffic-permission-legacy"))
	meshtest.Eventually(t, "everybody may", func() (bool, string) {
		r := m.gateway.Get("ticket-booking-v1")
		return r.Status == 200, r.String()
	})
}
