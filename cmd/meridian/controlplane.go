package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/internal/config"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/postgres"
	"github.com/meridian-mesh/meridian/store/retention"
	"github.com/meridian-mesh/meridian/store/seal"
)

// roleOptions are the flags that global and zone share.
type roleOptions struct {
	store, postgresURL, dataDir, keyFile string
	maxConns                             int
	apiAddr, apiTLSAddr, diagnosticsAddr string
	logFormat, logLevel                  string
	certFile, keyFileTLS                 string
	caFile                               string
	skipVerify, localhostIsAdmin         bool
	historyAge                           time.Duration
	historyRevisions                     uint64
	guardShare, guardProxies             int
	addressFlags                         []string
}

func (o *roleOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.store, "store", "embedded",
		"embedded (one process, durable in the data directory) or postgres (any number of replicas)")
	f.StringVar(&o.postgresURL, "postgres-url", "",
		"with --store postgres: postgres://USER:PASSWORD@HOST:5432/DATABASE; better given as "+
			"MERIDIAN_POSTGRES_URL")
	f.IntVar(&o.maxConns, "postgres-max-conns", 0,
		"with --store postgres: most connections at once; 0 is the store's own default")
	f.StringVar(&o.dataDir, "data-dir", "",
		"directory for the store, keys and certificates (default: below ~/.meridian)")
	f.StringVar(&o.keyFile, "encryption-key-file", "",
		"key that encrypts secrets at rest (default: encryption.key in the data directory, made once)")
	f.DurationVar(&o.historyAge, "history-age", retention.DefaultAge,
		"how long the change log, which is the history, is kept; 0 keeps it for ever")
	f.Uint64Var(&o.historyRevisions, "history-revisions", retention.DefaultRevisions,
		"how many revisions of it are kept at most; 0 is without bound")
	f.StringVar(&o.certFile, "tls-cert-file", "",
		"server certificate with its chain, PEM (default: one of an own CA, made once)")
	f.StringVar(&o.keyFileTLS, "tls-key-file", "", "key of --tls-cert-file")
	f.BoolVar(&o.localhostIsAdmin, "localhost-is-admin", true,
		"callers on loopback need no token; turn it off where others use this host")
	f.IntVar(&o.guardShare, "guard-share", 0,
		"percentage of all proxies that a policy may change without `meridian apply --force`; 0 is any")
	f.IntVar(&o.guardProxies, "guard-proxies", 10,
		"with --guard-share: a policy that changes fewer proxies than this needs no --force for it")
	f.StringVar(&o.logFormat, "log-format", "console", "console or json")
	f.StringVar(&o.logLevel, "log-level", "info",
		"debug, info, warn or error; PUT /logging on the diagnostics port changes it at run time")
	o.address(f, &o.apiAddr, "api-addr", "127.0.0.1:5681",
		"address of the API without TLS; callers on this host are administrators")
	o.address(f, &o.apiTLSAddr, "api-tls-addr", "127.0.0.1:5682", "address of the API with TLS")
	o.address(f, &o.diagnosticsAddr, "diagnostics-addr", "127.0.0.1:5680",
		"address of /healthy, /ready, /metrics, /logging and pprof")
	config.AddFlag(f)
}

func (o *roleOptions) address(f *pflag.FlagSet, value *string, name, def, help string) {
	f.StringVar(value, name, def, help+"; port 0 picks one and logs it")
	o.addressFlags = append(o.addressFlags, name)
}

// check finds mistakes before anything is opened.
func (o *roleOptions) check(f *pflag.FlagSet) error {
	var errs []error
	for _, name := range o.addressFlags {
		value := f.Lookup(name).Value.String()
		if _, _, err := net.SplitHostPort(value); err != nil {
			errs = append(errs,
				fmt.Errorf("--%s %q: want HOST:PORT, such as 127.0.0.1:5681 or :5681", name, value))
		}
	}
	if o.guardShare < 0 || o.guardShare > 100 {
		errs = append(errs, fmt.Errorf("--guard-share %d: want a percentage, 0 to 100", o.guardShare))
	}
	if o.guardProxies < 0 {
		errs = append(errs, fmt.Errorf("--guard-proxies %d: want a number of proxies, 0 or more",
			o.guardProxies))
	}
	errs = append(errs, retention.Check(o.historyAge, o.historyRevisions))
	return errors.Join(errs...)
}

// role is what global and zone stand on.
type role struct {
	store    store.Store
	server   *pki.Server
	instance string
	log      *zap.Logger
	level    zap.AtomicLevel
	registry *prometheus.Registry
	dataDir  string
}

func (r *role) close() {
	if r.store != nil {
		_ = r.store.Close()
	}
	_ = r.log.Sync()
}

// open makes the data directory, the keys, the certificate and the store.
func (o *roleOptions) open(ctx context.Context, name string) (*role, error) {
	r := &role{registry: obs.NewRegistry()}
	var err error
	if r.log, r.level, err = obs.NewLogger(o.logFormat, o.logLevel); err != nil {
		return nil, err
	}
	if r.instance, err = newInstance(); err != nil {
		return nil, err
	}
	r.dataDir = o.dataDir
	if r.dataDir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("no home directory (%w); give --data-dir", err)
		}
		r.dataDir = filepath.Join(home, ".meridian", name)
	}
	if err := os.MkdirAll(r.dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	if err := o.loadServer(r); err != nil {
		return nil, err
	}
	if err := o.openStore(ctx, r); err != nil {
		return nil, err
	}
	r.log.Info("store is open", zap.String("type", o.store), zap.String("data_dir", r.dataDir),
		zap.String("instance", r.instance))
	return r, nil
}

func newInstance() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	b := make([]byte, 4)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return host + "-" + hex.EncodeToString(b), nil
}

func (o *roleOptions) loadServer(r *role) error {
	var err error
	switch {
	case (o.certFile == "") != (o.keyFileTLS == ""):
		return errors.New("--tls-cert-file and --tls-key-file go together; give both or neither")
	case o.certFile != "":
		r.server, err = pki.LoadServer(o.certFile, o.keyFileTLS)
	default:
		var hosts []string
		for _, addr := range []string{o.apiAddr, o.apiTLSAddr} {
			if host, _, err := net.SplitHostPort(addr); err == nil && host != "" &&
				!net.ParseIP(host).IsUnspecified() {
				hosts = append(hosts, host)
			}
		}
		r.server, err = pki.LoadOrCreateServer(filepath.Join(r.dataDir, "tls"), hosts)
	}
	return err
}

func (o *roleOptions) openStore(ctx context.Context, r *role) (err error) {
	keyFile := o.keyFile
	own := keyFile == ""
	if own {
		keyFile = filepath.Join(r.dataDir, "encryption.key")
	}
	_, statErr := os.Stat(keyFile)
	isNew := own && errors.Is(statErr, fs.ErrNotExist)
	sealer, err := seal.LoadOrCreate(keyFile, own)
	if err != nil {
		return fmt.Errorf("%w (--encryption-key-file)", err)
	}
	defer func() {
		// A key that was made now and fits no store would only be in the way of the right one.
		if err != nil && isNew {
			_ = os.Remove(keyFile)
		}
	}()
	switch o.store {
	case "embedded":
		if o.postgresURL != "" {
			return errors.New("--postgres-url needs --store postgres")
		}
		s, err := embedded.Open(embedded.Config{
			Dir:        r.dataDir,
			Sealer:     sealer,
			Logger:     r.log,
			Registerer: r.registry,
		})
		if err != nil {
			return explainStore(err, keyFile)
		}
		r.store = s
	case "postgres":
		if o.postgresURL == "" {
			return errors.New("--store postgres needs --postgres-url (or MERIDIAN_POSTGRES_URL), such as " +
				"postgres://meridian@db.example:5432/meridian")
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		s, err := postgres.Open(ctx, postgres.Config{
			URL:        o.postgresURL,
			Sealer:     sealer,
			MaxConns:   o.maxConns,
			Logger:     r.log,
			Registerer: r.registry,
		})
		if err != nil {
			if errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("PostgreSQL at %s (--postgres-url) does not answer: %w\nStart it, "+
					"or correct "+
					"the URL; nothing was changed", withoutPassword(o.postgresURL), err)
			}
			return explainStore(err, keyFile)
		}
		r.store = s
	default:
		return fmt.Errorf("--store %q: want embedded or postgres", o.store)
	}
	return nil
}

func explainStore(err error, keyFile string) error {
	var wrongKey *store.WrongKeyError
	if errors.As(err, &wrongKey) {
		return fmt.Errorf("%w\nThe key read was %s; copy the key of the control plane that made this store "+
			"there, or name it with --encryption-key-file", err, keyFile)
	}
	return err
}

// withoutPassword is a URL that may be printed.
func withoutPassword(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the given URL"
	}
	return u.Redacted()
}

// explainRun says which flag to change when a port is taken.
func (o *roleOptions) explainRun(f *pflag.FlagSet, err error) error {
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		_, port, _ := net.SplitHostPort(op.Addr.String())
		for _, name := range o.addressFlags {
			if _, p, splitErr := net.SplitHostPort(f.Lookup(name).Value.String()); splitErr == nil &&
				p == port {
				return fmt.Errorf("%s is in use by another process, perhaps another control plane; choose "+
					"another with --%s: %w", op.Addr, name, err)
			}
		}
	}
	return fmt.Errorf("an address is in use by another process: %w", err)
}
