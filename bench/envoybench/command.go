package envoybench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// Command is "meridian bench envoy". It fails with missed if --check is given and a budget is missed;
// the report has said which by then.
func Command(missed error) *cobra.Command {
	var cfg Config
	var check bool
	var output string
	cmd := &cobra.Command{
		Use:   "envoy",
		Short: "Measure an Envoy's CPU and time from its start until it is ready",

		Long: `Starts a standalone zone with services, and an Envoy that joins it as their caller; beside
it an Envoy with the same clusters and listeners from a static file. Reports CPU and wall time
until each is ready.`,
		Example: `  meridian bench envoy
  meridian bench envoy --services 100 --rounds 5 --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Rounds < 1 {
				return fmt.Errorf("--rounds %d: must be at least 1", cfg.Rounds)
			}
			for _, n := range cfg.Services {
				if n < 1 || n > 10000 {
					return fmt.Errorf("--services %d: must be from 1 to 10000", n)
				}
			}
			if output != "table" && output != "json" {
				return fmt.Errorf("-o %q: must be table or json", output)
			}
			if _, err := os.Stat(cfg.Envoy); err != nil {
				return fmt.Errorf("--envoy: %w; make tools fetches one", err)
			}
			if cfg.Meridian == "" {
				if cfg.Meridian, err = os.Executable(); err != nil {
					return err
				}
			}
			if cfg.Dir, err = os.MkdirTemp("", "meridian-bench-envoy-"); err != nil {
				return err
			}
			defer func() {
				if err == nil || errors.Is(err, missed) {
					err = errors.Join(err, os.RemoveAll(cfg.Dir))
				} else {
					err = fmt.Errorf("%w; logs are in %s", err, cfg.Dir)
				}
			}()

			r, err := Run(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(r)
			} else {
				err = r.Table(cmd.OutOrStdout())
			}
			if err == nil && check && len(r.Missed) > 0 {
				return missed
			}
			return err
		},
	}
	f := cmd.Flags()
	f.IntSliceVar(&cfg.Services, "services", []int{20, 100, 500}, "numbers of services")
	f.IntVar(&cfg.Rounds, "rounds", 5, "starts of each Envoy")
	f.StringVar(&cfg.Envoy, "envoy", ".tools/envoy", "the Envoy to measure")
	f.StringVar(&cfg.Meridian, "meridian", "", "the program whose zone is measured (default: this one)")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	f.BoolVar(&check, "check", false, "exit with code 1 if a budget is missed")
	return cmd
}
