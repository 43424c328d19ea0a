package xds

import (
	"context"
	"math"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// feed implements delta.Feed. All fields but e, key and ready are guarded by Engine.mu.
type feed struct {
	e   *Engine
	key mesh.Key
	// ready holds one token: pending or ended changed.
	ready chan struct{}

	minRevision uint64
	// waiting is set until a table of at least minRevision was offered for the first time.
	waiting bool
	latest  *delta.Table
	closed  bool

	pending *debt
	update  delta.Update
	pushed  []debt
	refused []delta.Refusal
}

// debt is a range of revisions for which an answer is owed: from the first change in it to the last. What has no
// revision of its own, as an identity, owes an answer for itself alone: first is then last+1.
type debt struct{ first, last uint64 }

// Open starts to follow a proxy; see [delta.Source]. If nothing is known of it yet, the feed waits until there is.
func (e *Engine) Open(key mesh.Key, minRevision uint64) delta.Feed {
	f := &feed{e: e, key: key, ready: make(chan struct{}, 1), minRevision: minRevision, waiting: true}
	e.mu.Lock()
	if e.ended {
		f.closed = true
		e.mu.Unlock()
		f.signal()
		return f
	}
	e.feeds[f] = struct{}{}
	e.outstanding[f] = struct{}{}
	e.changed()
	e.mu.Unlock()
	e.send(func() { e.attach(f) })
	return f
}

// attach runs in Run's goroutine.
func (e *Engine) attach(f *feed) {
	p := e.proxies[f.key]
	if p == nil {
		p = &proxy{key: f.key, feeds: map[*feed]struct{}{}}
		p.table = e.q.table.node(f.key)
		e.g.pin(&p.table.node)
		e.q.table.fresh(f.key)
		p.table.onChange = func() { e.markDirty(p) }
		e.proxies[f.key] = p
	}
	p.feeds[f] = struct{}{}
	p.table.proxy = f.key
	e.joining[f] = struct{}{}
	e.mu.Lock()
	f.latest = p.table.value
	if f.latest != nil {
		e.tables[f.key] = f.latest
	}
	e.mu.Unlock()
}

// detach runs in Run's goroutine.
func (e *Engine) detach(f *feed) {
	delete(e.joining, f)
	p := e.proxies[f.key]
	if p == nil {
		return
	}
	delete(p.feeds, f)
	if len(p.feeds) > 0 {
		return
	}
	delete(e.proxies, f.key)
	p.table.onChange = nil
	e.g.unpin(&p.table.node)
	e.mu.Lock()
	delete(e.tables, f.key)
	e.mu.Unlock()
}

func (f *feed) signal() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// offer gives the feed a table that changes after the revision after, up to revision, made; Engine.mu is held.
func (f *feed) offer(t *delta.Table, after, revision uint64, committed time.Time) {
	f.latest = t
	if f.closed || f.waiting {
		return // begin gives the first one
	}
	d := debt{first: after + 1, last: revision}
	if f.pending != nil {
		d.first = min(d.first, f.pending.first)
	}
	if f.update.Committed.IsZero() {
		f.update.Committed = committed
	}
	f.pending = &d
	f.update.Table, f.update.Revision = t, revision
	f.e.outstanding[f] = struct{}{}
	f.signal()
}

// begin gives the feed its first table if it is there and new enough; Engine.mu is held.
func (f *feed) begin(revision uint64) {
	if f.closed || f.latest == nil || revision < f.minRevision {
		return
	}
	f.waiting = false
	f.pending = &debt{first: revision, last: revision}
	f.update = delta.Update{Table: f.latest, Revision: revision}
	f.signal()
}

// Next implements delta.Feed.
func (f *feed) Next(ctx context.Context) (delta.Update, error) {
	for {
		f.e.mu.Lock()
		if f.closed || f.e.ended {
			f.e.mu.Unlock()
			return delta.Update{}, errEnded
		}
		if f.pending != nil {
			u := f.update
			f.pushed = append(f.pushed, *f.pending)
			f.pending = nil
			f.update.Table, f.update.Committed = nil, time.Time{}
			f.e.mu.Unlock()
			return u, nil
		}
		f.e.mu.Unlock()
		select {
		case <-ctx.Done():
			return delta.Update{}, ctx.Err()
		case <-f.ready:
		}
	}
}

// Answered implements delta.Feed.
func (f *feed) Answered(revision uint64, refusals []delta.Refusal) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if f.closed {
		return
	}
	n := 0
	for n < len(f.pushed) && f.pushed[n].last <= revision {
		n++
	}
	f.pushed = append(f.pushed[:0], f.pushed[n:]...)
	f.refused = refusals
	if len(refusals) > 0 {
		f.e.refusing[f] = struct{}{}
	} else {
		delete(f.e.refusing, f)
	}
	if !f.waiting && len(f.pushed) == 0 && f.pending == nil {
		delete(f.e.outstanding, f)
	}
	f.e.changed()
}

// answered is the revision up to which the feed owes nothing; Engine.mu is held.
func (f *feed) answered() uint64 {
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

// Close implements delta.Feed.
func (f *feed) Close() {
	f.e.mu.Lock()
	if f.closed {
		f.e.mu.Unlock()
		return
	}
	f.closed = true
	delete(f.e.feeds, f)
	delete(f.e.outstanding, f)
	delete(f.e.refusing, f)
	f.e.changed()
	ended := f.e.ended
	f.e.mu.Unlock()
	f.signal()
	if !ended {
		f.e.send(func() { f.e.detach(f) })
	}
}
