package embedded

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/storetest"
)

func put(name string, n int) store.Op {
	return store.Put{Resource: &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name},
		Spec: &meshv1.MeshTimeout{TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: fmt.Sprint(n)}},
	}}
}

// filled makes a store with some history and returns its directory and final snapshot.
func filled(t *testing.T, commits int) (string, store.Snapshot) {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Sealer: storetest.PlainSealer{}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range commits {
		if _, err := s.Commit(t.Context(), store.Txn{
			Author: "user:test",
			Ops:    []store.Op{put(fmt.Sprint("k", i%40), i), store.SetMeta{Name: "m", Value: []byte("v")}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	trim(t, filepath.Join(dir, "store.db"))
	return dir, snap
}

// trim cuts off the pages that bbolt allocated ahead, so that damage hits what matters.
func trim(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := os.Getpagesize()
	first, err1 := readMeta(b, 0)
	second, err2 := readMeta(b[size:], 1)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(max(first.high, second.high))*int64(size)); err != nil {
		t.Fatal(err)
	}
}

// reopened opens a store that may be damaged: it must be all there, or say that it is damaged.
func reopened(t *testing.T, what, dir string, want store.Snapshot) (intact bool) {
	t.Helper()
	before, err := os.ReadFile(filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Dir: dir, Sealer: storetest.PlainSealer{}})
	if err != nil {
		var corrupt *store.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), dir) {
			t.Fatalf("%s: %v, want a CorruptError that names the file", what, err)
		}
		after, err := os.ReadFile(filepath.Join(dir, "store.db"))
		if err != nil || string(after) != string(before) {
			t.Fatalf("%s: a damaged file was changed (%v)", what, err)
		}
		return false
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	got, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatalf("%s: opened with other contents (-want +got):\n%s", what, diff)
	}
	w, err := s.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for rev := uint64(1); rev <= want.Revision; rev++ {
		if c, err := w.Next(t.Context()); err != nil || c.Revision != rev {
			t.Fatalf("%s: opened, but the log gives %d, %v after %d", what, c.Revision, err, rev-1)
		}
	}
	return true
}

func TestTruncated(t *testing.T) {
	dir, want := filled(t, 200)
	path := filepath.Join(dir, "store.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut < len(whole); cut += 1024 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if reopened(t, fmt.Sprint("cut to ", cut), dir, want) {
			t.Errorf("a file cut to %d of %d bytes opened", cut, len(whole))
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if !reopened(t, "whole again", dir, want) {
		t.Error("the whole file does not open")
	}
}

// Every flipped byte either does not matter or is found.
func TestFlippedBytes(t *testing.T) {
	dir, want := filled(t, 60)
	path := filepath.Join(dir, "store.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	found := 0
	flip := func(at int, by byte) {
		damaged := append([]byte(nil), whole...)
		damaged[at] ^= by
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if !reopened(t, fmt.Sprintf("byte %d of %d flipped by %#x", at, len(whole), by), dir, want) {
			found++
		}
	}
	for at := range 80 { // the header pages
		flip(at, 1<<rng.IntN(8))
		flip(os.Getpagesize()+at, 1<<rng.IntN(8))
	}
	for page := 0; page < len(whole)/os.Getpagesize() &&
		page < 24; page++ { // headers and first elements of pages
		for at := range 24 {
			flip(page*os.Getpagesize()+at, 1<<rng.IntN(8))
		}
	}
	for range 300 {
		flip(rng.IntN(len(whole)), byte(1+rng.IntN(255)))
	}
	if found < 160 {
		t.Errorf("only %d damages were found", found)
	}
	t.Logf("%d damages found", found)
}

// A row that vanishes without a trace, as bbolt sees it, is found too.
func TestMissingRow(t *testing.T) {
	for _, name := range [][]byte{bucketResources, bucketLog, bucketHistory, bucketKinds, bucketMeta} {
		dir, want := filled(t, 20)
		db, err := bolt.Open(filepath.Join(dir, "store.db"), 0o600, options())
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			k, _ := tx.Bucket(name).Cursor().First()
			return tx.Bucket(name).Delete(k)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if reopened(t, "row missing in "+string(name), dir, want) {
			t.Errorf("a row missing in %s was not found", name)
		}
	}
}

func TestOtherFile(t *testing.T) {
	for what, content := range map[string]string{"empty": "", "text": strings.Repeat("not a store\n", 1000),
		"zeros": strings.Repeat("\x00", 1<<16)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "store.db"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if reopened(t, what, dir, store.Snapshot{}) {
			t.Errorf("%s: opened", what)
		}
	}
}

// A creation that was cut off is begun again.
func TestCreateAgain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "store.db.new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, Config{Dir: dir, Sealer: storetest.PlainSealer{}})
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, Sealer: storetest.PlainSealer{}})
	_, err := Open(Config{Dir: dir, Sealer: storetest.PlainSealer{}})
	if err == nil || !strings.Contains(err.Error(), "another control plane") ||
		!strings.Contains(err.Error(), dir) {
		t.Errorf("second Open = %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Config{Dir: dir, Sealer: storetest.PlainSealer{}})
}

func TestWrongKey(t *testing.T) {
	dir, want := filled(t, 3)
	_, err := Open(Config{Dir: dir, Sealer: storetest.PlainSealer{Key: 1}})
	var wrong *store.WrongKeyError
	if !errors.As(err, &wrong) || wrong.Want != "plain-0" || wrong.Got != "plain-1" {
		t.Errorf("Open = %v", err)
	}
	if !reopened(t, "after a wrong key", dir, want) {
		t.Error("damaged")
	}
	if _, err := Open(Config{Dir: t.TempDir()}); err == nil {
		t.Error("opened without a key")
	}
}

// Secrets are in no byte of the file.
func TestSecretsAreSealed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, Sealer: storetest.PlainSealer{}})
	k := mesh.Key{Kind: mesh.KindSecret, Mesh: "default", Name: "x"}
	for _, text := range []string{"very-secret-one", "very-secret-two"} {
		if _, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{store.Put{Resource: &mesh.Resource{
			Key:  k,
			Spec: &meshv1.Secret{Data: []byte(text)},
		}}}}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "very-secret") {
		t.Error("the file shows a secret")
	}
	if !strings.Contains(string(raw), k.String()) {
		t.Error("the test looks in the wrong place")
	}
}

// A file written by a later format is refused without harm.
func TestNewerFormat(t *testing.T) {
	dir, _ := filled(t, 3)
	db, err := bolt.Open(filepath.Join(dir, "store.db"), 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		w, err := newWriter(tx)
		if err != nil {
			return err
		}
		w.put(bucketStore, fieldFormat, formatRow(formatVersion+1))
		return w.end()
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{
		Dir:    dir,
		Sealer: storetest.PlainSealer{},
	}); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("Open = %v", err)
	}
}

// When the file refuses a write, nothing of the group is seen and the store goes on if it can.
func TestWriteFails(t *testing.T) {
	dir, want := filled(t, 5)
	s := open(t, Config{Dir: dir, Sealer: storetest.PlainSealer{}})
	w, err := s.Watch(t.Context(), want.Revision)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// A bucket that is gone makes every write fail after some rows were put.
	var broken bool
	breakWrites := func(on bool) {
		err := s.file.db.Update(func(tx *bolt.Tx) error {
			if on {
				return tx.DeleteBucket(bucketMeta)
			}
			_, err := tx.CreateBucket(bucketMeta)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		broken = on
	}
	breakWrites(true)
	if _, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("new", 1), store.SetMeta{
		Name:  "x",
		Value: []byte("y"),
	}}}); err == nil {
		t.Fatal("a write that failed was answered with success")
	}
	breakWrites(false)
	if rev, _ := s.Revision(t.Context()); rev != want.Revision || broken {
		t.Errorf("revision is %d after a failed write, want %d", rev, want.Revision)
	}
	res, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("other", 1)}})
	if err != nil || res.Revision != want.Revision+1 {
		t.Fatalf("after a failed write: %+v, %v", res, err)
	}
	c, err := w.Next(context.Background())
	if err != nil || c.Changes[0].Key.Name != "other" {
		t.Errorf("watch after a failed write: %+v, %v", c, err)
	}
}

// A watch far behind reads the file, one near the head the memory; both give the same.
func TestTailAndFile(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Sealer: storetest.PlainSealer{}})
	const n = 2*tailLength + 100
	var wg sync.WaitGroup
	for writer := range 64 {
		wg.Go(func() {
			for i := writer; i < n; i += 64 {
				if _, err := s.Commit(t.Context(), store.Txn{
					Author: fmt.Sprint(i),
					Ops:    []store.Op{put("k", i)},
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if st := s.state.Load(); st.tail[0].Revision == 1 || len(st.tail) > 2*tailLength {
		t.Fatalf("the tail starts at %d and has %d commits", st.tail[0].Revision, len(st.tail))
	}
	w, err := s.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range n {
		c, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := mesh.Spec[*meshv1.MeshTimeout](
			c.Changes[0].Resource).GetTargetRef().GetName(); c.Revision != uint64(i+1) || got != c.Author ||
			c.Changes[0].Resource.Revision != c.Revision {
			t.Fatalf("revision %d by %s carries %s", c.Revision, c.Author, got)
		}
	}
}

// A state that a reader holds does not change under later commits.
func TestStatesAreImmutable(t *testing.T) {
	s := open(t, Config{InMemory: true})
	if _, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("a", 1), put("b", 1), store.SetMeta{
		Name:  "m",
		Value: []byte("1"),
	}}}); err != nil {
		t.Fatal(err)
	}
	held := s.state.Load()
	a := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "a"}
	if _, err := s.Commit(t.Context(),
		store.Txn{Ops: []store.Op{store.Delete{Key: a}, put("b", 2), put("c", 1), store.SetMeta{
			Name:  "m",
			Value: []byte("2"),
		}}}); err != nil {
		t.Fatal(err)
	}
	if held.Resource(a) == nil || held.resources.Len() != 2 ||
		held.KindRevision(mesh.KindMeshTimeout, "default") != 1 ||
		string(held.meta["m"]) != "1" || len(held.tail) != 1 {
		t.Errorf("a held state changed: %+v", held)
	}
}
