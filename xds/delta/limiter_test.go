package delta

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/semaphore"
)

func newLimiter(places int64) *limiter {
	return &limiter{
		places:  semaphore.NewWeighted(places),
		timeout: time.Minute,
		metrics: newMetrics(nil),
		idle:    func() {},
	}
}

func waiting(t *testing.T, d *limiter) float64 {
	var m dto.Metric
	if err := d.metrics.waiting.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}

func TestLimiterLetsInByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newLimiter(1)
		release, err := d.acquire(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var in []int
		releases := make([]func(), 3)
		for i := range 3 {
			go func() {
				l, err := d.acquire(t.Context(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				in, releases[i] = append(in, i), l
			}()
			synctest.Wait()
		}
		if n := waiting(t, d); n != 3 || len(in) != 0 {
			t.Fatalf("%v wait and %v are in, want 3 and none", n, in)
		}
		for i := range 3 {
			release()
			release() // twice is once
			synctest.Wait()
			if !slices.Equal(in, []int{0, 1, 2}[:i+1]) {
				t.Fatalf("%v are in after %d left", in, i+1)
			}
			release = releases[i]
		}
		release()
		if n := waiting(t, d); n != 0 {
			t.Errorf("%v still wait", n)
		}
	})
}

func TestLimiterForgetsWhoNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newLimiter(1)
		silent, err := d.acquire(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		release, err := d.acquire(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != d.timeout {
			t.Errorf("waited %v, want %v", waited, d.timeout)
		}
		silent() // its place is another's by now
		if d.places.TryAcquire(1) {
			t.Error("a place was given back twice")
		}
		release()
	})
}

func TestLimiterIsLeftByWhoGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newLimiter(1)
		release, err := d.acquire(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		superseded := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		errs := make([]error, 2)
		go func() { _, errs[0] = d.acquire(t.Context(), superseded) }()
		go func() { _, errs[1] = d.acquire(ctx, nil) }()
		synctest.Wait()
		close(superseded)
		cancel()
		synctest.Wait()
		if !errors.Is(errs[0], errSuperseded) || !errors.Is(errs[1], context.Canceled) {
			t.Errorf("got %v", errs)
		}
		release()
		again, err := d.acquire(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		again()
	})
}

func TestLifetimeHasJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Config{}
		if timer, _ := c.lifetime(); timer != nil {
			t.Error("a stream ages without MaxAge")
		}
		c.MaxAge = time.Hour
		seen := map[time.Duration]bool{}
		for range 20 {
			began := time.Now()
			timer, stop := c.lifetime()
			<-timer
			stop()
			lived := time.Since(began)
			if lived < 66*time.Minute || lived > 78*time.Minute {
				t.Errorf("lived %v", lived)
			}
			seen[lived] = true
		}
		if len(seen) < 10 {
			t.Errorf("%d ages of 20 streams", len(seen))
		}
	})
}
