package backoff

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestDelays(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond

	for name, random := range map[string]float64{"shortest": 0, "longest": math.Nextafter(1, 0)} {
		b := Backoff{Min: 20 * ms, Max: 5 * time.Second, Rand: func() float64 { return random }}
		full := 20 * ms
		for i := range 100 {
			want := full / 2
			if random > 0 {
				want = full
			}
			if got := b.Next(); got > want || got < want-time.Microsecond {
				t.Fatalf("%s, failure %d: %v, want %v", name, i+1, got, want)
			}
			full = min(2*full, 5*time.Second)
		}

		b.Reset()
		if got := b.Next(); got > 20*ms {
			t.Errorf("%s, after Reset: %v", name, got)
		}
	}
}

func TestJitterSpreads(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for range 100 {
		b := Backoff{Min: time.Second, Max: time.Second}
		d := b.Next()
		if d < time.Second/2 || d > time.Second {
			t.Fatalf("%v is not between 0.5 s and 1 s", d)
		}
		seen[d] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d different delays of 100", len(seen))
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := Wait(t.Context(), time.Minute); err != nil {
			t.Error(err)
		}
		if got := time.Since(start); got != time.Minute {
			t.Errorf("waited %v", got)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := Wait(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the context ended: %v", err)
		}
	})
}
