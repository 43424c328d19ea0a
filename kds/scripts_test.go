package kds_test

import (
	"flag"
	"strconv"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/kds/kdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestScripts runs testdata. Rewrite with -rewrite, and only commit changes whose cause you understand.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var script *kdstest.Script
		defer func() {
			if script != nil {
				script.World.Close()
			}
		}()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "world":
				cfg := kdstest.Config{}
				for _, arg := range d.CmdArgs {
					switch arg.Key {
					case "zones":
						cfg.Zones = arg.Vals
					case "slow":
						cfg.Slow = true
					case "lazy":
						cfg.Lazy = true
					case "window":
						cfg.Window, _ = strconv.Atoi(arg.Vals[0])
					case "chunk":
						cfg.Chunk, _ = strconv.Atoi(arg.Vals[0])
					}
				}
				script = kdstest.NewScript(cfg)
				return "ok\n"
			case "run":
				return script.Run(d.Input)
			}
			d.Fatalf(t, "unknown command %q", d.Cmd)
			return ""
		})
	})
}

var (
	seed  = flag.Uint64("seed", 0, "replay the simulation of this seed alone")
	seeds = flag.Uint64("seeds", 25, "how many seeds to simulate")
)

// TestSimulation keeps all promises under random writes, cuts, restarts, compactions and delays. A
// failure names its seed: replay it with -seed.
func TestSimulation(t *testing.T) {
	first, last := uint64(1), *seeds
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for s := first; s <= last; s++ {
		if err := kdstest.Simulate(s, 400); err != nil {
			t.Fatal(err)
		}
	}
}
