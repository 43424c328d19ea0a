package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// auditOp is the audit of an action on a resource.
func auditOp(action string, key mesh.Key) store.Audit {
	e := store.AuditEntry{
		Who:    "alice",
		Groups: []string{"admins"},
		From:   "192.0.2.1:80",
		Action: action,
	}
	e.SetKey(key)
	return store.Audit{Entry: e}
}

func testAudit(t *testing.T, in Instance) {
	ctx, s := t.Context(), in.Store
	key := timeoutKey("a")
	commit := func(ops ...store.Op) uint64 {
		t.Helper()
		res, err := s.Commit(ctx, store.Txn{Author: "user:alice", Ops: ops})
		if err != nil {
			t.Fatal(err)
		}
		return res.Revision
	}
	read := func(q store.AuditQuery) []store.AuditEntry {
		t.Helper()
		rows, err := s.Audit(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	start := time.Now().Add(-time.Second)

	created := commit(store.Put{Resource: policy(key, 1)}, auditOp("put", key))
	commit(store.Put{Resource: policy(key, 1)}, auditOp("put", key))
	changed := commit(store.Put{Resource: policy(key, 2)}, auditOp("put", key))
	deleted := commit(store.Delete{Key: key}, auditOp("delete", key))
	head := commit(store.Audit{Entry: store.AuditEntry{Who: "bob", Action: "issue", What: "zone token"}})
	if head != deleted {
		t.Errorf("an audit entry alone made revision %d after %d", head, deleted)
	}
	// A transaction that does not commit leaves no row.
	_, err := s.Commit(ctx, store.Txn{
		Checks: []store.Check{store.KeyAt{Key: key, Revision: 7}},
		Ops:    []store.Op{store.Put{Resource: policy(key, 3)}, auditOp("put", key)},
	})
	var conflict *store.ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("conflict: %v", err)
	}

	type row struct {
		Who, Action, Name, What string
		Before, After           uint64
	}
	want := []row{
		{"bob", "issue", "", "zone token", 0, 0},
		{"alice", "delete", "a", "", changed, deleted},
		{"alice", "put", "a", "", created, changed},
		{"alice", "put", "a", "", created, created},
		{"alice", "put", "a", "", 0, created},
	}
	check := func(all []store.AuditEntry) {
		t.Helper()
		var got []row
		for i, e := range all {
			got = append(got, row{e.Who, e.Action, e.Name, e.What, e.Before, e.After})
			if i > 0 && e.ID >= all[i-1].ID {
				t.Errorf("row %d has ID %d after %d", i, e.ID, all[i-1].ID)
			}
			if e.Time.Before(start) || e.Time.After(time.Now().Add(time.Second)) {
				t.Errorf("row %d is of %v", i, e.Time)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	all := read(store.AuditQuery{})
	check(all)
	if e := all[1]; e.From != "192.0.2.1:80" || !cmp.Equal(e.Groups, []string{"admins"}) ||
		e.Kind != string(mesh.KindMeshTimeout) || e.Mesh != "default" {
		t.Errorf("row %+v", e)
	}

	// Pages leave nothing out.
	var paged []store.AuditEntry
	for below := uint64(0); ; {
		page := read(store.AuditQuery{Below: below, Limit: 2})
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
		below = page[len(page)-1].ID
	}
	check(paged)
	if got := read(store.AuditQuery{Since: time.Now().Add(time.Hour)}); len(got) != 0 {
		t.Errorf("rows of the future: %+v", got)
	}

	// It is in no history and in no watch.
	if history, err := s.History(ctx, key, 0); err != nil || len(history) != 3 {
		t.Errorf("history %+v, %v", history, err)
	}
	if in.Reopen != nil {
		s = in.Reopen(t)
		check(read(store.AuditQuery{}))
	}

	prune := func(before time.Time, keep uint64) {
		t.Helper()
		if err := s.PruneAudit(ctx, before, keep); err != nil {
			t.Fatal(err)
		}
	}
	prune(time.Time{}, 0)
	check(read(store.AuditQuery{}))
	prune(start, 3)
	want = want[:3]
	check(read(store.AuditQuery{}))
	prune(time.Now().Add(time.Hour), 0)
	if got := read(store.AuditQuery{}); len(got) != 0 {
		t.Errorf("rows that were pruned: %+v", got)
	}
	// IDs go on where they were.
	commit(auditOp("read", key))
	if got := read(store.AuditQuery{}); len(got) != 1 || got[0].ID <= all[0].ID {
		t.Errorf("after pruning: %+v", got)
	}
	if _, err := s.Commit(ctx, store.Txn{Ops: []store.Op{store.Audit{}}}); err == nil {
		t.Error("an empty entry was taken")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Audit(ended, store.AuditQuery{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
