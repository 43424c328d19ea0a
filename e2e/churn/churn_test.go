package churn

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

var (
	lasting = flag.Duration("churn", 20*time.Second, "how long the churn goes on")
	envoys  = flag.Int("envoys", 6, "how many Envoys there are, at least 4")
	seed    = flag.Uint64("seed", 0, "of the random walk; 0 takes another each time")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// pause between two requests of a caller to a service.
	pause = 25 * time.Millisecond
	// often is after how many steps everything is compared.
	often = 8
)

// TestChurn is described in the package comment.
func TestChurn(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many Envoys")
	}
	s := &walk{extras: []string{"extra-0", "extra-1", "extra-2"}, there: map[string]bool{}}
	for i := range max(3, *envoys/5) {
		s.services = append(s.services, fmt.Sprint("svc-", i))
	}
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("-seed %d", n)
	s.rand = rand.New(rand.NewPCG(n, n))
	w := newWorld(t, append(append([]string{}, s.services...), s.extras...))
	s.w = w
	if _, err := s.begin(); err != nil {
		t.Fatal(err)
	}
	callers, instances := w.populate(s)

	ctx, stop := context.WithCancel(context.Background())
	var loads []*load
	sending, sent := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	var load1 errgroup.Group
	for _, c := range callers {
		for i, name := range s.services {
			l := &load{caller: c, destination: i, name: name, answers: map[string]int{}}
			loads = append(loads, l)
			load1.Go(func() error { l.run(sending, w, pause); return nil })
		}
	}
	rolled := 0
	group.Go(func() (err error) {
		rolled, err = w.roll(ctx, s.services, instances)
		return err
	})
	changes := map[string]int{} // of listeners, by proxy and name
	steps := 0
	group.Go(func() error {
		defer stop()
		for end := time.Now().Add(*lasting); time.Now().Before(end) && ctx.Err() == nil; steps++ {
			what, revision, err := s.step()
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if err := w.settled(revision); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if err := w.look(ctx, changes, steps%often == often-1); err != nil {
				return fmt.Errorf("step %d, %s: %w", steps, what, err)
			}
		}
		return nil
	})
	err := group.Wait()
	stop()
	sent()
	_ = load1.Wait()
	if err != nil {
		t.Error(err)
	}
	if err := w.look(context.Background(), changes, true); err != nil {
		t.Errorf("in the end: %v", err)
	}
	var requests, dials int64
	for _, l := range loads {
		requests += l.requests.Load()
		dials += l.dials.Load()
		failed := l.failed()
		for _, f := range failed[:min(len(failed), 10)] {
			t.Error(f)
		}
		if len(failed) > 10 {
			t.Errorf("and %d more of %d requests of %s to %s", len(failed)-10, l.requests.Load(), l.caller.name, l.name)
		}
		if name := w.listenerOf(l); l.dials.Load() > int64(1+changes[l.caller.name+" "+name]) {
			t.Errorf("%s connected %d times to %s, whose listener changed %d times", l.caller.name, l.dials.Load(), l.name, changes[l.caller.name+" "+name])
		}
	}
	if n := w.counter("meridian_delta_nacks_total"); n > 0 {
		t.Errorf("%v responses were refused", n)
	}
	if steps < 5 || rolled < 1 || requests < 100 {
		t.Errorf("hardly anything happened: %d steps, %d instances replaced, %d requests", steps, rolled, requests)
	}
	t.Logf("%d Envoys: %d steps, %d instances replaced, %d requests over %d connections, %d changes of listeners", *envoys, steps, rolled, requests, dials, total(changes))
}

func total(of map[string]int) (n int) {
	for _, c := range of {
		n += c
	}
	return n
}

// populate starts a third of the Envoys as callers, the others as instances of services, and waits until every caller has
// every service.
func (w *world) populate(s *walk) (callers []*proxy, instances map[string][]*proxy) {
	w.t.Helper()
	instances = map[string][]*proxy{}
	made := make([]*proxy, max(4, *envoys))
	calling := max(1, len(made)/3)
	group, ctx := errgroup.WithContext(w.t.Context())
	group.SetLimit(4)
	for i := range made {
		group.Go(func() (err error) {
			if i < calling {
				made[i], err = w.start(ctx, fmt.Sprint("web-", i), "web")
				return err
			}
			svc := s.services[i%len(s.services)]
			made[i], err = w.start(ctx, fmt.Sprintf("%s-%d", svc, i), svc)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		w.t.Fatal(err)
	}
	callers = made[:calling]
	for _, p := range made[calling:] {
		instances[p.service] = append(instances[p.service], p)
	}
	for _, name := range s.services {
		for len(instances[name]) == 0 { // fewer Envoys than services
			p, err := w.start(w.t.Context(), name+"-first", name)
			if err != nil {
				w.t.Fatal(err)
			}
			instances[name] = append(instances[name], p)
		}
	}
	for _, list := range instances {
		for _, p := range list {
			if err := w.called(w.t.Context(), p); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	return callers, instances
}

// roll replaces the oldest instance of one service after the other until ctx ends, and returns how many it replaced.
func (w *world) roll(ctx context.Context, services []string, instances map[string][]*proxy) (n int, err error) {
	for ; ctx.Err() == nil; n++ {
		name := services[n%len(services)]
		p, err := w.start(context.WithoutCancel(ctx), fmt.Sprintf("%s-new-%d", name, n), name)
		if err == nil {
			err = w.called(context.WithoutCancel(ctx), p)
		}
		if err != nil {
			return n, err
		}
		old := instances[name][0]
		instances[name] = append(instances[name][1:], p)
		if err := w.retire(old); err != nil {
			return n, err
		}
	}
	return n, nil
}

// look compares Envoys with the engine: the listeners with those of the last look, or everything.
func (w *world) look(ctx context.Context, changes map[string]int, everything bool) error {
	group, _ := errgroup.WithContext(context.Background())
	group.SetLimit(4)
	all := w.all()
	results := make([][]string, len(all))
	for i, p := range all {
		group.Go(func() error {
			return w.gone(p, poll(context.WithoutCancel(ctx), p.name, func() error {
				changed, err := p.reloads()
				results[i] = append(results[i], changed...)
				if err == nil && everything {
					err = errors.Join(w.compare(p), p.rejected())
				}
				return err
			}))
		})
	}
	err := group.Wait()
	for i, p := range all {
		for _, name := range results[i] {
			changes[p.name+" "+name]++
		}
	}
	return err
}

// gone forgives the error of a workload that was retired meanwhile.
func (w *world) gone(p *proxy, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.proxies[p.name]; !there {
		return nil
	}
	return err
}

// listenerOf is the listener that a load goes through.
func (w *world) listenerOf(l *load) string {
	for name, at := range l.caller.seen {
		if a := at.body.(*listenerv3.Listener).GetAddress().GetSocketAddress(); a.GetPortValue() == uint32(firstOutbound+l.destination) {
			return name
		}
	}
	return ""
}
