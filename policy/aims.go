package policy

import (
	"cmp"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
)

// Aim is a destination as an entry of "to" names it: many may have the name, in other zones or namespaces.
type Aim struct{ Kind, Name string }

// Aims is what the entries of "to" of a policy can mean: a policy says nothing of any other destination.
type Aims struct {
	// Any is set if an entry goes by labels or means the whole mesh.
	Any bool
	// Named are the others, sorted.
	Named []Aim
}

// AimsOf reads a policy of any kind.
func AimsOf(r *mesh.Resource) Aims {
	var out Aims
	for e := range entries(r, "to") {
		t := e.Target
		if t.GetKind() == "" || t.GetKind() == targetMesh || len(t.GetLabels()) > 0 {
			out.Any = true
			continue
		}
		out.Named = append(out.Named, Aim{t.GetKind(), t.GetName()})
		if service, _, _, ok := legacyName(t.GetName()); ok {
			out.Named = append(out.Named, Aim{t.GetKind(), service})
		}
	}
	slices.SortFunc(out.Named, func(a, b Aim) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	out.Named = slices.Compact(out.Named)
	return out
}

// Equal says that nothing differs.
func (a Aims) Equal(o Aims) bool { return a.Any == o.Any && slices.Equal(a.Named, o.Named) }

// Mean says whether a may mean a destination.
func (a Aims) Mean(dest mesh.Key) bool {
	return a.Any || slices.Contains(a.Named, Aim{string(dest.Kind), dest.Name})
}
