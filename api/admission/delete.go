package admission

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Deletion is a resource to delete. A key without zone means this control plane's own resource, or,
// to say where to go, the only other of that name.
type Deletion struct {
	Key mesh.Key
	// ZoneGiven says that an empty zone of the key is meant: global's own resource.
	ZoneGiven bool
	// IfRevision is the resource's revision that must still stand; nil is any.
	IfRevision *uint64
}

// Locate completes the key of a deletion with its zone, or says where else to delete it.
func (a *Admission) Locate(in Deletion) (mesh.Key, error) {
	info, ok := mesh.Lookup(in.Key.Kind)
	if !ok {
		return in.Key, problem.UnknownKind(in.Key.Kind)
	}
	zone, err := a.Owner(info)
	if err != nil {
		return in.Key, err
	}
	key := in.Key
	if (in.ZoneGiven || key.Zone != "") && key.Zone != zone {
		return key, elsewhere(problem.TitleDelete, info, key.Zone, "delete")
	}
	key.Zone = zone
	return key, nil
}

// Delete checks a deletion against a state; key is what [Admission.Locate] gave. The result's
// Resource is what would be deleted.
func (a *Admission) Delete(ctx context.Context, state State, key mesh.Key,
	ifRevision *uint64) (*Admitted, error) {
	info, ok := mesh.Lookup(key.Kind)
	if !ok {
		return nil, problem.UnknownKind(key.Kind)
	}
	old, err := state.find(ctx, key)
	if err != nil {
		return nil, err
	}
	if old == nil {
		if key, err = a.elsewhereHere(state.View, info, key); err != nil {
			return nil, err
		}
		if old, err = state.find(ctx, key); err != nil {
			return nil, err
		}
	}
	if old == nil {
		// What is left of a mesh that is gone can be deleted; that the mesh is gone explains the rest.
		if info.Scope == mesh.ScopeMesh {
			if _, err := a.mesh(ctx, state, problem.TitleDelete, key.Mesh); err != nil {
				return nil, err
			}
		}
		return nil, absent(state.View, info, key)
	}
	if ifRevision != nil && *ifRevision != old.Revision {
		return nil, Stale(problem.TitleDelete, *ifRevision, old.Revision)
	}

	out := &Admitted{
		Epoch:    state.View.Epoch(),
		Resource: old,
		Revision: old.Revision,
		Changed:  true,
		Checks:   []store.Check{store.KeyAt{Key: key, Revision: old.Revision}},
		Ops:      []store.Op{store.Delete{Key: key}},
	}
	switch key.Kind {
	case mesh.KindMesh:
		err = a.deleteMesh(ctx, state.View, key.Name, out)
	case mesh.KindZone:
		err = a.deleteZone(state.View, old, out)
	case mesh.KindSecret:
		err = deleteSecret(state.View, key, out)
	}
	return out, err
}

// Named says that a resource of key k is meant by the name of ref: a name without a namespace means any.
func Named(ref, k mesh.Key) bool {
	return k.Name == ref.Name && (ref.Namespace == "" || k.Namespace == ref.Namespace)
}

// elsewhereHere is the only resource that is written here and has the name of key: in another namespace, or
// at a zone without global, where it has its defaults, of no zone.
func (a *Admission) elsewhereHere(view replica.View, info *mesh.KindInfo, key mesh.Key) (mesh.Key, error) {
	found := key
	n := 0
	for r := range view.List(info.Kind, key.Mesh) {
		alone := !a.cfg.Global && !a.cfg.Federated && r.Key.Zone == ""
		if Named(key, r.Key) && (r.Key.Zone == key.Zone || alone) {
			found = r.Key
			n++
		}
	}
	if n > 1 {
		return key, problem.New(http.StatusConflict, problem.TitleDelete,
			"several namespaces have a %s of that name: name the namespace", info.Kind)
	}
	return found, nil
}

// absent is the problem of a resource that is not there: another control plane may have one of that name.
func absent(view replica.View, info *mesh.KindInfo, key mesh.Key) *problem.Problem {
	for r := range view.List(key.Kind, key.Mesh) {
		if r.Key.Name == key.Name && r.Key.Namespace == key.Namespace {
			return elsewhere(problem.TitleDelete, info, r.Key.Zone, "delete")
		}
	}
	return problem.New(http.StatusNotFound, problem.TitleDelete, "Not found")
}

// deleteMesh demands that no Dataplane is left and takes along everything of the mesh that is
// written here; what zones own in it they remove themselves when they learn that the mesh is gone.
func (a *Admission) deleteMesh(ctx context.Context, view replica.View, name string, out *Admitted) error {
	if where, found, err := a.dataplanesOf(ctx, view, name); err != nil {
		return err
	} else if found {
		return problem.Invalid(problem.TitleDelete, mesh.Violation{
			Field: "mesh",
			Reason: fmt.Sprintf("unable to delete mesh %q, there are still dataplanes in it%s: stop them "+
				"first", name, where),
		})
	}
	for _, info := range mesh.Kinds {
		if info.Scope != mesh.ScopeMesh {
			continue
		}
		out.Checks = append(out.Checks, store.KindUnchanged{
			Kind:  info.Kind,
			Mesh:  name,
			Since: view.Revision(),
		})
		for r := range view.List(info.Kind, name) {
			if !a.cfg.Global || r.Key.Zone == "" {
				out.Ops = append(out.Ops, store.Delete{Key: r.Key})
			}
		}
	}
	return nil
}

// dataplanesOf says whether a mesh has Dataplanes, and in which zone, for people.
func (a *Admission) dataplanesOf(ctx context.Context, view replica.View,
	name string) (where string, found bool, err error) {
	for range view.List(mesh.KindDataplane, name) {
		return "", true, nil
	}
	if !a.cfg.Global || a.cfg.Dataplanes == nil {
		return "", false, nil
	}
	got, err := a.cfg.Dataplanes(ctx, view, name)
	if err != nil {
		return "", false, err
	}
	if got.Zone != "" {
		return " (zone " + got.Zone + ")", true, nil
	}
	// Of a zone that cannot be asked, what it reported last counts.
	for info := range destination.From(destination.Selected) {
		for r := range view.List(info.Kind, name) {
			if info.Proxies(r).GetTotal() > 0 && got.Unreachable[r.Key.Zone] {
				return " (zone " + r.Key.Zone + ", which is unreachable)", true, nil
			}
		}
	}
	return "", false, nil
}

// deleteZone demands that the zone is offline and takes along all that it synced.
func (a *Admission) deleteZone(view replica.View, zone *mesh.Resource, out *Admitted) error {
	switch state := mesh.Status[*meshv1.ZoneStatus](zone).GetState(); state {
	case "Online", "Degraded":
		return problem.Invalid(problem.TitleDelete, mesh.Violation{
			Field: "zone",
			Reason: fmt.Sprintf("unable to delete zone %q, it is connected (%s): stop its control "+
				"plane first", zone.Key.Name, state),
		})
	}
	if !a.cfg.Global {
		return nil
	}
	for r := range view.All() {
		if r.Key.Zone == zone.Key.Name {
			out.Ops = append(out.Ops, store.Delete{Key: r.Key})
		}
	}
	return nil
}

// deleteSecret keeps what the mesh's certificate authority needs.
func deleteSecret(view replica.View, key mesh.Key, out *Admitted) error {
	m, ok := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: key.Mesh})
	if !ok {
		return nil
	}
	for _, b := range mesh.Spec[*meshv1.Mesh](m).GetMtls().GetBackends() {
		uses := []string{b.GetConf().GetCert().GetSecret(), b.GetConf().GetKey().GetSecret()}
		if b.GetType() == "builtin" {
			uses = []string{
				secrets.RootCert(key.Mesh, b.GetName()).Name,
				secrets.RootKey(key.Mesh, b.GetName()).Name,
			}
		}
		for _, name := range uses {
			if name != "" && strings.EqualFold(name, key.Name) {
				return problem.Invalid(problem.TitleDelete, mesh.Violation{
					Field: "name",
					Reason: fmt.Sprintf("the secret %q is in use by mTLS backend %q of mesh %q: change the "+
						"backend first", key.Name, b.GetName(), key.Mesh),
				})
			}
		}
	}
	out.Checks = append(out.Checks, store.KeyAt{Key: m.Key, Revision: m.Revision})
	return nil
}
