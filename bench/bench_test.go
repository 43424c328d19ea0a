package bench_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/bench"
)

const asSidecars = "MERIDIAN_BENCH_TEST_SIDECARS"

// TestMain lets the test binary be the sidecars' process too.
func TestMain(m *testing.M) {
	if os.Getenv(asSidecars) != "" {
		if err := bench.Sidecars(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func self(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), asSidecars+"=1")
	cmd.Stderr = os.Stderr
	return cmd
}

func figures(r *bench.Report) map[string]bench.Figure {
	out := map[string]bench.Figure{}
	for _, f := range r.Figures {
		out[f.Name] = f
	}
	return out
}

// TestCostFollowsTheChange runs a small benchmark: what does not depend on the machine's speed must hold.
func TestCostFollowsTheChange(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := bench.Run(ctx, bench.Config{
		Shape:     bench.Shape{Sidecars: 12, Services: 5, Endpoints: 2},
		Rounds:    4,
		Idle:      100 * time.Millisecond,
		Settle:    3,
		Restart:   true,
		Churn:     100,
		ChurnFor:  300 * time.Millisecond,
		Untouched: true,
		Command:   self,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.UntouchedBytes != 0 || r.UntouchedComputes != 0 {
		t.Errorf("untouched sidecars got %v bytes and cost %v computations", r.UntouchedBytes,
			r.UntouchedComputes)
	}
	f := figures(r)
	every, one, endpoint, sidecar := f["every destination"], f["one destination"], f["one endpoint"],
		f["one sidecar"]
	if every.BytesEach < 5*one.BytesEach/2 || one.BytesEach < endpoint.BytesEach || endpoint.BytesEach == 0 {
		t.Errorf("bytes do not follow the change: every %v, one %v, endpoint %v", every.BytesEach,
			one.BytesEach, endpoint.BytesEach)
	}
	if got := one.Computes["cluster"]; got != 1 {
		t.Errorf("a change for one destination computes %v clusters", got)
	}
	if every.FloorP50 <= 0 || sidecar.P50 <= 0 || r.ColdStart <= 0 || r.ColdStartFloor <= 0 ||
		one.Allocs <= 0 {
		t.Errorf("figures are missing: %+v", r)
	}
	if r.Restart == nil || r.Restart.Time <= 0 {
		t.Errorf("no restart: %+v", r.Restart)
	} else if each := r.Restart.Bytes / 12; each > every.BytesEach/10 {
		t.Errorf("a restart resent %v bytes to each sidecar", each)
	}
	if r.Churn == nil || r.Churn.P99 <= 0 || r.Memory.Live <= 0 || r.MemoryAfter.Live <= 0 ||
		r.Untouched == nil || r.Untouched.ManyCPU <= 0 {
		t.Errorf("figures are missing: %+v", r)
	}
	var table strings.Builder
	if err := r.Table(&table); err != nil || !strings.Contains(table.String(), "cold start of all sidecars") {
		t.Errorf("%v\n%s", err, table.String())
	}
}

// TestReachable: a sidecar that reaches some services does not notice the others.
func TestReachable(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := bench.Run(ctx, bench.Config{
		Shape:   bench.Shape{Sidecars: 10, Services: 20, Endpoints: 1, Reachable: 4},
		Rounds:  3,
		Command: self,
	})
	if err != nil {
		t.Fatal(err)
	}
	f := figures(r)
	if one := f["one destination"]; one.Concerned != 2 || one.BytesOthers != 0 || one.BytesEach == 0 {
		t.Errorf("a change for one destination: %+v", one)
	}
	if every := f["every destination"]; every.Concerned != 10 ||
		every.BytesEach < f["one destination"].BytesEach*2 {
		t.Errorf("a change for every destination: %+v", every)
	}
}
