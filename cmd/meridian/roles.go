package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/global"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/zone"
)

func newGlobal() *cobra.Command {
	o := &roleOptions{}
	var kdsAddr string
	cmd := &cobra.Command{
		Use:   "global",
		Short: "Run the global control plane",
		Long: `Run the global control plane: it owns meshes and policies, and zones connect to it.

Its addresses are on loopback unless you say otherwise; zones elsewhere need --kds-addr :5685. With --store postgres any
number of replicas may run on one database; they need the same encryption key.`,
		Example: `  meridian global
  meridian global --kds-addr :5685 --data-dir /var/lib/meridian
  MERIDIAN_POSTGRES_URL=postgres://meridian@db/meridian meridian global --store postgres --encryption-key-file key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd.Flags()); err != nil {
				return err
			}
			r, err := o.open(cmd.Context(), "global")
			if err != nil {
				return err
			}
			defer r.close()
			g, err := global.New(global.Config{
				Store:                 r.store,
				StoreType:             o.store,
				Server:                r.server,
				Instance:              r.instance,
				Version:               version,
				APIAddr:               o.apiAddr,
				APITLSAddr:            o.apiTLSAddr,
				KDSAddr:               kdsAddr,
				DiagnosticsAddr:       o.diagnosticsAddr,
				HistoryAge:            o.historyAge,
				HistoryRevisions:      o.historyRevisions,
				GuardShare:            o.guardShare,
				GuardProxies:          o.guardProxies,
				DisableLocalhostAdmin: !o.localhostIsAdmin,
				Logger:                r.log,
				Level:                 r.level,
				Registry:              r.registry,
			})
			if err != nil {
				return err
			}
			return o.explainRun(cmd.Flags(), g.Run(cmd.Context()))
		},
	}
	o.flags(cmd)
	o.address(cmd.Flags(), &kdsAddr, "kds-addr", "127.0.0.1:5685", "address that zones connect to (TLS)")
	return cmd
}

// zoneName as core-resources demands of a name that becomes part of others.
var zoneName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$`)

func newZone() *cobra.Command {
	o := &roleOptions{}
	var name, globalURL, tokenFile, xdsAddr string
	var testHooks bool
	var maxJoining int
	var connectionAge time.Duration
	cmd := &cobra.Command{
		Use:   "zone",
		Short: "Run a zone control plane",
		Long: `Run a zone control plane: it serves its proxies with what it knows, whatever happens to global.

With --global it joins one with the token of --token-file, which also says whom to trust. Without --global it is a standalone
zone with the whole API. Its addresses are on loopback unless you say otherwise; proxies elsewhere need --xds-addr :5678.`,
		Example: `  meridian zone --name here
  meridian zone --name us-east --global grpcs://global.example:5685 --token-file us-east.token --xds-addr :5678`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case name == "":
				return errors.New("--name is missing; give the zone's name, the one its token is for")
			case !zoneName.MatchString(name):
				return fmt.Errorf("--name %q: want lower-case letters, digits, - and ., at most 63", name)
			case globalURL != "" && tokenFile == "":
				return fmt.Errorf("--token-file is missing; make a token at global with: meridian token "+
					"zone --zone %s", name)
			case maxJoining < 1:
				return fmt.Errorf("--xds-max-joining %d: want at least 1", maxJoining)
			case connectionAge < 0 || connectionAge > 0 && connectionAge < time.Minute:
				return fmt.Errorf("--xds-connection-age %v: want at least 1m, or 0 for no bound",
					connectionAge)
			case globalURL == "" && tokenFile != "":
				return errors.New("--token-file without --global; give the address of global, " +
					"grpcs://HOST:5685")
			}
			if tokenFile != "" {
				if _, err := os.ReadFile(tokenFile); err != nil {
					return fmt.Errorf("--token-file: %w", err)
				}
			}
			if err := o.check(cmd.Flags()); err != nil {
				return err
			}
			r, err := o.open(cmd.Context(), "zone-"+name)
			if err != nil {
				return err
			}
			defer r.close()
			if o.skipVerify {
				r.log.Warn("global's certificate is not verified (--tls-skip-verify); anybody on " +
					"the way can " +
					"read the token")
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(delta.GCPercent)
			}
			z, err := zone.New(zone.Config{
				Name:                  name,
				GlobalURL:             globalURL,
				TokenFile:             tokenFile,
				CAFile:                o.caFile,
				TLSSkipVerify:         o.skipVerify,
				Store:                 r.store,
				StoreType:             o.store,
				Server:                r.server,
				Instance:              r.instance,
				Version:               version,
				APIAddr:               o.apiAddr,
				APITLSAddr:            o.apiTLSAddr,
				XDSAddr:               xdsAddr,
				DiagnosticsAddr:       o.diagnosticsAddr,
				HistoryAge:            o.historyAge,
				HistoryRevisions:      o.historyRevisions,
				MaxJoining:            maxJoining,
				ConnectionAge:         connectionAge,
				GuardShare:            o.guardShare,
				GuardProxies:          o.guardProxies,
				DisableLocalhostAdmin: !o.localhostIsAdmin,
				Logger:                r.log,
				Level:                 r.level,
				Registry:              r.registry,
				TestHooks:             testHooks,
			})
			if err != nil {
				return err
			}
			return o.explainRun(cmd.Flags(), z.Run(cmd.Context()))
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "name of the zone")
	f.StringVar(&globalURL, "global", "", "global's address, grpcs://HOST:5685; empty is a standalone zone")
	f.StringVar(&tokenFile, "token-file", "", "file with the zone token")
	f.StringVar(&o.caFile, "ca-file", "",
		"PEM file to trust global by, instead of the token's pins; \"system\" is the system's roots")
	f.BoolVar(&o.skipVerify, "tls-skip-verify", false, "trust any global; for trying out")
	f.IntVar(&maxJoining, "xds-max-joining", delta.DefaultMaxJoining,
		"how many proxies may be getting their first configuration at once; others wait in the order of "+
			"their coming")
	f.DurationVar(&connectionAge, "xds-connection-age", 0,
		"after which time proxies are asked to connect again, which spreads them over replicas; 0 is never")
	f.BoolVar(&testHooks, "test-hooks", false,
		"let labelled policies break on purpose; for the demo and for tests")
	_ = f.MarkHidden("test-hooks")
	o.address(f, &xdsAddr, "xds-addr", "127.0.0.1:5678", "address that proxies connect to (TLS)")
	return cmd
}
