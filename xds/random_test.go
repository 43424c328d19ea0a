package xds

import (
	"flag"
	"fmt"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/delta"
)

var (
	seed  = flag.Uint64("seed", 0, "replay one random sequence")
	seeds = flag.Uint64("seeds", 150, "number of random sequences")
	steps = flag.Int("steps", 30, "changes in a random sequence")
)

// walks is how many of n random walks are done: a tenth under -short, as the race detector runs them,
// for they are of one goroutine.
func walks[N int | uint64](n N) N {
	if testing.Short() {
		return max(1, n/10)
	}
	return n
}

// TestIncrementalEqualsRebuild: after each of a random sequence of changes of every kind, what the
// engine keeps up to date is byte for byte what a new engine derives from the same state; and a
// resource that is the same is the same pointer.
func TestIncrementalEqualsRebuild(t *testing.T) {
	var sum wakes
	if *seed != 0 {
		sequence(t, *seed, &sum)
		return
	}
	for s := uint64(1); s <= walks(*seeds); s++ {
		if !t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) { sequence(t, s, &sum) }) {
			t.Fatalf("replay with: go test ./xds -run Incremental -seed=%d", s)
		}
	}
	t.Log(sum)
	if sum.notified == 0 || sum.idle > 0 {
		t.Errorf("proxies are notified for nothing: %v", sum)
	}
}

// wakes counts what changes did to proxies: notified were given something, idle of them nothing that differs.
type wakes struct{ steps, proxies, notified, idle int }

func (w wakes) String() string {
	return fmt.Sprintf("%d steps, %d times a proxy: %d times notified, %d of them for nothing", w.steps,
		w.proxies, w.notified, w.idle)
}

// holding is what a client has, by type and name.
type holding map[lack]*delta.Resource

// follow takes what a watch has into the hands of a client, which then has what the engine believes.
func follow(t *testing.T, what string, f *watch, has holding, now *delta.Table, sum *wakes) {
	t.Helper()
	sum.proxies++
	if u, ok, err := f.Next(); err != nil {
		t.Fatal(err)
	} else if ok {
		f.Ack(u.Revision, nil)
		first := len(has) == 0
		different := false
		present := map[lack]bool{}
		for _, typ := range delta.Types {
			for r := range u.Table.All(typ) {
				id := lack{typ, r.Name}
				present[id] = true
				different = different || has[id] == nil || has[id].Version != r.Version
				has[id] = r
			}
		}
		for id := range has {
			if !present[id] {
				different = true
				delete(has, id)
			}
		}
		if !first {
			if sum.notified++; !different {
				sum.idle++
				t.Logf("after %s: %s was notified for nothing", what, f.key)
			}
		}
	}
	n := 0
	for _, typ := range delta.Types {
		for r := range now.All(typ) {
			if n++; has[lack{typ, r.Name}] == nil || has[lack{typ, r.Name}].Version != r.Version {
				t.Fatalf("after %s: %s has not got %s %s", what, f.key, typ, r.Name)
			}
		}
	}
	if n != len(has) {
		t.Fatalf("after %s: %s has %d resources, want %d", what, f.key, len(has), n)
	}
}

func sequence(t *testing.T, seed uint64, sum *wakes) {
	w := newWorld(t)
	d := newDice(seed)
	followed := map[mesh.Key]*watch{}
	before, held := map[mesh.Key]*delta.Table{}, map[mesh.Key]holding{}
	for range 8 {
		dp := d.dataplane()
		d.live[dp.Key] = true
		w.put(dp)
		if followed[dp.Key] == nil {
			followed[dp.Key] = w.open(dp.Key)
		}
	}
	for range *steps {
		what := d.step(w, followed)
		sum.steps++
		for k := range followed {
			if held[k] == nil {
				held[k] = holding{}
			}
		}
		fresh := newEngine(testZone)
		for k := range d.ids {
			fresh.SetIdentity(k, testIdentity)
		}
		fresh.process(replica.Batch{View: w.view, Reset: true})
		for k := range followed {
			f := fresh.Open(delta.OpenRequest{Proxy: k})
			fresh.processEvents()
			want, ok := fresh.Config(k)
			got, had := w.e.Config(k)
			if _, exists := w.view.Get(k); !exists {
				f.Close()
				continue // it keeps what it had
			}
			if ok != had {
				t.Fatalf("after %s: %s has a table: %t, rebuilt: %t", what, k, had, ok)
			}
			compareTables(t, what, k, got, want)
			samePointers(t, what, k, before[k], got)
			follow(t, what, followed[k], held[k], got, sum)
			before[k] = got
			f.Close()
		}
		for k := range before {
			if followed[k] == nil {
				delete(before, k)
				delete(held, k)
			}
		}
		if p := w.e.Progress(); len(p.Rejections) > 0 {
			t.Fatalf("after %s: the control plane rejects %+v", what, p.Rejections)
		}
	}
	for k, f := range followed {
		if table, ok := w.e.Config(k); ok {
			checkReferences(t, table)
			if seed%25 == 0 {
				envoyValidates(t, table)
			}
		}
		f.Close()
	}
	w.e.processEvents()
	for k := range w.e.g.Stats() {
		if k.Values != 0 {
			t.Fatalf("%d nodes of %s stay", k.Values, k.Name)
		}
	}
}

func compareTables(t *testing.T, what string, k mesh.Key, got, want *delta.Table) {
	t.Helper()
	for _, typ := range delta.Types {
		names := map[string]bool{}
		for r := range want.All(typ) {
			names[r.Name] = true
			g := got.Lookup(typ, r.Name)
			if g == nil || string(g.Body) != string(r.Body) || g.Version != r.Version {
				t.Fatalf("after %s: %s: %s %s differs from a rebuild:\n got %v\nwant %v", what, k, typ,
					r.Name, show(t, g), show(t, r))
			}
			if fmt.Sprint(g.Cause) != fmt.Sprint(r.Cause) {
				t.Fatalf("after %s: %s: %s %s is blamed on %v, rebuilt %v", what, k, typ, r.Name, g.Cause,
					r.Cause)
			}
		}
		for r := range got.All(typ) {
			if !names[r.Name] {
				t.Fatalf("after %s: %s: %s %s is left over", what, k, typ, r.Name)
			}
		}
	}
}

func show(t *testing.T, r *delta.Resource) any {
	if r == nil {
		return nil
	}
	return message(t, r)
}

func samePointers(t *testing.T, what string, k mesh.Key, old, now *delta.Table) {
	t.Helper()
	if old == nil {
		return
	}
	for _, typ := range delta.Types {
		for r := range now.All(typ) {
			was := old.Lookup(typ, r.Name)
			if was != nil && was != r && was.Version == r.Version &&
				fmt.Sprint(was.Cause) == fmt.Sprint(r.Cause) {
				t.Fatalf("after %s: %s: %s %s was recomputed though nothing changed", what, k, typ, r.Name)
			}
		}
	}
}
