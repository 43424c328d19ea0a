package graph

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

type id int

func (i id) String() string { return fmt.Sprint(int(i)) }

type pair struct{ a, b id }

func (p pair) String() string { return fmt.Sprint(int(p.a), int(p.b)) }

var errOdd = errors.New("odd")

// toy is a small graph with what the real one has: reads that depend on values, equal results that
// stop a change, failures, and values that are shared.
type toy struct {
	g      *Graph
	cells  map[id]int  // negative: the cell is gone
	links  map[id][]id // which cells a sum reads
	broken map[id]bool

	cell, link *Input[id]
	parity     *Query[id, int]
	sum        *Query[id, int]
	product    *Query[pair, int]
	report     *Query[id, string]
}

const size = 12

func newToy() *toy {
	w := &toy{
		g:      New(),
		cells:  map[id]int{},
		links:  map[id][]id{},
		broken: map[id]bool{},
	}
	w.cell = NewInput[id](w.g, "cell")
	w.link = NewInput[id](w.g, "link")
	w.parity = NewQuery(w.g, "parity", Same[int], func(r *Reader, k id) (int, error) {
		w.cell.Note(r, k)
		if w.cells[k] < 0 {
			return 0, ErrKeep
		}
		return w.cells[k] % 2, nil
	})
	w.sum = NewQuery(w.g, "sum", Same[int], func(r *Reader, k id) (int, error) {
		w.link.Note(r, k)
		n := 0
		for _, l := range w.links[k] {
			// Only even cells are read themselves.
			if w.parity.Get(r, l) == 0 {
				w.cell.Note(r, l)
				n += w.cells[l]
			}
		}
		return n, nil
	})
	w.product = NewQuery(w.g, "product", Same[int], func(r *Reader, k pair) (int, error) {
		w.cell.Note(r, k.b)
		if w.broken[k.b] {
			return 0, errOdd
		}
		return w.sum.Get(r, k.a) * (1 + w.parity.Get(r, k.b)), nil
	})
	w.report = NewQuery(w.g, "report", Same[string], func(r *Reader, k id) (string, error) {
		v, ok := w.product.Try(r, pair{k, (k + 1) % size})
		if !ok {
			return "none", nil
		}
		if v%3 == 0 {
			return "third", nil
		}
		return fmt.Sprint(v, w.sum.Get(r, (k+2)%size)), nil
	})
	return w
}

// TestRandom: after every batch of random changes what is remembered is what a graph computes from
// scratch, OnChange ran for the values that changed, and values that have no user are gone.
func TestRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		w := newToy()
		pins := map[id]*Cell[string]{}
		changed := map[id]bool{}

		for batch := range 60 {
			w.g.Begin()
			clear(changed)
			before := map[id]string{}
			for k, c := range pins {
				before[k] = c.Get()
			}

			for range 1 + rnd.IntN(4) {
				k := id(rnd.IntN(size))
				switch rnd.IntN(5) {
				case 0, 1:
					w.cells[k] = rnd.IntN(9)
					w.cell.MarkDirty(k)
				case 2:
					w.links[k] = nil
					for range rnd.IntN(4) {
						w.links[k] = append(w.links[k], id(rnd.IntN(size)))
					}
					w.link.MarkDirty(k)
				case 3:
					w.cell.MarkDirty(k) // with nothing changed
				case 4:
					if c := pins[k]; c != nil {
						c.Unpin()
						delete(pins, k)
						delete(before, k)
						continue
					}
					c := w.report.Pin(k)
					c.OnChange(func() { changed[k] = true })
					pins[k] = c
				}
			}
			w.g.Recompute()

			fresh := newToy()
			fresh.cells, fresh.links = w.cells, w.links
			fresh.g.Begin()
			for k, c := range pins {
				if want := fresh.report.Pin(k).Get(); c.Get() != want {
					t.Fatalf("seed %d, batch %d: report %v is %q, from scratch %q",
						seed, batch, k, c.Get(), want)
				}
				if was, ok := before[k]; ok && changed[k] != (was != c.Get()) {
					t.Fatalf("seed %d, batch %d: report %v went from %q to %q; OnChange: %v", seed, batch, k,
						was, c.Get(), changed[k])
				}
			}
			reads, values := w.g.Size()
			if r, v := fresh.g.Size(); reads != r || values != v {
				t.Fatalf("seed %d, batch %d: %d reads of %d values are kept, from scratch %d of %d",
					seed, batch,
					reads, values, r, v)
			}
		}

		w.g.Begin()
		for _, c := range pins {
			c.Unpin()
		}
		w.g.Recompute()
		if reads, values := w.g.Size(); reads != 0 || values != 0 {
			t.Fatalf("seed %d: %d reads and %d values stay", seed, reads, values)
		}
	}
}

func computes(g *Graph) map[string]uint64 {
	out := map[string]uint64{}
	for s := range g.Stats() {
		out[s.Name] = s.Computes
	}
	return out
}

// TestEqualStops: a value that comes out equal computes nothing that read it.
func TestEqualStops(t *testing.T) {
	t.Parallel()
	w := newToy()
	w.cells[1], w.links[0] = 1, []id{1}
	w.g.Begin()
	w.report.Pin(0)
	before := computes(w.g)

	w.g.Begin()
	w.cells[1] = 3
	w.cell.MarkDirty(1)
	w.g.Recompute()
	after := computes(w.g)
	if n := after["parity"] - before["parity"]; n != 1 {
		t.Errorf("parity was computed %d times, want once", n)
	}
	if n := after["sum"] - before["sum"]; n != 0 {
		t.Errorf("sum was computed %d times, want not at all", n)
	}
}

// TestFailure: a value that fails keeps its last good one, is tried with each batch and heals; one
// that never was good differs from an empty one.
func TestFailure(t *testing.T) {
	t.Parallel()
	w := newToy()
	w.cells[1], w.cells[5], w.links[0] = 2, 4, []id{5}
	w.g.Begin()
	c := w.report.Pin(0)
	if c.Get() != "4 0" {
		t.Fatalf("the report is %q", c.Get())
	}

	w.broken[1] = true
	w.g.Begin()
	w.cells[1] = 3
	w.cell.MarkDirty(1)
	w.g.Recompute()
	if c.Get() != "4 0" {
		t.Errorf("with a failure the report is %q, want the last one", c.Get())
	}
	failed := slices.Collect(w.g.Failed())
	if len(failed) != 1 {
		t.Fatalf("%d values failed, want 1", len(failed))
	}
	n := failed[0]
	if n.Query() != "product" {
		t.Errorf("%s failed, want product", n.Query())
	}
	if n.Key() != Key(pair{0, 1}) {
		t.Errorf("product of %v failed", n.Key())
	}
	if !errors.Is(n.Err(), errOdd) {
		t.Errorf("it failed with %v", n.Err())
	}
	dependents := slices.Collect(n.Dependents())
	if !slices.Contains(dependents, &c.Node) {
		t.Error("the report is not among the dependents")
	}

	w.g.Begin()
	fresh := w.report.Pin(0)
	other := w.product.Pin(pair{3, 1})
	if !other.hollow() {
		t.Error("a value that never was good does not differ from an empty one")
	}
	other.Unpin()
	fresh.Unpin()
	w.g.Recompute()

	delete(w.broken, 1)
	w.g.Begin()
	w.g.Recompute()
	if c.Get() != "8 0" {
		t.Errorf("after the failure the report is %q", c.Get())
	}
	if n := len(slices.Collect(w.g.Failed())); n != 0 {
		t.Errorf("%d values failed, want none", n)
	}
}

// TestHollow: what made do without a value is computed again when there is one, even an empty one.
func TestHollow(t *testing.T) {
	t.Parallel()
	w := newToy()
	w.broken[1] = true
	w.g.Begin()
	c := w.report.Pin(0)
	if c.Get() != "none" {
		t.Fatalf("the report is %q", c.Get())
	}
	delete(w.broken, 1)
	w.g.Begin()
	w.g.Recompute()
	if c.Get() != "third" { // of a product of 0
		t.Errorf("the report is %q", c.Get())
	}
}

// TestPanic: a panic is a failure of the one value, and names it.
func TestPanic(t *testing.T) {
	t.Parallel()
	g := New()
	q := NewQuery(g, "explosive", Same[int], func(*Reader, id) (int, error) { panic("boom") })
	g.Begin()
	c := q.Pin(1)
	var p *PanicError
	if !errors.As(c.Err(), &p) {
		t.Fatalf("the error is %v", c.Err())
	}
	if p.Query != "explosive" || p.Value != "boom" || len(p.Stack) == 0 {
		t.Errorf("the panic is %+v", p)
	}
}

// TestLevels: a read of what is not below the reader fails, so that there is no cycle.
func TestLevels(t *testing.T) {
	t.Parallel()
	g := New()
	var high *Query[id, int]
	low := NewQuery(g, "low", Same[int], func(r *Reader, k id) (int, error) { return high.Get(r, k), nil })
	high = NewQuery(g, "high", Same[int], func(*Reader, id) (int, error) { return 1, nil })
	g.Begin()
	if c := low.Pin(1); c.Err() == nil {
		t.Error("low read high")
	}
}

// TestAsk: a question is answered, its error returned, and nothing kept.
func TestAsk(t *testing.T) {
	t.Parallel()
	w := newToy()
	w.cells[5], w.links[0] = 4, []id{5}
	w.g.Begin()
	sum := 0
	err := w.g.Ask("question", id(0), func(r *Reader) error {
		sum = w.sum.Get(r, 0)
		return errOdd
	})
	if !errors.Is(err, errOdd) {
		t.Errorf("the error is %v", err)
	}
	if sum != 4 {
		t.Errorf("the sum is %d, want 4", sum)
	}
	if reads, values := w.g.Size(); reads != 0 || values != 0 {
		t.Errorf("%d reads and %d values stay", reads, values)
	}
}
