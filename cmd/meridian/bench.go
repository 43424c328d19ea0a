package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/internal/bench"
)

// newBench is "meridian bench".
func newBench() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure the control plane on this machine"}
	cmd.AddCommand(newBenchXDS(), newBenchSidecars())
	return cmd
}

func newBenchXDS() *cobra.Command {
	c := bench.Config{}
	var asJSON, check bool
	cmd := &cobra.Command{
		Use:   "xds",
		Short: "Measure how fast and at what cost changes reach sidecars",
		Long: `Starts the engine of a zone in this process and stand-in sidecars in another, which speak incremental ADS over TLS. Writes
changes and waits for the last acknowledgement; pushes the same bytes over bare gRPC for comparison.`,
		Example: "  meridian bench xds\n  meridian bench xds --sidecars 1000 --services 100 --json\n  meridian bench xds --check",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Sidecars < 2 || c.Services < 1 || c.Endpoints < 1 || c.Rounds < 1 || c.Idle <= 0 {
				return fmt.Errorf("--sidecars must be at least 2, --services, --endpoints and --rounds at least 1, --idle above 0")
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			c.Command = func(ctx context.Context) *exec.Cmd {
				child := exec.CommandContext(ctx, program, "bench", "sidecars")
				child.Stderr = os.Stderr
				return child
			}
			r, err := bench.Run(cmd.Context(), c)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(r)
			} else {
				err = r.Table(cmd.OutOrStdout())
			}
			if err == nil && check && len(r.Missed) > 0 {
				return errSilent
			}
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.Sidecars, "sidecars", 300, "number of sidecars")
	f.IntVar(&c.Services, "services", 50, "number of services that each sidecar sees")
	f.IntVar(&c.Endpoints, "endpoints", 2, "endpoints of each service")
	f.IntVar(&c.Rounds, "rounds", 20, "changes of each kind")
	f.DurationVar(&c.Idle, "idle", 5*time.Second, "how long to look at the idle control plane")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVar(&check, "check", false, "exit with code 1 if a limit is missed")
	return cmd
}

func newBenchSidecars() *cobra.Command {
	return &cobra.Command{
		Use: "sidecars", Short: "The sidecars' process of a benchmark", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.Sidecars(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
