package role

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/internal/config"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/retention"
)

// Types of store, the values of [Config.StoreType].
const (
	StoreEmbedded = "embedded"
	StorePostgres = "postgres"
)

// StoreStatus is that of the store of c while it answers.
func (c *Config) StoreStatus() *adminv1.StoreStatus {
	s := &adminv1.StoreStatus{Type: adminv1.StoreType_STORE_TYPE_EMBEDDED, Available: true}
	if c.StoreType == StorePostgres {
		s.Type = adminv1.StoreType_STORE_TYPE_POSTGRES
	}
	return s
}

// Config is what both roles can be told. global.Config and zone.Config embed it.
//
// A setting is declared twice, here and in [Config.Fields] below; its flag, environment variable, key
// in the configuration file, default and check all follow from the second. The zero value of a setting
// is not its default but means off, none or unbounded; [config.Defaults] sets the defaults.
type Config struct {
	// DataDir holds the store, keys and certificates; empty means a directory below ~/.meridian.
	DataDir string
	// StoreType is StoreEmbedded or StorePostgres. The other two are for StorePostgres.
	StoreType        string
	PostgresURL      string
	PostgresMaxConns int
	// EncryptionKeyFile holds the key that encrypts secrets at rest; empty means one in DataDir.
	EncryptionKeyFile string
	// HistoryAge and HistoryRevisions bound the change log by age and by number of revisions; 0 is
	// unbounded.
	HistoryAge       time.Duration
	HistoryRevisions uint64

	// AuditAge and AuditRows bound the audit by age and by number of rows; 0 is unbounded. AuditFile
	// takes its rows as lines of JSON, too; empty is none.
	AuditAge  time.Duration
	AuditRows uint64
	AuditFile string

	// APIAddr serves the API over HTTP, APITLSAddr over TLS, DiagnosticsAddr health and metrics. An
	// empty address turns that port off.
	APIAddr         string
	APITLSAddr      string
	DiagnosticsAddr string
	// TLSCertFile and TLSKeyFile are the certificate of all TLS ports; empty means one of an own CA.
	TLSCertFile string
	TLSKeyFile  string

	// LocalhostIsAdmin gives direct calls from loopback, without TLS and without an Authorization
	// header, the administrator's rights.
	LocalhostIsAdmin bool
	// GuardShare is the percentage of proxies that a policy may change without being forced; 0 is any.
	// A policy that changes fewer than GuardProxies never needs to be.
	GuardShare   int
	GuardProxies int

	LogFormat string
	LogLevel  string

	// The rest has no flags: a program sets it, and [Config.Open] opens what is nil.

	Store store.Store
	// Server is the certificate of all TLS ports.
	Server *servercert.Server
	// Instance names this process among the replicas; Version is that of the program.
	Instance string
	Version  string
	// SkipDefaultMesh leaves out the mesh "default" at the first start.
	SkipDefaultMesh bool
	// ProcessConfig is the process's configuration as JSON, without secrets; may be nil.
	ProcessConfig func() ([]byte, error)

	Logger *zap.Logger
	// Level of Logger, changed over the diagnostics port.
	Level zap.AtomicLevel
	// Registry of metrics; nil makes one.
	Registry *prometheus.Registry
}

// Fields declares the settings.
func (c *Config) Fields() []config.Field {
	return []config.Field{
		config.Var(&c.DataDir, "data-dir", "",
			"directory for the store, keys and certificates (default: below ~/.meridian)"),
		config.Var(&c.StoreType, "store", StoreEmbedded,
			"embedded (one process, durable in the data directory) or postgres (any number of replicas)").
			Must("be embedded or postgres", func() bool {
				return c.StoreType == StoreEmbedded || c.StoreType == StorePostgres
			}),
		config.Var(&c.PostgresURL, "postgres-url", "",
			"with --store postgres: postgres://USER:PASSWORD@HOST:5432/DATABASE; better given as "+
				"MERIDIAN_POSTGRES_URL"),
		config.Var(&c.PostgresMaxConns, "postgres-max-conns", 0,
			"with --store postgres: maximum number of connections; 0 is the default of the store"),
		config.Var(&c.EncryptionKeyFile, "encryption-key-file", "",
			"key that encrypts secrets at rest (default: encryption.key in the data directory)"),
		config.Var(&c.HistoryAge, "history-age", retention.DefaultAge,
			"how long the change log, which is the history, is kept; 0 is unbounded").
			Must("be at least 1m, or 0 for unbounded", func() bool {
				return c.HistoryAge == 0 || c.HistoryAge >= time.Minute
			}),
		config.Var(&c.HistoryRevisions, "history-revisions", uint64(retention.DefaultRevisions),
			"maximum number of revisions in the change log; 0 is unbounded").
			Must(fmt.Sprintf("be at least %d, or 0 for unbounded", retention.MinRevisions), func() bool {
				return c.HistoryRevisions == 0 || c.HistoryRevisions >= retention.MinRevisions
			}),
		config.Var(&c.AuditAge, "audit-age", retention.DefaultAuditAge,
			"how long rows of the audit are kept; 0 is unbounded").
			Must("be at least 1h, or 0 for unbounded", func() bool {
				return c.AuditAge == 0 || c.AuditAge >= time.Hour
			}),
		config.Var(&c.AuditRows, "audit-rows", uint64(retention.DefaultAuditRows),
			"maximum number of rows of the audit; 0 is unbounded"),
		config.Var(&c.AuditFile, "audit-file", "",
			"file to append the audit to as lines of JSON; it is opened again on SIGHUP and when it "+
				"was moved"),
		config.Address(&c.APIAddr, "api-addr", "127.0.0.1:5681",
			"address of the API without TLS"),
		config.Address(&c.APITLSAddr, "api-tls-addr", "127.0.0.1:5682", "address of the API with TLS"),
		config.Address(&c.DiagnosticsAddr, "diagnostics-addr", "127.0.0.1:5680",
			"address of /healthy, /ready, /metrics, /logging and pprof"),
		config.Var(&c.TLSCertFile, "tls-cert-file", "",
			"server certificate with its chain, PEM (default: one signed by an own CA, created once)"),
		config.Var(&c.TLSKeyFile, "tls-key-file", "", "private key of --tls-cert-file"),
		config.Var(&c.LocalhostIsAdmin, "localhost-is-admin", false,
			"callers on loopback need no token without TLS: whatever runs on this host is administrator"),
		config.Var(&c.GuardShare, "guard-share", 0,
			"percentage of all proxies that a policy may change without 'meridian apply --force'; 0 is any").
			Must("be a percentage, 0 to 100", func() bool {
				return c.GuardShare >= 0 && c.GuardShare <= 100
			}),
		config.Var(&c.GuardProxies, "guard-proxies", 10,
			"with --guard-share: a policy that changes fewer proxies than this never needs --force").
			Must("be a number of proxies, 0 or more", func() bool { return c.GuardProxies >= 0 }),
		config.Var(&c.LogFormat, "log-format", "console", "console or json"),
		config.Var(&c.LogLevel, "log-level", "info",
			"debug, info, warn or error; PUT /logging on the diagnostics port changes it at run time"),
	}
}
