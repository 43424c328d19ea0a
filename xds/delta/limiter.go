package delta

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// limiter lets a bounded number of streams have their first configuration at once, first come
// first served: after a restart all proxies of a zone return in the same second, and what each is
// given before it has answered stays in memory.
type limiter struct {
	places  *semaphore.Weighted // first come, first served
	timeout time.Duration
	metrics *metrics
	// idle is called when many have joined and none is joining any more.
	idle func()

	mu sync.Mutex
	// inside are joining, wave joined since idle was called last. Guarded by mu.
	inside, wave int
}

// manyJoined is from how many joined streams on idle is called.
const manyJoined = 64

func (d *limiter) count(joining int) (idle bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside += joining
	if joining > 0 {
		d.wave++
		return false
	}
	if d.inside > 0 || d.wave < manyJoined {
		return false
	}
	d.wave = 0
	return true
}

// acquire waits for a place. The place is given back by release, or by itself once timeout is over, so
// that a client that never answers keeps no other out. It fails when ctx ends or the stream is
// superseded.
func (d *limiter) acquire(ctx context.Context, superseded <-chan struct{}) (release func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !d.places.TryAcquire(1) {
		d.metrics.waiting.Inc()
		defer d.metrics.waiting.Dec()
		acquired := make(chan error, 1)
		go func() { acquired <- d.places.Acquire(ctx, 1) }()
		select {
		case err = <-acquired:
		case <-superseded:
			cancel()
			if <-acquired == nil {
				d.places.Release(1)
			}
			return nil, errSuperseded
		}
		if err != nil {
			return nil, err
		}
	}
	d.count(1)
	var once sync.Once
	give := func() { once.Do(func() { d.places.Release(1) }) }
	timer := time.AfterFunc(d.timeout, give)
	var left sync.Once
	return func() {
		timer.Stop()
		give()
		left.Do(func() {
			if d.count(-1) {
				d.idle()
			}
		})
	}, nil
}

var (
	errSuperseded = status.Error(codes.Aborted, "a newer stream of this proxy took over")
	// ErrAged ends a stream that is as old as [Config.MaxAge] lets it be. The proxy comes back at
	// once and is sent nothing that it holds.
	ErrAged = status.Error(codes.Unavailable,
		"this stream has reached its age: connect again, perhaps to another instance")
)

// A stream ends at minAge to maxAge times [Config.MaxAge], so that streams that came together do
// not leave together, and so that its connection, which gRPC ages by up to a tenth more, takes no
// new stream by then.
const minAge, maxAge = 1.1, 1.3

// lifetime fires when a stream has reached its age, or never.
func (c *Config) lifetime() (timer <-chan time.Time, stop func()) {
	if c.MaxAge <= 0 {
		return nil, func() {}
	}
	t := time.NewTimer(time.Duration(float64(c.MaxAge) * (minAge + (maxAge-minAge)*rand.Float64())))
	return t.C, func() { t.Stop() }
}
