package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/meridian-mesh/meridian/internal/pgserver"
)

// Environment names the variable with the URL of a server to use; its user must be allowed to
// create databases.
const Environment = "MERIDIAN_TEST_POSTGRES_URL"

// shared is the test process's server. It outlives a test because starting a server takes
// seconds.
var shared struct {
	sync.Mutex
	server *pgserver.Server
	dir    string
	err    error
}

// New creates an empty database for a test and returns its URL; the database is dropped at the end of
// the test. If there is no server and no binaries, it fails the test with what to install.
func New(t testing.TB) string {
	t.Helper()

	admin, err := adminURL()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}

	name := "meridian_test_" + rand.Text()
	exec := func(ctx context.Context, sql string) error {
		conn, err := pgx.Connect(ctx, admin)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, sql)
		_ = conn.Close(ctx)
		return err
	}

	quoted := pgx.Identifier{name}.Sanitize()
	if err := exec(t.Context(), "CREATE DATABASE "+quoted); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := exec(context.Background(), "DROP DATABASE "+quoted+" WITH (FORCE)"); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})

	u, err := url.Parse(admin)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

// Start starts a throwaway server whose data is in dir. stop ends it and keeps the data.
func Start(dir string) (databaseURL string, stop func(), err error) {
	s, err := pgserver.Start(dir)
	if err != nil {
		return "", nil, err
	}
	return s.URL("postgres"), s.Stop, nil
}

// adminURL is the address of the server to create databases on.
func adminURL() (string, error) {
	if u := os.Getenv(Environment); u != "" {
		return u, nil
	}
	shared.Lock()
	defer shared.Unlock()

	if shared.server == nil && shared.err == nil {
		if shared.dir, shared.err = os.MkdirTemp("", "pgtest"); shared.err == nil {
			shared.server, shared.err = pgserver.Start(shared.dir)
		}
		if shared.err != nil {
			shared.err = fmt.Errorf("start a server: %w", shared.err)
		}
	}
	if shared.err != nil {
		return "", shared.err
	}
	return shared.server.URL("postgres"), nil
}

// Stopping wraps a package's tests so that the server ends after the last of them.
func Stopping(m interface{ Run() int }) interface{ Run() int } { return stopping{m} }

type stopping struct{ m interface{ Run() int } }

// Run runs the tests and stops the server.
func (s stopping) Run() int {
	code := s.m.Run()
	shared.Lock()
	defer shared.Unlock()

	if shared.server != nil {
		shared.server.Stop()
		shared.server = nil
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
		shared.dir = ""
	}
	return code
}
