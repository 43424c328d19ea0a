package role

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
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/internal/seal"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/postgres"
)

// Open opens what is nil in c: the logger, the registry, the certificate and the store, below the data
// directory, which is created if it does not exist; its default below ~/.meridian has the owner's name.
// The store must be the owner's. The function it returns closes what was opened here. If it fails nothing
// stays open.
func (c *Config) Open(ctx context.Context, owner store.Owner) (closeAll func(), err error) {
	if c.Registry == nil {
		c.Registry = obs.NewRegistry()
	}

	flush := func() {}
	if c.Logger == nil {
		if c.Logger, c.Level, err = obs.NewLogger(c.LogFormat, c.LogLevel); err != nil {
			return nil, fmt.Errorf("--log-format and --log-level: %w", err)
		}
		flush = func() { _ = c.Logger.Sync() }
	}

	if c.Instance == "" {
		if c.Instance, err = newInstance(); err != nil {
			return nil, err
		}
	}

	if c.DataDir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("no home directory (%w); set --data-dir", err)
		}
		c.DataDir = filepath.Join(home, ".meridian", strings.ReplaceAll(owner.String(), " ", "-"))
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}

	if c.Server == nil {
		if c.Server, err = c.loadServer(); err != nil {
			return nil, err
		}
	}

	if c.Store != nil {
		return flush, nil
	}
	if c.Store, err = c.openStore(ctx, owner); err != nil {
		return nil, err
	}
	c.Logger.Info("store opened",
		zap.String("type", c.StoreType),
		zap.String("data_dir", c.DataDir),
		zap.String("instance", c.Instance))
	return func() {
		_ = c.Store.Close()
		flush()
	}, nil
}

func newInstance() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	b := make([]byte, 4)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return host + "-" + hex.EncodeToString(b), nil
}

func (c *Config) loadServer() (*servercert.Server, error) {
	switch {
	case (c.TLSCertFile == "") != (c.TLSKeyFile == ""):
		return nil, errors.New("--tls-cert-file and --tls-key-file go together; set both or neither")
	case c.TLSCertFile != "":
		return servercert.Load(c.TLSCertFile, c.TLSKeyFile)
	}

	var hosts []string
	for _, addr := range []string{c.APIAddr, c.APITLSAddr} {
		host, _, err := net.SplitHostPort(addr)
		if err == nil && host != "" && !net.ParseIP(host).IsUnspecified() {
			hosts = append(hosts, host)
		}
	}
	return servercert.LoadOrCreate(filepath.Join(c.DataDir, "tls"), hosts)
}

// postgresOpenTimeout bounds the wait for PostgreSQL at the start.
const postgresOpenTimeout = 30 * time.Second

func (c *Config) openStore(ctx context.Context, owner store.Owner) (st store.Store, err error) {
	switch {
	case c.StoreType == StoreEmbedded && c.PostgresURL != "":
		return nil, errors.New("--postgres-url needs --store postgres")
	case c.StoreType == StorePostgres && c.PostgresURL == "":
		return nil, errors.New("--store postgres needs --postgres-url (or MERIDIAN_POSTGRES_URL), such as " +
			"postgres://meridian@db.example:5432/meridian")
	}

	keyFile := c.EncryptionKeyFile
	mayCreate := keyFile == ""
	if mayCreate {
		keyFile = filepath.Join(c.DataDir, "encryption.key")
	}
	_, statErr := os.Stat(keyFile)
	created := mayCreate && errors.Is(statErr, fs.ErrNotExist)
	sealer, err := seal.LoadOrCreate(keyFile, mayCreate)
	if err != nil {
		return nil, fmt.Errorf("%w (--encryption-key-file)", err)
	}
	defer func() {
		// A key that was created now and fits no store would only be in the way of the right one.
		if err != nil && created {
			_ = os.Remove(keyFile)
		}
	}()

	if c.StoreType == StorePostgres {
		st, err = c.openPostgres(ctx, sealer, owner)
	} else {
		st, err = embedded.Open(embedded.Config{
			Dir:        c.DataDir,
			Sealer:     sealer,
			Owner:      owner,
			Logger:     c.Logger,
			Registerer: c.Registry,
		})
	}
	var wrongKey *store.WrongKeyError
	var foreign *store.OwnerError
	switch {
	case errors.As(err, &foreign) && c.StoreType == StorePostgres:
		return nil, fmt.Errorf("%w\nGive this process a database of its own (--postgres-url)", err)
	case errors.As(err, &foreign):
		return nil, fmt.Errorf("%w\nGive this process a directory of its own (--data-dir; %s is taken)", err,
			c.DataDir)
	case errors.As(err, &wrongKey):
		return nil, fmt.Errorf("%w\nThe key was read from %s; copy the key of the control plane that "+
			"created this store there, or set --encryption-key-file", err, keyFile)
	case err != nil:
		return nil, err
	}
	return st, nil
}

func (c *Config) openPostgres(ctx context.Context, sealer *seal.Sealer,
	owner store.Owner) (store.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, postgresOpenTimeout)
	defer cancel()
	st, err := postgres.Open(ctx, postgres.Config{
		URL:        c.PostgresURL,
		Sealer:     sealer,
		Owner:      owner,
		MaxConns:   c.PostgresMaxConns,
		Logger:     c.Logger,
		Registerer: c.Registry,
	})
	switch {
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("PostgreSQL at %s (--postgres-url) does not answer: %w\nStart it, or correct "+
			"the URL; nothing was changed", withoutPassword(c.PostgresURL), err)
	case err != nil:
		return nil, err
	}
	return st, nil
}

// withoutPassword is a URL that may be printed.
func withoutPassword(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the given URL"
	}
	return u.Redacted()
}
