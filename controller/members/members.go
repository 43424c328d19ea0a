// Package members computes what a destination that combines others consists of, such as the
// MeshServices behind each MeshMultiZoneService: at global over all zones, at a standalone zone over its
// own.
//
// # Model
//
// The aggregator follows the replica. Possible members are indexed by each term of their labels,
// destinations that combine them by the one term of their selector, so that a change of a member finds
// the few destinations it could belong to, and a changed selector finds its members. What a batch could
// change is computed again, and statuses that differ are written in one transaction. Only members of the
// same mesh count, and those of a disabled Zone are left out. Which kinds combine which, and how their
// status shows it, is in their rows of mesh/destination.
//
// # Concurrency and failure
//
// The aggregator is a controller on store/reconcile. Several replicas of global compute the same
// statuses, and a status that says the same is not a change.
//
// No example: an Aggregator needs a running store, and has no other call than Run.
package members

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Aggregator writes the members of destinations; see the package comment.
type Aggregator struct {
	*reconcile.Loop

	state *state
}

// New makes an Aggregator; its Run starts it.
func New(deps reconcile.Deps) *Aggregator {
	a := &Aggregator{state: newState()}
	a.Loop = reconcile.New(reconcile.Config{
		Deps:       deps,
		Name:       "members",
		Author:     "system:aggregate",
		Controller: a.state,
		Follow:     true,
	})
	return a
}

// Plan implements [reconcile.Controller].
func (s *state) Plan(_ context.Context, in reconcile.Input) reconcile.Plan {
	if in.Batch != nil {
		s.apply(*in.Batch)
	}
	return reconcile.Plan{Ops: s.statuses()}
}

// Done implements [reconcile.Controller].
func (s *state) Done(err error) {
	if err == nil {
		clear(s.dirty)
	}
}

// meshTerm is where members and the destinations that might select them meet.
type meshTerm struct {
	// kind of the members.
	kind mesh.Kind
	mesh string
	term selector.Term
}

type keySet map[mesh.Key]struct{}

type state struct {
	view replica.View
	// members by each of their terms, combined by that of the selector.
	members  map[meshTerm]keySet
	combined map[meshTerm]keySet
	dirty    keySet
}

func newState() *state {
	return &state{members: map[meshTerm]keySet{}, combined: map[meshTerm]keySet{}, dirty: keySet{}}
}

func (s *state) apply(b replica.Batch) {
	s.view = b.View
	if b.Reset {
		*s = *newState()
		s.view = b.View
		for r := range b.View.All() {
			s.change(store.Change{Type: store.ChangeSpec, Key: r.Key, Resource: r})
		}
		return
	}
	for _, c := range b.Changes {
		s.change(c)
	}
}

func (s *state) change(c store.Change) {
	if c.Key.Kind == mesh.KindZone {
		if c.Old == nil || c.Resource == nil || enabled(c.Old) != enabled(c.Resource) {
			for info := range destination.From(destination.Combined) {
				for r := range s.view.List(info.Kind, "") {
					s.dirty[r.Key] = struct{}{}
				}
			}
		}
		return
	}
	for info := range destination.From(destination.Combined) {
		switch c.Key.Kind {
		case info.Kind:
			s.combinedChanged(info, c)
		case info.MemberKind:
			s.member(c.Old, false)
			s.member(c.Resource, true)
		}
	}
}

func (s *state) combinedChanged(info *destination.Info, c store.Change) {
	if c.Type == store.ChangeStatus {
		return
	}
	if t, ok := termOf(info, c.Old); ok {
		update(s.combined, t, c.Key, false)
	}
	if t, ok := termOf(info, c.Resource); ok {
		update(s.combined, t, c.Key, true)
	}
	if c.Resource != nil {
		s.dirty[c.Key] = struct{}{}
	}
}

// member takes one state of a member into or out of the index and marks what could select it.
func (s *state) member(r *mesh.Resource, there bool) {
	if r == nil {
		return
	}
	for _, term := range selector.Terms(r) {
		t := meshTerm{r.Key.Kind, r.Key.Mesh, term}
		update(s.members, t, r.Key, there)
		for m := range s.combined[t] {
			s.dirty[m] = struct{}{}
		}
	}
}

func update(index map[meshTerm]keySet, t meshTerm, k mesh.Key, there bool) {
	if there {
		if index[t] == nil {
			index[t] = keySet{}
		}
		index[t][k] = struct{}{}
		return
	}
	delete(index[t], k)
	if len(index[t]) == 0 {
		delete(index, t)
	}
}

// termOf is the term of a destination's selector; it is not ok if there is no destination or
// nothing that it selects.
func termOf(info *destination.Info, r *mesh.Resource) (meshTerm, bool) {
	if r == nil {
		return meshTerm{}, false
	}
	want := info.MemberSelector(r)
	if len(want) == 0 {
		return meshTerm{}, false
	}
	return meshTerm{info.MemberKind, r.Key.Mesh, selector.TermOfLabels(want)}, true
}

// statuses are those to write for all that is dirty.
func (s *state) statuses() []store.Op {
	var ops []store.Op
	for _, k := range slices.SortedFunc(maps.Keys(s.dirty), mesh.Key.Compare) {
		info, known := destination.Lookup(k.Kind)
		r, ok := s.view.Get(k)
		if !ok || !known {
			continue
		}
		next := info.WithMembers(r, s.selected(info, r))
		if !proto.Equal(r.Status, next) {
			ops = append(ops, store.PutStatus{Key: k, Status: next})
		}
	}
	return ops
}

// selected are the members of a destination, in no order.
func (s *state) selected(info *destination.Info, r *mesh.Resource) []*mesh.Resource {
	t, ok := termOf(info, r)
	if !ok {
		return nil
	}
	want := info.MemberSelector(r)
	var out []*mesh.Resource
	for k := range s.members[t] {
		m, ok := s.view.Get(k)
		if ok && selector.Matches(want, m) && s.zoneEnabled(k.Zone) {
			out = append(out, m)
		}
	}
	return out
}

func (s *state) zoneEnabled(name string) bool {
	r, ok := s.view.Get(mesh.Key{Kind: mesh.KindZone, Name: name})
	return !ok || enabled(r)
}

func enabled(zone *mesh.Resource) bool {
	e := mesh.Spec[*meshv1.Zone](zone).Enabled
	return e == nil || *e
}
