package postgres

import (
	"math/rand/v2"
	"testing"

	"github.com/meridian-mesh/meridian/store"
)

// Whatever is added, in whatever pieces, what comes out has no holes and ends where it should.
func TestRecent(t *testing.T) {
	t.Parallel()

	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var log []entry
		for revision := uint64(1); revision <= 3000; revision++ {
			log = append(log, entry{commit: store.Commit{Revision: revision}, size: 1 + rnd.IntN(3)})
		}

		var r recent
		for range 500 {
			from := uint64(rnd.IntN(2900))
			if rnd.IntN(3) > 0 {
				from = r.last() - min(r.last(), uint64(rnd.IntN(3)))
			}
			to := min(from+uint64(rnd.IntN(20)), 3000)
			r.add(0, log[from:to])

			at := uint64(rnd.IntN(3000))
			if rnd.IntN(2) == 0 {
				at = r.last() - min(r.last(), uint64(rnd.IntN(50)))
			}
			got := r.after(at, 10)
			if len(got) > 10 || len(got) > len(log[at:]) {
				t.Fatalf("seed %d: %d commits after %d, the log has %d", seed, len(got), at, len(log[at:]))
			}
			for i, c := range got {
				if c.Revision != at+1+uint64(i) {
					t.Fatalf("seed %d: commit %d after %d is %d", seed, i, at, c.Revision)
				}
			}
			if len(r.entries) > maxRecentCommits {
				t.Fatalf("seed %d: %d commits", seed, len(r.entries))
			}
			bytes := 0
			for _, e := range r.entries {
				bytes += e.size
			}
			if bytes != r.bytes {
				t.Fatalf("seed %d: counts %d bytes of %d", seed, r.bytes, bytes)
			}
		}
	}
}

func TestRecentIsBounded(t *testing.T) {
	t.Parallel()

	var r recent
	for revision := uint64(1); revision <= 20; revision++ {
		r.add(0, []entry{{commit: store.Commit{Revision: revision}, size: 1 << 20}})
	}
	if r.bytes > maxRecentBytes || r.last() != 20 {
		t.Errorf("%d bytes up to %d", r.bytes, r.last())
	}
	if got := r.after(18, 100); len(got) != 2 {
		t.Errorf("%d commits after 18", len(got))
	}
	if got := r.after(2, 100); got != nil {
		t.Errorf("commits after 2, which are gone: %d", len(got))
	}

	r.reset()
	if got := r.after(15, 100); got != nil || r.last() != 0 {
		t.Errorf("after reset: %d commits, last %d", len(got), r.last())
	}
}
