package pgtest

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/meridian-mesh/meridian/internal/pgserver"
)

// Pair is a primary and a standby that follows it asynchronously, as a cluster with failover has them.
type Pair struct {
	primary, standby *pgserver.Server
}

// NewPair starts a pair of servers of their own, which end with the test.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgpair") // not t.TempDir: the user postgres could not enter it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}

	p := &Pair{}
	if p.primary, err = pgserver.Start(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.primary.Stop)
	if p.standby, err = p.primary.Standby(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.standby.Stop)
	return p
}

// URL reaches the one of the two that takes writes.
func (p *Pair) URL() string {
	host := func(s *pgserver.Server) string {
		u, err := url.Parse(s.URL("postgres"))
		if err != nil {
			panic(err) // pgserver made it
		}
		return u.Query().Get("host")
	}
	q := url.Values{
		"host":                 {host(p.primary) + "," + host(p.standby)},
		"sslmode":              {"disable"},
		"target_session_attrs": {"read-write"},
	}
	return "postgres://postgres@/postgres?" + q.Encode()
}

// Promoted reaches the former standby alone.
func (p *Pair) Promoted() string { return p.standby.URL("postgres") }

// Cut lets the standby have everything up to now and nothing from now on.
func (p *Pair) Cut(t testing.TB) {
	t.Helper()
	var at string
	query(t, p.primary, "SELECT pg_current_wal_insert_lsn()::text", &at)
	await(t, p.standby, "SELECT coalesce(pg_last_wal_replay_lsn() >= '"+at+"'::pg_lsn, false)")
	exec(t, p.standby, "ALTER SYSTEM SET primary_conninfo = ''")
	exec(t, p.standby, "SELECT pg_reload_conf()")
	await(t, p.standby, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")
}

// Promote makes the standby take writes; the former primary goes on for those who are connected.
func (p *Pair) Promote(t testing.TB) {
	t.Helper()
	var done bool
	query(t, p.standby, "SELECT pg_promote(true, 60)", &done)
	if !done {
		t.Fatal("pgtest: the standby was not promoted")
	}
}

// StopPrimary ends the former primary and its connections.
func (p *Pair) StopPrimary() { p.primary.Stop() }

func connect(t testing.TB, s *pgserver.Server) (context.Context, *pgx.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		cancel()
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx); cancel() })
	return ctx, conn
}

func exec(t testing.TB, s *pgserver.Server, sql string) {
	t.Helper()
	ctx, conn := connect(t, s)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("pgtest: %s: %v", sql, err)
	}
	_ = conn.Close(ctx)
}

func query(t testing.TB, s *pgserver.Server, sql string, to any) {
	t.Helper()
	ctx, conn := connect(t, s)
	if err := conn.QueryRow(ctx, sql).Scan(to); err != nil {
		t.Fatalf("pgtest: %s: %v", sql, err)
	}
	_ = conn.Close(ctx)
}

// await asks until the answer is true.
func await(t testing.TB, s *pgserver.Server, sql string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-tick.C {
		var ok bool
		if query(t, s, sql, &ok); ok {
			return
		}
	}
	t.Fatalf("pgtest: %s did not become true", sql)
}
