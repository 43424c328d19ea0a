package delta_test

import (
	"slices"
	"testing"

	"github.com/meridian-mesh/meridian/xds/delta"
)

// While a change for all waits for a worker, proxies stand in the order in which they were touched;
// a change for one goes past them. A proxy that does not read is served in its turn as well, and
// delays no other.
func TestInTurn(t *testing.T) {
	const proxies = 40
	r := newRig(t, func(c *delta.Config) { c.Workers = 1 })
	w := services("a")
	r.engine.set(t, w)
	clients := make([]*client, proxies)
	for i := range clients {
		clients[i] = r.connect(t)
		clients[i].until(t, holds(t, w))
		r.engine.answered(t, 1) // the newest watch: watches are in the order of clients
	}
	clients[1].Pause()

	var order []int // of Next, in the one worker
	in, gate := make(chan struct{}), make(chan struct{})
	w = w.clone()
	w.endpoints["a"]++
	e := r.engine
	e.mu.Lock()
	e.replace(&delta.Table{Segments: []*delta.Segment{delta.NewSegment(w.resources(t))}})
	watches := slices.Clone(e.watches)
	e.taking = func(f *watch) {
		i := slices.Index(watches, f)
		order = append(order, i)
		if i == 0 && len(order) == 1 {
			close(in)
			<-gate
		}
	}
	e.mu.Unlock()
	for _, f := range watches {
		f.opening.Wake(false)
	}
	<-in
	watches[30].opening.Wake(true)
	watches[2].opening.Wake(false)
	close(gate)
	for i, c := range clients {
		if i != 1 {
			c.until(t, holds(t, w))
		}
	}
	clients[1].Resume()
	clients[1].until(t, holds(t, w))
	want := []int{0, 30}
	for i := 1; i < proxies; i++ {
		if i != 30 {
			want = append(want, i)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Equal(order, want) {
		t.Errorf("served in the order %v, want %v", order, want)
	}
}
