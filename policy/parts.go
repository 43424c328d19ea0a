package policy

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Part is what a policy says to one group of destinations: its entries of "to" that name a service,
// or all else that it says. A mesh has policies with entries for many services, and a destination
// that looks at the parts that can mean it does not notice the others. The zero Part is all else.
type Part struct {
	Kind mesh.Kind
	Name string
}

// PartOf is the Part, besides the zero one, that can mean a destination.
func PartOf(d mesh.Key) Part { return Part{d.Kind, d.Name} }

// partOfEntry is the zero Part if the target can mean destinations of more than one name.
func partOfEntry(ref *meshv1.TargetRef) Part {
	kind := mesh.Kind(ref.GetKind())
	info, ok := destination.Lookup(kind)
	if !ok || !info.TargetByName || ref.GetName() == "" || len(ref.GetLabels()) > 0 ||
		strings.Contains(ref.GetName(), "_") { // the older spelling has parts
		return Part{}
	}
	return Part{kind, ref.GetName()}
}

// ChangedParts are the parts in which two versions of a policy differ; nil stands for a policy that
// is not there. A caller that has read the zero Part and that of a destination sees every change
// that can concern the destination.
func ChangedParts(old, now *mesh.Resource) []Part {
	if old == nil || now == nil || !HeadOf(old).Equal(HeadOf(now)) || !maps.Equal(old.Labels, now.Labels) {
		all := map[Part]bool{{}: true}
		for _, r := range []*mesh.Resource{old, now} {
			if r != nil {
				for part := range parts(r) {
					all[part] = true
				}
			}
		}
		return slices.Collect(maps.Keys(all))
	}
	a, b := parts(old), parts(now)
	var out []Part
	rest := !proto.Equal(withoutTo(old), withoutTo(now))
	if rest {
		out = append(out, Part{})
	}
	for part, entries := range a {
		if rest && part == (Part{}) {
			continue
		}
		if !slices.EqualFunc(entries, b[part], sameEntry) {
			out = append(out, part)
		}
	}
	for part := range b {
		if _, ok := a[part]; !ok && !(rest && part == (Part{})) {
			out = append(out, part)
		}
	}
	return out
}

// withoutTo is all of a spec but its entries of "to".
func withoutTo(r *mesh.Resource) proto.Message {
	if r.Spec == nil {
		return nil
	}
	m := r.Spec.ProtoReflect()
	out := m.New()
	for fd, v := range m.Range {
		if fd.Name() != "to" {
			out.Set(fd, v)
		}
	}
	return out.Interface()
}

func parts(r *mesh.Resource) map[Part][]Entry {
	out := map[Part][]Entry{}
	for e := range entries(r, "to") {
		part := partOfEntry(e.Target)
		out[part] = append(out[part], e)
	}
	return out
}

func sameEntry(a, b Entry) bool {
	return a.Index == b.Index && proto.Equal(a.message.Interface(), b.message.Interface())
}
