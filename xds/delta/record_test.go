package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

// TestRecord: whatever base a record has, it says what a plain map says.
func TestRecord(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		name := func() string { return fmt.Sprintf("n%d", rnd.IntN(12)) }
		segment := func(at int) *Segment {
			var list []*Resource
			for n := range 4 {
				if rnd.IntN(4) > 0 {
					body := []byte{byte(rnd.IntN(3))}
					list = append(list, NewResource(TypeRoute, fmt.Sprintf("n%d", 4*at+n), body))
				}
			}
			return NewSegment(list)
		}

		table := &Table{Segments: []*Segment{segment(0), segment(1), segment(2)}}
		r := record{typ: TypeRoute}
		plain := map[string]item{}
		for step := range 200 {
			n := name()
			switch rnd.IntN(6) {
			case 0:
				r.remove(n)
				delete(plain, n)
			case 1, 2:
				it := item{held: table.Lookup(TypeRoute, n), named: rnd.IntN(4) > 0}
				if rnd.IntN(8) == 0 {
					it.held = absent
				}
				if rnd.IntN(8) == 0 {
					it.inFlight = &response{}
				}
				r.set(n, it)
				plain[n] = it
			case 3:
				// What a client that has everything says.
				for res := range table.All(TypeRoute) {
					it := item{held: res, named: true}
					r.set(res.Name, it)
					plain[res.Name] = it
				}
			case 4:
				r.rebase(table, rnd.IntN(4) > 0)
			case 5:
				if rnd.IntN(3) == 0 {
					table = &Table{Segments: append(table.Segments[:0:0], table.Segments...)}
					at := rnd.IntN(len(table.Segments))
					table.Segments[at] = segment(at)
				}
			}

			if got := maps.Collect(r.all()); !maps.EqualFunc(got, plain, sameItem) {
				t.Fatalf("seed %d, step %d: the record is %v, want %v", seed, step, got, plain)
			}
			it, ok := r.get(n)
			if want, known := plain[n]; ok != known || !sameItem(it, want) {
				t.Fatalf("seed %d, step %d: %s is %v, %v; want %v, %v", seed, step, n, it, ok, want, known)
			}
		}
	}
}

// sameItem compares contents: a base may hold another resource of the same version.
func sameItem(a, b item) bool {
	content := func(r *Resource) string {
		switch r {
		case nil:
			return "nothing"
		case absent:
			return "absent"
		}
		return r.Version
	}
	return content(a.held) == content(b.held) && a.named == b.named && a.inFlight == b.inFlight
}

// TestRecordIsShared: a client that knows all of its table keeps nothing for itself, before and
// after a change.
func TestRecordIsShared(t *testing.T) {
	t.Parallel()
	table := func(changed byte) *Table {
		var list []*Resource
		for i := range 100 {
			body := []byte{0}
			if i == 50 {
				body[0] = changed
			}
			list = append(list, NewResource(TypeRoute, fmt.Sprint("n", i), body))
		}
		return &Table{Segments: []*Segment{NewSegment(list)}}
	}

	one, two := table(0), table(1)
	r := record{typ: TypeRoute}
	for res := range one.All(TypeRoute) {
		r.set(res.Name, item{held: res, named: true})
	}
	r.rebase(one, true)
	if len(r.own) > 0 {
		t.Errorf("%d names are kept for the first table, want none", len(r.own))
	}

	r.set("n50", item{held: two.Lookup(TypeRoute, "n50"), named: true})
	r.rebase(two, true)
	if len(r.own) > 0 {
		t.Errorf("%d names are kept after a change, want none", len(r.own))
	}
}
