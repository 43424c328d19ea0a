// Package admission is the pipeline of a write: what must be true of a resource before it goes into
// the store, what the control plane adds to it, and what else goes with it. A write, a dry run and
// a comparison use it alike.
//
// # Pipeline
//
//	Prepare   is the kind written here, the document against the URL, the rules of the document,
//	          and Envoy's own of what a policy becomes
//	Admit     label rules, kind rules, the mesh exists, conditions    → transaction
//
// Prepare does not depend on the state and is done once. Admit reads the state and is done again
// when the store says that what was read has changed: its transaction checks all that it read.
// Every violation of a document is reported at once. [Admission.Delete] is the same for a delete.
//
// # Ownership
//
// A resource has one writer, its origin. Global writes resources of no zone; a zone with a global
// writes its own, of kinds that zones may own, and a resource that could be global's too must say
// kuma.io/origin: zone; a standalone zone writes all. A write at the wrong place fails and says
// where the right one is.
//
// # Warnings
//
// [Targets] says whether a policy matches a proxy, in a time that does not depend on the mesh.
//
// # Failure
//
// Errors are [*problem.Problem], or those of the state that was read.
package admission

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/trial"
)

// Config of an [Admission].
type Config struct {
	// Global says that this control plane is global; else it is a zone's.
	Global bool
	// Zone is this zone's name; empty at global.
	Zone string
	// Federated says that the zone has a global.
	Federated bool
	// OnMesh gives what else to write in the transaction that creates or replaces a Mesh; nil: nothing.
	OnMesh func(view replica.View, m *mesh.Resource, created bool) []store.Op
	// Dataplanes says, at global, which zone has a Dataplane of a mesh; nil at a zone.
	Dataplanes func(ctx context.Context, view replica.View, meshName string) (DataplanesOf, error)
}

// DataplanesOf is what zones say of the Dataplanes of a mesh.
type DataplanesOf struct {
	// Zone has at least one; empty if no zone that answered has any.
	Zone string
	// Unreachable are the zones that could not be asked.
	Unreachable map[string]bool
}

// Admission applies the rules of writes; it has no state and is safe for concurrent use.
type Admission struct {
	cfg Config
	// trial gives what Envoy would reject of a policy.
	trial func(r *mesh.Resource) []mesh.Violation
}

// New makes an Admission.
func New(cfg Config) *Admission { return &Admission{cfg: cfg, trial: trial.Policy} }

// State is what a write is checked against.
type State struct {
	// View is the state as this process knows it.
	View replica.View
	// Store has the newest state.
	Store store.Store
	// Fresh says to read resources from the store, because the view was behind.
	Fresh bool
}

// get reads one resource; nil if there is none.
func (s State) get(ctx context.Context, key mesh.Key) (*mesh.Resource, error) {
	if !s.Fresh {
		r, _ := s.View.Get(key)
		return r, nil
	}
	r, err := s.Store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return r, err
}

// find is get for a resource that is expected to exist: what the view does not have, the store may.
func (s State) find(ctx context.Context, key mesh.Key) (*mesh.Resource, error) {
	r, err := s.get(ctx, key)
	if r != nil || err != nil || s.Fresh {
		return r, err
	}
	s.Fresh = true
	return s.get(ctx, key)
}

// Request is a document to write.
type Request struct {
	Resource *mesh.Resource
	// Path is what the URL says, zone left out; the zero Key if there is no URL.
	Path mesh.Key
	// MeshMissing says that a document of mesh scope did not name its mesh.
	MeshMissing bool
	// Warnings of the decoder.
	Warnings []string
	// IfRevision is the resource's revision that must still stand, 0: it must not exist; nil is any.
	IfRevision *uint64
}

// Draft is a request that is right as far as the document alone can tell, but for violations,
// which are reported with those that the state brings.
type Draft struct {
	// Key of the resource, with its zone.
	Key mesh.Key
	// Warnings about the document, for people.
	Warnings []string

	admission  *Admission
	info       *mesh.KindInfo
	resource   *mesh.Resource
	violations []mesh.Violation
	ifRevision *uint64
}

// Prepare checks what does not depend on the state.
func (a *Admission) Prepare(in Request) (*Draft, error) {
	info, ok := mesh.Lookup(in.Resource.Key.Kind)
	if !ok {
		return nil, problem.UnknownKind(in.Resource.Key.Kind)
	}
	zone, err := a.Owner(info)
	if err != nil {
		return nil, err
	}

	r := in.Resource.Clone()
	if zone != "" && !a.cfg.Federated && info.Policy != nil &&
		r.Labels[mesh.LabelOrigin] == mesh.OriginGlobal {
		zone = "" // a zone without global owns its meshes and their defaults, which are of no zone
	}
	bad := &mesh.ValidationError{}
	comparePath(info, in, bad)
	if r.Key.Zone != "" && r.Key.Zone != zone {
		return nil, elsewhere(problem.TitlePut, info, r.Key.Zone, "apply")
	}
	r.Key.Zone = zone
	r.Status = nil

	left := a.leaveOut(info, r)
	warnings, err := validate.Resource(r)
	var violations *mesh.ValidationError
	switch {
	case errors.As(err, &violations):
		bad.Violations = append(bad.Violations, violations.Violations...)
	case err != nil:
		return nil, err
	default:
		bad.Violations = append(bad.Violations, a.trial(r)...)
	}
	return &Draft{
		Key:        r.Key,
		Warnings:   slices.Concat(in.Warnings, left, warnings),
		admission:  a,
		info:       info,
		resource:   r,
		violations: bad.Violations,
		ifRevision: in.IfRevision,
	}, nil
}

// comparePath compares the document with its URL.
func comparePath(info *mesh.KindInfo, in Request, bad *mesh.ValidationError) {
	key := in.Resource.Key
	if in.Path.Kind == "" {
		return
	}
	if key.Kind != in.Path.Kind {
		bad.Add("type", "is %q, but the URL is of %q", key.Kind, in.Path.Kind)
	}
	if key.Name != in.Path.Name {
		bad.Add("name", "is %q, but the URL says %q", key.Name, in.Path.Name)
	}
	switch {
	case info.Scope != mesh.ScopeMesh || key.Mesh == in.Path.Mesh:
	case in.MeshMissing:
		bad.Add("mesh", "is missing, so it is %q, but the URL says %q", key.Mesh, in.Path.Mesh)
	default:
		bad.Add("mesh", "is %q, but the URL says %q", key.Mesh, in.Path.Mesh)
	}
}

// Admitted is a write that may happen.
type Admitted struct {
	// Epoch of the store that it was admitted against.
	Epoch string
	// Resource as it would be stored.
	Resource *mesh.Resource
	// Revision of the resource that it replaces; 0 if there is none.
	Revision uint64
	// Created says that there was none before; Changed that something would be different.
	Created, Changed bool
	// Checks and Ops of the transaction.
	Checks []store.Check
	Ops    []store.Op
}

// Admit checks the draft against a state. A draft may be admitted several times.
func (d *Draft) Admit(ctx context.Context, state State) (*Admitted, error) {
	r := d.resource.Clone()
	old, err := state.get(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	if err := d.checkRules(r, old); err != nil {
		return nil, err
	}

	out := &Admitted{
		Epoch:    state.View.Epoch(),
		Resource: r,
		Revision: revisionOf(old),
		Created:  old == nil,
		Changed:  old == nil || !same(old, r),
	}
	if d.info.Scope == mesh.ScopeMesh {
		// The commit checks the mesh's existence again: a mesh that goes takes all it holds with it.
		m, err := d.admission.mesh(ctx, state, problem.TitlePut, r.Key.Mesh)
		if err != nil {
			return nil, err
		}
		out.Checks = append(out.Checks, store.KeyAt{Key: m.Key, Revision: m.Revision})
	}
	if d.ifRevision != nil && *d.ifRevision != out.Revision {
		if !state.Fresh { // the view may be behind
			state.Fresh = true
			return d.Admit(ctx, state)
		}
		return nil, Stale(problem.TitlePut, *d.ifRevision, out.Revision)
	}

	out.Checks = append(out.Checks, store.KeyAt{Key: r.Key, Revision: out.Revision})
	out.Ops = append(out.Ops, store.Put{Resource: r})
	if d.info.Kind == mesh.KindMesh && d.admission.cfg.OnMesh != nil {
		out.Ops = append(out.Ops, d.admission.cfg.OnMesh(state.View, r, old == nil)...)
	}
	return out, nil
}

// checkRules applies the rules of labels and of single kinds, and completes the labels of r.
func (d *Draft) checkRules(r, old *mesh.Resource) error {
	bad := &mesh.ValidationError{Violations: append([]mesh.Violation{}, d.violations...)}
	labels, immutable := d.admission.labels(d.info, r, old, bad)
	if len(bad.Violations) > 0 {
		return problem.Invalid(problem.TitlePut, bad.Violations...)
	}
	if len(immutable.Violations) > 0 {
		return problem.Invalid(problem.TitleImmutable, immutable.Violations...)
	}
	checkKind(r, old, bad)
	if len(bad.Violations) > 0 {
		title := problem.TitleUpdate
		if old == nil {
			title = problem.TitleCreate
		}
		return problem.Invalid(title, bad.Violations...)
	}
	r.Labels = labels
	return nil
}

// mesh is a mesh that must exist.
func (a *Admission) mesh(ctx context.Context, state State, title, name string) (*mesh.Resource, error) {
	m, err := state.find(ctx, mesh.Key{Kind: mesh.KindMesh, Name: name})
	if err != nil {
		return nil, err
	}
	if m == nil {
		where := "create the mesh first"
		if a.cfg.Federated {
			where = "create it at the global control plane first"
		}
		return nil, problem.New(http.StatusNotFound, title, "mesh %q not found: %s", name, where).
			Because(&NoMeshError{Mesh: name})
	}
	return m, nil
}

// NoMeshError is the cause of the problem of a resource whose mesh does not exist.
type NoMeshError struct{ Mesh string }

// Error names the mesh.
func (e *NoMeshError) Error() string { return "there is no mesh " + e.Mesh }

func revisionOf(r *mesh.Resource) uint64 {
	if r == nil {
		return 0
	}
	return r.Revision
}

func same(a, b *mesh.Resource) bool {
	return maps.Equal(a.Labels, b.Labels) && proto.Equal(a.Spec, b.Spec)
}

// Stale is the problem of a write whose condition does not hold: the caller demands a revision,
// and the resource is at another; 0 is a resource that does not exist.
func Stale(title string, demanded, is uint64) *problem.Problem {
	switch {
	case is == 0:
		return problem.New(http.StatusPreconditionFailed, title,
			"resource does not exist; revision %d was required (If-Match)", demanded)
	case demanded == 0:
		return problem.New(http.StatusPreconditionFailed, title,
			"resource already exists at revision %d (If-None-Match: *)", is)
	}
	return problem.New(http.StatusPreconditionFailed, title,
		"resource is at revision %d; revision %d was required (If-Match): it was changed in between; "+
			"read it again and repeat the change", is, demanded)
}
