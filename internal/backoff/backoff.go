// Package backoff says how long to wait after failures in a row: exponentially longer up to a
// limit, with jitter so that many processes that failed together do not retry together.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff counts failures in a row; the zero value with Min and Max set is ready to use. One
// goroutine uses it.
type Backoff struct {
	// Min bounds the first delay, Max every delay.
	Min, Max time.Duration
	// Rand returns a number in [0, 1); nil means math/rand.
	Rand func() float64

	failures int
}

// Next notes one more failure and returns the delay after it: for the n-th in a row between half
// and all of Min·2ⁿ⁻¹, or of Max if that is less.
func (b *Backoff) Next() time.Duration {
	full := b.Min
	for range b.failures {
		if full >= b.Max/2 {
			full = b.Max
			break
		}
		full *= 2
	}
	full = min(full, b.Max)
	b.failures++

	random := b.Rand
	if random == nil {
		random = rand.Float64
	}
	return full/2 + time.Duration(random()*float64(full-full/2))
}

// Failures is how many there were since the last Reset.
func (b *Backoff) Failures() int { return b.failures }

// Reset notes a success.
func (b *Backoff) Reset() { b.failures = 0 }

// Wait sleeps for d; it returns ctx's error if ctx ends first.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()

	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
