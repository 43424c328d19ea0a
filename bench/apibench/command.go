package apibench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// Command is "meridian bench api".
func Command() *cobra.Command {
	cfg := Config{}
	seconds, output := 0, ""
	cmd := &cobra.Command{
		Use:   "api",
		Short: "Measure writes and reads over REST with real control planes",
		Long: `Starts global control planes (two on PostgreSQL with a throwaway cluster that flushes to disk,
or one on the embedded store) and two zones connected to them, as processes of their own.
Concurrent clients then write policies over REST, each its own, and read: one resource, a list of
100, and a list filtered by a label.`,
		Example: `  meridian bench api
  meridian bench api --store embedded --seconds 10 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cfg.Store != "postgres" && cfg.Store != "embedded":
				return fmt.Errorf("--store %q must be postgres or embedded", cfg.Store)
			case cfg.Writers < 1 || seconds < 1 || cfg.Resources < 1:
				return errors.New("--writers, --seconds and --resources must be at least 1")
			case output != "table" && output != "json":
				return fmt.Errorf("-o %q must be table or json", output)
			}
			cfg.Duration = time.Duration(seconds) * time.Second
			if cfg.Meridian == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				cfg.Meridian = self
			}

			report, err := Run(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return report.print(cmd.OutOrStdout(), output)
		},
	}

	f := cmd.Flags()
	f.StringVar(&cfg.Store, "store", "postgres", "store of global: postgres or embedded")
	f.IntVar(&seconds, "seconds", 40, "how long to write; each kind of read takes an eighth of that")
	f.IntVar(&cfg.Writers, "writers", 8, "concurrent clients")
	f.IntVar(&cfg.Resources, "resources", 10000, "resources in the store while it is read")
	f.StringVar(&cfg.Meridian, "meridian", "", "program to measure (default: this one)")
	f.StringVar(&cfg.CPUProfile, "cpuprofile", "", "file for a CPU profile of the first global while it is "+
		"written to")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// print writes the report.
func (r Report) print(w io.Writer, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "REST on the store %s, %d clients\tcalls\tper second\tp50 ms\tp99 ms\t"+
		"cpu ms: globals\tzones\tdatabase\tclients\n", r.Store, r.Writers)
	for _, m := range r.Measures {
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\n", m.Name, m.Calls,
			m.PerSecond, m.P50, m.P99,
			m.CPU[cpuGlobals], m.CPU[cpuZones], m.CPU[cpuDatabase], m.CPU[cpuClients])
	}
	return t.Flush()
}
