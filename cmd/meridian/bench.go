package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/cli"

	"github.com/meridian-mesh/meridian/bench"
	"github.com/meridian-mesh/meridian/bench/apibench"
	"github.com/meridian-mesh/meridian/bench/envoybench"
	"github.com/meridian-mesh/meridian/bench/kdsbench"
)

// newBench is "meridian bench".
func newBench() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure the control plane on this machine"}
	cmd.AddCommand(newBenchXDS(), newBenchSidecars(), apibench.Command(), envoybench.Command(cli.ErrSilent),
		kdsbench.Command(cli.ErrSilent))
	return cmd
}

func newBenchXDS() *cobra.Command {
	c := bench.Config{}
	var check, suite bool
	var output, cpuProfile, memProfile, heapProfile, plot string
	cmd := &cobra.Command{
		Use:   "xds",
		Short: "Measure how fast and at what cost changes reach sidecars",

		Long: `Start the engine of a zone in this process and stand-in sidecars in another, which speak
incremental ADS over TLS. Write changes and wait for the last acknowledgement. In turn push the same bytes
over as many bare gRPC streams, which is the floor.`,
		Example: `  meridian bench xds
  meridian bench xds --sidecars 1000 --services 100 -o json
  meridian bench xds --sidecars 300 --services 10000 --endpoints 3 --reachable 30 --churn 200
  meridian bench xds --sidecars 1000 --services 100 --changes one --cpuprofile cpu.out
  meridian bench xds --suite                 # every table of docs/benchmarks.md`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch {
			case c.Sidecars < 2 || c.Services < 1 || c.Endpoints < 1 || c.Rounds < 1 || c.Idle < 0 ||
				c.Reachable < 0 || c.Churn < 0 || c.Settle < 0:
				return errors.New("--sidecars must be at least 2, --services, --endpoints and --rounds at " +
					"least 1, and nothing below 0")
			case c.Reachable > c.Services:
				return fmt.Errorf("--reachable %d is more than --services %d", c.Reachable, c.Services)
			}
			if output != "table" && output != "json" {
				return fmt.Errorf("-o %q: must be table or json", output)
			}
			for _, k := range c.Changes {
				if !slices.Contains(bench.Kinds, k) {
					return fmt.Errorf("--changes %q: must be some of %s", k, strings.Join(bench.Kinds, ", "))
				}
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
			stop, err := profile(cpuProfile, memProfile)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			if heapProfile != "" {
				c.Heap = func() error { return writeProfile("heap", heapProfile) }
			}
			out := cmd.OutOrStdout()
			if suite {
				return runSuite(cmd.Context(), c.Command, out, plot, output == "json")
			}
			r, err := bench.Run(cmd.Context(), c)
			if err != nil {
				return err
			}
			if output == "json" {
				err = encode(out, r)
			} else {
				err = r.Table(out)
			}
			if err == nil && check && len(r.Missed) > 0 {
				return cli.ErrSilent
			}
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.Sidecars, "sidecars", 300, "number of sidecars")
	f.IntVar(&c.Services, "services", 50, "number of services")
	f.IntVar(&c.Endpoints, "endpoints", 2, "endpoints of each service")
	f.IntVar(&c.Reachable, "reachable", 0, "services that each sidecar reaches (reachableBackends); 0 is all")
	f.StringSliceVar(&c.Changes, "changes", nil,
		"kinds of change to measure: every, one, endpoint, sidecar (default all)")
	f.IntVar(&c.Rounds, "rounds", 20, "changes of each kind")
	f.IntVar(&c.Settle, "settle", 0, "changes to make before the memory is read a second time")
	f.IntVar(&c.Churn, "churn", 0, "endpoints that come or go in a second, for --churn-for; 0 is none")
	f.DurationVar(&c.ChurnFor, "churn-for", 15*time.Second, "with --churn: how long")
	f.BoolVar(&c.Restart, "restart", false, "restart the zone with all sidecars connecting again")
	f.BoolVar(&c.Untouched, "untouched", false,
		"compare a change for ten sidecars among all with one among a tenth")
	f.DurationVar(&c.Idle, "idle", 5*time.Second,
		"how long to look at the idle control plane; 0 is not at all")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	f.BoolVar(&check, "check", false, "exit with code 1 if a budget is missed")
	f.BoolVar(&suite, "suite", false,
		"run every table of docs/benchmarks.md, and draw --plot; other flags do not count")
	f.StringVar(&plot, "plot", "", "with --suite: SVG file of cost over mesh size")
	f.StringVar(&cpuProfile, "cpuprofile", "",
		"write a CPU profile of the control plane's process to this file")
	f.StringVar(&heapProfile, "heapprofile", "",
		"write a profile of what is live once all sidecars are connected to this file")
	f.StringVar(&memProfile, "memprofile", "", "write a profile of its allocations to this file")
	return cmd
}

func encode(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func runSuite(ctx context.Context, command func(context.Context) *exec.Cmd, w io.Writer, plot string,
	asJSON bool) error {
	if asJSON {
		all := struct {
			Machine string
			Tables  []bench.Entry
		}{Machine: bench.Machine()}
		if err := bench.Suite(ctx, command,
			func(e bench.Entry) error { all.Tables = append(all.Tables, e); return nil }, plot); err != nil {
			return err
		}
		return encode(w, all)
	}
	if _, err := fmt.Fprintf(w, "Measured on %s.\n\n", bench.Machine()); err != nil {
		return err
	}
	return bench.Suite(ctx, command, func(e bench.Entry) error { return e.Table(w) }, plot)
}

// profile starts what is asked for; the function it returns writes it.
func profile(cpu, mem string) (func() error, error) {
	var stops []func() error
	if cpu != "" {
		f, err := os.Create(cpu)
		if err != nil {
			return nil, err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		stops = append(stops, func() error { pprof.StopCPUProfile(); return f.Close() })
	}
	if mem != "" {
		stops = append(stops, func() error { return writeProfile("allocs", mem) })
	}
	return func() error {
		var errs []error
		for _, stop := range stops {
			errs = append(errs, stop())
		}
		return errors.Join(errs...)
	}, nil
}

func writeProfile(name, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	runtime.GC()
	return errors.Join(pprof.Lookup(name).WriteTo(f, 0), f.Close())
}

func newBenchSidecars() *cobra.Command {
	return &cobra.Command{
		Use:    "sidecars",
		Short:  "The sidecars' process of a benchmark",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.Sidecars(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
