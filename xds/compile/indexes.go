package compile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Index names a range: the resources of a kind and mesh that have a value. It is comparable.
type Index struct {
	Kind mesh.Kind
	Mesh string
	By   By
	// Value is "k=v" for pairs; empty for All.
	Value string
}

// String is how an index stands in logs.
func (i Index) String() string {
	return fmt.Sprintf("%s of mesh %q by %d = %q", i.Kind, i.Mesh, i.By, i.Value)
}

// By says what a range is by.
type By uint8

// Ranges.
const (
	// All of the kind in the mesh.
	All By = iota
	// ByTag of an inbound, Dataplanes.
	ByTag
	// ByLabel, Dataplanes and destinations.
	ByLabel
	// ByName of the resource, in whatever zone and namespace; destinations.
	ByName
	// BySelector pair of a MeshService: one of what it asks of a Dataplane, "tag k=v", "label k=v",
	// "name=n" or "all".
	BySelector
	// ByBucket of a policy (policy.Bucket), of any kind; see [BucketIndex].
	ByBucket
	// ByZone of a ZoneIngress.
	ByZone
	// ByHostname of a destination, VirtualAddresses in use.
	ByHostname
)

// Reader gives resources at one revision. Results must not be changed or kept.
type Reader interface {
	// Spec is a resource without its status, or nil.
	Spec(key mesh.Key) *mesh.Resource
	// Range is the keys in a range, in order.
	Range(i Index) []mesh.Key
}

// Indexes are all ranges that r is in.
func Indexes(r *mesh.Resource) []Index {
	k := r.Key
	out := []Index{{Kind: k.Kind, Mesh: k.Mesh}}
	add := func(by By, value string) {
		out = append(out, Index{
			Kind:  k.Kind,
			Mesh:  k.Mesh,
			By:    by,
			Value: value,
		})
	}
	switch spec := r.Spec.(type) {
	case *meshv1.Dataplane:
		seen := map[string]bool{}
		for _, in := range spec.GetNetworking().GetInbound() {
			for t, v := range in.GetTags() {
				if p := pair(t, v); !seen[p] {
					seen[p] = true
					add(ByTag, p)
				}
			}
		}
		if p := pair(mesh.TagZone, k.Zone); !seen[p] {
			add(ByTag, p)
		}
		for l, v := range labelsOf(r) {
			add(ByLabel, pair(l, v))
		}
	case *meshv1.MeshService:
		add(ByName, k.Name)
		for l, v := range labelsOf(r) {
			add(ByLabel, pair(l, v))
		}
		if s, ok := selectorPair(spec.GetSelector()); ok {
			add(BySelector, s)
		}
	case *meshv1.MeshMultiZoneService:
		add(ByName, k.Name)
		for l, v := range labelsOf(r) {
			add(ByLabel, pair(l, v))
		}
	case *meshv1.ZoneIngress:
		add(ByZone, zoneOf(r))
	case *meshv1.VirtualAddress:
		if spec.GetReleased() == nil {
			for _, h := range spec.GetHostnames() {
				add(ByHostname, h)
			}
		}
	default:
		if info, ok := mesh.Lookup(k.Kind); ok && info.Policy != nil {
			out = append(out, BucketIndex(k.Mesh, policy.HeadOf(r).Bucket()))
		}
	}
	return out
}

// BucketIndex is the range of the policies of all kinds in a bucket: whoever looks for one kind
// looks for all.
func BucketIndex(meshName string, b policy.Bucket) Index {
	return Index{Mesh: meshName, By: ByBucket, Value: string(b)}
}

func pair(k, v string) string { return k + "=" + v }

func zoneOf(r *mesh.Resource) string {
	if z, ok := r.Spec.(*meshv1.ZoneIngress); ok && z.GetZone() != "" {
		return z.GetZone()
	}
	return r.Key.Zone
}

// labelsOf are r's labels with those that follow from its key, which its owner may not have written down.
func labelsOf(r *mesh.Resource) map[string]string {
	out := make(map[string]string, len(r.Labels)+3)
	out[mesh.LabelDisplayName] = r.Key.Name
	if r.Key.Zone != "" {
		out[mesh.LabelZone] = r.Key.Zone
	}
	if r.Key.Namespace != "" {
		out[mesh.LabelNamespace] = r.Key.Namespace
	}
	out[mesh.LabelMesh] = r.Key.Mesh
	maps.Copy(out, r.Labels)
	return out
}

// hasAll says that have contains all of want.
func hasAll(have, want map[string]string) bool {
	for k, v := range want {
		if h, ok := have[k]; !ok || h != v {
			return false
		}
	}
	return true
}

// firstPair is the pair to look up: the service tag if there is one, else the smallest key that is
// not the zone's.
func firstPair(m map[string]string) string {
	if v, ok := m[mesh.TagService]; ok {
		return pair(mesh.TagService, v)
	}
	keys := slices.Sorted(maps.Keys(m))
	k := keys[0]
	if k == mesh.TagZone && len(keys) > 1 {
		k = keys[1]
	}
	return pair(k, m[k])
}

// selectorPair is the range of Dataplanes, or the reverse of it, in which a selector is found.
func selectorPair(s *meshv1.MeshService_Selector) (string, bool) {
	switch {
	case s.GetDataplaneRef() != nil:
		return "name=" + s.GetDataplaneRef().GetName(), true
	case s.GetDataplaneLabels() != nil:
		if len(s.GetDataplaneLabels().GetMatchLabels()) == 0 {
			return "all", true
		}
		return "label " + firstPair(s.GetDataplaneLabels().GetMatchLabels()), true
	case len(s.GetDataplaneTags()) > 0:
		return "tag " + firstPair(s.GetDataplaneTags()), true
	}
	return "", false
}
