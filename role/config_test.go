package role

import (
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/internal/config"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/retention"
)

func defaultConfig() *Config {
	c := &Config{}
	config.Defaults(c.Fields())
	return c
}

func TestDefaultsPassTheCheck(t *testing.T) {
	t.Parallel()
	c := defaultConfig()
	if err := config.Check(c.Fields()); err != nil {
		t.Error(err)
	}
	if c.LocalhostIsAdmin || c.HistoryAge != retention.DefaultAge || c.APIAddr != "127.0.0.1:5681" {
		t.Errorf("defaults are not set: %+v", c)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		edit func(c *Config)
		err  string // empty: accepted
	}{
		{"port alone", func(c *Config) { c.APIAddr = "5681" }, `--api-addr "5681": must be HOST:PORT`},
		{"any host", func(c *Config) { c.APIAddr = ":5681" }, ""},
		{"store", func(c *Config) { c.StoreType = "sqlite" },
			`--store "sqlite": must be embedded or postgres`},
		{"share", func(c *Config) { c.GuardShare = 101 },
			"--guard-share 101: must be a percentage, 0 to 100"},
		{"negative number", func(c *Config) { c.GuardProxies = -1 },
			"--guard-proxies -1: must be a number of proxies"},
		{"history of a second", func(c *Config) { c.HistoryAge = time.Second },
			"--history-age 1s: must be at least 1m"},
		{"negative history", func(c *Config) { c.HistoryAge = -time.Hour }, "--history-age -1h0m0s: must be"},
		{"few revisions", func(c *Config) { c.HistoryRevisions = 10 },
			"--history-revisions 10: must be at least 1000"},
		{"least history", func(c *Config) {
			c.HistoryAge, c.HistoryRevisions = time.Minute, retention.MinRevisions
		}, ""},
		{"unbounded history", func(c *Config) { c.HistoryAge, c.HistoryRevisions = 0, 0 }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := defaultConfig()
			tc.edit(c)
			err := config.Check(c.Fields())
			switch {
			case tc.err == "" && err != nil:
				t.Errorf("Check = %v, want no error", err)
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Errorf("Check = %v, want one with %q", err, tc.err)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	c := defaultConfig()
	c.DataDir = t.TempDir()
	c.LogLevel = "error"
	closeAll, err := c.Open(t.Context(), store.Owner{Role: store.RoleGlobal})
	if err != nil {
		t.Fatal(err)
	}
	if c.Store == nil || c.Server == nil || c.Instance == "" {
		t.Errorf("not everything was opened: %+v", c)
	}
	closeAll()

	// What is given stays.
	again := defaultConfig()
	again.DataDir, again.Server, again.Instance = c.DataDir, c.Server, "mine"
	again.LogLevel = "error"
	if closeAll, err = again.Open(t.Context(), store.Owner{Role: store.RoleGlobal}); err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	if again.Server != c.Server || again.Instance != "mine" {
		t.Error("what was given is replaced")
	}
}

func TestOpenExplains(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		edit func(c *Config)
		err  string
	}{
		{"certificate without key", func(c *Config) { c.TLSCertFile = "x" }, "set both or neither"},
		{"URL for the embedded store", func(c *Config) { c.PostgresURL = "postgres://x" },
			"--postgres-url needs --store postgres"},
		{"postgres without URL", func(c *Config) { c.StoreType = StorePostgres }, "needs --postgres-url"},
		{"level", func(c *Config) { c.LogLevel = "loud" }, `"loud"`},
		{"missing key", func(c *Config) { c.EncryptionKeyFile = "missing.key" }, "--encryption-key-file"},
		{"PostgreSQL that does not answer", func(c *Config) {
			c.StoreType = StorePostgres
			c.PostgresURL = "postgres://meridian:hunter2@127.0.0.1:1/meridian"
		}, "does not answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := defaultConfig()
			c.DataDir, c.LogLevel = t.TempDir(), "error"
			tc.edit(c)
			_, err := c.Open(t.Context(), store.Owner{Role: store.RoleGlobal})
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("Open = %v, want an error with %q", err, tc.err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v names the password", err)
			}
		})
	}
}
