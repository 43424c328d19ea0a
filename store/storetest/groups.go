package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// testGroupedConflicts has many writers commit at once, so that they are written in groups: of
// those that check one key exactly one commits, each of the others sees its own conflict with the
// revision of the winner, and writers of other keys are not harmed.
func testGroupedConflicts(t *testing.T, in Instance) {
	const rounds, writers = 20, 24
	s := in.Store
	shared := timeoutKey("shared")
	expected := commit(t, s, store.Put{Resource: policy(shared, 0)}).Revision
	base := expected

	type outcome struct {
		txn store.Txn
		res store.Result
		err error
	}
	successes := 0
	for round := range rounds {
		outcomes := make([]outcome, writers)
		var ready, done sync.WaitGroup
		ready.Add(1)
		for i := range writers {
			own := timeoutKey(fmt.Sprintf("own-%d", i))
			txn := store.Txn{Author: fmt.Sprintf("user:%d", i)}
			switch i % 3 {
			case 0: // one of these wins
				txn.Checks = []store.Check{store.KeyAt{Key: shared, Revision: expected}}
				txn.Ops = []store.Op{store.Put{Resource: policy(shared, 1+round*writers+i)}}
			case 1: // cannot commit: the kind has changed since
				txn.Checks = []store.Check{store.KindUnchanged{Kind: mesh.KindMeshTimeout, Since: base - 1}}
				txn.Ops = []store.Op{store.Put{Resource: policy(own, round)}}
			default: // commits whatever the others do
				txn.Ops = []store.Op{store.Put{Resource: policy(own, 1+round)}}
			}
			outcomes[i].txn = txn
			done.Go(func() {
				ready.Wait()
				outcomes[i].res, outcomes[i].err = s.Commit(t.Context(), txn)
			})
		}
		ready.Done()
		done.Wait()

		var won uint64
		revisions := map[uint64]int{}
		for i, o := range outcomes {
			if o.err != nil {
				continue
			}
			if other, taken := revisions[o.res.Revision]; taken {
				t.Fatalf("round %d: writers %d and %d both have revision %d", round, other, i, o.res.Revision)
			}
			revisions[o.res.Revision] = i
			successes++
			if i%3 == 0 {
				if won != 0 {
					t.Fatalf("round %d: two writers replaced revision %d of one key", round, expected)
				}
				won = o.res.Revision
			}
		}
		if won == 0 {
			t.Fatalf("round %d: no writer of the shared key committed", round)
		}

		for i, o := range outcomes {
			var conflict *store.ConflictError
			switch {
			case i%3 == 2 && o.err != nil:
				t.Errorf("round %d: writer %d was harmed by others: %v", round, i, o.err)
			case i%3 == 1 && o.err == nil:
				t.Errorf("round %d: writer %d committed although its check failed", round, i)
			case i%3 == 2 || o.err == nil:
			case !errors.As(o.err, &conflict):
				t.Errorf("round %d: writer %d: %v, want a conflict", round, i, o.err)
			case conflict.Check != o.txn.Checks[0]:
				t.Errorf("round %d: writer %d has the conflict of another check: %v", round, i, o.err)
			case i%3 == 0 && conflict.Revision != won:
				t.Errorf("round %d: writer %d conflicts with revision %d, the winner is %d", round, i,
					conflict.Revision, won)
			}
		}
		expected = won
	}

	// Each success is one revision of the log, with its own author and change.
	head, err := s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := int(head - base); got != successes {
		t.Errorf("%d revisions for %d successful commits", got, successes)
	}
	for _, c := range collect(t, watch(t, s, base), base, head) {
		if len(c.Changes) != 1 {
			t.Errorf("revision %d has %d changes, want 1", c.Revision, len(c.Changes))
		}
	}
}
