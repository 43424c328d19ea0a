package traffic

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

func TestBalancing(t *testing.T) {
	m := startCallerMesh(t)
	t.Run("round robin", m.testRoundRobin)
	t.Run("random", m.testRandom)
	t.Run("least request", m.testLeastRequest)
	for _, algorithm := range []string{"RingHash", "Maglev"} {
		t.Run(algorithm, func(t *testing.T) { m.testHash(t, algorithm) })
	}
	t.Run("what is hashed", m.testHashPolicies)
	t.Run("hash of a route", m.testHashOfRoute)
	t.Run("affinity", m.testAffinity)
}

func balance(conf string) string { return toAPI("MeshLoadBalancingStrategy", "default: {"+conf+"}") }

// inOrder are the instances that answered one request after the other.
func (m *callerMesh) inOrder(n int) (out []string) {
	for range n {
		out = append(out, m.web.Get("api").Answer.Instance)
	}
	return out
}

func (m *callerMesh) testRoundRobin(t *testing.T) {
	m.Apply(t, balance("loadBalancer: {type: RoundRobin}"))
	for i, got := range m.inOrder(60) {
		if i >= 3 && got != m.api[0].Name && got != m.api[1].Name && got != m.api[2].Name {
			t.Fatalf("request %d: %q", i, got)
		}
	}
	order := m.inOrder(60)
	for i := 3; i < len(order); i++ {
		if order[i] != order[i-3] {
			t.Fatalf("no turns: %v", order)
		}
	}
}

func (m *callerMesh) testRandom(t *testing.T) {
	m.Apply(t, balance("loadBalancer: {type: Random}"))
	chiSquared(t, m.get(1500), map[string]float64{"api-1": 1. / 3, "api-2": 1. / 3, "api-3": 1. / 3})
	turns := 0
	order := m.inOrder(120)
	for i := 3; i < len(order); i++ {
		if order[i] == order[i-3] {
			turns++
		}
	}
	if turns > 80 { // 39 are expected, with a deviation of 5; by turns it would be all
		t.Errorf("%d of 117 are as three before: these are turns", turns)
	}
}

// testLeastRequest: while one instance holds requests, it gets less than its share of the others.
func (m *callerMesh) testLeastRequest(t *testing.T) {
	m.Apply(t, balance("loadBalancer: {type: LeastRequest, leastRequest: {choiceCount: 10}}"))
	entered, release := slow(t, m.api[0].App)
	var held []<-chan meshtest.Result
	for len(held) == 0 || len(entered) == 0 {
		select {
		case r := <-later(func() meshtest.Result { return m.web.Get("api") }):
			if r.Status != 200 {
				t.Fatal(r)
			}
		case <-entered:
			goto holding
		}
	}
holding:
	before := m.api[0].Requests()
	got := tally(m.web.Many(200, 1, func(int) meshtest.Result { return m.web.Get("api") }))
	if n := m.api[0].Requests() - before; n > 3 || got["api-2"] < 60 || got["api-3"] < 60 {
		t.Errorf("the busy instance got %d of 200 requests, the others %v", n, got)
	}
	release()
}

// homes is which instance has each user.
func (m *callerMesh) homes(t *testing.T, users int) []string {
	t.Helper()
	out := make([]string, users)
	for range 2 {
		for u := range users {
			r := m.web.Call("api", "GET", "/", "x-user", fmt.Sprint(u))
			if r.Status != 200 {
				t.Fatal(r)
			}
			if out[u] != "" && out[u] != r.Answer.Instance {
				t.Fatalf("user %d was at %s and is at %s", u, out[u], r.Answer.Instance)
			}
			out[u] = r.Answer.Instance
		}
	}
	return out
}

// testHash: users stay with their instance; when one goes its users move, and of the others few;
// when it is back all are where they were.
func (m *callerMesh) testHash(t *testing.T, algorithm string) {
	m.Apply(t, balance("loadBalancer: {type: "+algorithm+
		"}, hashPolicies: [{type: Header, header: {name: x-user}}]"))
	const users = 300
	at := m.homes(t, users)
	counts := map[string]int{}
	for _, home := range at {
		counts[home]++
	}
	for _, a := range m.api {
		if counts[a.Name] < users/6 || counts[a.Name] > users/2 {
			t.Errorf("users are not spread: %v", counts)
		}
	}
	m.api[1].Remove(t)
	moved := 0
	for u, home := range m.homes(t, users) {
		switch {
		case home == "api-2":
			t.Errorf("user %d is at an instance that is gone", u)
		case at[u] != "api-2" && home != at[u]:
			moved++
		}
	}
	if moved > users/4 {
		t.Errorf("%d of %d users moved who need not", moved, users)
	}
	t.Logf("%v; %d moved who need not", counts, moved)
	m.api[1].Join(t)
	for u, home := range m.homes(t, users) {
		if home != at[u] {
			t.Errorf("user %d was at %s before, and is at %s", u, at[u], home)
		}
	}
}

// testHashPolicies: every source of a hash keeps who is the same in one place, and tells others apart.
func (m *callerMesh) testHashPolicies(t *testing.T) {
	for name, c := range map[string]struct {
		conf string
		call func(user int) meshtest.Result
	}{
		"query": {"{type: QueryParameter, queryParameter: {name: user}}",
			func(u int) meshtest.Result { return m.web.Call("api", "GET", fmt.Sprintf("/?user=%d", u)) }},
		"cookie": {"{type: Cookie, cookie: {name: user}}", func(u int) meshtest.Result {
			return m.web.Call("api", "GET", "/", "cookie", fmt.Sprintf("user=%d", u))
		}},
		"the first that is there": {"{type: Header, terminal: true, header: {name: x-user}}, {type: " +
			"QueryParameter, queryParameter: {name: other}}", func(u int) meshtest.Result {
			return m.web.Call("api", "GET", fmt.Sprintf("/?other=%d", m.web.Requests()), "x-user",
				fmt.Sprint(u))
		}},
	} {
		m.Apply(t, balance("loadBalancer: {type: RingHash}, hashPolicies: ["+c.conf+"]"))
		seen := map[string]bool{}
		for u := range 40 {
			mine := map[string]bool{}
			for range 4 {
				mine[c.call(u).Answer.Instance] = true
			}
			if len(mine) != 1 || mine[""] {
				t.Errorf("%s: user %d was at %v", name, u, mine)
			}
			for k := range mine {
				seen[k] = true
			}
		}
		if len(seen) != 3 {
			t.Errorf("%s: all users are at %v", name, seen)
		}
	}
	// All of one connection are one.
	m.Apply(t, balance("loadBalancer: {type: RingHash}, hashPolicies: [{type: Connection, connection: "+
		"{sourceIP: true}}]"))
	if got := m.get(40); len(got) != 1 {
		t.Errorf("all requests are of one address, and went to %v", got)
	}
}

// testAffinity: what shares the caller's tag gets its share by weight.
func (m *callerMesh) testAffinity(t *testing.T) {
	near := m.Add(meshtest.Spec{
		Zone:    us,
		Name:    "api-near",
		Service: "api",
		Bare:    true,
		Tags:    map[string]string{"node": "n1"},
	})
	defer near.Remove(t)
	caller := m.Add(meshtest.Spec{
		Zone:      us,
		Name:      "web-near",
		Service:   "web-near",
		Tags:      map[string]string{"node": "n1"},
		Outbounds: []string{"api"},
	})
	caller.Await(t, "api")
	m.Apply(t, `
type: MeshLoadBalancingStrategy
mesh: default
name: near
spec:
  to:
  - targetRef: {kind: MeshService, name: api}
    default: {localityAwareness: {localZone: {affinityTags: [{key: node, weight: 9000}]}}}
`)
	got := tally(caller.Many(1000, 8, func(int) meshtest.Result { return caller.Get("api") }))
	if n := got["api-near"]; n < 950 || len(got) > 4 {
		t.Errorf("the instance on the caller's node should get nearly all: %v", got)
	}
	near.Fail(t, http.StatusOK)
	if far := m.get(40); far["api-near"] < 5 || far["api-1"] < 5 {
		t.Errorf("a caller without the tag should use all: %v", far)
	}
}

// testHashOfRoute: what is said of a route is hashed on its requests, and not on others.
func (m *callerMesh) testHashOfRoute(t *testing.T) {
	m.Apply(t, toAPI("MeshHTTPRoute",
		"rules: [{matches: [{path: {type: PathPrefix, value: /mine}}], default: {}}]"))
	m.Apply(t, `
type: MeshLoadBalancingStrategy
mesh: default
name: of-route
spec:
  to:
  - {targetRef: {kind: MeshService, name: api}, default: {loadBalancer: {type: RingHash}}}
  - targetRef: {kind: MeshHTTPRoute, name: under-test-api}
    default: {hashPolicies: [{type: Header, header: {name: x-user}}]}
`)
	at := func(path string) map[string]bool {
		seen := map[string]bool{}
		for range 40 {
			seen[m.web.Call("api", "GET", path, "x-user", "one").Answer.Instance] = true
		}
		return seen
	}
	if seen := at("/mine"); len(seen) != 1 || seen[""] {
		t.Errorf("a user on the route was at %v", seen)
	}
	if seen := at("/"); len(seen) != 3 {
		t.Errorf("outside of it nothing is hashed: %v", seen)
	}
}
