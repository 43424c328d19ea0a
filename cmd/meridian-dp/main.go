// Command meridian-dp runs beside each workload, or as a zone's ingress: it brings up one Envoy,
// tells the zone about it and takes it down without a failed request. The work is in package
// dataplane/launcher; here are flags and signals.
//
// Every flag is also an environment variable (--token-file is MERIDIAN_TOKEN_FILE) and a key of the
// file that --config names. The token itself may be in MERIDIAN_TOKEN; it is never a flag, for
// arguments are seen by every user of a host.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/dataplane/launcher"
	"github.com/meridian-mesh/meridian/internal/config"
	"github.com/meridian-mesh/meridian/internal/obs"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := root().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "meridian-dp:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "meridian-dp",
		Short:         "Run Envoy beside a workload, or as a zone's ingress",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(run(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), "meridian-dp", version)
		},
	})
	return cmd
}

type options struct {
	launcher.Config
	resourceFile        string
	logFormat, logLevel string
}

func run() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Start Envoy with the zone's configuration and stop it gracefully",
		Long: `Start Envoy for one Dataplane or ZoneIngress and stay in the foreground.

The zone's certificate is trusted if it ends in a pin that the token carries, so the token is all that
joining takes.
SIGTERM or SIGINT drains: it tells the zone, callers use other instances, and the program ends as soon as
nothing is in flight, at most after --drain-time. A second signal, a second later or more, ends it at once.

Every flag is also an environment variable, --token-file as MERIDIAN_TOKEN_FILE. The token's text may be
given in MERIDIAN_TOKEN.`,
		Example: `  # a sidecar
  meridian token dataplane --name web-1 > web-1.token
  meridian-dp run --cp https://zone.example:5678 --dataplane-file web-1.yaml --token-file web-1.token

  # the zone's ingress
  meridian token zone --zone us-east --scope ingress > ingress.token
  meridian-dp run --cp https://zone.example:5678 --proxy-type ingress \
    --dataplane-file ingress.yaml --token-file ingress.token`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags(), config.Source{Prefix: "MERIDIAN"}); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.InOrStdin())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.CP, "cp", "https://localhost:5678", "the zone's xDS address")
	f.StringVarP(&o.resourceFile, "dataplane-file", "d", "",
		"file with the Dataplane or ZoneIngress, YAML or JSON; - is standard input")
	f.StringVar(&o.TokenFile, "token-file", "", "file with the proxy's token; it may be replaced")
	f.StringVar(&o.ProxyType, "proxy-type", "dataplane", "dataplane or ingress")
	f.StringVar(&o.CAFile, "ca-file", "",
		"PEM file to trust the zone by, instead of the token's pins; \"system\" is the system's roots")
	f.BoolVar(&o.TLSSkipVerify, "tls-skip-verify", false, "trust any server; for trying out")
	f.StringVar(&o.Envoy, "envoy", "", "Envoy's binary (default: PATH, then .tools/envoy)")
	f.StringVar(&o.EnvoyLogLevel, "envoy-log-level", "warning", "log level of Envoy")
	f.IntVar(&o.Concurrency, "concurrency", 0, "worker threads of Envoy; 0 lets Envoy choose")
	f.StringVar(&o.WorkDir, "work-dir", "",
		"folder for bootstrap, sockets and what Envoy acknowledged, from which the next launcher there "+
			"starts if the zone cannot be reached (default: a new private folder, removed at the end)")
	f.StringVar(&o.CacheKeyFile, "cache-key-file", "",
		"file with the key of what Envoy acknowledged, made if it is not there (default: cache.key in the "+
			"work folder)")
	f.DurationVar(&o.DrainTime, "drain-time", 30*time.Second, "longest time that a stop may take")
	f.IntVar(&o.ReadinessPort, "readiness-port", 0, "loopback port that serves /ready; 0 is off")
	f.IntVar(&o.AdminPort, "admin-port", 0,
		"loopback port of Envoy's admin interface; 0 is a socket in the work folder")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "console", "console or json, of Envoy's lines too")
	config.AddFlag(f)
	return cmd
}

func (o *options) run(ctx context.Context, stdin io.Reader) error {
	log, _, err := obs.NewLogger(o.logFormat, o.logLevel)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	o.EnvoyLogJSON = o.logFormat == "json"
	switch o.resourceFile {
	case "":
		return errors.New("--dataplane-file is missing; give the file with the Dataplane, or the " +
			"ZoneIngress " +
			"with --proxy-type ingress")
	case "-":
		o.Resource, err = io.ReadAll(stdin)
	default:
		o.Resource, err = os.ReadFile(o.resourceFile)
	}
	if err != nil {
		return fmt.Errorf("--dataplane-file: %w", err)
	}
	o.Token = os.Getenv("MERIDIAN_TOKEN")
	if o.TokenFile != "" {
		data, err := os.ReadFile(o.TokenFile)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		o.Token = string(data)
	}
	o.Token = strings.TrimSpace(o.Token)
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(stop)
	o.Version, o.Logger, o.Stop = version, log, stop
	l, err := launcher.New(o.Config)
	if err != nil {
		return err
	}
	return l.Run(ctx)
}
