package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// Instance is a fresh store of one test.
type Instance struct {
	Store store.Store
	// Reopen closes the store and opens it again from what it kept; nil if it keeps nothing.
	Reopen func(t testing.TB) store.Store
	// Another opens the same store a second time beside the first, as a second replica; nil if that
	// cannot be.
	Another func(t testing.TB) store.Store
}

// Factory opens a fresh store, and closes at the end of the test whatever it or Reopen or Another opened.
type Factory func(t testing.TB) Instance

// Run runs the whole suite.
func Run(t *testing.T, factory Factory) {
	tests := []struct {
		name string
		run  func(*testing.T, Instance)
	}{
		{"Empty", testEmpty},
		{"PutGetDelete", testPutGetDelete},
		{"NoChange", testNoChange},
		{"Status", testStatus},
		{"SpecAndStatusInOneTransaction", testSpecAndStatus},
		{"Copies", testCopies},
		{"Checks", testChecks},
		{"KindUnchanged", testKindUnchanged},
		{"Atomic", testAtomic},
		{"Invalid", testInvalid},
		{"Meta", testMeta},
		{"Audit", testAudit},
		{"Secrets", testSecrets},
		{"WatchOrder", testWatchOrder},
		{"WatchBlocks", testWatchBlocks},
		{"WatchResume", testWatchResume},
		{"WatchBeyondHead", testWatchBeyondHead},
		{"Compact", testCompact},
		{"CompactUnderWatch", testCompactUnderWatch},
		{"History", testHistory},
		{"ConcurrentWriters", testConcurrentWriters},
		{"ConcurrentCounters", testConcurrentCounters},
		{"SnapshotUnderWriters", testSnapshotUnderWriters},
		{"GroupedConflicts", testGroupedConflicts},
		{"RandomHistory", testRandomHistory},
		{"Reopen", testReopen},
		{"TwoReplicas", testTwoReplicas},
		{"Close", testClose},
		{"Cancelled", testCancelled},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, factory(t)) })
	}
}

// No test has a timeout of its own: go test ends one that hangs, with every goroutine's stack.

func timeoutKey(name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}
}

// policy is a MeshTimeout whose spec carries n.
func policy(key mesh.Key, n int) *mesh.Resource {
	return &mesh.Resource{Key: key, Labels: map[string]string{"kuma.io/display-name": key.Name},
		Spec: &meshv1.MeshTimeout{TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: strconv.Itoa(n)}}}
}

func number(r *mesh.Resource) int {
	n, err := strconv.Atoi(mesh.Spec[*meshv1.MeshTimeout](r).GetTargetRef().GetName())
	if err != nil {
		panic(err)
	}
	return n
}

func status(text string) *meshv1.DeliveryStatus {
	return &meshv1.DeliveryStatus{Conditions: []*meshv1.Condition{{
		Type:    "Test",
		Status:  "True",
		Message: text,
	}}}
}

func commit(t testing.TB, s store.Store, ops ...store.Op) store.Result {
	t.Helper()
	res, err := s.Commit(t.Context(), store.Txn{Author: "user:test", Ops: ops})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return res
}

func get(t testing.TB, s store.Store, key mesh.Key) *mesh.Resource {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return r
}

func snapshot(t testing.TB, s store.Store) store.Snapshot {
	t.Helper()
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	for i := 1; i < len(snap.Resources); i++ {
		if snap.Resources[i-1].Key.Compare(snap.Resources[i].Key) >= 0 {
			t.Fatalf("snapshot is out of order at %s", snap.Resources[i].Key)
		}
	}
	return snap
}

func watch(t testing.TB, s store.Store, after uint64) store.Watch {
	t.Helper()
	w, err := s.Watch(t.Context(), after)
	if err != nil {
		t.Fatalf("watch after %d: %v", after, err)
	}
	t.Cleanup(w.Close)
	return w
}

// collect reads commits up to revision and checks that they are dense.
func collect(t testing.TB, w store.Watch, after, revision uint64) []store.Commit {
	t.Helper()
	var commits []store.Commit
	for at := after; at < revision; at++ {
		c, err := w.Next(t.Context())
		if err != nil {
			t.Fatalf("next after %d: %v", at, err)
		}
		if c.Revision != at+1 {
			t.Fatalf("watch gave revision %d after %d", c.Revision, at)
		}
		if len(c.Changes) == 0 {
			t.Fatalf("revision %d has no changes", c.Revision)
		}
		commits = append(commits, c)
	}
	return commits
}

// fold applies commits to a state and checks that each change starts from what the one before left.
func fold(t testing.TB, state map[mesh.Key]*mesh.Resource, commits []store.Commit) {
	t.Helper()
	for _, c := range commits {
		for _, ch := range c.Changes {
			if diff := diffResources(state[ch.Key], ch.Old); diff != "" {
				t.Fatalf("revision %d: old of %s differs (-folded +given):\n%s", c.Revision, ch.Key, diff)
			}
			switch {
			case (ch.Type == store.ChangeDelete) != (ch.Resource == nil):
				t.Fatalf("revision %d: %s has type %d and resource %v", c.Revision, ch.Key, ch.Type,
					ch.Resource)
			case ch.Resource == nil:
				delete(state, ch.Key)
			default:
				if ch.Resource.Key != ch.Key {
					t.Fatalf("revision %d: change of %s holds %s", c.Revision, ch.Key, ch.Resource.Key)
				}
				state[ch.Key] = ch.Resource
			}
		}
	}
}

func sameState(t testing.TB, what string, want map[mesh.Key]*mesh.Resource, got []*mesh.Resource) {
	t.Helper()
	gotMap := map[mesh.Key]*mesh.Resource{}
	for _, r := range got {
		gotMap[r.Key] = r
	}
	if diff := cmp.Diff(want, gotMap, compare...); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

var compare = []cmp.Option{protocmp.Transform(),
	cmp.Comparer(func(a, b map[string]string) bool { return maps.Equal(a, b) })}

func diffResources(a, b *mesh.Resource) string { return cmp.Diff(a, b, compare...) }

// PlainSealer is a sealer for tests: it hides the plain text from a look at the bytes, and
// protects nothing.
type PlainSealer struct{ Key byte }

// Seal implements [store.Sealer].
func (s PlainSealer) Seal(plain, context []byte) ([]byte, error) {
	out := fmt.Appendf(nil, "%d:%s:", len(context), context)
	for _, b := range plain {
		out = append(out, b^(s.Key|0x80))
	}
	return out, nil
}

// Open implements [store.Sealer].
func (s PlainSealer) Open(sealed, context []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, fmt.Appendf(nil, "%d:%s:", len(context), context))
	if !ok {
		return nil, fmt.Errorf("sealed for another context than %q", context)
	}
	out := make([]byte, len(rest))
	for i, b := range rest {
		out[i] = b ^ (s.Key | 0x80)
	}
	return out, nil
}

// Fingerprint implements [store.Sealer].
func (s PlainSealer) Fingerprint() string { return fmt.Sprintf("plain-%d", s.Key) }

var _ store.Sealer = PlainSealer{}

var background = context.Background
