package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/cli"

	"github.com/meridian-mesh/meridian/demo"
)

func newDemo() *cobra.Command {
	conf := demo.Config{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start global, two zones and a small airline, and check them step by step",

		Long: `Start a global control plane, two zone control planes, a dozen Envoys and the programs behind
them, each as a process of its own on a loopback address of its own. Then go through a scenario step by
step, and show what is expected and what was seen.

It then stays up for play until ^C. With --once it ends after the last step, with exit code 1 if anything
was missed.`,
		Example: `  make demo
  make demo ONCE=1 STORE=postgres
  make demo STORY=resilience
  meridian demo --once --step 1 --step 3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if conf.Store != "embedded" && conf.Store != "postgres" {
				return fmt.Errorf("--store %q: must be embedded or postgres", conf.Store)
			}
			if !slices.Contains(demo.Scenarios, conf.Scenario) {
				return fmt.Errorf("--story %q: must be %s", conf.Scenario,
					strings.Join(demo.Scenarios, " or "))
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			conf.Meridian = self
			if conf.Launcher == "" {
				conf.Launcher = filepath.Join(filepath.Dir(self), "meridian-dp")
			}
			if _, err := os.Stat(conf.Launcher); err != nil {
				return fmt.Errorf("meridian-dp is not beside this program: %w; run `make build`, or "+
					"give --launcher", err)
			}
			conf.Out = cmd.OutOrStdout()
			passed, failed, err := demo.Run(cmd.Context(), conf)
			if err != nil {
				return err
			}
			if cmd.Context().Err() != nil && conf.Once {
				return errors.New("interrupted")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "demo: %d passed, %d failed\n", passed, failed)
			if failed > 0 {
				return cli.ErrSilent
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&conf.Once, "once", false, "end after the last step")
	f.StringVar(&conf.Store, "store", "embedded",
		"embedded, or postgres: throwaway PostgreSQL clusters of the demo's own")
	f.StringVar(&conf.Scenario, "story", demo.Operations,
		"scenario: operations (an operator's day) or resilience (a service developer's day)")
	f.StringVar(&conf.Dir, "dir", ".demo",
		"folder for data, documents and logs; that of an earlier demo is recreated")
	f.StringVar(&conf.Network, "network", "127.0",
		"first two bytes of the loopback addresses; global is at .0.1, the zones at .1.1 and .2.1")
	f.StringVar(&conf.Envoy, "envoy", "", "Envoy's binary (default: PATH, then .tools/envoy)")
	f.StringVar(&conf.Launcher, "launcher", "", "meridian-dp (default: beside this program)")
	f.IntSliceVar(&conf.Steps, "step", nil,
		"only this step, by number; may be given several times (most need the ones before)")
	return cmd
}

// newDemoApp is the HTTP program beside each sidecar of the demo.
func newDemoApp() *cobra.Command {
	var a demo.App
	cmd := &cobra.Command{
		Use:    "demo-app",
		Short:  "The HTTP program of the demo",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return a.Run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&a.Addr, "addr", "127.0.0.1:9090", "address to serve on")
	f.StringVar(&a.Service, "service", "demo", "its service")
	f.StringVar(&a.Instance, "instance", "demo-1", "its name")
	f.StringVar(&a.Zone, "zone", "here", "its zone")
	return cmd
}
