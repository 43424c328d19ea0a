package kds

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// Bounds of what is folded into one transaction.
const (
	maxFoldFrames = 256
	maxFoldItems  = 4096
)

// fold takes the deltas that wait behind the first frame into it, as if the sender had merged them:
// they become one transaction and one flush, so that a zone whose disk is slower than global's
// writers keeps up. It leaves everything to [Sink.take] that is not a plain delta that continues the
// one before it.
func (s *Sink) fold() {
	if s.collecting != nil || s.cursor == nil || len(s.queue) == 1 ||
		s.queue[0].GetDelta().GetRevision() <= s.cursor.GetRevision() { // no delta, or a repetition
		return
	}
	f := newFolded()
	n := 0
	for n < min(len(s.queue), maxFoldFrames) && f.add(s.queue[n].GetDelta()) {
		n++
	}
	if n < 2 {
		return
	}

	for i := range n - 1 {
		s.queue[i] = nil
	}
	s.queue = s.queue[n-1:]
	s.queue[0] = &kdsv1.Frame{Message: &kdsv1.Frame_Delta{Delta: f.delta()}}
}

// folded is several deltas as one: the last word on every key.
type folded struct {
	from, revision uint64
	first          *kdsv1.Delta
	upserts        map[mesh.Key]*kdsv1.Item
	deletes        map[mesh.Key]bool
}

func newFolded() *folded {
	return &folded{upserts: map[mesh.Key]*kdsv1.Item{}, deletes: map[mesh.Key]bool{}}
}

// add takes a delta in; false if it cannot be folded, and then nothing has changed.
func (f *folded) add(d *kdsv1.Delta) bool {
	switch {
	case d == nil, len(d.GetCompleteKinds()) > 0, d.GetRevision() <= d.GetFrom():
		return false
	case f.first != nil && (d.GetFrom() > f.revision || d.GetRevision() <= f.revision):
		return false
	case f.first != nil && len(f.upserts)+len(f.deletes)+len(d.GetUpserts()) > maxFoldItems:
		return false
	}
	seen := make(map[mesh.Key]bool, len(d.GetUpserts())+len(d.GetDeletes()))
	for _, item := range d.GetUpserts() {
		key := mesh.KeyFromProto(item.GetResource().GetKey())
		if seen[key] {
			return false // a breach of the protocol, which take reports
		}
		seen[key] = true
	}
	for _, p := range d.GetDeletes() {
		if seen[mesh.KeyFromProto(p)] {
			return false
		}
	}

	if f.first == nil {
		f.first, f.from = d, d.GetFrom()
	}
	f.revision = d.GetRevision()
	for _, item := range d.GetUpserts() {
		key := mesh.KeyFromProto(item.GetResource().GetKey())
		delete(f.deletes, key)
		f.upserts[key] = item
	}
	for _, p := range d.GetDeletes() {
		key := mesh.KeyFromProto(p)
		delete(f.upserts, key)
		f.deletes[key] = true
	}
	return true
}

// delta is the result, in the order of keys.
func (f *folded) delta() *kdsv1.Delta {
	d := &kdsv1.Delta{From: f.from, Revision: f.revision, Committed: f.first.GetCommitted()}
	keys := make([]mesh.Key, 0, len(f.upserts))
	for key := range f.upserts {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, mesh.Key.Compare)
	for _, key := range keys {
		d.Upserts = append(d.Upserts, f.upserts[key])
	}
	keys = keys[:0]
	for key := range f.deletes {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, mesh.Key.Compare)
	for _, key := range keys {
		d.Deletes = append(d.Deletes, key.Proto())
	}
	return d
}
