package traffic

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

var balancerTests = []test{
	{"RoundRobin", evenly("RoundRobin", 0)},
	{"Random", evenly("Random", 60)},
	{"LeastRequest", leastRequest},
	{"RingHash", sticky("RingHash")},
	{"Maglev", sticky("Maglev")},
	{"HashSources", hashSources},
	{"Affinity", affinity},
}

// grpcSpread makes n gRPC calls over connections of their own and returns the address of who answered each.
func (w *world) grpcSpread(n int) ([]string, error) {
	var out []string
	for range n {
		conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///%s:%d", w.address(1), outGRPC), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		before := map[string]int64{}
		for name, a := range w.apps {
			before[name] = a.calls.Load()
		}
		_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		cancel()
		_ = conn.Close()
		if err != nil {
			return nil, err
		}
		for name, a := range w.apps {
			if a.calls.Load() > before[name] {
				out = append(out, w.address(instances[name]))
			}
		}
	}
	return out, nil
}

func balancer(conf string) string {
	return to("MeshLoadBalancingStrategy", "balancer", "{"+conf+"}")
}

// evenly: of 400 requests each of the four instances gets a hundred, give or take.
func evenly(algorithm string, slack int) func(*world) {
	return func(w *world) {
		w.policy(balancer("loadBalancer: {type: " + algorithm + "}"))
		got := w.spread(400, "/")
		for name := range instances {
			if got[name] < 100-slack || got[name] > 100+slack {
				w.t.Errorf("%v", got)
				break
			}
		}
		if algorithm == "Random" && got["v1-a"] == 100 && got["v1-b"] == 100 && got["v2-a"] == 100 {
			w.t.Errorf("chance is not so even: %v", got)
		}
	}
}

// leastRequest: an instance that is busy with many requests gets few more.
func leastRequest(w *world) {
	busy := w.apps["v1-a"]
	share := func(conf string) int64 {
		w.policy(balancer(conf))
		busy.set(func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
			return false
		})
		defer busy.set(nil)
		before := busy.requests.Load()
		results := make(chan struct{}, 120)
		var next atomic.Int64
		for range 12 {
			go func() {
				for next.Add(1) <= 120 {
					w.keep("/")
					results <- struct{}{}
				}
			}()
		}
		for range 120 {
			<-results
		}
		return busy.requests.Load() - before
	}
	least := share("loadBalancer: {type: LeastRequest, leastRequest: {choiceCount: 4}}")
	if least > 20 {
		w.t.Errorf("the busy instance got %d of 120 requests, want far less than a fourth", least)
	}
}

// users who each call several times; the result is who answered each, and an error if a user met two.
func (w *world) users(n int, o func(user int) option) (map[int]string, error) {
	out := map[int]string{}
	for user := range n {
		for range 3 {
			a := w.get("/", o(user))
			if a.status != 200 {
				return nil, fmt.Errorf("%v", a)
			}
			if was := out[user]; was != "" && was != a.app {
				return nil, fmt.Errorf("user %d met %s and %s", user, was, a.app)
			}
			out[user] = a.app
		}
	}
	return out, nil
}

func byHeader(user int) option { return header("x-user", "user-"+strconv.Itoa(user)) }

// sticky: a user stays with an instance; when an instance goes, its users move and of the others hardly any.
func sticky(algorithm string) func(*world) {
	return func(w *world) {
		w.policy(balancer("loadBalancer: {type: " + algorithm + "}, hashPolicies: [{type: Header, header: {name: x-user}}]"))
		const n = 60
		before, err := w.users(n, byHeader)
		if err != nil {
			w.t.Fatal(err)
		}
		seen := map[string]int{}
		for _, name := range before {
			seen[name]++
		}
		if len(seen) != 4 {
			w.t.Errorf("not all instances have users: %v", seen)
		}
		// The instance leaves the service, and comes back.
		leave := w.workload("v2-b", "backend", "app: gone, version: gone, instance: v2-b", instances["v2-b"])
		w.apply(leave)
		after, err := w.users(n, byHeader)
		if err != nil {
			w.t.Fatal(err)
		}
		moved := 0
		for user, name := range before {
			if after[user] == "v2-b" {
				w.t.Errorf("user %d meets an instance that is gone", user)
			}
			if name != "v2-b" && after[user] != name {
				moved++
			}
		}
		if stayed := n - seen["v2-b"]; moved > stayed/3 {
			w.t.Errorf("%d of %d users whose instance stayed have moved", moved, stayed)
		}
		w.apply(w.workload("v2-b", "backend", "app: backend, version: v2, instance: v2-b", instances["v2-b"]))
		again, err := w.users(n, byHeader)
		if err != nil {
			w.t.Fatal(err)
		}
		for user, name := range before {
			if again[user] != name {
				w.t.Errorf("user %d was at %s and is at %s, though all instances are back", user, name, again[user])
				break
			}
		}
	}
}

func hashSources(w *world) {
	for _, c := range []struct {
		name, conf string
		o          func(int) option
	}{
		{"query parameter", "{type: QueryParameter, queryParameter: {name: user}}", func(user int) option {
			return func(r *http.Request) { r.URL.RawQuery = "user=" + strconv.Itoa(user) }
		}},
		{"cookie", "{type: Cookie, cookie: {name: session}}", func(user int) option { return header("Cookie", "session=s"+strconv.Itoa(user)) }},
		{"connection", "{type: Connection, connection: {sourceIP: true}}", func(int) option { return func(*http.Request) {} }},
	} {
		w.policy(balancer("loadBalancer: {type: RingHash}, hashPolicies: [" + c.conf + "]"))
		got, err := w.users(12, c.o)
		if err != nil {
			w.t.Errorf("%s: %v", c.name, err)
			continue
		}
		distinct := map[string]bool{}
		for _, name := range got {
			distinct[name] = true
		}
		if c.name == "connection" && len(distinct) != 1 || c.name != "connection" && len(distinct) < 2 {
			w.t.Errorf("%s: %v", c.name, got)
		}
	}
	// A cookie that is made where there is none keeps the caller where it was.
	w.policy(balancer("loadBalancer: {type: RingHash}, hashPolicies: [{type: Cookie, cookie: {name: made, ttl: 1h, path: /}}]"))
	first := w.get("/")
	cookie, _, _ := strings.Cut(first.headers.Get("Set-Cookie"), ";")
	if !strings.HasPrefix(cookie, "made=") {
		w.t.Fatalf("no cookie was made: %v", first.headers)
	}
	for range 5 {
		w.check(want(w.get("/", header("Cookie", cookie)), 200, first.app))
	}
}

// affinity: instances that share the caller's node get most of the requests, and the others the rest.
func affinity(w *world) {
	w.apply(strings.Replace(w.caller(), "labels: {app: web}", "labels: {app: web, node: n1}", 1))
	near := w.workload("v1-a", "backend", "app: backend, version: v1, instance: v1-a, node: n1", instances["v1-a"])
	w.apply(near)
	w.t.Cleanup(func() {
		w.apply(w.caller())
		w.apply(w.workload("v1-a", "backend", "app: backend, version: v1, instance: v1-a", instances["v1-a"]))
	})
	w.policy(balancer("localityAwareness: {localZone: {affinityTags: [{key: node, weight: 9}]}}"))
	w.eventually("most go to the same node", func() error {
		got := w.spread(300, "/")
		if n := got["v1-a"]; n < 220 || n > 299 {
			return fmt.Errorf("nine tenths of 300: %v", got)
		}
		return nil
	})
}
