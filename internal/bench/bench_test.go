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

	"github.com/meridian-mesh/meridian/internal/bench"
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

// TestCostFollowsTheChange runs a small benchmark: what does not depend on the machine's speed must hold.
func TestCostFollowsTheChange(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := bench.Run(ctx, bench.Config{Sidecars: 12, Services: 5, Endpoints: 2, Rounds: 4, Idle: 100 * time.Millisecond,
		Command: func(ctx context.Context) *exec.Cmd {
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), asSidecars+"=1")
			cmd.Stderr = os.Stderr
			return cmd
		}})
	if err != nil {
		t.Fatal(err)
	}
	if r.UntouchedBytes != 0 || r.UntouchedComputes != 0 {
		t.Errorf("untouched sidecars got %v bytes and cost %v computations", r.UntouchedBytes, r.UntouchedComputes)
	}
	if r.Every.BytesEach < 5*r.One.BytesEach/2 || r.One.BytesEach < r.Endpoint.BytesEach || r.Endpoint.BytesEach == 0 {
		t.Errorf("bytes do not follow the change: every %v, one %v, endpoint %v", r.Every.BytesEach, r.One.BytesEach, r.Endpoint.BytesEach)
	}
	if got := r.One.Computes["cluster"]; got != 1 {
		t.Errorf("a change for one destination computes %v clusters", got)
	}
	if r.FloorP50 <= 0 || r.Sidecar.P50 <= 0 || r.ColdStart <= 0 {
		t.Errorf("times are missing: %+v", r)
	}
	var table strings.Builder
	if err := r.Table(&table); err != nil || !strings.Contains(table.String(), "every destination / floor") {
		t.Errorf("%v\n%s", err, table.String())
	}
}
