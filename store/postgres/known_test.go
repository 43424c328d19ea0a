package postgres

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/test/pgtest"
)

func keyOf(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}
}

func mustCommit(t *testing.T, s *Store, ops ...store.Op) store.Result {
	t.Helper()
	res, err := s.Commit(t.Context(), store.Txn{Author: "user:test", Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// What a writer remembers follows what other replicas write, delete and compact in the meantime.
func TestKnownFollowsOthers(t *testing.T) {
	url := pgtest.New(t)
	a, b := open(t, url), open(t, url)
	mustCommit(t, a, put("x", 1))

	check := func(s *Store, at uint64, ops ...store.Op) error {
		_, err := s.Commit(t.Context(), store.Txn{
			Checks: []store.Check{store.KeyAt{Key: keyOf("x"), Revision: at}},
			Ops:    ops,
		})
		return err
	}
	var conflict *store.ConflictError
	mustCommit(t, b, put("x", 2))
	if err := check(a, 1, put("x", 3)); !errors.As(err, &conflict) || conflict.Revision != 2 {
		t.Errorf("at the former revision: %v", err)
	}
	if err := check(a, 2, put("x", 3)); err != nil {
		t.Errorf("at the revision of the other replica: %v", err)
	}
	mustCommit(t, b, store.Delete{Key: keyOf("x")})
	if err := check(a, 3, put("x", 4)); !errors.As(err, &conflict) || conflict.Revision != 0 {
		t.Errorf("after a delete by the other: %v", err)
	}

	// More commits than a writer catches up with, and a log that no longer has what it knows.
	for i := range fetchRevisions + 10 {
		mustCommit(t, b, put("x", 100+i))
	}
	head := uint64(4 + fetchRevisions + 10)
	if err := check(a, head, put("x", 5)); err != nil {
		t.Errorf("far behind: %v", err)
	}
	if err := b.Compact(t.Context(), head+1); err != nil {
		t.Fatal(err)
	}
	if err := check(a, head+1, put("x", 6)); err != nil {
		t.Errorf("after compaction: %v", err)
	}
	if err := check(a, head+2, put("x", 7)); err != nil {
		t.Errorf("after a commit of its own: %v", err)
	}
}

// A database that went back, and on by other commits, is not what a writer knew.
func TestKnownOfAnotherPast(t *testing.T) {
	url := pgtest.New(t)
	s := open(t, url)
	mustCommit(t, s, put("x", 1))
	conn := session(t, url)
	exec(t, conn, "CREATE TABLE was AS SELECT * FROM meridian.resources")
	mustCommit(t, s, put("x", 2))

	exec(t, conn, "UPDATE meridian.store SET revision = 1")
	exec(t, conn, "DELETE FROM meridian.log WHERE revision = 2")
	exec(t, conn, "UPDATE meridian.resources r SET body = was.body FROM was WHERE r.key = was.key")
	mustCommit(t, open(t, url), put("y", 1))

	_, err := s.Commit(t.Context(), store.Txn{
		Checks: []store.Check{store.KeyAt{Key: keyOf("x"), Revision: 2}},
		Ops:    []store.Op{put("x", 3)},
	})
	// Not a conflict: that a check holds says nothing if what it is about may never have been.
	if !errors.Is(err, store.ErrReset) {
		t.Errorf("Commit = %v, want ErrReset", err)
	}
	_, err = s.Commit(t.Context(), store.Txn{
		Checks: []store.Check{store.KeyAt{Key: keyOf("x"), Revision: 2}},
		Ops:    []store.Op{put("x", 3)},
	})
	var conflict *store.ConflictError
	if !errors.As(err, &conflict) || conflict.Revision != 1 {
		t.Errorf("Commit = %v, must conflict with revision 1", err)
	}
}

// Writers of two replicas that count one number up by checked writes lose no step, whatever each of
// them remembers, and while the log is compacted.
func TestKnownCounts(t *testing.T) {
	url := pgtest.New(t)
	stores := []*Store{open(t, url), open(t, url)}
	mustCommit(t, stores[0], put("n", 0))
	const writers, each = 8, 15
	var wg sync.WaitGroup
	for writer := range writers {
		s := stores[writer%2]
		wg.Go(func() {
			for range each {
				if err := increment(t, s); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		head, err := stores[0].Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stores[1].Compact(t.Context(), head); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()

	r, err := stores[0].Get(t.Context(), keyOf("n"))
	if err != nil {
		t.Fatal(err)
	}
	if n := numberOf(r); n != fmt.Sprint(writers*each) || r.Revision != writers*each+1 {
		t.Errorf("counted to %s at revision %d", n, r.Revision)
	}
}

// increment adds one to the number n, trying until no other writer is faster.
func increment(t *testing.T, s *Store) error {
	for {
		r, err := s.Get(t.Context(), keyOf("n"))
		if err != nil {
			return err
		}
		n := 0
		if _, err := fmt.Sscan(numberOf(r), &n); err != nil {
			return err
		}
		_, err = s.Commit(t.Context(), store.Txn{
			Checks: []store.Check{store.KeyAt{Key: r.Key, Revision: r.Revision}},
			Ops:    []store.Op{put("n", n+1)},
		})
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) {
			return err
		}
	}
}

func numberOf(r *mesh.Resource) string {
	return mesh.Spec[*meshv1.MeshTimeout](r).GetTargetRef().GetName()
}
