package kdsrpc

import (
	"sort"
	"sync"

	"google.golang.org/protobuf/proto"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// tracker maps global's revisions to the zone's own: the Config stream's owner adds pairs, the
// State stream's owner turns local progress into global's terms.
type tracker struct {
	mu       sync.Mutex
	store    string // epoch of global's store
	applied  uint64
	answered uint64
	pairs    []pair // ascending in both; those that are not answered yet
	history  []pair // ascending in global; the last maxHistory
	changed  chan struct{}
}

// pair says that all of global's revisions up to global are in the zone's store at revision local.
type pair struct{ global, local uint64 }

// maxPairs bounds what a zone remembers when proxies do not answer; beyond, neighbours are merged,
// which only makes answered a little late.
const maxPairs = 4096

// maxHistory is how many pairs are remembered for [Client.Local].
const maxHistory = 2048

func newTracker() *tracker { return &tracker{changed: make(chan struct{})} }

// apply notes that global's revision is in the local store at revision local. reset says that
// global's revisions start over, because its store was replaced.
func (t *tracker) apply(global, local uint64, reset bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reset {
		t.pairs, t.answered, t.history = nil, 0, nil
	}
	t.applied = global
	if n := len(t.pairs); n > 0 && t.pairs[n-1].local == local {
		t.pairs[n-1].global = global
	} else {
		t.pairs = append(t.pairs, pair{global, local})
	}
	if len(t.pairs) > maxPairs {
		kept := t.pairs[:0]
		for i, p := range t.pairs {
			if i%2 == 1 || i == len(t.pairs)-1 {
				kept = append(kept, p)
			}
		}
		t.pairs = kept
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// of says which epoch of global's store the revisions count in.
func (t *tracker) of(store string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.store = store
}

// remember notes for [Client.Local] that what global's revisions up to this one changed here is in
// the local revision; 0 if they changed nothing here. Call it after apply.
func (t *tracker) remember(global, local uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.history) == maxHistory {
		t.history = append(t.history[:0], t.history[maxHistory/2:]...)
	}
	t.history = append(t.history, pair{global, local})
}

// local finds the local revision that brought global's. The first pair is that of a snapshot or of
// the start, which holds all that came before.
func (t *tracker) local(global uint64) (uint64, store.RevisionState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := sort.Search(len(t.history), func(i int) bool { return t.history[i].global >= global })
	switch {
	case i == len(t.history):
		return 0, store.RevisionAhead
	case i == 0:
		return 0, store.RevisionForgotten
	case t.history[i].local == 0:
		return 0, store.RevisionElsewhere
	}
	return t.history[i].local, store.RevisionKnown
}

// watch is closed at the next apply.
func (t *tracker) watch() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *tracker) revision() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.applied
}

// progress translates. A nil local counts everything applied as answered: the zone has no proxies to
// wait for.
func (t *tracker) progress(local *LocalProgress) *kdsv1.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	if local == nil {
		t.answered, t.pairs = t.applied, nil
		return &kdsv1.Progress{Applied: t.applied, Answered: t.answered, StoreId: t.store}
	}
	for len(t.pairs) > 0 && t.pairs[0].local <= local.Answered {
		t.answered = t.pairs[0].global
		t.pairs = t.pairs[1:]
	}
	p := &kdsv1.Progress{
		Applied:       t.applied,
		Answered:      t.answered,
		ProxiesTotal:  uint32(local.Total),
		ProxiesOnline: uint32(local.Online),
		Pending:       local.Pending,
		PendingCount:  uint32(local.PendingCount),
		StoreId:       t.store,
	}
	for _, r := range local.Rejections {
		r = proto.Clone(r).(*meshv1.Rejection)
		p.Rejections = append(p.Rejections, r)
	}
	if len(p.Pending) > 20 {
		p.Pending = p.Pending[:20]
	}
	return p
}
