package gcpace

import (
	"math"
	"runtime"
	"testing"
	"time"
)

// TestPace: collections that follow each other quickly may be further apart, by a bound in bytes and not in
// shares of the heap; slow ones keep their percentage.
func TestPace(t *testing.T) {
	t.Parallel()

	var now time.Time
	var live uint64
	sets := 0
	p := &Pace{
		base:    40,
		percent: 40,
		former:  100,
		set: func(int) int {
			sets++
			return 0
		},
		live: func() uint64 { return live },
		now:  func() time.Time { return now },
	}
	for _, step := range []struct {
		after time.Duration
		live  uint64
		want  int
	}{
		{time.Hour, 20 << 20, 40},               // the first one tells nothing
		{100 * time.Millisecond, 20 << 20, 200}, // 40 MB on 20
		{100 * time.Millisecond, 21 << 20, 200}, // as good as the same
		{100 * time.Millisecond, 80 << 20, 50},
		{100 * time.Millisecond, 400 << 20, 40}, // a large heap has its percentage
		{100 * time.Millisecond, 0, maxPercent},
		{time.Second, 20 << 20, 40},
		{100 * time.Millisecond, math.MaxUint64, 40},
	} {
		now, live = now.Add(step.after), step.live
		if !p.collected() || p.percent != step.want {
			t.Errorf("%d MB after %s: %d %%, want %d", step.live>>20, step.after, p.percent, step.want)
		}
	}
	if sets != 5 {
		t.Errorf("set %d times", sets)
	}
	p.Stop()
	if p.collected() {
		t.Error("a pace that has stopped goes on")
	}
}

// TestPaceFollowsTheRuntime: each collection is seen.
func TestPaceFollowsTheRuntime(t *testing.T) { // not parallel: there is one garbage collector
	p := Start(40)
	defer p.Stop()
	last := func() time.Time {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.last
	}
	for range 3 {
		before := last()
		for deadline := time.Now().Add(10 * time.Second); !last().After(before); {
			if time.Now().After(deadline) {
				t.Fatal("a collection was not seen")
			}
			runtime.GC()
		}
	}
}
