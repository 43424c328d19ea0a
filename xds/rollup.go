package xds

import (
	"slices"
	"sort"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
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
	// Concerned streams of proxies; each has Answered (Refused of them something), Left before it
	// did, or is pending.
	Concerned, Answered, Refused, Left int
	// Done is when the last of them answered; zero while some are pending.
	Done time.Time
	// Woken are the first proxies concerned.
	Woken []mesh.Key
	// Pending are the first proxies that owe an answer; Refusals are those that stand of this change.
	Pending  []mesh.Key
	Refusals []ProxyRefusal
}

// rollup is a Change as it is kept; Engine.mu guards it.
type rollup struct{ Change }

func (r *rollup) open() int { return r.Concerned - r.Answered - r.Left }

// concern notes that a feed owes an answer for the change.
func (r *rollup) concern(f *feed) {
	f.woke = r
	r.Concerned++
	if len(r.Woken) < maxNamed {
		r.Woken = append(r.Woken, f.key)
	}
}

// maxPushed is how many updates a feed tells apart that its client has not answered.
const maxPushed = 8

// merge adds what a later update owes. What has been owed for so long that nobody remembers it is
// left out: a client that never answers costs no more than twice the history's length.
func (d *debt) merge(later debt) {
	d.first, d.last = min(d.first, later.first), max(d.last, later.last)
	d.owed = append(d.owed, later.owed...)
	if len(d.owed) > 2*maxChanges {
		d.owed = slices.Clone(d.owed[len(d.owed)-maxChanges:])
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

// answer settles what a feed owed; mu is held.
func (e *Engine) answer(owed []*rollup, refusals []delta.Refusal, left bool, now time.Time) {
	for _, r := range owed {
		switch {
		case left:
			r.Left++
		default:
			r.Answered++
			if slices.ContainsFunc(refusals,
				func(x delta.Refusal) bool { return x.Revision >= r.First && x.Revision <= r.Last }) {
				r.Refused++
			}
		}
		if r.open() == 0 {
			r.Done = now
			if e.metrics != nil && r.Answered > 0 && !r.Committed.IsZero() {
				e.metrics.propagation.Observe(max(0, now.Sub(r.Committed).Seconds()))
			}
		}
	}
}

// ChangeState says whether a change is known.
type ChangeState uint8

// States of a change.
const (
	// ChangeKnown changes are among the last that the engine remembers.
	ChangeKnown ChangeState = iota
	// ChangeAhead changes have not been taken in yet, or do not exist.
	ChangeAhead
	// ChangeForgotten changes are too old, or from before the engine started.
	ChangeForgotten
)

// Change finds what became of the change that brought a revision of this zone's store.
func (e *Engine) Change(revision uint64) (Change, ChangeState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if revision > e.processed {
		return Change{}, ChangeAhead
	}
	i := sort.Search(len(e.changes), func(i int) bool { return e.changes[i].Last >= revision })
	if i == len(e.changes) || e.changes[i].First > revision {
		return Change{}, ChangeForgotten
	}
	return e.describe(e.changes[i]), ChangeKnown
}

// describe adds what is not kept with a change: who owes an answer and who refuses; mu is held.
func (e *Engine) describe(r *rollup) Change {
	out := r.Change
	out.Inputs, out.Woken = slices.Clone(r.Inputs), slices.Clone(r.Woken)
	if r.open() > 0 {
		for f := range e.outstanding {
			if f.owes(r) {
				out.Pending = append(out.Pending, f.key)
			}
		}
		slices.SortFunc(out.Pending, mesh.Key.Compare)
		out.Pending = slices.Compact(out.Pending)
		out.Pending = out.Pending[:min(len(out.Pending), maxNamed)]
	}
	for f := range e.refusing {
		for _, x := range f.refused {
			if x.Revision >= r.First && x.Revision <= r.Last {
				out.Refusals = append(out.Refusals, ProxyRefusal{Proxy: f.key, Refusal: x})
			}
		}
	}
	for _, x := range e.failures {
		if x.Since >= r.First && x.Since <= r.Last {
			out.Refusals = append(out.Refusals, x)
		}
	}
	slices.SortStableFunc(out.Refusals, func(a, b ProxyRefusal) int { return a.Proxy.Compare(b.Proxy) })
	return out
}

func (f *feed) owes(r *rollup) bool {
	if f.pending != nil && slices.Contains(f.pending.owed, r) {
		return true
	}
	return slices.ContainsFunc(f.pushed, func(d debt) bool { return slices.Contains(d.owed, r) })
}

// ProxyState is what the engine knows of one stream of a proxy.
type ProxyState struct {
	// Should is the newest table; nil if there is none yet.
	Should *delta.Table
	// Processed is the newest revision taken in, Answered the newest of which the proxy owes nothing.
	Processed, Answered uint64
	// Woke is the last change that gave it something new; nil if there was none since it connected.
	Woke *Change
	// Refusals that stand, also those of the control plane.
	Refusals []ProxyRefusal
}

// Followed describes the stream that a feed of [Engine.Open] serves; false if the feed has ended.
func (e *Engine) Followed(of delta.Feed) (ProxyState, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, ok := of.(*feed)
	if !ok || f.closed || e.ended {
		return ProxyState{}, false
	}
	s := ProxyState{Should: f.latest, Processed: e.processed, Answered: e.processed}
	if _, owes := e.outstanding[f]; owes {
		s.Answered = min(s.Answered, f.answered())
	}
	if f.woke != nil {
		c := e.describe(f.woke)
		s.Woke = &c
	}
	for _, x := range f.refused {
		s.Refusals = append(s.Refusals, ProxyRefusal{Proxy: f.key, Refusal: x})
	}
	for _, x := range e.failures {
		if x.Proxy == f.key {
			s.Refusals = append(s.Refusals, x)
		}
	}
	return s, true
}
