package zone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/meridian-mesh/meridian/internal/config"
	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// Config of a Zone; see [role.Config].
type Config struct {
	role.Config

	Name string
	// GlobalURL is "grpcs://HOST:5685"; empty makes a standalone zone.
	GlobalURL string
	// TokenFile holds the zone token, read at every connection. CAFile ("system": the system's roots)
	// and TLSSkipVerify replace the pins of the token.
	TokenFile     string
	CAFile        string
	TLSSkipVerify bool

	// XDSAddr serves the proxies (TLS); empty turns the port off.
	XDSAddr string
	// MaxJoining is how many proxies may be getting their first configuration at once; 0 means
	// [delta.DefaultMaxJoining].
	MaxJoining int
	// ConnectionAge is the time after which proxies are asked to connect again; 0 is never.
	ConnectionAge time.Duration
	// TestHooks is that of package xds: for demonstrations and tests.
	TestHooks bool

	// The rest has no flags.

	// Grace, Lease, ReturnTime and GoodbyeDelay are those of package universal; 0 means its defaults.
	Grace        time.Duration
	Lease        time.Duration
	ReturnTime   time.Duration
	GoodbyeDelay time.Duration
	// DeletionGrace is how long a generated service without Dataplanes stays; 0 means the default of
	// package services.
	DeletionGrace time.Duration
}

// Fields declares the settings.
func (c *Config) Fields() []config.Field {
	return append(c.Config.Fields(),
		config.Var(&c.Name, "name", "", "name of the zone"),
		config.Var(&c.GlobalURL, "global", "",
			"address of global, grpcs://HOST:5685; empty is a standalone zone"),
		config.Var(&c.TokenFile, "token-file", "", "file with the zone token"),
		config.Var(&c.CAFile, "ca-file", "",
			"PEM file to verify global by, instead of the token's pins; \"system\" is the system's roots"),
		config.Var(&c.TLSSkipVerify, "tls-skip-verify", false,
			"do not verify global's certificate; for trying out"),
		config.Address(&c.XDSAddr, "xds-addr", "127.0.0.1:5678", "address that proxies connect to (TLS)"),
		config.Var(&c.MaxJoining, "xds-max-joining", delta.DefaultMaxJoining,
			"how many proxies may be getting their first configuration at once; others wait, first come "+
				"first served").
			Must("be at least 1", func() bool { return c.MaxJoining >= 1 }),
		config.Var(&c.ConnectionAge, "xds-connection-age", 0,
			"time after which proxies are asked to connect again, which spreads them over replicas; "+
				"0 is never").
			Must("be at least 1m, or 0 for never", func() bool {
				return c.ConnectionAge == 0 || c.ConnectionAge >= time.Minute
			}),
		config.Var(&c.TestHooks, "test-hooks", false,
			"let labelled policies break on purpose; for the demo and for tests").Hidden(),
	)
}

// validName: the name of a zone becomes part of other names.
var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$`)

// check finds mistakes before anything is opened.
func (c *Config) check() error {
	switch {
	case c.Name == "":
		return errors.New("--name is missing; set the name of the zone, the one its token is for")
	case !validName.MatchString(c.Name):
		return fmt.Errorf("--name %q: must be lower-case letters, digits, - and ., at most 63", c.Name)
	case c.GlobalURL != "" && c.TokenFile == "":
		return errors.New("--token-file is missing; " + hint.ZoneToken(c.Name))
	case c.GlobalURL == "" && c.TokenFile != "":
		return errors.New("--token-file without --global; set the address of global, grpcs://HOST:5685")
	}
	if c.TokenFile != "" {
		if _, err := os.ReadFile(c.TokenFile); err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
	}
	return config.Check(c.Fields())
}

// Defaults is the configuration of a program that was given no flags.
func Defaults() *Config {
	c := &Config{}
	config.Defaults(c.Fields())
	return c
}

// GCPercent is what the process of a zone gives to gcpace.Start.
const GCPercent = delta.GCPercent

// Complete checks the settings, opens what they name and returns the server. [role.ControlPlane.Run]
// closes what was opened, or Close for a server that is not run.
func (c *Config) Complete(ctx context.Context) (*Zone, error) {
	cfg := *c
	if err := cfg.check(); err != nil {
		return nil, err
	}
	closeAll, err := cfg.Open(ctx, store.Owner{Role: store.RoleZone, Zone: cfg.Name})
	if err != nil {
		return nil, err
	}
	z, err := New(cfg)
	if err != nil {
		closeAll()
		return nil, err
	}
	z.OnClose(closeAll)
	return z, nil
}
