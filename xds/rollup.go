package xds

import (
	"slices"
	"sort"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// Bounds of what is remembered of changes.
const (
	maxChanges = 1024
	maxNamed   = 20
)

// Change is what one batch of changes did: which proxies it gave something new, and how far they
// are. Several commits that were taken in together are one change.
type Change struct {
	// First and Last revision of the store in it.
	First, Last uint64
	Committed   time.Time
	// Inputs are the first of InputCount resources that changed.
	Inputs     []mesh.Key
	InputCount int
	// Affected streams of proxies; each has Acked (Rejected of them something), Disconnected before it
	// did, or is pending.
	Affected, Acked, Rejected, Disconnected int
	// Done is when the last of them answered; zero while some are pending.
	Done time.Time
	// Notified are the first proxies concerned.
	Notified []mesh.Key
	// Pending are the first proxies that owe an answer; Rejections are those that stand of this change.
	Pending    []mesh.Key
	Rejections []*meshv1.Rejection
}

// rollup is a Change as it is kept; Engine.mu guards it.
type rollup struct{ Change }

func (r *rollup) open() int { return r.Affected - r.Acked - r.Disconnected }

// affect notes that the change waits for the answer of a watch.
func (r *rollup) affect(f *watch) {
	f.lastChange = r
	r.Affected++
	if len(r.Notified) < maxNamed {
		r.Notified = append(r.Notified, f.key)
	}
}

// maxPushed is how many updates a watch tells apart that its client has not answered.
const maxPushed = 8

// merge adds what a later update waits for. What is older than the history is
// left out: a client that never answers costs no more than twice the history's length.
func (d *pendingAck) merge(later pendingAck) {
	d.first, d.last = min(d.first, later.first), max(d.last, later.last)
	d.changes = append(d.changes, later.changes...)
	if len(d.changes) > 2*maxChanges {
		d.changes = slices.Clone(d.changes[len(d.changes)-maxChanges:])
	}
}

// record begins the roll-up of a batch; mu is held.
func (e *Engine) record(after, revision uint64, committed time.Time, changes []store.Change) *rollup {
	r := &rollup{Change{
		First:      after + 1,
		Last:       revision,
		Committed:  committed,
		InputCount: len(changes),
	}}
	for _, c := range changes[:min(len(changes), maxNamed)] {
		r.Inputs = append(r.Inputs, c.Key)
	}
	if len(e.changes) == maxChanges {
		e.changes = append(e.changes[:0], e.changes[maxChanges/2:]...)
	}
	e.changes = append(e.changes, r)
	return r
}

// answer notes that a watch has answered changes, or has disconnected; mu is held.
func (e *Engine) answer(changes []*rollup, rejections []delta.Rejection, left bool, now time.Time) {
	for _, r := range changes {
		switch {
		case left:
			r.Disconnected++
		default:
			r.Acked++
			if slices.ContainsFunc(rejections,
				func(x delta.Rejection) bool { return x.Revision >= r.First && x.Revision <= r.Last }) {
				r.Rejected++
			}
		}
		if r.open() == 0 {
			r.Done = now
			if e.metrics != nil && r.Acked > 0 && !r.Committed.IsZero() {
				e.metrics.propagation.Observe(max(0, now.Sub(r.Committed).Seconds()))
			}
		}
	}
}

// Change finds what became of the change that brought a revision of this zone's store.
func (e *Engine) Change(revision uint64) (Change, store.RevisionState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if revision > e.processed {
		return Change{}, store.RevisionAhead
	}
	i := sort.Search(len(e.changes), func(i int) bool { return e.changes[i].Last >= revision })
	if i == len(e.changes) || e.changes[i].First > revision {
		return Change{}, store.RevisionForgotten
	}
	return e.describe(e.changes[i]), store.RevisionKnown
}

// describe adds what is not kept with a change: which proxies have not answered and which reject; mu is held.
func (e *Engine) describe(r *rollup) Change {
	out := r.Change
	out.Inputs, out.Notified = slices.Clone(r.Inputs), slices.Clone(r.Notified)
	if r.open() > 0 {
		for f := range e.outstanding {
			if f.awaits(r) {
				out.Pending = append(out.Pending, f.key)
			}
		}
		slices.SortFunc(out.Pending, mesh.Key.Compare)
		out.Pending = slices.Compact(out.Pending)
		out.Pending = out.Pending[:min(len(out.Pending), maxNamed)]
	}
	list := slices.DeleteFunc(e.standing(),
		func(x rejection) bool { return x.Revision < r.First || x.Revision > r.Last })
	out.Rejections = e.rejections(list)
	return out
}

func (f *watch) awaits(r *rollup) bool {
	if f.pending != nil && slices.Contains(f.pending.changes, r) {
		return true
	}
	return slices.ContainsFunc(f.pushed, func(d pendingAck) bool { return slices.Contains(d.changes, r) })
}

// StreamState is what the engine knows of one stream of a proxy.
type StreamState struct {
	// Desired is the newest table; nil if there is none yet.
	Desired *delta.Table
	// Processed is the newest revision taken in, Acked the newest that the proxy has acknowledged whole.
	Processed, Acked uint64
	// LastChange is the last change that gave it something new; nil if there was none since it connected.
	LastChange *Change
	// Rejections that stand, also those of the control plane.
	Rejections []*meshv1.Rejection
}

// StreamState describes the stream that a watch of [Engine.Open] serves; false if the watch has ended.
func (e *Engine) StreamState(of delta.Watch) (StreamState, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, ok := of.(*watch)
	if !ok || f.closed || e.ended {
		return StreamState{}, false
	}
	s := StreamState{Desired: f.latest, Processed: e.processed, Acked: e.processed}
	if _, pending := e.outstanding[f]; pending {
		s.Acked = min(s.Acked, f.answered())
	}
	if f.lastChange != nil {
		c := e.describe(f.lastChange)
		s.LastChange = &c
	}
	s.Rejections = e.rejections(slices.DeleteFunc(e.standing(),
		func(x rejection) bool { return x.proxy != f.key }))
	return s, true
}
