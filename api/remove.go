package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// onRemove applies the rules of a delete and adds to txn what else goes.
func (a *API) onRemove(ctx context.Context, view replica.View, old *mesh.Resource, txn *store.Txn) error {
	switch old.Key.Kind {
	case mesh.KindMesh:
		return a.onRemoveMesh(ctx, view, old.Key.Name, txn)
	case mesh.KindZone:
		return a.onRemoveZone(view, old, txn)
	case mesh.KindSecret:
		return onRemoveSecret(view, old.Key, txn)
	}
	return nil
}

// onRemoveMesh demands that no Dataplane is left and takes along everything of the mesh that is
// written here; what zones own in it they remove themselves when they learn that the mesh is gone.
func (a *API) onRemoveMesh(ctx context.Context, view replica.View, name string, txn *store.Txn) error {
	refuse := func(where string) error {
		return invalid(titleDelete, []mesh.Violation{{
			Field: "mesh",
			Reason: fmt.Sprintf("unable to delete mesh %q, there are still dataplanes in it%s: "+
				"stop them first", name, where),
		}})
	}
	for range view.List(mesh.KindDataplane, name) {
		return refuse("")
	}
	if a.conf.Role == RoleGlobal {
		info, _ := mesh.Lookup(mesh.KindDataplane)
		got, err := a.listRemote(ctx, view, info, selection{kind: info, mesh: name, size: 1})
		if err != nil {
			return err
		}
		for _, r := range got.resources {
			return refuse(" (zone " + r.Key.Zone + ")")
		}
		// A zone that is away cannot be asked; what it said last counts.
		for r := range view.List(mesh.KindMeshService, name) {
			if mesh.Status[*meshv1.MeshServiceStatus](r).GetDataplaneProxies().GetTotal() > 0 &&
				got.away[r.Key.Zone] {
				return refuse(" (zone " + r.Key.Zone + ", which is away)")
			}
		}
	}
	for _, info := range mesh.Kinds {
		if info.Scope != mesh.ScopeMesh {
			continue
		}
		txn.Checks = append(txn.Checks, store.KindUnchanged{
			Kind:  info.Kind,
			Mesh:  name,
			Since: view.Revision(),
		})
		for r := range view.List(info.Kind, name) {
			if a.conf.Role == RoleGlobal && r.Key.Zone != "" {
				continue
			}
			txn.Ops = append(txn.Ops, store.Delete{Key: r.Key})
		}
	}
	return nil
}

// onRemoveZone demands that the zone is away and takes along all that it synced.
func (a *API) onRemoveZone(view replica.View, zone *mesh.Resource, txn *store.Txn) error {
	switch state := mesh.Status[*meshv1.ZoneStatus](zone).GetState(); state {
	case "Online", "Degraded":
		return invalid(titleDelete, []mesh.Violation{{
			Field: "zone",
			Reason: fmt.Sprintf("unable to delete zone %q, it is connected (%s): stop its control "+
				"plane first", zone.Key.Name, state),
		}})
	}
	if a.conf.Role != RoleGlobal {
		return nil
	}
	for r := range view.All() {
		if r.Key.Zone == zone.Key.Name {
			txn.Ops = append(txn.Ops, store.Delete{Key: r.Key})
		}
	}
	return nil
}

// onRemoveSecret refuses to take away what the mesh's certificate authority needs.
func onRemoveSecret(view replica.View, key mesh.Key, txn *store.Txn) error {
	m, ok := view.Get(mesh.Key{Kind: mesh.KindMesh, Name: key.Mesh})
	if !ok {
		return nil
	}
	mtls := mesh.Spec[*meshv1.Mesh](m).GetMtls()
	for _, b := range mtls.GetBackends() {
		uses := []string{b.GetConf().GetCert().GetSecret(), b.GetConf().GetKey().GetSecret()}
		if b.GetType() == "builtin" {
			uses = []string{
				secrets.RootCert(key.Mesh, b.GetName()).Name,
				secrets.RootKey(key.Mesh, b.GetName()).Name,
			}
		}
		for _, name := range uses {
			if name != "" && strings.EqualFold(name, key.Name) {
				return invalid(titleDelete, []mesh.Violation{{
					Field: "name",
					Reason: fmt.Sprintf("the secret %q is in use by mTLS backend %q of mesh %q: "+
						"change the backend first", key.Name, b.GetName(), key.Mesh),
				}})
			}
		}
	}
	txn.Checks = append(txn.Checks, store.KeyAt{Key: m.Key, Revision: m.Revision})
	return nil
}
