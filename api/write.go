package api

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strconv"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Titles of operations, as the peer spells them.
const (
	titlePut       = "Could not process a resource"
	titleCreate    = "Failed to create a resource"
	titleUpdate    = "Failed to update a resource"
	titleImmutable = "Could not update a resource"
	titleDelete    = "Could not delete a resource"
	titleGet       = "Could not retrieve a resource"
	titleList      = "Could not retrieve resources"
	titleToken     = "Could not issue a token"
	titleTunnel    = "Could not execute admin operation"
)

// attempts of a write without condition. Of the writers that meet, one gets through each time, so
// this is how many may write one resource at once.
const attempts = 1000

// put is a write as both protocols give it.
type put struct {
	resource *mesh.Resource
	// path is what the URL says, zone left out; the zero Key for gRPC.
	path mesh.Key
	// meshMissing says that a document of mesh scope did not name its mesh.
	meshMissing bool
	warnings    []string
	ifRevision  *uint64
	dryRun      bool
	// quiet leaves no line in the audit log: it is a question, not a write.
	quiet bool
}

type putResult struct {
	// revision of the write; of the last write of the resource if nothing changed.
	revision         uint64
	created, changed bool
	warnings         []string
	resource         *mesh.Resource
}

// put runs the pipeline of a write; authorize and place were asked already by the caller if it had
// to decode first, and are asked again here, so that no way leads around them.
func (a *API) put(ctx context.Context, in put) (out putResult, err error) {
	info, ok := mesh.Lookup(in.resource.Key.Kind)
	if !ok {
		return out, unknownKind(string(in.resource.Key.Kind))
	}
	caller, err := a.authorize(ctx, verbWrite, info)
	defer func() {
		if in.quiet {
			return
		}
		a.audit(caller, "put", in.resource.Key, in.dryRun, out.revision, out.changed, err)
	}()
	if err != nil {
		return out, err
	}
	zone, err := a.place(info)
	if err != nil {
		return out, err
	}

	r := in.resource.Clone()
	bad := &mesh.ValidationError{}
	if in.path.Kind != "" {
		if r.Key.Kind != in.path.Kind {
			bad.Add("type", "is %q, but the URL is of %q", r.Key.Kind, in.path.Kind)
		}
		if r.Key.Name != in.path.Name {
			bad.Add("name", "is %q, but the URL says %q", r.Key.Name, in.path.Name)
		}
		if info.Scope == mesh.ScopeMesh && r.Key.Mesh != in.path.Mesh {
			if in.meshMissing {
				bad.Add("mesh", "is missing, so it is %q, but the URL says %q", r.Key.Mesh, in.path.Mesh)
			} else {
				bad.Add("mesh", "is %q, but the URL says %q", r.Key.Mesh, in.path.Mesh)
			}
		}
	}
	if r.Key.Zone != "" && r.Key.Zone != zone {
		return out, elsewhere(titlePut, info, r.Key.Zone, "apply")
	}
	r.Key.Zone = zone
	r.Status = nil
	warnings, err := validate.Resource(r)
	var violations *mesh.ValidationError
	switch {
	case errors.As(err, &violations):
		bad.Violations = append(bad.Violations, violations.Violations...)
	case err != nil:
		return out, err
	}
	out.warnings = append(append([]string{}, in.warnings...), warnings...)

	for try := 0; ; try++ {
		err := a.putOnce(ctx, info, caller, r.Clone(), bad.Violations, in, try > 0, &out)
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) {
			if err == nil && !in.quiet {
				if w := a.aimWarning(ctx, out.resource); w != "" {
					out.warnings = append(out.warnings, w)
				}
			}
			return out, err
		}
		if at, ok := conflict.Check.(store.KeyAt); ok && at.Key == r.Key && in.ifRevision != nil {
			return out, stale(titlePut, *in.ifRevision, conflict.Revision)
		}
		if try+1 == attempts {
			return out, err
		}
		a.metrics.retries.Inc()
	}
}

// putOnce is one attempt; fresh says to read the store, not the replica, for that was behind.
func (a *API) putOnce(ctx context.Context, info *mesh.KindInfo, caller Caller, r *mesh.Resource,
	violations []mesh.Violation, in put, fresh bool, out *putResult) error {
	view, err := a.view(ctx, 0)
	if err != nil {
		return err
	}
	read := func(k mesh.Key) (*mesh.Resource, error) { return a.read(ctx, view, k, fresh) }
	old, err := read(r.Key)
	if err != nil {
		return err
	}
	bad := &mesh.ValidationError{Violations: append([]mesh.Violation{}, violations...)}
	labels, immutable := a.checkLabels(info, r, old, bad)
	if len(bad.Violations) > 0 {
		return invalid(titlePut, bad.Violations)
	}
	if len(immutable.Violations) > 0 {
		return invalid(titleImmutable, immutable.Violations)
	}
	checkKind(r, old, bad)
	if len(bad.Violations) > 0 {
		if old == nil {
			return invalid(titleCreate, bad.Violations)
		}
		return invalid(titleUpdate, bad.Violations)
	}
	r.Labels = labels
	txn := store.Txn{Actor: "user:" + caller.Name}
	if info.Scope == mesh.ScopeMesh {
		// The mesh's existence is checked again at the commit: a mesh that goes takes all it holds with it.
		m, err := read(mesh.Key{Kind: mesh.KindMesh, Name: r.Key.Mesh})
		if err != nil {
			return err
		}
		if m == nil && !fresh {
			m, err = a.read(ctx, view, mesh.Key{Kind: mesh.KindMesh, Name: r.Key.Mesh}, true)
			if err != nil {
				return err
			}
		}
		if m == nil {
			return a.noMesh(titlePut, r.Key.Mesh)
		}
		txn.Checks = append(txn.Checks, store.KeyAt{Key: m.Key, Revision: m.Revision})
	}
	var at uint64
	if old != nil {
		at = old.Revision
	}
	if in.ifRevision != nil && *in.ifRevision != at {
		if !fresh { // the replica may be behind
			return a.putOnce(ctx, info, caller, r, violations, in, true, out)
		}
		return stale(titlePut, *in.ifRevision, at)
	}
	txn.Checks = append(txn.Checks, store.KeyAt{Key: r.Key, Revision: at})
	txn.Ops = append(txn.Ops, store.Put{Resource: r})
	if info.Kind == mesh.KindMesh && a.conf.OnMesh != nil {
		txn.Ops = append(txn.Ops, a.conf.OnMesh(view, r, old == nil)...)
	}
	out.created = old == nil
	out.changed = old == nil || !same(old, r)
	if in.dryRun {
		out.revision, out.resource = at, r
		return nil
	}
	result, err := a.conf.Store.Commit(ctx, txn)
	if err != nil {
		return err
	}
	out.changed = result.Changed
	out.revision = result.Revision
	if !result.Changed {
		out.revision = at
	}
	a.settle(ctx, result.Revision)
	if now, ok := a.conf.Replica.View().Get(r.Key); ok {
		out.resource = now
	} else {
		out.resource = r
	}
	return nil
}

func same(a, b *mesh.Resource) bool {
	return maps.Equal(a.Labels, b.Labels) && proto.Equal(a.Spec, b.Spec)
}

// read is the resource, or nil if there is none.
func (a *API) read(ctx context.Context, v replica.View, k mesh.Key, fresh bool) (*mesh.Resource, error) {
	if !fresh {
		r, _ := v.Get(k)
		return r, nil
	}
	r, err := a.conf.Store.Get(ctx, k)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return r, err
}

func stale(title string, want, is uint64) *Problem {
	if is == 0 {
		return problem(http.StatusPreconditionFailed, title,
			"the resource does not exist, but revision %d was demanded", want)
	}
	if want == 0 {
		return problem(http.StatusPreconditionFailed, title,
			"the resource exists already (revision %d), but it was demanded that it does not", is)
	}
	return problem(http.StatusPreconditionFailed, title,
		"the resource is at revision %d, but %d was demanded: somebody changed it; read it again and "+
			"repeat the change", is, want)
}

func unknownKind(kind string) *Problem {
	p := problem(http.StatusBadRequest, titlePut, "there is no kind %q", kind)
	p.Violations = []mesh.Violation{{
		Field:  "type",
		Reason: "is " + strconv.Quote(kind) + ", which is no kind of this control plane",
	}}
	return p
}

func (a *API) noMesh(title, name string) *Problem {
	where := "create the mesh first"
	if a.conf.Federated {
		where = "create it at the global control plane first"
	}
	return problem(http.StatusNotFound, title, "mesh %q not found: %s", name, where)
}

// elsewhere is the problem of a write to what another control plane owns.
func elsewhere(title string, info *mesh.KindInfo, owner, act string) *Problem {
	where, whose := "at the global control plane", "global"
	if owner != "" {
		where, whose = "at the control plane of zone "+owner, "zone "+owner
	}
	p := problem(http.StatusBadRequest, title, "this %s belongs to %s: %s it %s", info.Kind, whose, act,
		where)
	p.Violations = []mesh.Violation{{Field: "zone", Reason: p.Detail}}
	return p
}

// remove is a delete as both protocols give it. A key without zone means this control plane's own
// resource, or, to say where to go, the only other of that name.
type remove struct {
	key        mesh.Key
	zoneGiven  bool
	ifRevision *uint64
	dryRun     bool
}

func (a *API) remove(ctx context.Context, in remove) (revision uint64, err error) {
	info, ok := mesh.Lookup(in.key.Kind)
	if !ok {
		return 0, unknownKind(string(in.key.Kind))
	}
	caller, err := a.authorize(ctx, verbDelete, info)
	key := in.key
	defer func() { a.audit(caller, "delete", key, in.dryRun, revision, err == nil && !in.dryRun, err) }()
	if err != nil {
		return 0, err
	}
	zone, err := a.place(info)
	if err != nil {
		return 0, err
	}
	if (in.zoneGiven || in.key.Zone != "") && in.key.Zone != zone {
		return 0, elsewhere(titleDelete, info, in.key.Zone, "delete")
	}
	key.Zone = zone
	for try := 0; ; try++ {
		revision, err = a.removeOnce(ctx, info, caller, key, in, try > 0)
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) {
			return revision, err
		}
		if at, ok := conflict.Check.(store.KeyAt); ok && at.Key == key && in.ifRevision != nil {
			return 0, stale(titleDelete, *in.ifRevision, conflict.Revision)
		}
		if try+1 == attempts {
			return 0, err
		}
		a.metrics.retries.Inc()
	}
}

func (a *API) removeOnce(ctx context.Context, info *mesh.KindInfo, caller Caller, key mesh.Key, in remove,
	fresh bool) (uint64, error) {
	var atLeast uint64
	if fresh { // rules read whole kinds, so the view itself must be new
		rev, err := a.conf.Store.Revision(ctx)
		if err != nil {
			return 0, err
		}
		atLeast = rev
	}
	view, err := a.view(ctx, atLeast)
	if err != nil {
		return 0, err
	}
	if info.Scope == mesh.ScopeMesh {
		if m, err := a.read(ctx, view, mesh.Key{Kind: mesh.KindMesh, Name: key.Mesh}, false); err != nil {
			return 0, err
		} else if m == nil {
			return 0, a.noMesh(titleDelete, key.Mesh)
		}
	}
	old, err := a.read(ctx, view, key, fresh)
	if err != nil {
		return 0, err
	}
	if old == nil && !fresh {
		if old, err = a.read(ctx, view, key, true); err != nil {
			return 0, err
		}
	}
	if old == nil {
		for r := range view.List(key.Kind, key.Mesh) {
			if r.Key.Name == key.Name && r.Key.Namespace == key.Namespace {
				return 0, elsewhere(titleDelete, info, r.Key.Zone, "delete")
			}
		}
		return 0, problem(http.StatusNotFound, titleDelete, "Not found")
	}
	if in.ifRevision != nil && *in.ifRevision != old.Revision {
		return 0, stale(titleDelete, *in.ifRevision, old.Revision)
	}
	txn := store.Txn{
		Actor:  "user:" + caller.Name,
		Checks: []store.Check{store.KeyAt{Key: key, Revision: old.Revision}},
		Ops:    []store.Op{store.Delete{Key: key}},
	}
	if err := a.onRemove(ctx, view, old, &txn); err != nil {
		return 0, err
	}
	if in.dryRun {
		return old.Revision, nil
	}
	result, err := a.conf.Store.Commit(ctx, txn)
	if err != nil {
		return 0, err
	}
	a.settle(ctx, result.Revision)
	return result.Revision, nil
}

// audit writes one line for every write, done or refused.
func (a *API) audit(c Caller, verb string, key mesh.Key, dryRun bool, revision uint64, changed bool,
	err error) {
	fields := []zap.Field{zap.String("user", c.Name), zap.Strings("groups", c.Groups),
		zap.String("verb", verb), zap.Stringer("key", key),
		zap.Bool("dryRun", dryRun)}
	if err != nil {
		a.log.Warn("audit: refused", append(fields, zap.String("reason", err.Error()))...)
		return
	}
	a.log.Info("audit", append(fields, zap.Uint64("revision", revision), zap.Bool("changed", changed))...)
}
