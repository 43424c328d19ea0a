package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/test/pgtest"
)

// A failover to a standby that lagged is noticed by the first call, whether or not the former
// standby was written to since, and past the revision that was lost.
func TestDatabaseWentBack(t *testing.T) {
	for _, tc := range []struct {
		name     string
		overtake int // commits on the former standby before the store is connected to it
		notice   func(t *testing.T, s *Store)
	}{
		{"behind, a poll", 0, func(*testing.T, *Store) {}},
		{"behind, a commit", 0, commitOnce},
		{"overtaken, a poll", 20, func(*testing.T, *Store) {}},
		{"overtaken, a commit", 20, commitOnce},
		{"overtaken to the same revision, a read", 5, func(t *testing.T, s *Store) {
			for _, err := s.Revision(t.Context()); errors.Is(err, store.ErrUnavailable); {
				_, err = s.Revision(t.Context())
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			pair := pgtest.NewPair(t)
			s := open(t, pair.URL())
			mustCommit(t, s, put("kept", 1))
			w, err := s.Watch(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			pair.Cut(t)
			for i := range 5 {
				mustCommit(t, s, put("lost", i))
			}
			for range 6 {
				if _, err := w.Next(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			former := s.Epoch()

			pair.Promote(t)
			if tc.overtake > 0 {
				other := open(t, pair.Promoted())
				for i := range tc.overtake {
					mustCommit(t, other, put("new", i))
				}
			}
			pair.StopPrimary()
			tc.notice(t, s)

			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for !errors.Is(err, store.ErrReset) {
				if _, err = w.Next(ctx); err == nil || ctx.Err() != nil {
					t.Fatalf("Next = %v, want ErrReset", err)
				}
			}
			if s.Epoch() == former {
				t.Error("the epoch is the former one")
			}
			if n := resets(t, s); n != 1 {
				t.Errorf("%v resets, want 1", n)
			}
			snap, err := s.Snapshot(ctx)
			if err != nil || snap.Epoch != s.Epoch() {
				t.Fatalf("a snapshot of epoch %q, %v, want %q", snap.Epoch, err, s.Epoch())
			}
			for _, r := range snap.Resources {
				if r.Key.Name == "lost" {
					t.Error("the lost resource is back")
				}
			}
			_, err = s.Commit(ctx, store.Txn{Epoch: former, Ops: []store.Op{put("stale", 1)}})
			if !errors.Is(err, store.ErrReset) {
				t.Errorf("a transaction of the former epoch: %v, want ErrReset", err)
			}
			res, err := s.Commit(ctx, store.Txn{Epoch: s.Epoch(), Ops: []store.Op{put("fresh", 1)}})
			if err != nil || res.Revision != snap.Revision+1 {
				t.Errorf("Commit = %+v, %v after revision %d", res, err, snap.Revision)
			}
			if again := open(t, pair.Promoted()); again.Epoch() != s.Epoch() {
				t.Errorf("another replica is in epoch %q, want %q", again.Epoch(), s.Epoch())
			}
		})
	}
}

// commitOnce commits until the store is reached; the first group that is must not go through.
func commitOnce(t *testing.T, s *Store) {
	for {
		_, err := s.Commit(t.Context(), store.Txn{Epoch: s.id, Ops: []store.Op{put("again", 1)}})
		switch {
		case errors.Is(err, store.ErrReset):
			return
		case errors.Is(err, store.ErrUnavailable):
		default:
			t.Fatalf("Commit = %v, want ErrReset", err)
		}
	}
}

// Two replicas that notice one failover agree on one epoch, and each starts over once.
func TestReplicasAgreeOnAnEpoch(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	stores := []*Store{open(t, pair.URL()), open(t, pair.URL()), open(t, pair.URL())}
	mustCommit(t, stores[0], put("kept", 1))
	pair.Cut(t)
	mustCommit(t, stores[0], put("lost", 1))
	former := stores[0].Epoch()
	for _, s := range stores {
		if _, err := s.Revision(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	watches := make([]store.Watch, len(stores))
	for i, s := range stores {
		w, err := s.Watch(t.Context(), 2)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		watches[i] = w
	}
	pair.Promote(t)
	pair.StopPrimary()
	for i, w := range watches {
		var err error
		for !errors.Is(err, store.ErrReset) {
			if _, err = w.Next(t.Context()); err == nil {
				t.Fatal("a commit that was not made")
			}
		}
		if stores[i].Epoch() == former {
			t.Error("the epoch is the former one")
		}
	}
	for _, s := range stores {
		if _, err := s.Revision(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.Epoch() != stores[0].Epoch() {
			t.Errorf("epochs %q and %q", s.Epoch(), stores[0].Epoch())
		}
		if n := resets(t, s); n != 1 {
			t.Errorf("%v resets, want 1", n)
		}
	}
}

func resets(t *testing.T, s *Store) float64 {
	t.Helper()
	var m dto.Metric
	if err := s.metrics.resets.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}
