package xds

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/graph"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// state is the inputs of the graph: the view at hand, the ranges over it, and identities. Queries
// read it through a reader alone.
type state struct {
	view       replica.View
	ranges     map[compile.Index]*keySet
	identities map[mesh.Key]*ir.Identity
	// held are the policies that are not in force as they are; see lastgood.go.
	held map[holdKey]*hold
	// subscriptions are the names that gRPC clients ask for, interned.
	subscriptions map[caller]nameList

	specs, statuses, secrets *graph.Input[mesh.Key]
	indexes                  *graph.Input[compile.Index]
	// general is what a policy says but for entries that name a service; named is what all policies
	// of a mesh say of the services of a name.
	general    *graph.Input[mesh.Key]
	named      *graph.Input[serviceName]
	subscribed *graph.Input[caller]
}

// serviceName is all services of a mesh that have the name, as routes speak of them or as other policies do.
type serviceName struct {
	mesh   string
	part   policy.Part
	routes bool
}

func (n serviceName) String() string { return fmt.Sprintf("%v in mesh %s", n.part, n.mesh) }

func isRoute(k mesh.Kind) bool { return k == mesh.KindMeshHTTPRoute || k == mesh.KindMeshTCPRoute }

func newState(g *graph.Graph) *state {
	return &state{
		ranges:        map[compile.Index]*keySet{},
		identities:    map[mesh.Key]*ir.Identity{},
		subscriptions: map[caller]nameList{},
		subscribed:    graph.NewInput[caller](g, "subscribed"),
		specs:         graph.NewInput[mesh.Key](g, "spec"),
		statuses:      graph.NewInput[mesh.Key](g, "status"),
		secrets:       graph.NewInput[mesh.Key](g, "identity"),
		indexes:       graph.NewInput[compile.Index](g, "index"),
		general:       graph.NewInput[mesh.Key](g, "policy"),
		named:         graph.NewInput[serviceName](g, "named"),
	}
}

// apply takes a batch in and touches the inputs that it changed.
func (s *state) apply(view replica.View, changes []store.Change) {
	s.view = view
	for _, c := range changes {
		old, now := c.Old, c.Resource
		spec := old == nil || now == nil || c.Type != store.ChangeStatus
		if spec {
			s.reindex(old, now)
			s.specs.MarkDirty(c.Key)
			s.markParts(old, now)
		}
		if old == nil || now == nil || old.StatusRevision != now.StatusRevision || old.Status != now.Status {
			s.statuses.MarkDirty(c.Key)
		}
	}
}

// markParts touches what destinations read of a policy.
func (s *state) markParts(old, now *mesh.Resource) {
	key := cmp.Or(old, now).Key
	if info, ok := mesh.Lookup(key.Kind); !ok || info.Policy == nil || !info.Policy.HasTo() {
		return
	}
	for _, part := range policy.ChangedParts(old, now) {
		if part == (policy.Part{}) {
			s.general.MarkDirty(key)
		} else {
			s.named.MarkDirty(serviceName{key.Mesh, part, isRoute(key.Kind)})
		}
	}
}

// difference is the changes from one view to another, for a Reset.
func difference(from, to replica.View) []store.Change {
	var out []store.Change
	for r := range to.All() {
		old, ok := from.Get(r.Key)
		switch {
		case !ok:
			out = append(out, store.Change{Type: store.ChangeSpec, Key: r.Key, Resource: r})
		case old != r:
			out = append(out, store.Change{
				Type:     store.ChangeSpec,
				Key:      r.Key,
				Resource: r,
				Old:      old,
			})
		}
	}
	for r := range from.All() {
		if _, ok := to.Get(r.Key); !ok {
			out = append(out, store.Change{Type: store.ChangeDelete, Key: r.Key, Old: r})
		}
	}
	return out
}

func (s *state) reindex(old, now *mesh.Resource) {
	var before, after []compile.Index
	if old != nil {
		before = compile.Indexes(old)
	}
	if now != nil {
		after = compile.Indexes(now)
	}
	for _, i := range before {
		if !slices.Contains(after, i) {
			if keys := s.ranges[i]; keys != nil {
				if keys.remove(old.Key); len(keys.keys) == 0 && len(keys.waiting) == 0 {
					delete(s.ranges, i)
				}
			}
			s.indexes.MarkDirty(i)
		}
	}
	for _, i := range after {
		if !slices.Contains(before, i) {
			keys := s.ranges[i]
			if keys == nil {
				keys = &keySet{}
				s.ranges[i] = keys
			}
			keys.add(now.Key)
			s.indexes.MarkDirty(i)
		}
	}
}

// reads is a compile.Reader that records.
type reads struct {
	*graph.Reader
	s *state
}

// Spec implements compile.Reader.
func (r reads) Spec(key mesh.Key) *mesh.Resource {
	r.s.specs.Note(r.Reader, key)
	res, _ := r.s.view.Get(key)
	return res
}

// Range implements compile.Reader.
func (r reads) Range(i compile.Index) []mesh.Key {
	r.s.indexes.Note(r.Reader, i)
	return r.s.ranges[i].list()
}

// policyFor is a policy for a query that needs what it says of one destination alone.
func (r reads) policyFor(key, destination mesh.Key) *mesh.Resource {
	r.s.general.Note(r.Reader, key)
	return r.s.inForce(key, destination)
}

// policy is a policy as it is in force for a destination, or for a proxy's inbounds.
func (r reads) policy(key, about mesh.Key) *mesh.Resource {
	r.s.specs.Note(r.Reader, key)
	return r.s.inForce(key, about)
}

func (r reads) status(key mesh.Key) *mesh.Resource {
	r.s.statuses.Note(r.Reader, key)
	res, _ := r.s.view.Get(key)
	return res
}

func (r reads) identity(proxy mesh.Key) *ir.Identity {
	r.s.secrets.Note(r.Reader, proxy)
	return r.s.identities[proxy]
}

func (r reads) subscribedNames(c caller) nameList {
	r.s.subscribed.Note(r.Reader, c)
	return r.s.subscriptions[c]
}
