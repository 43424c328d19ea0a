package pgtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(Stopping(m)) }

// Two tests of one process have databases that do not see each other.
func TestNewIsFresh(t *testing.T) {
	for range 2 {
		conn, err := pgx.Connect(t.Context(), New(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "CREATE TABLE x (n int)"); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A stopped server starts again with its data.
func TestStartKeepsData(t *testing.T) {
	// Not t.TempDir: the user postgres could not enter it.
	parent, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(parent) }()
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, strings.Repeat("long", 20))
	for i := range 2 {
		url, stop, err := Start(dir)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		sql := "CREATE TABLE kept (n int)"
		if i == 1 {
			sql = "INSERT INTO kept VALUES (1)"
		}
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Error(err)
		}
		_ = conn.Close(t.Context())
		stop()
		stop()
	}
}
