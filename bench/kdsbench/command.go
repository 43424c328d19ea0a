package kdsbench

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// Command is "meridian bench kds". It fails with missed if --check is given and a budget is missed;
// the report has said which by then.
func Command(missed error) *cobra.Command {
	cfg := Config{}
	var seconds int
	var check, quiet bool
	output := ""
	cmd := &cobra.Command{
		Use:   "kds",
		Short: "Measure the sync between global and many zones with real processes",

		Long: `Starts a global control plane on the embedded store and zones that connect to it, each a
process of its own, and stand-in sidecars in two of them. Reports bytes on the wire of these two when
nothing happens and for one flipped route, the CPU of the idle global, the time until a policy is in all
zones, and until all are back after global was killed. A zone takes about 60 MB of memory.`,
		Example: `  meridian bench kds
  meridian bench kds --zones 20 --seconds 30 -o json
  meridian bench kds --check
  meridian bench kds --meridian /usr/local/bin/meridian     # another program, to compare`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch {
			case cfg.Zones < wired || cfg.Zones > 5000:
				return fmt.Errorf("--zones %d: must be from %d to 5000", cfg.Zones, wired)
			case seconds < 1 || cfg.Policies < 1:
				return errors.New("--seconds and --policies must be at least 1")
			case output != "table" && output != "json":
				return fmt.Errorf("-o %q: must be table or json", output)
			}
			cfg.Idle = time.Duration(seconds) * time.Second
			if cfg.Meridian == "" {
				if cfg.Meridian, err = os.Executable(); err != nil {
					return err
				}
			}
			if cfg.Dir, err = os.MkdirTemp("", "meridian-bench-kds-"); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, os.RemoveAll(cfg.Dir)) }()
			if !quiet {
				cfg.Progress = cmd.ErrOrStderr()
			}

			report, err := Run(cmd.Context(), cfg)
			// What was measured before an error counts.
			if err = errors.Join(err, report.print(cmd.OutOrStdout(), output)); err != nil {
				return err
			}
			if check && len(report.Missed) > 0 {
				return missed
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Zones, "zones", 250, "number of zones")
	f.IntVar(&seconds, "seconds", 60, "how long to look at the idle control planes")
	f.DurationVar(&cfg.Rest, "rest", 40*time.Second, "how long to let all come to rest before; digests are "+
		"compared half a minute after the last change")
	f.DurationVar(&cfg.After, "after", 45*time.Second, "how long to count what a flipped route causes")
	f.IntVar(&cfg.Policies, "policies", 10, "policies to write to all zones, one after the other")
	f.StringVar(&cfg.Meridian, "meridian", "", "program to measure (default: this one)")
	f.StringVar(&cfg.CPUProfile, "cpuprofile", "", "file for a CPU profile of the idle global")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	f.BoolVar(&check, "check", false, "exit with code 1 if a budget is missed")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not say on standard error which step runs")
	return cmd
}
