// Package members computes which MeshServices stand behind each MeshMultiZoneService: at global
// over all zones, at a standalone zone over its own.
//
// # Model
//
// The aggregator follows the replica. MeshServices are indexed by each term of their labels,
// MeshMultiZoneServices by the one term of their selector, so that a change of a service finds the few
// multi-zone services it could belong to, and a changed selector finds its services. What a batch
// could change is computed again, and statuses that differ are written in one transaction. Only
// services of the same mesh count, and those of a disabled Zone are left out.
//
// # Concurrency and failure
//
// The aggregator is a controller on store/reconcile. Several replicas of global compute the same
// statuses, and a status that says the same is not a change.
//
// No example: an Aggregator needs a running store, and has no other call than Run.
package members

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Config of an Aggregator. Store and Replica are required.
type Config struct {
	Store   store.Store
	Replica *replica.Replica

	// Logger and Registerer may be nil.
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Aggregator writes the members of multi-zone services; see the package comment.
type Aggregator struct {
	*reconcile.Loop

	state *state
}

// New makes an Aggregator; its Run starts it.
func New(cfg Config) *Aggregator {
	a := &Aggregator{state: newState()}
	a.Loop = reconcile.New(reconcile.Config{
		Name:       "members",
		Actor:      "system:aggregate",
		Store:      cfg.Store,
		Replica:    cfg.Replica,
		Controller: a.state,
		Follow:     true,
		Logger:     cfg.Logger,
		Registerer: cfg.Registerer,
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

// meshTerm is where services and the multi-zone services that might select them meet.
type meshTerm struct {
	mesh string
	term selector.Term
}

type keySet map[mesh.Key]struct{}

type state struct {
	view replica.View
	// services by each of their terms, multi by that of the selector.
	services map[meshTerm]keySet
	multi    map[meshTerm]keySet
	dirty    keySet
}

func newState() *state {
	return &state{services: map[meshTerm]keySet{}, multi: map[meshTerm]keySet{}, dirty: keySet{}}
}

func (s *state) apply(b replica.Batch) {
	s.view = b.View
	if b.Reset {
		s.services, s.multi, s.dirty = map[meshTerm]keySet{}, map[meshTerm]keySet{}, keySet{}
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
	switch c.Key.Kind {
	case mesh.KindMeshService:
		s.service(c.Old, false)
		s.service(c.Resource, true)
	case mesh.KindMeshMultiZoneService:
		if c.Type == store.ChangeStatus {
			return
		}
		if t, ok := termOf(c.Old); ok {
			update(s.multi, t, c.Key, false)
		}
		if t, ok := termOf(c.Resource); ok {
			update(s.multi, t, c.Key, true)
		}
		if c.Resource != nil {
			s.dirty[c.Key] = struct{}{}
		}
	case mesh.KindZone:
		if c.Old == nil || c.Resource == nil || enabled(c.Old) != enabled(c.Resource) {
			for r := range s.view.List(mesh.KindMeshMultiZoneService, "") {
				s.dirty[r.Key] = struct{}{}
			}
		}
	}
}

// service takes one state of a service into or out of the index and touches what could select it.
func (s *state) service(r *mesh.Resource, there bool) {
	if r == nil {
		return
	}
	for _, term := range selector.Terms(r) {
		t := meshTerm{r.Key.Mesh, term}
		update(s.services, t, r.Key, there)
		for m := range s.multi[t] {
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

func selectorOf(multi *mesh.Resource) map[string]string {
	return mesh.Spec[*meshv1.MeshMultiZoneService](multi).GetSelector().GetMeshService().GetMatchLabels()
}

// termOf is the term of a multi-zone service's selector; it is not ok if there is no service or
// nothing that it selects.
func termOf(multi *mesh.Resource) (meshTerm, bool) {
	if multi == nil || len(selectorOf(multi)) == 0 {
		return meshTerm{}, false
	}
	return meshTerm{multi.Key.Mesh, selector.TermOfLabels(selectorOf(multi))}, true
}

// statuses are those to write for all that is dirty.
func (s *state) statuses() []store.Op {
	var ops []store.Op
	for _, k := range slices.SortedFunc(maps.Keys(s.dirty), mesh.Key.Compare) {
		multi, ok := s.view.Get(k)
		if !ok {
			continue
		}
		old := mesh.Status[*meshv1.MeshMultiZoneServiceStatus](multi)
		next := &meshv1.MeshMultiZoneServiceStatus{}
		if old != nil {
			next = proto.Clone(old).(*meshv1.MeshMultiZoneServiceStatus)
		}
		next.MeshServices = s.members(multi)
		setCondition(next, len(next.MeshServices))
		if !proto.Equal(old, next) {
			ops = append(ops, store.PutStatus{Key: k, Status: next})
		}
	}
	return ops
}

// members of a multi-zone service, sorted by name, namespace, zone.
func (s *state) members(multi *mesh.Resource) []*meshv1.MeshMultiZoneServiceStatus_Member {
	var out []*meshv1.MeshMultiZoneServiceStatus_Member
	t, ok := termOf(multi)
	if !ok {
		return nil
	}
	want := selectorOf(multi)
	for k := range s.services[t] {
		r, ok := s.view.Get(k)
		if !ok || !selector.Matches(want, r) || !s.zoneEnabled(k.Zone) {
			continue
		}
		spec := mesh.Spec[*meshv1.MeshService](r)
		counts := mesh.Status[*meshv1.MeshServiceStatus](r).GetDataplaneProxies()
		m := &meshv1.MeshMultiZoneServiceStatus_Member{
			Name:       r.DisplayName(),
			Namespace:  k.Namespace,
			Zone:       k.Zone,
			Mesh:       k.Mesh,
			Identities: spec.GetIdentities(),
			Healthy:    counts.GetHealthy(),
			Total:      counts.GetTotal(),
			State:      cmp.Or(spec.GetState(), "Unavailable"),
		}
		for _, p := range spec.GetPorts() {
			m.Ports = append(m.Ports, p.GetPort())
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *meshv1.MeshMultiZoneServiceStatus_Member) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetNamespace(), b.GetNamespace()),
			cmp.Compare(a.GetZone(), b.GetZone()))
	})
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

// setCondition notes whether anything matched.
func setCondition(status *meshv1.MeshMultiZoneServiceStatus, n int) {
	c := &meshv1.Condition{
		Type:    "MeshServicesMatched",
		Status:  "True",
		Reason:  "MatchesFound",
		Message: fmt.Sprintf("%d MeshServices match", n),
	}
	if n == 0 {
		c.Status, c.Reason, c.Message = "False", "NoMatchesFound", "no MeshService matches the selector"
	}
	for i, old := range status.Conditions {
		if old.GetType() == c.Type {
			status.Conditions[i] = c
			return
		}
	}
	status.Conditions = append(status.Conditions, c)
}
