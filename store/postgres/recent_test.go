package postgres

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Whatever is added, in whatever pieces, what comes out has no holes and ends where it should.
func TestRecent(t *testing.T) {
	t.Parallel()

	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var log []logRow
		for revision := uint64(1); revision <= 3000; revision++ {
			for position := range 1 + rnd.IntN(3) {
				log = append(log, logRow{
					revision: revision,
					position: position,
					body:     []byte(fmt.Sprint(revision, position)),
				})
			}
		}

		var r recent
		for range 500 {
			from := uint64(rnd.IntN(2900))
			if rnd.IntN(3) > 0 {
				from = r.last() - min(r.last(), uint64(rnd.IntN(3)))
			}
			to := min(from+uint64(rnd.IntN(20)), 3000)
			r.add(log[firstAfter(log, from):firstAfter(log, to)])

			at := uint64(rnd.IntN(3000))
			if rnd.IntN(2) == 0 {
				at = r.last() - min(r.last(), uint64(rnd.IntN(50)))
			}
			got := r.after(at, 10)
			want := log[firstAfter(log, at):]
			if len(got) > len(want) {
				t.Fatalf("seed %d: %d rows after %d, the log has %d", seed, len(got), at, len(want))
			}
			for i, row := range got {
				if row.revision != want[i].revision || row.position != want[i].position {
					t.Fatalf("seed %d: row %d after %d is %d/%d, want %d/%d", seed, i, at, row.revision,
						row.position, want[i].revision, want[i].position)
				}
			}
			if len(r.rows) > maxRecentRows {
				t.Fatalf("seed %d: %d rows", seed, len(r.rows))
			}
		}
	}
}

func TestRecentIsBounded(t *testing.T) {
	t.Parallel()

	var r recent
	for revision := uint64(1); revision <= 20; revision++ {
		r.add([]logRow{{revision: revision, body: make([]byte, 1<<20)}})
	}
	if r.bytes > maxRecentBytes || r.last() != 20 {
		t.Errorf("%d bytes up to %d", r.bytes, r.last())
	}
	if got := r.after(18, 100); len(got) != 2 {
		t.Errorf("%d rows after 18", len(got))
	}
	if got := r.after(2, 100); got != nil {
		t.Errorf("rows after 2, which are gone: %d", len(got))
	}

	r.reset()
	if got := r.after(15, 100); got != nil || r.last() != 0 {
		t.Errorf("after reset: %d rows, last %d", len(got), r.last())
	}
}
