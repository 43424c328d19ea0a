package compile

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/selector"
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
	// ByName of the resource, in whatever zone and namespace; destinations and Dataplanes.
	ByName
	// BySelector pair of a destination that selects proxies: one of what it asks of a Dataplane,
	// "tag k=v", "label k=v", "name=n" or "all".
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
	if destination.Is(k.Kind) {
		out = appendTerms(out, r)
		if t, ok := selector.TermOf(destination.SelectorOf(r)); ok {
			add(BySelector, selectorValue(t))
		}
	}
	switch spec := r.Spec.(type) {
	case *meshv1.Dataplane:
		for _, t := range selector.ProxyOf(r).Terms() {
			if t.By != selector.ByNothing {
				out = append(out, termIndex(k.Kind, k.Mesh, t))
			}
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

// BucketIndex is the range of the policies of all kinds in a bucket: a query for one kind
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

// termIndex is the range of the resources that have a term.
func termIndex(kind mesh.Kind, meshName string, t selector.Term) Index {
	i := Index{Kind: kind, Mesh: meshName}
	switch t.By {
	case selector.ByName:
		i.By, i.Value = ByName, t.Value
	case selector.ByLabel:
		i.By, i.Value = ByLabel, pair(t.Name, t.Value)
	case selector.ByTag:
		i.By, i.Value = ByTag, pair(t.Name, t.Value)
	}
	return i
}

// appendTerms adds the ranges of a destination; that of all is there already.
func appendTerms(out []Index, r *mesh.Resource) []Index {
	for _, t := range selector.Terms(r) {
		if t.By != selector.ByNothing {
			out = append(out, termIndex(r.Key.Kind, r.Key.Mesh, t))
		}
	}
	return out
}

// LabelIndex is the range in which the destinations of a kind with all of these labels are.
func LabelIndex(kind mesh.Kind, meshName string, want map[string]string) Index {
	return termIndex(kind, meshName, selector.TermOfLabels(want))
}

// selectorValue is how a selector's term stands in [BySelector].
func selectorValue(t selector.Term) string {
	switch t.By {
	case selector.ByName:
		return "name=" + t.Value
	case selector.ByLabel:
		return "label " + pair(t.Name, t.Value)
	case selector.ByTag:
		return "tag " + pair(t.Name, t.Value)
	}
	return "all"
}
