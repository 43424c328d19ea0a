package traffic

import (
	"fmt"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/test/meshtest"
)

// TestHostsVanish: the machine of all of a zone's instances, or of all ingresses of the zone that serves,
// stops without a word. Callers are on the other instances within a second, without a policy.
func TestHostsVanish(t *testing.T) {
	losses := []struct {
		name string
		lose func(*meshtest.Host)
	}{
		{"link down", func(h *meshtest.Host) { h.Lose(1000, 1000) }},
		{"stopped", func(h *meshtest.Host) { h.Freeze(true) }},
		{"one direction", func(h *meshtest.Host) { h.Lose(0, 1000) }},
		{"a third lost", func(h *meshtest.Host) { h.Lose(300, 300) }},
	}
	for _, loss := range losses {
		t.Run(loss.name, func(t *testing.T) {
			w := meshtest.Start(t, us, eu)
			w.Apply(t, strict)
			h := meshtest.NewHost(t)
			add := func(zone, name string, place meshtest.Place) {
				w.Add(meshtest.Spec{
					Zone:    zone,
					Name:    name,
					Service: "flights",
					Place:   place,
				})
			}
			add(us, "near-1", h)
			add(us, "near-2", h)
			add(eu, "far-1", nil)
			w.Ingress(eu)
			w.Apply(t, "type: MeshMultiZoneService\nmesh: default\nname: flights\n"+
				"spec: {selector: {meshService: {matchLabels: {kuma.io/display-name: flights}}}, "+
				"ports: [{port: 8080, appProtocol: http}]}\n")
			const flights = "MeshMultiZoneService/flights"
			web := w.Add(meshtest.Spec{
				Zone:      us,
				Name:      "web",
				Service:   "web",
				Outbounds: []string{flights},
			})
			web.Await(t, flights)
			meshtest.Eventually(t, "the own zone serves alone", func() (bool, string) {
				got := tally(web.Many(40, 4, func(int) meshtest.Result { return web.Get(flights) }))
				return got["near-1"] > 0 && got["near-2"] > 0 && got["far-1"] == 0, fmt.Sprint(got)
			})

			run := load(web, flights, 8000, 500, func() { loss.lose(h) })
			t.Log(run)
			if run.failed > 20 {
				t.Errorf("%d of 8000 requests failed, want at most 20: %s", run.failed, run.example)
			}
			if loss.name != "a third lost" && run.moved > time.Second {
				t.Errorf("callers were on the other zone after %v, want at most 1s", run.moved)
			}
		})
	}
}

// silence is what became of a load of requests while something vanished.
type silence struct {
	failed int
	// moved is when the first request that went out after the loss and met the other zone was answered.
	moved time.Duration
	// longest request, and the 99th percentile of those that went out from a second after the loss on.
	longest, later time.Duration
	example        string
}

func (s silence) String() string {
	return fmt.Sprintf("%d failed; other zone after %v; longest %v; p99 from 1 s after the loss on %v",
		s.failed, s.moved, s.longest, s.later)
}

// load sends n requests, so many a second whatever becomes of the former ones, and calls lose after an
// eighth of them. A request that takes more than 3 s counts as failed.
func load(web *meshtest.Workload, destination string, n, rate int, lose func()) silence {
	var mu sync.Mutex
	var out silence
	var later []time.Duration
	var lost time.Time
	var requests sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := range n {
		<-tick.C
		if i == n/8 {
			lose()
			mu.Lock()
			lost = time.Now()
			mu.Unlock()
		}
		requests.Go(func() {
			began := time.Now()
			r := web.Get(destination)
			mu.Lock()
			defer mu.Unlock()
			out.longest = max(out.longest, r.Took)
			if r.Status != 200 || r.Took > 3*time.Second {
				out.failed++
				out.example = r.String()
			}
			if lost.IsZero() || began.Before(lost) {
				return
			}
			if r.Answer.Instance == "far-1" && out.moved == 0 {
				out.moved = time.Since(lost)
			}
			if began.Sub(lost) > time.Second {
				later = append(later, r.Took)
			}
		})
	}
	requests.Wait()
	sort.Slice(later, func(i, j int) bool { return later[i] < later[j] })
	if len(later) > 0 {
		out.later = later[len(later)*99/100]
	}
	return out
}
