package xds

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// What a proxy rejected, and no other accepted, is no longer offered to any: see "Last known good" in the
// package comment.

const (
	// judgeAfter is how long the answers of other proxies to a rejected resource are waited for: what one
	// of them accepts stays. The proxy that rejected it goes on with what it had meanwhile.
	judgeAfter = 200 * time.Millisecond
	// maxHolds bounds the holds, maxHeldProxies the proxies that one names. Beyond maxHolds proxies keep
	// what they have, and those that have nothing get what was rejected.
	maxHolds       = 1000
	maxHeldProxies = 100
	// maxVerdicts is how many contents are remembered that one proxy rejected and another accepted.
	maxVerdicts = 1000
)

// holdKey is a policy as far as it is about a destination, for all callers, or about a proxy's inbounds.
type holdKey struct{ policy, about mesh.Key }

// contentKey is one content of a resource.
type contentKey struct {
	typ           delta.Type
	name, version string
}

// hold keeps a rejected content from proxies. Either a revision of a policy is not in force for what it is
// about, or, where no policy can be blamed, the content has a replacement.
type hold struct {
	key      holdKey
	revision uint64 // of the policy
	// former is the policy as it is in force instead; nil: as if there were none.
	former *mesh.Resource

	// by replaces content; nil if a policy is held.
	content contentKey
	by      *delta.Resource

	since time.Time
	// batch of the graph in which it began, or changed.
	batch uint64
	// first is the rejection that led to it, rejected those of all proxies that are known, with it.
	first    rejection
	rejected map[rejector]rejection
	// names are the resources that were rejected.
	names map[resourceName]struct{}
	// proxies is how many have resources that are not as they should be because of it; over says that some
	// have another content of the resource.
	proxies int
	over    bool
}

type rejector struct {
	proxy mesh.Key
	resourceName
}

type resourceName struct {
	typ  delta.Type
	name string
}

// verdict is what is to become of a content that was rejected.
type verdict struct {
	due time.Time
	// accepted says that another proxy has it: the content is not the reason.
	accepted bool
	hold     *hold
	// rejections wait for the decision.
	rejections []rejection
}

// lastGood is what Run's goroutine knows of rejected contents. What progress reads of it, holds, changes
// under Engine.mu.
type lastGood struct {
	verdicts map[contentKey]*verdict
	holds    []*hold
	// former are the policies that were changed while the engine ran, as they were before.
	former map[mesh.Key]*mesh.Resource
	// judge fires when the next verdict is due; nil if none is.
	judge <-chan time.Time
}

// inForce is the policy as it is in force for a destination or for a proxy's inbounds.
func (s *state) inForce(policy, about mesh.Key) *mesh.Resource {
	if len(s.held) > 0 {
		if h := s.held[holdKey{policy, about}]; h != nil {
			return h.former
		}
	}
	res, _ := s.view.Get(policy)
	return res
}

// holds says that a policy of a list is held for a proxy's inbounds.
func (s *state) holds(l keyList, about mesh.Key) bool {
	return len(s.held) > 0 && slices.ContainsFunc(l.Slice(),
		func(k mesh.Key) bool { return s.held[holdKey{k, about}] != nil })
}

// follow takes the changes of a batch in before the state has them: a policy that was changed is tried
// again, and its spec before is remembered in case Envoy rejects the new one.
func (e *Engine) follow(changes []store.Change) {
	for _, c := range changes {
		if c.Old != nil && c.Resource != nil && c.Type == store.ChangeStatus {
			continue
		}
		if isPolicy(c.Key) {
			held := slices.ContainsFunc(e.good.holds, func(h *hold) bool { return h.key.policy == c.Key })
			switch {
			case c.Resource == nil || c.Old == nil:
				delete(e.good.former, c.Key)
			case !held:
				if e.good.former == nil {
					e.good.former = map[mesh.Key]*mesh.Resource{}
				}
				e.good.former[c.Key] = c.Old
			}
		}
		e.release(c)
	}
}

// release ends the holds on what changed, and those that are about what is no longer there.
func (e *Engine) release(c store.Change) {
	ended := func(h *hold) bool {
		switch {
		case h.by == nil && h.key.policy == c.Key:
			return c.Resource == nil || c.Resource.Revision != h.revision
		case h.by != nil && slices.Contains(h.first.Cause, c.Key):
			return true
		}
		return h.key.about == c.Key && c.Resource == nil
	}
	if !slices.ContainsFunc(e.good.holds, ended) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.good.holds = slices.DeleteFunc(e.good.holds, func(h *hold) bool {
		if !ended(h) {
			return false
		}
		e.forget(h)
		e.log.Info("what proxies rejected is tried again, for it was changed", zap.Stringer("changed", c.Key))
		return true
	})
}

// forget has the content of a hold offered again, which is no longer one of the list then; mu is held.
func (e *Engine) forget(h *hold) {
	if h.by == nil {
		delete(e.s.held, h.key)
		e.markHeld(h)
	} else {
		delete(e.q.pool.replaced, h.content)
		e.q.renew(h.by)
	}
	for k, v := range e.good.verdicts {
		if v.hold == h {
			delete(e.good.verdicts, k)
		}
	}
}

// markHeld makes everything be computed again that reads a policy.
func (e *Engine) markHeld(h *hold) {
	e.s.general.MarkDirty(h.key.policy)
	e.s.specs.MarkDirty(h.key.policy)
	e.s.specs.MarkDirty(h.key.about)
}

// rejectedBy takes in what a watch rejects now. It runs in Run's goroutine.
func (e *Engine) rejectedBy(f *watch) {
	e.mu.Lock()
	list := slices.Clone(f.rejected)
	e.mu.Unlock()
	now := time.Now()
	for _, r := range list {
		if r.Content == nil {
			continue
		}
		key := contentKey{r.Type, r.Resource, r.Content.Version}
		v := e.good.verdicts[key]
		if v == nil {
			if e.good.verdicts == nil {
				e.good.verdicts = map[contentKey]*verdict{}
			}
			if len(e.good.verdicts) >= maxVerdicts {
				// What was accepted elsewhere is found out again if it is rejected again.
				maps.DeleteFunc(e.good.verdicts, func(_ contentKey, v *verdict) bool { return v.accepted })
			}
			v = &verdict{due: now.Add(judgeAfter)}
			e.good.verdicts[key] = v
		}
		by := rejection{stage: meshv1.Rejection_STAGE_PROXY, proxy: f.key, Rejection: r}
		switch {
		case v.accepted:
		case v.hold != nil:
			e.mu.Lock()
			v.hold.add(by)
			e.mu.Unlock()
		default:
			if len(v.rejections) < maxHeldProxies {
				v.rejections = append(v.rejections, by)
			}
			e.decide(key, v, now)
		}
	}
}

// judge decides what is due.
func (e *Engine) judge() {
	e.good.judge = nil
	now := time.Now()
	for key, v := range e.good.verdicts {
		if !v.accepted && v.hold == nil {
			e.decide(key, v, now)
		}
	}
}

// decide holds a rejected content, unless another proxy accepted it, or may yet.
func (e *Engine) decide(key contentKey, v *verdict, now time.Time) {
	current, accepted, waiting := e.answers(key)
	switch {
	case !current:
		delete(e.good.verdicts, key) // it was replaced meanwhile
	case accepted:
		v.accepted, v.rejections = true, nil
	case waiting && now.Before(v.due):
		if e.good.judge == nil {
			e.good.judge = time.After(v.due.Sub(now))
		}
	default:
		e.holdBack(key, v, now)
	}
}

// answers says whether any proxy should have the content, whether one accepted it, and whether one that
// has been offered it has not answered yet.
func (e *Engine) answers(key contentKey) (current, accepted, waiting bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for f := range e.watches {
		res := f.latest.Lookup(key.typ, key.name)
		if res == nil || res.Version != key.version {
			continue
		}
		current = true
		if slices.ContainsFunc(f.rejected, func(r delta.Rejection) bool {
			return r.Content != nil && key == contentKey{r.Type, r.Resource, r.Content.Version}
		}) {
			continue
		}
		if _, owes := e.outstanding[f]; owes {
			waiting = true
		} else {
			accepted = true
		}
	}
	return current, accepted, waiting
}

// holdBack finds what keeps the content from proxies: the last change of a policy that it came from,
// else what a proxy has of it.
func (e *Engine) holdBack(key contentKey, v *verdict, now time.Time) {
	first := v.rejections[0]
	about := aboutOf(first.Cause)
	// Another content of the same cause was decided in this batch: whether this one is mended by that too,
	// the next batch will show.
	for _, h := range e.good.holds {
		if h.batch == e.g.Batch() && h.by == nil && h.key.about == about &&
			slices.Contains(first.Cause, h.key.policy) {
			e.explain(h, v)
			return
		}
	}
	if h := e.blamed(first.Cause, about); h != nil {
		e.hold(h, v, now)
		return
	}
	i := slices.IndexFunc(v.rejections, func(r rejection) bool { return r.Held != nil })
	if i < 0 {
		delete(e.good.verdicts, key) // a proxy that has a former content may yet reject this one
		return
	}
	held := v.rejections[i].Held
	by := delta.NewResource(held.Type, held.Name, held.Body, held.Cause...)
	by.Former = true
	e.hold(&hold{content: key, by: by}, v, now)
}

// blamed is the hold to try next: the policy that was changed last, as it was before; if that was
// rejected too, without the policy; then the policy changed last before it.
func (e *Engine) blamed(causes []mesh.Key, about mesh.Key) *hold {
	var list []*mesh.Resource
	for _, k := range causes {
		if r, ok := e.s.view.Get(k); ok && isPolicy(k) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *mesh.Resource) int { return cmp.Compare(b.Revision, a.Revision) })
	for _, r := range list {
		h := e.s.held[holdKey{r.Key, about}]
		switch {
		case h == nil:
			return &hold{
				key:      holdKey{r.Key, about},
				revision: r.Revision,
				former:   e.good.former[r.Key],
			}
		case h.former != nil:
			next := *h
			next.former = nil
			return &next
		}
	}
	return nil
}

// aboutOf is the destination, or the proxy, that a resource is for.
func aboutOf(causes []mesh.Key) mesh.Key {
	i := slices.IndexFunc(causes, func(k mesh.Key) bool { return !isPolicy(k) })
	if i < 0 {
		return mesh.Key{}
	}
	return causes[i]
}

// hold puts a hold in force.
func (e *Engine) hold(h *hold, v *verdict, now time.Time) {
	old := e.s.held[h.key]
	if h.by != nil {
		old = nil
	}
	if old == nil && len(e.good.holds) == maxHolds {
		return
	}
	e.mu.Lock()
	if old != nil {
		old.former, old.batch = h.former, e.g.Batch()
		h = old
	} else {
		h.since, h.batch, h.first = now, e.g.Batch(), v.rejections[0]
		h.rejected, h.names = map[rejector]rejection{}, map[resourceName]struct{}{}
		e.good.holds = append(e.good.holds, h)
	}
	if h.by == nil {
		if e.s.held == nil {
			e.s.held = map[holdKey]*hold{}
		}
		e.s.held[h.key] = h
	} else {
		if e.q.pool.replaced == nil {
			e.q.pool.replaced = map[contentKey]*delta.Resource{}
		}
		e.q.pool.replaced[h.content] = h.by
	}
	e.mu.Unlock()
	e.explain(h, v)
	fields := []zap.Field{
		zap.String("type", h.first.Type.String()),
		zap.String("resource", h.first.Resource),
		zap.Stringer("proxy", h.first.proxy),
		zap.String("reason", h.first.Reason),
	}
	if h.by != nil {
		e.q.renew(e.current(h.content))
		e.log.Warn("a proxy rejected a resource; all go on with the one that was accepted before", fields...)
		return
	}
	e.markHeld(h)
	what := "as it was before"
	if h.former == nil {
		what = "without it"
	}
	e.log.Warn("a proxy rejected what a policy makes; all go on "+what, append(fields,
		zap.Stringer("policy", h.key.policy), zap.Uint64("revision", h.revision),
		zap.Stringer("about", h.key.about))...)
}

// explain notes the rejections of a verdict with the hold that follows from them.
func (e *Engine) explain(h *hold, v *verdict) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range v.rejections {
		h.add(r)
	}
	v.hold, v.rejections = h, nil
}

// add notes a rejection; Engine.mu is held.
func (h *hold) add(r rejection) {
	n := resourceName{r.Type, r.Resource}
	h.names[n] = struct{}{}
	k := rejector{r.proxy, n}
	if _, known := h.rejected[k]; known || len(h.rejected) < maxHeldProxies {
		h.rejected[k] = r
	}
}

// current is the resource with a content, as some proxy should have it; nil if none should.
func (e *Engine) current(key contentKey) *delta.Resource {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tables {
		if res := t.Lookup(key.typ, key.name); res != nil && res.Version == key.version {
			return res
		}
	}
	return nil
}

// recount counts the proxies that holds concern, after the graph came to rest; mu is held.
func (e *Engine) recount() {
	if len(e.good.holds) == 0 {
		return
	}
	for _, h := range e.good.holds {
		h.proxies, h.over = 0, false
	}
	for c := range e.proxies {
		table := e.tables[c]
		for _, h := range e.good.holds {
			if e.concerns(h, c, table) {
				h.proxies++
			} else if h.by != nil && table.Lookup(h.content.typ, h.content.name) != nil {
				h.over = true
			}
		}
	}
	// A replacement that no proxy has, though they have the resource, is of the past.
	e.good.holds = slices.DeleteFunc(e.good.holds, func(h *hold) bool {
		if !h.over || h.proxies > 0 {
			return false
		}
		e.forget(h)
		return true
	})
}

// concerns says that a proxy has something that is not as it should be because of the hold; mu is held.
func (e *Engine) concerns(h *hold, c caller, table *delta.Table) bool {
	if h.by != nil {
		res := table.Lookup(h.content.typ, h.content.name)
		return res != nil && res.Former && res.Version == h.by.Version
	}
	if h.key.about == c.proxy {
		return true
	}
	m := e.q.match.Last(c.proxy)
	if m == nil || !slices.Contains(m.to.Slice(), h.key.policy) {
		return false
	}
	for n := range h.names {
		if table.Lookup(n.typ, n.name) != nil {
			return true
		}
	}
	return false
}

// standing are all rejections that stand, of proxies and of computations: those that proxies stand by, and
// those for which proxies have a former content. mu is held.
func (e *Engine) standing() []rejection {
	list := slices.Clone(e.failures)
	known := map[rejector]bool{}
	for f := range e.rejecting {
		for _, r := range f.rejections() {
			list = append(list, r)
			known[rejector{r.proxy, resourceName{r.Type, r.Resource}}] = true
		}
	}
	for _, h := range e.good.holds {
		n := 0
		for k, r := range h.rejected {
			if _, online := e.tables[caller{proxy: k.proxy}]; online && !known[k] {
				r.hold = h
				list = append(list, r)
				n++
			}
		}
		if r := h.first; n == 0 && !known[rejector{r.proxy, resourceName{r.Type, r.Resource}}] {
			r.hold = h
			list = append(list, r)
		}
	}
	return list
}
