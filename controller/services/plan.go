package services

import (
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// state is all that the reconciler knows. It does no I/O.
type state struct {
	cfg   *Config
	log   *zap.Logger
	view  replica.View
	index index
	dirty dirty
	// timed are things to look at again at a time.
	timed map[mesh.Key]timed
	// short counts destinations without an address for want of one.
	short int

	now  time.Time
	plan plan
}

// timed is what to mark dirty when its time has come.
type timed struct {
	at          time.Time
	name        serviceName
	destination mesh.Key
}

// plan is what is going to be written, on top of the view.
type plan struct {
	puts     map[mesh.Key]*mesh.Resource // nil: delete
	order    []mesh.Key
	statuses []store.Op
	// allocated says that the plan bound a new address.
	allocated bool
}

func newState(cfg *Config, log *zap.Logger) *state {
	return &state{
		cfg:   cfg,
		log:   log,
		index: newIndex(),
		dirty: newDirty(),
		timed: map[mesh.Key]timed{},
	}
}

// compute is what to write for all that is dirty. The dirty sets stay until [state.done].
func (s *state) compute(now time.Time) reconcile.Plan {
	s.now = now
	s.plan = plan{puts: map[mesh.Key]*mesh.Resource{}}
	s.short = 0
	for k, t := range s.timed {
		if t.at.After(now) {
			continue
		}
		delete(s.timed, k)
		if t.name.name != "" {
			s.dirty.names[t.name] = struct{}{}
		}
		if t.destination.Name != "" {
			s.dirty.destinations.add(t.destination)
		}
	}
	for n := range s.dirty.names {
		s.generate(n)
	}
	for _, k := range s.dirty.services.sorted() {
		s.computeSpec(k)
	}
	s.resolveAddresses()
	for _, k := range s.dirty.services.sorted() {
		s.computeStatus(k)
	}
	var out reconcile.Plan
	for _, t := range s.timed {
		out.Next = earlier(out.Next, t.at)
	}
	for _, k := range s.plan.order {
		var revision uint64
		if old, ok := s.view.Get(k); ok {
			revision = old.Revision
		}
		out.Checks = append(out.Checks, store.KeyAt{Key: k, Revision: revision})
		if r := s.plan.puts[k]; r != nil {
			out.Ops = append(out.Ops, store.Put{Resource: r})
		} else {
			out.Ops = append(out.Ops, store.Delete{Key: k})
		}
	}
	if s.plan.allocated {
		out.Checks = append(out.Checks, store.KindUnchanged{
			Kind:  mesh.KindVirtualAddress,
			Since: s.view.Revision(),
		})
	}
	out.Ops = append(out.Ops, s.plan.statuses...)
	return out
}

// done forgets what was dirty: the plan is durable.
func (s *state) done() { s.dirty = newDirty() }

// get reads a resource as it will be after the plan.
func (s *state) get(k mesh.Key) *mesh.Resource {
	if r, ok := s.plan.puts[k]; ok {
		return r
	}
	r, _ := s.view.Get(k)
	return r
}

// put plans a write of spec and labels.
func (s *state) put(r *mesh.Resource) {
	if _, again := s.plan.puts[r.Key]; !again {
		s.plan.order = append(s.plan.order, r.Key)
	}
	s.plan.puts[r.Key] = r
}

// remove plans a delete.
func (s *state) remove(k mesh.Key) {
	if _, again := s.plan.puts[k]; !again {
		s.plan.order = append(s.plan.order, k)
	}
	s.plan.puts[k] = nil
}

// putStatus plans a status write.
func (s *state) putStatus(k mesh.Key, status proto.Message) {
	s.plan.statuses = append(s.plan.statuses, store.PutStatus{Key: k, Status: status})
}

// mesh is the mesh's spec, or nil.
func (s *state) mesh(name string) *meshv1.Mesh {
	r, ok := s.view.Get(mesh.Key{Kind: mesh.KindMesh, Name: name})
	if !ok {
		return nil
	}
	return mesh.Spec[*meshv1.Mesh](r)
}
