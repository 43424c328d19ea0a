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
	// least is how many steps there are, however slow the machine is.
	least = 8
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
	changes := map[string]int{} // of listeners, by proxy and port
	if err := w.look(t.Context(), touch{}, changes, true); err != nil {
		t.Fatalf("in the beginning: %v", err)
	}

	ctx, stop := context.WithCancel(context.Background())
	var loads []*load
	sending, sent := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	var sends errgroup.Group
	for _, c := range callers {
		for i, name := range s.services {
			l := &load{caller: c, destination: i, name: name, answers: map[string]int{}}
			loads = append(loads, l)
			sends.Go(func() error { l.run(sending, w, pause); return nil })
		}
	}
	rolled := 0
	group.Go(func() (err error) {
		rolled, err = w.roll(ctx, s.services, instances)
		return err
	})
	steps := 0
	group.Go(func() error {
		defer stop()
		for end := time.Now().Add(*lasting); (time.Now().Before(end) || steps < least) &&
			ctx.Err() == nil; steps++ {
			did, revision, err := s.step()
			if err == nil {
				err = w.settled(revision)
			}
			if err == nil {
				err = w.look(ctx, did, changes, steps%often == often-1)
			}
			if err != nil {
				return fmt.Errorf("step %d, %s: %w", steps, did.what, err)
			}
		}
		return nil
	})
	err := group.Wait()
	stop()
	sent()
	_ = sends.Wait()
	if err != nil {
		t.Error(err)
	}
	if err := w.look(context.Background(), touch{}, changes, true); err != nil {
		t.Errorf("in the end: %v", err)
	}
	var requests, ends int64
	for _, l := range loads {
		requests += l.requests.Load()
		ends += int64(len(l.ends))
		failed := l.failed()
		for _, f := range failed[:min(len(failed), 10)] {
			t.Error(f)
		}
		if len(failed) > 10 {
			t.Errorf("and %d more of %d requests of %s to %s", len(failed)-10, l.requests.Load(),
				l.caller.name, l.name)
		}
		if n := changes[fmt.Sprint(l.caller.name, " ", firstOutbound+l.destination)]; len(l.ends) > n {
			t.Errorf("connections of %s to %s were ended at %v, where the listener changed %d times",
				l.caller.name, l.name, l.ends, n)
		}
	}
	if n := w.counter("meridian_delta_nacks_total"); n > 0 {
		t.Errorf("%v responses were refused", n)
	}
	if steps < least || rolled < 1 || requests < 100 {
		t.Errorf("hardly anything happened: %d steps, %d instances replaced, %d requests", steps, rolled,
			requests)
	}
	t.Logf("%d Envoys: %d steps, %d instances replaced, %d requests, %d changes of listeners, %d "+
		"connections "+
		"ended by them", *envoys, steps, rolled, requests, total(changes), ends)
}

func total(of map[string]int) (n int) {
	for _, c := range of {
		n += c
	}
	return n
}

// populate starts a third of the Envoys as callers, the others as instances of services, and waits
// until every caller has every service.
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

// roll replaces the oldest instance of one service after the other until ctx ends, and returns how
// many it replaced.
func (w *world) roll(ctx context.Context, services []string,
	instances map[string][]*proxy) (n int, err error) {
	for ; n == 0 || ctx.Err() == nil; n++ {
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

// look compares Envoys with the engine: the listeners with those of the last look, of which only
// those may have changed that what was done touches, or everything.
func (w *world) look(ctx context.Context, did touch, changes map[string]int, everything bool) error {
	var group errgroup.Group
	group.SetLimit(4)
	all := w.all()
	results := make([][]change, len(all))
	for i, p := range all {
		group.Go(func() error {
			return poll(context.WithoutCancel(ctx), p.name, func() error {
				changed, err := p.reloads()
				results[i] = append(results[i], changed...)
				if err == nil && everything {
					err = errors.Join(w.compare(p), p.rejected())
				}
				if w.retired(p) {
					return nil
				}
				return err
			})
		})
	}
	errs := []error{group.Wait()}
	for i, p := range all {
		for _, c := range results[i] {
			changes[fmt.Sprint(p.name, " ", c.port)]++
			if !w.may(did, p, c.port) {
				errs = append(errs, fmt.Errorf("listener %s of %s changed", c.name, p.name))
			}
		}
	}
	return errors.Join(errs...)
}

// may says whether what was done may change the listener of a workload at a port.
func (w *world) may(did touch, p *proxy, port uint32) bool {
	if port == proxyPort {
		return p.service == did.inbound
	}
	i := int(port) - firstOutbound
	return i >= 0 && i < len(w.destinations) && w.destinations[i] == did.outbound
}

func (w *world) retired(p *proxy) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, there := w.proxies[p.name]
	return !there
}
