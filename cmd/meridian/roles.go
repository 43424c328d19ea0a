package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/cli"
	"github.com/meridian-mesh/meridian/global"
	"github.com/meridian-mesh/meridian/internal/config"
	"github.com/meridian-mesh/meridian/internal/gcpace"
	"github.com/meridian-mesh/meridian/zone"
)

func newGlobal() *cobra.Command {
	var cfg global.Config
	cmd := &cobra.Command{
		Use:   "global",
		Short: "Run the global control plane",
		Long: `Run the global control plane: it owns meshes and policies, and zones connect to it.

By default its addresses are on loopback; zones elsewhere need --kds-addr :5685. With --store postgres any
number of replicas may run on one database; they need the same encryption key.`,
		Example: `  meridian global
  meridian global --kds-addr :5685 --data-dir /var/lib/meridian
  export MERIDIAN_POSTGRES_URL=postgres://meridian@db/meridian
  meridian global --store postgres --encryption-key-file key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Version = version
			return run(cmd.Context(), 100, cfg.Complete)
		},
	}
	bind(cmd, cfg.Fields())
	return cmd
}

func newZone() *cobra.Command {
	var cfg zone.Config
	cmd := &cobra.Command{
		Use:   "zone",
		Short: "Run a zone control plane",
		Long: `Run a zone control plane: it serves its proxies with what it knows, whatever happens to global.

With --global it joins a global control plane with the token of --token-file, which also says which servers
to trust. Without --global it is a standalone zone with the whole API. By default its addresses are on
loopback; proxies elsewhere need --xds-addr :5678.`,
		Example: `  meridian zone --name here
  meridian zone --name us-east --global grpcs://global.example:5685 --token-file us-east.token \
    --xds-addr :5678`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Version = version
			return run(cmd.Context(), zone.GCPercent, cfg.Complete)
		},
	}
	bind(cmd, cfg.Fields())
	cmd.AddCommand(cli.ZoneVerbs()...)
	return cmd
}

// bind adds a flag for each setting of a role, and --config.
func bind(cmd *cobra.Command, fields []config.Field) {
	config.Bind(cmd.Flags(), fields)
	config.AddFlag(cmd.Flags())
}

// run completes a control plane and runs it until ctx ends, with the pace of garbage collection that starts
// from gcPercent.
func run[T interface{ Run(context.Context) error }](ctx context.Context, gcPercent int,
	complete func(context.Context) (T, error)) error {
	defer gcpace.Start(gcPercent).Stop()
	server, err := complete(ctx)
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
