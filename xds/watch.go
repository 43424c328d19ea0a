package xds

import (
	"math"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// watch implements delta.Watch. All fields but e, key, caller and wake, and names, which Run's
// goroutine owns, are guarded by Engine.mu.
type watch struct {
	e      *Engine
	key    mesh.Key
	caller caller
	names  []string
	wake   func(urgent bool)

	minRevision uint64
	// waiting is set until a table of at least minRevision was offered for the first time.
	waiting bool
	latest  *delta.Table
	closed  bool

	// subscribed counts calls of Subscribe; resolvedCalls those that the pending or last update reflects.
	subscribed, resolvedCalls uint64

	pending  *pendingAck
	update   delta.Update
	pushed   []pendingAck
	rejected []delta.Rejection
	// lastChange is the last change that gave the watch something new.
	lastChange *rollup
}

// pendingAck is a range of revisions that wait for an answer: from the first change in it to the
// last. What has no revision of its own, as an identity, waits for itself alone: first is
// then last+1.
type pendingAck struct {
	first, last uint64
	// changes are the changes that wait for the answer.
	changes []*rollup
}

// Open starts to follow a proxy; see [delta.Source]. If nothing is known of it yet, the watch waits
// until there is.
func (e *Engine) Open(o delta.OpenRequest) delta.Watch {
	f := &watch{
		e:           e,
		key:         o.Proxy,
		caller:      caller{o.Proxy, o.Client},
		wake:        o.Wake,
		minRevision: o.MinRevision,
		waiting:     true,
	}
	if f.wake == nil {
		f.wake = func(bool) {}
	}
	e.mu.Lock()
	if e.ended {
		f.closed = true
		e.mu.Unlock()
		f.wake(false)
		return f
	}
	e.watches[f] = struct{}{}
	e.outstanding[f] = struct{}{}
	e.changed()
	e.mu.Unlock()
	e.send(func() { e.attach(f) })
	return f
}

// attach runs in Run's goroutine.
func (e *Engine) attach(f *watch) {
	p := e.proxies[f.caller]
	if p == nil {
		p = &proxy{key: f.caller, watches: map[*watch]struct{}{}}
		if f.caller.client.Kind == delta.ClientGRPC {
			p.table = e.q.callTable.Pin(f.caller)
		} else {
			p.table = e.q.table.Pin(f.caller)
		}
		p.table.OnChange(func() { e.markDirty(p) })
		e.proxies[f.caller] = p
	}
	p.watches[f] = struct{}{}
	e.joining[f] = struct{}{}
	e.mu.Lock()
	f.latest = p.table.Get()
	if f.latest != nil {
		e.tables[f.caller] = f.latest
	}
	e.mu.Unlock()
}

// detach runs in Run's goroutine.
func (e *Engine) detach(f *watch) {
	delete(e.joining, f)
	p := e.proxies[f.caller]
	if p == nil {
		return
	}
	delete(p.watches, f)
	e.collect(p)
	if len(p.watches) > 0 {
		return
	}
	delete(e.proxies, f.caller)
	p.table.OnChange(nil)
	p.table.Unpin()
	e.mu.Lock()
	delete(e.tables, f.caller)
	e.mu.Unlock()
}

// Subscribe implements delta.Watch.
func (f *watch) Subscribe(names []string) {
	f.e.mu.Lock()
	f.subscribed++
	call := f.subscribed
	f.e.mu.Unlock()
	f.e.send(func() {
		f.names = names
		if p := f.e.proxies[f.caller]; p != nil {
			f.e.collect(p)
		}
		f.e.mu.Lock()
		f.resolvedCalls = call
		f.e.mu.Unlock()
		f.e.resolving = append(f.e.resolving, f)
	})
}

// collect takes in what all watches of a gRPC client want. It runs in Run's goroutine.
func (e *Engine) collect(p *proxy) {
	if p.key.client.Kind != delta.ClientGRPC {
		return
	}
	var all []string
	for f := range p.watches {
		all = append(all, f.names...)
	}
	list := internNames(all)
	if len(p.watches) == 0 {
		delete(e.s.subscriptions, p.key)
	} else if e.s.subscriptions[p.key] == list {
		return
	} else {
		e.s.subscriptions[p.key] = list
	}
	e.s.subscribed.MarkDirty(p.key)
}

// offer gives the watch a table that changes after the revision after, up to revision, made;
// Engine.mu is held.
func (f *watch) offer(t *delta.Table, after, revision uint64, committed time.Time, r *rollup) {
	f.latest = t
	if f.closed || f.waiting {
		return // begin gives the first one
	}
	d := pendingAck{first: after + 1, last: revision}
	if r != nil {
		r.affect(f)
		d.changes = []*rollup{r}
	}
	if f.pending == nil {
		f.pending = &d
	} else {
		f.pending.merge(d)
	}
	if f.update.Committed.IsZero() {
		f.update.Committed = committed
	}
	f.update.Table, f.update.Revision, f.update.Subscribed = t, revision, f.resolvedCalls
	f.e.outstanding[f] = struct{}{}
	f.e.notified = append(f.e.notified, f)
}

// resolved says that the names wanted are in the table at hand; Engine.mu is held.
func (f *watch) resolved(revision uint64) {
	if f.closed || f.waiting || f.latest == nil || f.update.Subscribed == f.resolvedCalls {
		return // begin gives it, or the update did
	}
	if f.pending == nil {
		// No change of the store waits for an answer.
		f.pending = &pendingAck{first: revision + 1, last: revision}
		f.update.Table, f.update.Revision = f.latest, revision
		f.e.outstanding[f] = struct{}{}
	}
	f.update.Subscribed = f.resolvedCalls
	f.e.notified = append(f.e.notified, f)
}

// begin gives the watch its first table if it is there and new enough; Engine.mu is held.
func (f *watch) begin(revision uint64) {
	if f.closed || f.latest == nil || revision < f.minRevision {
		return
	}
	f.waiting = false
	f.pending = &pendingAck{first: revision, last: revision}
	f.update = delta.Update{Table: f.latest, Revision: revision, Subscribed: f.resolvedCalls}
	f.e.notified = append(f.e.notified, f)
}

// Next implements delta.Watch.
func (f *watch) Next() (delta.Update, bool, error) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if f.closed || f.e.ended {
		return delta.Update{}, false, errEnded
	}
	if f.pending == nil {
		return delta.Update{}, false, nil
	}
	u := f.update
	if n := len(f.pushed); n < maxPushed {
		f.pushed = append(f.pushed, *f.pending)
	} else {
		f.pushed[n-1].merge(*f.pending)
	}
	f.pending = nil
	f.update.Table, f.update.Committed = nil, time.Time{}
	return u, true, nil
}

// Ack implements delta.Watch.
func (f *watch) Ack(revision uint64, rejections []delta.Rejection) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if f.closed {
		return
	}
	n := 0
	now := time.Now()
	for n < len(f.pushed) && f.pushed[n].last <= revision {
		f.e.answer(f.pushed[n].changes, rejections, false, now)
		n++
	}
	f.pushed = slices.Delete(f.pushed, 0, n)
	f.rejected = rejections
	if len(rejections) > 0 {
		f.e.rejecting[f] = struct{}{}
		f.e.queue(func() { f.e.rejectedBy(f) })
	} else {
		delete(f.e.rejecting, f)
	}
	if !f.waiting && len(f.pushed) == 0 && f.pending == nil {
		delete(f.e.outstanding, f)
	}
	f.e.changed()
}

// answered is the revision up to which the watch has nothing pending; Engine.mu is held.
func (f *watch) answered() uint64 {
	first := uint64(math.MaxUint64)
	for _, d := range f.pushed {
		first = min(first, d.first)
	}
	if f.pending != nil {
		first = min(first, f.pending.first)
	}
	if f.waiting {
		// Joining: the first table will be of the revision at hand, or of a later one.
		first = min(first, max(f.e.processed, 1))
	}
	if first == 0 {
		return 0
	}
	return first - 1
}

// Close implements delta.Watch.
func (f *watch) Close() {
	f.e.mu.Lock()
	if f.closed {
		f.e.mu.Unlock()
		return
	}
	f.closed = true
	delete(f.e.watches, f)
	delete(f.e.outstanding, f)
	delete(f.e.rejecting, f)
	now := time.Now()
	for _, d := range f.pushed {
		f.e.answer(d.changes, nil, true, now)
	}
	if f.pending != nil {
		f.e.answer(f.pending.changes, nil, true, now)
	}
	f.e.changed()
	ended := f.e.ended
	f.e.mu.Unlock()
	if !ended {
		f.e.send(func() { f.e.detach(f) })
	}
}

// rejections are those of the proxy's resources that stand; Engine.mu is held.
func (f *watch) rejections() []rejection {
	var out []rejection
	for _, r := range f.rejected {
		out = append(out, rejection{stage: meshv1.Rejection_STAGE_PROXY, proxy: f.key, Rejection: r})
	}
	return out
}
