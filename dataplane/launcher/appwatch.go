package launcher

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// appWatch connects to the application's ports and reports which do not answer.
//
// One goroutine per port. It connects every interval; while the port does not answer it connects
// ten times as often, for a refused connect on the way to a first request costs little and a late
// one costs requests. Between attempts it waits for the death of the processes that listen on the
// port (where the system lets it see them), so that a killed application is reported within
// milliseconds. It never keeps a connection open: a workload that serves one connection at a time
// would be blocked by it.
type appWatch struct {
	targets []target
	log     *zap.Logger
	report  func(notReady []string)

	mu   sync.Mutex
	down map[string]bool // by section
}

func newAppWatch(targets []target, log *zap.Logger, report func([]string)) *appWatch {
	return &appWatch{
		targets: targets,
		log:     log,
		report:  report,
		down:    map[string]bool{},
	}
}

// first asks every port once, briefly, so that the first report to the zone is right.
func (w *appWatch) first(ctx context.Context) {
	var g errgroup.Group
	for _, t := range w.targets {
		g.Go(func() error {
			t.timeout = min(t.timeout, 250*time.Millisecond)
			w.set(t, connect(ctx, t) == nil)
			return nil
		})
	}
	_ = g.Wait()
}

func (w *appWatch) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range w.targets {
		g.Go(func() error { w.watch(ctx, t); return nil })
	}
	return g.Wait()
}

func (w *appWatch) watch(ctx context.Context, t target) {
	failures, successes := 0, 0
	var died <-chan struct{} // nil: no process is watched
	release := func() {}
	defer func() { release() }()
	fired := false
	for {
		up := !w.isDown(t.section)
		pause := t.interval
		if !up && !t.given {
			pause = max(t.interval/10, 20*time.Millisecond)
		}
		// Looking for the processes costs a walk over all of them: once when the port came up, and
		// again an interval after a death that the application survived (a worker of several).
		if up && !t.given && died == nil && !fired {
			died, release = watchDeath(ctx, t.address)
		}
		fired = false
		// Jitter, so that a hundred launchers of one host do not connect at once.
		timer := time.NewTimer(pause + rand.N(pause/10+1))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-died:
			fired = true
		}
		timer.Stop()
		if err := connect(ctx, t); err == nil {
			failures, successes = 0, successes+1
		} else {
			failures, successes = failures+1, 0
		}
		if ctx.Err() != nil {
			return
		}
		if fired || failures > 0 {
			release()
			died = nil
		}
		switch {
		case up && failures >= t.unhealthy:
			w.set(t, false)
		case !up && successes >= t.healthy:
			w.set(t, true)
		}
	}
}

// watchDeath is listenerDeath with a function that ends it.
func watchDeath(ctx context.Context, address string) (<-chan struct{}, func()) {
	ctx, cancel := context.WithCancel(ctx)
	return listenerDeath(ctx, address), cancel
}

func connect(ctx context.Context, t target) error {
	d := net.Dialer{Timeout: t.timeout, KeepAlive: -1}
	conn, err := d.DialContext(ctx, "tcp", t.address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (w *appWatch) isDown(section string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down[section]
}

func (w *appWatch) set(t target, up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[t.section] == !up {
		return
	}
	w.down[t.section] = !up
	if up {
		w.log.Info("the application answers again", zap.String("inbound", t.section),
			zap.String("address", t.address))
	} else {
		w.log.Warn("the application does not answer", zap.String("inbound", t.section),
			zap.String("address", t.address))
	}
	var notReady []string
	for section, down := range w.down {
		if down {
			notReady = append(notReady, section)
		}
	}
	slices.Sort(notReady)
	w.report(notReady)
}
