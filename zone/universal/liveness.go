package universal

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Run keeps liveness until ctx ends, and returns its error. It takes over the insights of the
// former instance.
func (r *Registry) Run(ctx context.Context) error { return r.loop.Run(ctx) }

// liveness is the controller that writes what time and lost streams make of proxies.
type liveness struct {
	*Registry

	adopted bool
	// pending are the writes of the plan. The write mutex of each of their proxies is held from Plan
	// to Done; this controller is the only one that holds several.
	pending []pendingWrite
}

// pendingWrite is what a plan does to one proxy.
type pendingWrite struct {
	proxy *proxy
	event event
}

type event string

// Events of proxies; those but eventServes are values of a metric's label.
const (
	eventServes  event = "serves"
	eventLost    event = "lost"
	eventExpired event = "expired"
	eventLeft    event = "left"
)

// Plan implements [reconcile.Controller].
func (l *liveness) Plan(_ context.Context, in reconcile.Input) reconcile.Plan {
	if !l.adopted {
		l.adopted = true
		l.adopt(in.View, in.Now)
	}

	l.mu.Lock()
	overdue, next := l.due(in.Now)
	due := map[*proxy]bool{}
	for _, p := range l.proxies {
		if p.confirm && p.joined {
			due[p] = false
		}
	}
	for _, p := range overdue {
		due[p] = true
	}
	l.mu.Unlock()

	plan := reconcile.Plan{Next: next}
	l.pending = nil
	for p, overdue := range due {
		p.write.Lock()
		if !l.decide(p, overdue, in, &plan) {
			p.write.Unlock()
		}
	}
	if len(plan.Ops) > 0 {
		// What was written starts another deadline.
		plan.Next = in.Now
	}
	return plan
}

// decide plans the write that a proxy needs now, if it still does, and notes it as pending; p.write
// is held. overdue says that its deadline was over before that mutex was held.
func (l *liveness) decide(p *proxy, overdue bool, in reconcile.Input, plan *reconcile.Plan) bool {
	l.mu.Lock()
	defer l.mu.Unlock()

	t, ok := l.deadline(p)
	overdue = overdue && ok && !t.After(in.Now)
	var what event
	switch {
	case overdue && !p.goodbye.IsZero():
		what = eventLeft
	case overdue && p.lost:
		what = eventExpired
	case overdue:
		what = eventLost
		p.lost, p.leaseEnd = true, in.Now.Add(l.cfg.Lease)
	case p.confirm && p.joined:
		what = eventServes
	default:
		return false
	}
	l.pending = append(l.pending, pendingWrite{p, what})

	if what == eventServes || what == eventLost {
		p.confirm = p.confirm && what != eventServes
		plan.Ops = append(plan.Ops, l.putInsight(p))
		return true
	}
	plan.Ops = append(plan.Ops, store.Delete{Key: mesh.InsightKey(p.key)})
	var revision uint64
	if res, ok := in.View.Get(p.key); ok {
		revision = res.Revision
		if res.Labels[LabelRegistered] == registeredByStream {
			plan.Ops = append(plan.Ops, store.Delete{Key: p.key})
		}
	}
	plan.Checks = append(plan.Checks, store.KeyAt{Key: p.key, Revision: revision})
	return true
}

// Done implements [reconcile.Controller].
func (l *liveness) Done(err error) {
	for _, w := range l.pending {
		l.mu.Lock()
		l.finish(w, err)
		l.mu.Unlock()
		w.proxy.write.Unlock()
	}
	l.pending = nil
}

// finish notes that a write happened, or not; mu is held.
func (l *liveness) finish(w pendingWrite, err error) {
	p := w.proxy
	if err != nil {
		// Not written, so not so: the next plan tries again.
		switch w.event {
		case eventLost:
			if p.member == nil {
				p.lost = false
			}
		case eventServes:
			p.confirm = p.configured
		}
		return
	}

	switch w.event {
	case eventServes:
		return
	case eventLost:
		l.log.Info("lost a proxy; its endpoints are a last resort from now on", zap.Stringer("proxy", p.key),
			zap.Duration("lease", l.cfg.Lease))
	case eventExpired, eventLeft:
		p.joined = false
		if p.member == nil && p.session == nil {
			delete(l.proxies, p.key)
		}
		l.log.Info("removed a proxy", zap.Stringer("proxy", p.key), zap.String("why", string(w.event)))
	}
	l.events.WithLabelValues(string(w.event)).Inc()
}

// adopt takes over the insights that are in the store.
func (r *Registry) adopt(view replica.View, now time.Time) {
	hold := now.Add(r.cfg.ReturnTime)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range []mesh.Kind{mesh.KindDataplaneInsight, mesh.KindZoneIngressInsight} {
		for res := range view.List(kind, "") {
			if res.Key.Zone != r.cfg.Zone {
				continue
			}
			key := proxyKey(res.Key)
			if p, ok := r.proxies[key]; ok && p.joined {
				continue // it came back before we looked
			}
			p := r.entry(key)
			insight := mesh.Spec[*meshv1.ProxyInsight](res)
			p.joined, p.hold = true, hold
			if p.member == nil {
				p.absent = now
			}
			p.connected = insight.GetConnected().AsTime()
			p.notReady = insight.GetNotReady()
			p.launcherVersion, p.envoyVersion = insight.GetLauncherVersion(), insight.GetEnvoyVersion()
			if insight.GetState() == "Lost" {
				p.lost = true
				p.leaseEnd = hold
				if end := insight.GetLeaseEnd().AsTime(); end.After(hold) {
					p.leaseEnd = end
				}
			}
			p.draining = insight.GetState() == "Draining"
			p.configured = insight.GetState() != "Joining"
		}
	}
}

// due are the proxies to write now, and when to look again.
//
// mu is held.
func (r *Registry) due(now time.Time) (due []*proxy, at time.Time) {
	mass := r.measure(now)
	later := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, p := range r.proxies {
		t, ok := r.deadline(p)
		if !ok || (mass && p.goodbye.IsZero()) {
			continue
		}
		if t.After(now) {
			later(t)
		} else {
			due = append(due, p)
		}
	}
	if mass {
		// Not before the first grace is over does the share count.
		for _, p := range r.proxies {
			if t, ok := r.deadline(p); ok && t.After(now) {
				later(t)
			}
		}
	}
	return due, at
}

// deadline is when something has to be done about an absent proxy; mu is held.
func (r *Registry) deadline(p *proxy) (time.Time, bool) {
	var t time.Time
	switch {
	case p.member != nil || !p.joined:
		return t, false
	case !p.goodbye.IsZero():
		return later(p.goodbye, p.absent).Add(r.cfg.GoodbyeDelay), true
	case !p.lost:
		t = p.absent.Add(r.cfg.Grace)
	case p.session != nil:
		return t, false
	default:
		t = p.leaseEnd
	}
	return later(t, p.hold), true
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// measure decides whether a mass loss is in effect; mu is held.
func (r *Registry) measure(now time.Time) bool {
	alive, absent, overdue, present := 0, 0, 0, 0
	for _, p := range r.proxies {
		if p.member != nil {
			present++
		}
		if !p.joined || p.lost || p.draining || !p.goodbye.IsZero() {
			continue
		}
		alive++
		if p.member != nil {
			continue
		}
		absent++
		if t, ok := r.deadline(p); ok && !t.After(now) {
			overdue++
		}
	}
	r.present.Set(float64(present))
	mass := absent >= r.cfg.MassMinimum && float64(absent) >= r.cfg.MassShare*float64(alive)
	before := r.mass
	r.mass = 0
	if mass && overdue > 0 {
		r.mass = absent
	}
	r.withheld.Set(float64(r.mass))
	switch {
	case before == 0 && r.mass > 0:
		r.log.Error("a large share of the proxies vanished at once: nothing is marked or withdrawn "+
			"until they "+
			"return; look at the "+
			"network of this control plane", zap.Int("absent", absent), zap.Int("of", alive))
	case before > 0 && r.mass == 0:
		r.log.Info("the share of absent proxies is small again: they are handled one by one",
			zap.Int("absent", absent), zap.Int("of", alive))
	}
	return mass
}
