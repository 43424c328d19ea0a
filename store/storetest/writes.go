package storetest

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

func testEmpty(t *testing.T, in Instance) {
	s := in.Store
	if len(s.ID()) != 32 {
		t.Errorf("ID is %q, want 32 hex digits", s.ID())
	}
	if rev, err := s.Revision(t.Context()); err != nil || rev != 0 {
		t.Errorf("Revision = %d, %v", rev, err)
	}
	if snap := snapshot(t, s); snap.Revision != 0 || len(snap.Resources) != 0 {
		t.Errorf("snapshot of an empty store: %+v", snap)
	}
	if _, err := s.Get(t.Context(), timeoutKey("a")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get = %v, want ErrNotFound", err)
	}
	if v, err := s.Meta(t.Context(), "x"); err != nil || v != nil {
		t.Errorf("Meta = %q, %v", v, err)
	}
	if h, err := s.History(t.Context(), timeoutKey("a"), 0); err != nil || len(h) != 0 {
		t.Errorf("History = %v, %v", h, err)
	}
	// An empty transaction commits and changes nothing.
	if res := commit(t, s); res != (store.Result{}) {
		t.Errorf("empty transaction: %+v", res)
	}
}

func testPutGetDelete(t *testing.T, in Instance) {
	s, key := in.Store, timeoutKey("a")
	before := time.Now().Add(-time.Second)
	if res := commit(t, s, store.Put{Resource: policy(key, 1)}); res != (store.Result{
		Revision: 1,
		Changed:  true,
	}) {
		t.Fatalf("first commit: %+v", res)
	}
	r := get(t, s, key)
	if r.Revision != 1 || r.StatusRevision != 0 || r.Generation != 1 || r.Status != nil || number(r) != 1 {
		t.Errorf("after create: %+v", r)
	}
	if r.Created.Before(before) || !r.Created.Equal(r.Modified) {
		t.Errorf("created %v, modified %v", r.Created, r.Modified)
	}
	commit(t, s, store.Put{Resource: policy(key, 2)})
	r2 := get(t, s, key)
	if r2.Revision != 2 || r2.Generation != 2 || number(r2) != 2 || !r2.Created.Equal(r.Created) ||
		r2.Modified.Before(r.Modified) {
		t.Errorf("after update: %+v", r2)
	}
	if number(r) != 1 || r.Revision != 1 {
		t.Error("an update changed a resource that was handed out")
	}
	// Labels alone are a write, but of no new generation.
	labelled := policy(key, 2)
	labelled.Labels = map[string]string{"x": "y"}
	commit(t, s, store.Put{Resource: labelled})
	if r := get(t, s, key); r.Revision != 3 || r.Generation != 2 || !maps.Equal(r.Labels, labelled.Labels) {
		t.Errorf("after labels: %+v", r)
	}
	if res := commit(t, s, store.Delete{Key: key}); res != (store.Result{Revision: 4, Changed: true}) {
		t.Errorf("delete: %+v", res)
	}
	if _, err := s.Get(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after delete = %v", err)
	}
	if res := commit(t, s, store.Delete{Key: key}); res != (store.Result{Revision: 4}) {
		t.Errorf("delete of nothing: %+v", res)
	}
	commit(t, s, store.Put{Resource: policy(key, 2)})
	if r := get(t, s, key); r.Generation != 1 || r.Revision != 5 {
		t.Errorf("created again: %+v", r)
	}
}

func testNoChange(t *testing.T, in Instance) {
	s, key := in.Store, timeoutKey("a")
	commit(t, s, store.Put{Resource: policy(key, 1)})
	for range 3 {
		if res := commit(t, s, store.Put{Resource: policy(key, 1)}); res != (store.Result{Revision: 1}) {
			t.Fatalf("same again: %+v", res)
		}
	}
	// A transaction of which one write is none yields one change.
	res := commit(t, s, store.Put{Resource: policy(key, 1)}, store.Put{Resource: policy(timeoutKey("b"), 1)})
	if res != (store.Result{Revision: 2, Changed: true}) {
		t.Fatalf("half changed: %+v", res)
	}
	commits := collect(t, watch(t, s, 0), 0, 2)
	if len(commits[1].Changes) != 1 || commits[1].Changes[0].Key.Name != "b" {
		t.Errorf("changes: %+v", commits[1].Changes)
	}
}

func testStatus(t *testing.T, in Instance) {
	s, key := in.Store, timeoutKey("a")
	if res := commit(t, s, store.PutStatus{Key: key, Status: status("x")}); res.Changed {
		t.Errorf("status of nothing: %+v", res)
	}
	commit(t, s, store.Put{Resource: policy(key, 1)})
	commit(t, s, store.PutStatus{Key: key, Status: status("x")})
	r := get(t, s, key)
	if r.Revision != 1 || r.StatusRevision != 2 || r.Generation != 1 || !proto.Equal(r.Status, status("x")) ||
		number(r) != 1 {
		t.Errorf("after status: %+v", r)
	}
	if res := commit(t, s, store.PutStatus{Key: key, Status: status("x")}); res.Changed {
		t.Errorf("same status: %+v", res)
	}
	// A Put keeps the status and ignores the one it carries.
	next := policy(key, 2)
	next.Status = status("ignored")
	commit(t, s, store.Put{Resource: next})
	r = get(t, s, key)
	if r.Revision != 3 || r.StatusRevision != 2 || !proto.Equal(r.Status, status("x")) || number(r) != 2 {
		t.Errorf("after put: %+v", r)
	}
	commit(t, s, store.PutStatus{Key: key})
	if r := get(t, s, key); r.Status != nil || r.StatusRevision != 4 {
		t.Errorf("after the status was cleared: %+v", r)
	}
	types := []store.ChangeType{store.ChangeSpec, store.ChangeStatus, store.ChangeSpec, store.ChangeStatus}
	for i, c := range collect(t, watch(t, s, 0), 0, 4) {
		if c.Changes[0].Type != types[i] {
			t.Errorf("revision %d has type %d, want %d", c.Revision, c.Changes[0].Type, types[i])
		}
	}
	// A new resource of the same name starts without status.
	commit(t, s, store.PutStatus{Key: key, Status: status("y")})
	commit(t, s, store.Delete{Key: key})
	commit(t, s, store.Put{Resource: policy(key, 1)})
	if r := get(t, s, key); r.Status != nil || r.StatusRevision != 0 {
		t.Errorf("created again: %+v", r)
	}
}

func testSpecAndStatus(t *testing.T, in Instance) {
	s, key := in.Store, timeoutKey("a")
	res := commit(t, s, store.Put{Resource: policy(key, 1)}, store.PutStatus{Key: key, Status: status("x")})
	r := get(t, s, key)
	if res.Revision != 1 || r.Revision != 1 || r.StatusRevision != 1 || !proto.Equal(r.Status, status("x")) {
		t.Errorf("created with status: %+v", r)
	}
	// If only the status differs, it is a change of status.
	commit(t, s, store.Put{Resource: policy(key, 1)}, store.PutStatus{Key: key, Status: status("y")})
	commits := collect(t, watch(t, s, 0), 0, 2)
	for i, want := range []store.ChangeType{store.ChangeSpec, store.ChangeStatus} {
		if len(commits[i].Changes) != 1 || commits[i].Changes[0].Type != want {
			t.Errorf("revision %d: %+v", i+1, commits[i].Changes)
		}
	}
}

func testCopies(t *testing.T, in Instance) {
	s, key := in.Store, mesh.Key{
		Kind:      mesh.KindMeshTimeout,
		Mesh:      "default",
		Zone:      "east",
		Namespace: "ns",
		Name:      "a",
	}
	created := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC)
	r := policy(key, 1)
	r.Created, r.OriginRevision = created, 7
	commit(t, s, store.Put{Resource: r})
	if got := get(t, s, key); !got.Created.Equal(created) || got.OriginRevision != 7 || got.Revision != 1 {
		t.Errorf("copy: %+v", got)
	}
	// The owner's version is part of what is kept, though the spec is the same.
	again := policy(key, 1)
	again.OriginRevision = 8
	commit(t, s, store.Put{Resource: again})
	if got := get(t, s, key); !got.Created.Equal(created) || got.OriginRevision != 8 || got.Revision != 2 ||
		got.Generation != 1 {
		t.Errorf("copy with a new version: %+v", got)
	}
	if _, err := s.Get(t.Context(), mesh.Key{
		Kind: mesh.KindMeshTimeout,
		Mesh: "default",
		Name: "a",
	}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a zone's resource was found as global's: %v", err)
	}
}

func testChecks(t *testing.T, in Instance) {
	s, key := in.Store, timeoutKey("a")
	conflict := func(want uint64, checks []store.Check, ops ...store.Op) {
		t.Helper()
		_, err := s.Commit(t.Context(), store.Txn{Checks: checks, Ops: ops})
		var c *store.ConflictError
		if !errors.As(err, &c) || c.Revision != want {
			t.Fatalf("err = %v, want a conflict at revision %d", err, want)
		}
	}
	conflict(0, []store.Check{store.KeyAt{Key: key, Revision: 1}}, store.Put{Resource: policy(key, 1)})
	if _, err := s.Commit(t.Context(), store.Txn{
		Checks: []store.Check{store.KeyAt{Key: key}},
		Ops:    []store.Op{store.Put{Resource: policy(key, 1)}},
	}); err != nil {
		t.Fatal(err)
	}
	conflict(1, []store.Check{store.KeyAt{Key: key}}, store.Put{Resource: policy(key, 2)})
	commit(t, s, store.PutStatus{Key: key, Status: status("x")}) // does not move the key
	if _, err := s.Commit(t.Context(), store.Txn{
		Checks: []store.Check{store.KeyAt{Key: key, Revision: 1}},
		Ops:    []store.Op{store.Put{Resource: policy(key, 2)}},
	}); err != nil {
		t.Fatal(err)
	}
	// The first check that fails is the one that is named; checks of keys that are not written count too.
	other := timeoutKey("other")
	conflict(3, []store.Check{store.KeyAt{Key: other}, store.KeyAt{
		Key:      key,
		Revision: 1,
	}, store.KeyAt{
		Key:      other,
		Revision: 9,
	}}, store.Put{Resource: policy(other, 1)})
	if r := get(t, s, key); r.Revision != 3 {
		t.Errorf("after conflicts: %+v", r)
	}
	if _, err := s.Get(t.Context(), other); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a transaction with a conflict wrote something: %v", err)
	}
	// Checks alone are a transaction.
	if res, err := s.Commit(t.Context(), store.Txn{Checks: []store.Check{store.KeyAt{
		Key:      key,
		Revision: 3,
	}}}); err != nil || res != (store.Result{Revision: 3}) {
		t.Errorf("checks alone: %+v, %v", res, err)
	}
}

func testKindUnchanged(t *testing.T, in Instance) {
	s := in.Store
	try := func(meshName string, since uint64) uint64 {
		t.Helper()
		_, err := s.Commit(t.Context(), store.Txn{Checks: []store.Check{store.KindUnchanged{
			Kind:  mesh.KindMeshTimeout,
			Mesh:  meshName,
			Since: since,
		}}})
		var c *store.ConflictError
		if err != nil && !errors.As(err, &c) {
			t.Fatal(err)
		}
		if c == nil {
			return 0
		}
		return c.Revision
	}
	a, b := timeoutKey("a"), timeoutKey("b")
	b.Mesh = "second"
	commit(t, s, store.Put{Resource: policy(a, 1)}) // 1
	commit(t, s, store.Put{Resource: policy(b, 1)}) // 2
	commit(t, s, store.PutStatus{
		Key:    a,
		Status: status("x"),
	}) // 3: no config change
	commit(t, s, store.Put{Resource: &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMesh, Name: "m"},
		Spec: &meshv1.Mesh{},
	}}) // 4: another kind
	for _, tc := range []struct {
		mesh            string
		since, conflict uint64
	}{
		{"default", 0, 1}, {"default", 1, 0}, {"default", 4, 0}, {"second", 1, 2}, {"second", 2, 0},
		{"third", 0, 0}, {"", 0, 2}, {"", 1, 2}, {"", 2, 0},
	} {
		if got := try(tc.mesh, tc.since); got != tc.conflict {
			t.Errorf("mesh %q since %d: conflict at %d, want %d", tc.mesh, tc.since, got, tc.conflict)
		}
	}
	commit(t, s, store.Delete{Key: a}) // 5: a deletion is a change
	if got := try("default", 4); got != 5 {
		t.Errorf("after a deletion: conflict at %d, want 5", got)
	}
	if got := try("", 4); got != 5 {
		t.Errorf("after a deletion, all meshes: conflict at %d, want 5", got)
	}
	_, err := s.Commit(t.Context(), store.Txn{Checks: []store.Check{store.KindUnchanged{
		Kind:  mesh.KindMesh,
		Since: 3,
	}}})
	var c *store.ConflictError
	if !errors.As(err, &c) || c.Revision != 4 {
		t.Errorf("kind of global scope: %v", err)
	}
}

func testAtomic(t *testing.T, in Instance) {
	s := in.Store
	commit(t, s, store.Put{Resource: policy(timeoutKey("gone"), 1)})
	res := commit(t, s,
		store.Put{Resource: policy(timeoutKey("z"), 1)},
		store.Delete{Key: timeoutKey("gone")},
		store.Put{Resource: policy(timeoutKey("a"), 1)},
		store.SetMeta{Name: "cursor", Value: []byte("7")})
	if res.Revision != 2 {
		t.Fatalf("result %+v", res)
	}
	c := collect(t, watch(t, s, 1), 1, 2)[0]
	var names []string
	for _, ch := range c.Changes {
		names = append(names, ch.Key.Name)
	}
	if got := strings.Join(names, " "); got != "z gone a" {
		t.Errorf("changes are %s, want the order of operations", got)
	}
	if c.Author != "user:test" || time.Since(c.Time) > time.Hour || time.Since(c.Time) < -time.Hour {
		t.Errorf("commit by %q at %v", c.Author, c.Time)
	}
	if v, err := s.Meta(t.Context(), "cursor"); err != nil || string(v) != "7" {
		t.Errorf("Meta = %q, %v", v, err)
	}
}

func testInvalid(t *testing.T, in Instance) {
	s, key := in.Store, timeoutKey("a")
	put := func(k mesh.Key) store.Op { return store.Put{Resource: policy(k, 1)} }
	for name, txn := range map[string]store.Txn{
		"unknown kind": {Ops: []store.Op{put(mesh.Key{Kind: "Nope", Mesh: "default", Name: "a"})}},
		"no name":      {Ops: []store.Op{put(mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default"})}},
		"no mesh":      {Ops: []store.Op{put(mesh.Key{Kind: mesh.KindMeshTimeout, Name: "a"})}},
		"slash": {Ops: []store.Op{put(mesh.Key{
			Kind: mesh.KindMeshTimeout,
			Mesh: "default",
			Name: "a/b",
		})}},
		"zero byte": {Ops: []store.Op{put(mesh.Key{
			Kind: mesh.KindMeshTimeout,
			Mesh: "default",
			Name: "a\x00",
		})}},
		"twice":        {Ops: []store.Op{put(key), store.Delete{Key: key}}},
		"put twice":    {Ops: []store.Op{put(key), put(key)}},
		"status twice": {Ops: []store.Op{store.PutStatus{Key: key}, store.PutStatus{Key: key}}},
		"no resource":  {Ops: []store.Op{store.Put{}}},
		"no spec":      {Ops: []store.Op{store.Put{Resource: &mesh.Resource{Key: key}}}},
		"wrong spec": {Ops: []store.Op{store.Put{Resource: &mesh.Resource{
			Key:  key,
			Spec: &meshv1.Mesh{},
		}}}},
		"wrong status":      {Ops: []store.Op{store.PutStatus{Key: key, Status: &meshv1.ZoneStatus{}}}},
		"nil op":            {Ops: []store.Op{nil}},
		"nil check":         {Checks: []store.Check{nil}},
		"unknown checked":   {Checks: []store.Check{store.KindUnchanged{Kind: "Nope"}}},
		"meta without name": {Ops: []store.Op{store.SetMeta{}}},
	} {
		_, err := s.Commit(t.Context(), txn)
		var invalid *store.InvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: err = %v, want InvalidError", name, err)
		}
	}
	if rev, _ := s.Revision(t.Context()); rev != 0 {
		t.Errorf("revision is %d after refused transactions", rev)
	}
}

func testMeta(t *testing.T, in Instance) {
	s := in.Store
	value := []byte("one")
	if res := commit(t, s, store.SetMeta{Name: "a", Value: value}); res != (store.Result{}) {
		t.Errorf("meta alone: %+v, want no revision", res)
	}
	value[0] = 'X'
	got, err := s.Meta(t.Context(), "a")
	if err != nil || string(got) != "one" {
		t.Fatalf("Meta = %q, %v", got, err)
	}
	got[0] = 'Y'
	if got, _ := s.Meta(t.Context(), "a"); string(got) != "one" {
		t.Errorf("Meta = %q after the caller changed what it got", got)
	}
	commit(t, s, store.SetMeta{
		Name:  "a",
		Value: []byte("two"),
	}, store.Put{Resource: policy(timeoutKey("a"), 1)})
	if got, _ := s.Meta(t.Context(), "a"); string(got) != "two" {
		t.Errorf("Meta = %q", got)
	}
	// Meta is part of the transaction: a conflict writes none of it.
	if _, err := s.Commit(t.Context(), store.Txn{Checks: []store.Check{store.KeyAt{Key: timeoutKey("a")}},
		Ops: []store.Op{store.SetMeta{Name: "a", Value: []byte("three")}}}); err == nil {
		t.Fatal("no conflict")
	}
	if got, _ := s.Meta(t.Context(), "a"); string(got) != "two" {
		t.Errorf("Meta = %q after a conflict", got)
	}
}

func testSecrets(t *testing.T, in Instance) {
	s := in.Store
	key := mesh.Key{Kind: mesh.KindSecret, Mesh: "default", Name: "ca"}
	secret := func(text string) store.Op {
		return store.Put{Resource: &mesh.Resource{Key: key, Spec: &meshv1.Secret{Data: []byte(text)}}}
	}
	commit(t, s, secret("one"))
	if res := commit(t, s, secret("one")); res.Changed {
		t.Errorf("the same secret again: %+v", res)
	}
	commit(t, s, secret("two"))
	if in.Reopen != nil {
		s = in.Reopen(t)
	}
	if got := mesh.Spec[*meshv1.Secret](get(t, s, key)).GetData(); string(got) != "two" {
		t.Errorf("secret is %q", got)
	}
	c := collect(t, watch(t, s, 0), 0, 2)[1].Changes[0]
	if string(mesh.Spec[*meshv1.Secret](c.Old).GetData()) != "one" ||
		string(mesh.Spec[*meshv1.Secret](c.Resource).GetData()) != "two" {
		t.Errorf("log: %v", c)
	}
}
