package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/storetest"
	"github.com/meridian-mesh/meridian/store/txn"
	"github.com/meridian-mesh/meridian/test/pgtest"
)

func put(name string, n int) store.Op {
	return store.Put{Resource: &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name},
		Spec: &meshv1.MeshTimeout{TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: fmt.Sprint(n)}},
	}}
}

func session(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// The database stops and starts again: calls fail fast with ErrUnavailable, and the same Store
// and watch go on.
func TestOutage(t *testing.T) {
	dir, err := os.MkdirTemp("", "pgtest") // not t.TempDir: the user postgres could not enter it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	url, stop, err := pgtest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { stop() }()
	s := open(t, url)
	w, err := s.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("a", 1)}}); err != nil {
		t.Fatal(err)
	}
	stop()
	s.recent.reset() // the watch is to read the database
	start := time.Now()
	if _, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("a", 2)}}); !errors.Is(err,
		store.ErrUnavailable) {
		t.Errorf("Commit = %v, want ErrUnavailable", err)
	}
	if _, err := s.Get(t.Context(), mesh.Key{
		Kind: mesh.KindMeshTimeout,
		Mesh: "default",
		Name: "a",
	}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Get = %v, want ErrUnavailable", err)
	}
	if _, err := s.Snapshot(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Snapshot = %v, want ErrUnavailable", err)
	}
	if _, err := w.Next(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Next = %v, want ErrUnavailable", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("four calls took %v to fail", d)
	}
	if _, err := Open(t.Context(), Config{
		URL:    url,
		Sealer: storetest.PlainSealer{},
	}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Open = %v, want ErrUnavailable", err)
	}
	again, stop2, err := pgtest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	stop = stop2
	if again != url {
		t.Fatalf("the server came back at %s, was %s", again, url)
	}
	res, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("a", 3)}})
	if err != nil || res.Revision != 2 {
		t.Fatalf("Commit after the outage = %+v, %v", res, err)
	}
	for want := uint64(1); want <= 2; want++ {
		if c, err := w.Next(t.Context()); err != nil || c.Revision != want {
			t.Fatalf("Next after the outage = %d, %v, want %d", c.Revision, err, want)
		}
	}
}

// Connections are killed under writers: what was answered is there once, the log has no holes, checks hold.
func TestKilledConnections(t *testing.T) {
	url := pgtest.New(t)
	stores := []*Store{open(t, url), open(t, url)}
	admin := session(t, url)
	const writers, each = 8, 30
	var mu sync.Mutex
	answered := map[uint64]string{}
	unknown := 0
	done := make(chan struct{})
	var wg sync.WaitGroup
	for writer := range writers {
		s := stores[writer%2]
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("w%d-%d", writer, i)
				res, err := s.Commit(t.Context(), store.Txn{Author: name, Ops: []store.Op{put(name, i)}})
				mu.Lock()
				switch {
				case err == nil:
					answered[res.Revision] = name
				case errors.Is(err, store.ErrUnavailable):
					unknown++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	for kills := 0; ; kills++ {
		exec(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "+
			"current_database() AND pid <> pg_backend_pid()")
		select {
		case <-done:
		default:
			continue
		}
		t.Logf("%d kills, %d answered, %d unknown", kills, len(answered), unknown)
		break
	}
	head, err := stores[0].Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if head < uint64(len(answered)) || head > uint64(len(answered)+unknown) {
		t.Errorf("head is %d with %d answered and %d unknown", head, len(answered), unknown)
	}
	for _, s := range stores {
		w, err := s.Watch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for want := uint64(1); want <= head; want++ {
			c, err := w.Next(t.Context())
			if err != nil || c.Revision != want {
				t.Fatalf("Next = %d, %v, want %d", c.Revision, err, want)
			}
			if name, ok := answered[want]; ok && name != c.Author {
				t.Errorf("revision %d is by %s, answered to %s", want, c.Author, name)
			}
		}
		w.Close()
	}
	snap, err := stores[1].Snapshot(t.Context())
	if err != nil || uint64(len(snap.Resources)) != head {
		t.Errorf("%d resources at revision %d, %v", len(snap.Resources), head, err)
	}
}

// A change whose notification is lost shows by the poll.
func TestLostNotification(t *testing.T) {
	url := pgtest.New(t)
	s := open(t, url)
	w, err := s.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	change := store.Change{
		Type: store.ChangeSpec,
		Key:  mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "a"},
	}
	change.Resource = put("a", 1).(store.Put).Resource
	body, err := txn.Codec{Sealer: storetest.PlainSealer{}}.EncodeChange(rowName(1, 0), change)
	if err != nil {
		t.Fatal(err)
	}
	conn := session(t, url)
	exec(t, conn, "INSERT INTO meridian.log (revision, position, key, time, actor, body) VALUES (1, 0, $1, "+
		"now(), 'x', $2)", change.Key.String(), body)
	exec(t, conn, "UPDATE meridian.store SET revision = 1")
	c, err := w.Next(t.Context())
	if err != nil || c.Revision != 1 || c.Changes[0].Key != change.Key {
		t.Errorf("Next = %+v, %v", c, err)
	}
}

// Someone holds the counter row: a write gives up in time, and later ones go through.
func TestHeldLock(t *testing.T) {
	url := pgtest.New(t)
	s := open(t, url)
	conn := session(t, url)
	exec(t, conn, "BEGIN")
	exec(t, conn, "SELECT * FROM meridian.store FOR UPDATE")
	start := time.Now()
	_, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("a", 1)}})
	if d := time.Since(start); !errors.Is(err, store.ErrUnavailable) || d > 2*writeTimeout {
		t.Errorf("Commit = %v after %v", err, d)
	}
	exec(t, conn, "ROLLBACK")
	if res, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("a", 1)}}); err != nil ||
		res.Revision != 1 {
		t.Errorf("Commit = %+v, %v", res, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	url := pgtest.New(t)
	s := open(t, url)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var wrong *store.WrongKeyError
	if _, err := Open(t.Context(), Config{
		URL:    url,
		Sealer: storetest.PlainSealer{Key: 1},
	}); !errors.As(err, &wrong) || wrong.Want != "plain-0" {
		t.Errorf("another key: %v", err)
	}
	exec(t, session(t, url), "INSERT INTO meridian.migrations (version) VALUES (99)")
	var newer *NewerError
	if _, err := Open(t.Context(), Config{
		URL:    url,
		Sealer: storetest.PlainSealer{},
	}); !errors.As(err, &newer) || newer.Database != 99 {
		t.Errorf("a newer schema: %v", err)
	}
	if _, err := Open(t.Context(), Config{
		URL:    "postgres://meridian@/x?host=/nonexistent",
		Sealer: storetest.PlainSealer{},
	}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("no server: %v", err)
	}
	for name, c := range map[string]Config{"no URL": {Sealer: storetest.PlainSealer{}}, "no key": {URL: url},
		"bad URL": {
			URL:    "postgres://%",
			Sealer: storetest.PlainSealer{},
		}} {
		if _, err := Open(t.Context(), c); err == nil || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Replicas that start at once on an empty database make one store.
func TestOpenAtOnce(t *testing.T) {
	url := pgtest.New(t)
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			s, err := Open(t.Context(), Config{URL: url, Sealer: storetest.PlainSealer{}, MaxConns: 2})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = s.ID()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("ids are %q", ids)
		}
	}
}

func TestMigrationNumbers(t *testing.T) {
	if all, err := migrations(migrationFiles); err != nil || len(all) == 0 {
		t.Errorf("migrations: %v, %v", all, err)
	}
	for _, names := range [][]string{{"migrations/0002_x.sql"},
		{"migrations/0001_x.sql", "migrations/0003_y.sql"}, {"migrations/x.sql"}} {
		files := fstest.MapFS{}
		for _, name := range names {
			files[name] = &fstest.MapFile{}
		}
		if _, err := migrations(files); err == nil {
			t.Errorf("%v: accepted", names)
		}
	}
}

func TestSecretsAreSealed(t *testing.T) {
	url := pgtest.New(t)
	s := open(t, url)
	for _, text := range []string{"very-secret-one", "very-secret-two"} {
		if _, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{store.Put{Resource: &mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindGlobalSecret, Name: "x"},
			Spec: &meshv1.GlobalSecret{Data: []byte(text)},
		}}}}); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := session(t, url).Query(t.Context(),
		"SELECT body FROM meridian.resources UNION ALL SELECT body FROM meridian.log")
	if err != nil {
		t.Fatal(err)
	}
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil || len(bodies) != 3 {
		t.Fatalf("%d rows, %v", len(bodies), err)
	}
	for _, b := range bodies {
		if strings.Contains(string(b), "very-secret") {
			t.Errorf("a row shows a secret: %q", b)
		}
	}
}

func TestDamagedRow(t *testing.T) {
	url := pgtest.New(t)
	s := open(t, url)
	if _, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("a", 1)}}); err != nil {
		t.Fatal(err)
	}
	conn := session(t, url)
	exec(t, conn, "UPDATE meridian.resources SET body = set_byte(body, 9, 255 - get_byte(body, 9))")
	exec(t, conn, "DELETE FROM meridian.log")
	s.recent.reset() // the watch is to read the database
	key := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "a"}
	var corrupt *store.CorruptError
	if _, err := s.Get(t.Context(), key); !errors.As(err, &corrupt) ||
		!strings.Contains(err.Error(), key.String()) {
		t.Errorf("Get = %v", err)
	}
	if _, err := s.Snapshot(t.Context()); !errors.As(err, &corrupt) {
		t.Errorf("Snapshot = %v", err)
	}
	if _, err := s.Commit(t.Context(), store.Txn{Ops: []store.Op{put("a", 2)}}); !errors.As(err, &corrupt) {
		t.Errorf("Commit = %v", err)
	}
	w, err := s.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Next(t.Context()); !errors.As(err, &corrupt) {
		t.Errorf("Next = %v", err)
	}
}
