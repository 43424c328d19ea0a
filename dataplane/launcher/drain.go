package launcher

import (
	"context"
	"os"
	"time"

	"go.uber.org/zap"
)

// Times of a drain.
const (
	// together is how long signals count as one: supervisors and terminals send them to a process and to
	// its group, or from two places at once.
	together = time.Second

	// notTold is how long the drain waits for the zone to say that callers know; for an unavailable zone
	// it waits no longer than callers need to notice "connection: close".
	notTold = 5 * time.Second
	// quiet is how long nothing may be in flight before Envoy is stopped.
	quiet = 300 * time.Millisecond
	// look is how often Envoy's counters are read meanwhile.
	look = 50 * time.Millisecond
)

// followStop closes drain with the first signal, and end with one that comes more than [together] after
// it. A stop that is closed asks to drain and nothing else.
func followStop(ctx context.Context, stop <-chan os.Signal, drain, end chan<- struct{}) {
	var first time.Time
	for {
		select {
		case _, open := <-stop:
			switch {
			case first.IsZero():
				first = time.Now()
				close(drain)
			case open && time.Since(first) > together:
				close(end)
				return
			}
			if !open {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// drain takes a running proxy out of service: it tells the zone, Envoy asks its clients to go
// elsewhere, and it is over when callers no longer pick this proxy and nothing is in flight, or at
// the limit.
type drain struct {
	log     *zap.Logger
	admin   admin
	state   *state
	drained <-chan struct{}
	limit   time.Duration
}

func (d drain) run(ctx context.Context) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, d.limit)
	defer cancel()
	d.state.setDraining()
	// Responses now carry "connection: close" or GOAWAY; listeners go on accepting, for some
	// callers do not know yet.
	for _, path := range []string{"/healthcheck/fail", "/drain_listeners?graceful&skip_exit"} {
		if err := d.admin.post(ctx, path); err != nil {
			d.log.Warn("Envoy did not take the drain request", zap.String("path", path), zap.Error(err))
		}
	}
	told := true
	select {
	case <-d.drained:
	case <-time.After(notTold):
		told = false
	case <-ctx.Done():
		d.finish(began, "the time is up before the zone said that callers know")
		return
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	since := time.Now()
	for {
		n, err := d.admin.inFlight(ctx)
		switch {
		case ctx.Err() != nil:
			d.finish(began, "the time is up with requests in flight")
			return
		case err != nil:
			d.finish(began, "Envoy no longer answers")
			return
		case n > 0:
			since = time.Now()
		case time.Since(since) >= quiet:
			if told {
				d.finish(began, "callers know and nothing is in flight")
			} else {
				d.finish(began, "nothing is in flight; the zone did not answer")
			}
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (d drain) finish(began time.Time, why string) {
	d.log.Info("drain is over", zap.String("why", why), zap.Duration("took", time.Since(began)))
}
