// Package selector answers which resources a selector means. Controllers, the xDS engine, policies,
// the API and explanations ask it, so that a service has the same members for all of them.
//
// # Labels
//
// Selectors see effective labels: those written in the resource and those that follow from its key.
// kuma.io/mesh, kuma.io/zone and k8s.kuma.io/namespace always follow from the key, because the key
// says who owns the resource; kuma.io/display-name is the name unless another one was written.
// [LabelsAt] adds the two labels that depend on the control plane that looks.
//
// # Tags
//
// Each inbound of a Dataplane has its written tags and kuma.io/zone, which is the Dataplane's zone
// unless another one was written.
//
// # Index
//
// Who keeps many Dataplanes or services looks up one [Term] of a selector among [Proxy.Terms] or
// [Terms] and compares only what it finds there. A selector that matches a resource always has its
// term among the resource's terms.
package selector

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// derived are the labels that follow from a key.
var derived = [...]string{mesh.LabelDisplayName, mesh.LabelMesh, mesh.LabelZone, mesh.LabelNamespace}

// fromKey is a label that follows from a key. It is not ok for other labels, and for parts of the
// key that are empty.
func fromKey(k mesh.Key, label string) (string, bool) {
	switch label {
	case mesh.LabelDisplayName:
		return k.Name, k.Name != ""
	case mesh.LabelMesh:
		return k.Mesh, k.Mesh != ""
	case mesh.LabelZone:
		return k.Zone, k.Zone != ""
	case mesh.LabelNamespace:
		return k.Namespace, k.Namespace != ""
	}
	return "", false
}

// Label is one effective label of the resource with that key and those written labels.
func Label(k mesh.Key, written map[string]string, label string) (string, bool) {
	own, ok := fromKey(k, label)
	if ok && label != mesh.LabelDisplayName {
		return own, true
	}
	if v, given := written[label]; given && (v != "" || label != mesh.LabelDisplayName) {
		return v, true
	}
	return own, ok
}

// EachLabel calls f with every effective label once, in no order.
func EachLabel(k mesh.Key, written map[string]string, f func(label, value string)) {
	for _, label := range derived {
		if v, ok := Label(k, written, label); ok {
			f(label, v)
		}
	}
	for label, v := range written {
		if !slices.Contains(derived[:], label) {
			f(label, v)
		}
	}
}

// Labels are the effective labels of r, in a map of the caller's own.
func Labels(r *mesh.Resource) map[string]string {
	n := 0
	EachLabel(r.Key, r.Labels, func(string, string) { n++ })
	// Many of these maps are kept, so none is larger than it must be.
	out := make(map[string]string, n)
	EachLabel(r.Key, r.Labels, func(label, value string) { out[label] = value })
	return out
}

// LabelsAt are the effective labels of r as the control plane of a zone sees them: kuma.io/origin is
// "zone" for what that zone owns and "global" for everything else, and kuma.io/env is "universal"
// unless another one was written. Templates and selectors of HostnameGenerators see these.
func LabelsAt(r *mesh.Resource, zone string) map[string]string {
	out := Labels(r)
	if out[mesh.LabelEnv] == "" {
		out[mesh.LabelEnv] = "universal"
	}
	out[mesh.LabelOrigin] = mesh.OriginGlobal
	if r.Key.Zone == zone {
		out[mesh.LabelOrigin] = mesh.OriginZone
	}
	return out
}

// Subset reports whether every pair of want is in have.
func Subset(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// MatchLabels reports whether the resource with that key and those written labels has all wanted
// labels.
func MatchLabels(want map[string]string, k mesh.Key, written map[string]string) bool {
	for label, v := range want {
		if got, ok := Label(k, written, label); !ok || got != v {
			return false
		}
	}
	return true
}

// Matches is [MatchLabels] of a resource.
func Matches(want map[string]string, r *mesh.Resource) bool {
	return MatchLabels(want, r.Key, r.Labels)
}

// Section is the name by which policies and services refer to an inbound: its name, else its port.
func Section(in *meshv1.Dataplane_Inbound) string {
	if in.GetName() != "" {
		return in.GetName()
	}
	return strconv.FormatUint(uint64(in.GetPort()), 10)
}

// Tags are the effective tags of an inbound of the Dataplane with that key. The map may be the
// written one: it must not be changed.
func Tags(dp mesh.Key, written map[string]string) map[string]string {
	if _, ok := written[mesh.TagZone]; ok || dp.Zone == "" {
		return written
	}
	out := make(map[string]string, len(written)+1)
	maps.Copy(out, written)
	out[mesh.TagZone] = dp.Zone
	return out
}

// Tag is one effective tag of an inbound of the Dataplane with that key.
func Tag(dp mesh.Key, written map[string]string, tag string) (string, bool) {
	if v, ok := written[tag]; ok {
		return v, true
	}
	return dp.Zone, tag == mesh.TagZone && dp.Zone != ""
}

func hasTags(dp mesh.Key, written, want map[string]string) bool {
	for tag, value := range want {
		if got, ok := Tag(dp, written, tag); !ok || got != value {
			return false
		}
	}
	return true
}

// Proxy is what selectors see of a Dataplane.
type Proxy struct {
	Key mesh.Key
	// Labels as written.
	Labels map[string]string
	// Tags of each inbound, as written.
	Tags []map[string]string
}

// ProxyOf reads a Dataplane. It shares the Dataplane's maps.
func ProxyOf(dp *mesh.Resource) Proxy {
	p := Proxy{Key: dp.Key, Labels: dp.Labels}
	for _, in := range mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetInbound() {
		p.Tags = append(p.Tags, in.GetTags())
	}
	return p
}

// SelectedBy reports whether the selector of a MeshService of the same mesh and zone selects the
// proxy: by all tags of one inbound, by name if it has an inbound, or by labels. A selector without
// any of them selects nothing, one with an empty set of labels everything.
func (p Proxy) SelectedBy(s *meshv1.MeshService_Selector) bool {
	switch {
	case len(s.GetDataplaneTags()) > 0:
		return slices.ContainsFunc(p.Tags, func(tags map[string]string) bool {
			return hasTags(p.Key, tags, s.GetDataplaneTags())
		})
	case s.GetDataplaneRef() != nil:
		return len(p.Tags) > 0 && p.Key.Name == s.GetDataplaneRef().GetName()
	case s.GetDataplaneLabels() != nil:
		return MatchLabels(s.GetDataplaneLabels().GetMatchLabels(), p.Key, p.Labels)
	}
	return false
}

// SelectsDataplane is [Proxy.SelectedBy] of a Dataplane.
func SelectsDataplane(s *meshv1.MeshService_Selector, dp *mesh.Resource) bool {
	return ProxyOf(dp).SelectedBy(s)
}

// By says what a [Term] is about.
type By uint8

// Terms are about one of these.
const (
	// ByNothing is the term that all resources of the kind in the mesh have.
	ByNothing By = iota
	// ByName of the resource: the term has only a value.
	ByName
	// Label is an effective label.
	ByLabel
	// ByTag: an effective tag of an inbound.
	ByTag
)

// Term is one thing by which a resource is indexed. It is comparable, and the zero Term is that of
// [ByNothing].
type Term struct {
	By    By
	Name  string
	Value string
}

// Terms of the proxy, each once, in no order.
func (p Proxy) Terms() []Term {
	out := []Term{{}, {By: ByName, Value: p.Key.Name}}
	out = appendLabels(out, p.Key, p.Labels)

	tags := len(out)
	add := func(name, value string) {
		t := Term{By: ByTag, Name: name, Value: value}
		if !slices.Contains(out[tags:], t) {
			out = append(out, t)
		}
	}
	for _, written := range p.Tags {
		for name, value := range written {
			add(name, value)
		}
		if _, ok := written[mesh.TagZone]; !ok && p.Key.Zone != "" {
			add(mesh.TagZone, p.Key.Zone)
		}
	}
	return out
}

// Terms of a resource that is selected by its labels, each once, in no order.
func Terms(r *mesh.Resource) []Term {
	return appendLabels([]Term{{}, {By: ByName, Value: r.Key.Name}}, r.Key, r.Labels)
}

func appendLabels(out []Term, k mesh.Key, written map[string]string) []Term {
	EachLabel(k, written, func(label, value string) {
		out = append(out, Term{By: ByLabel, Name: label, Value: value})
	})
	return out
}

// TermOf is the term among which the Dataplanes that a MeshService selects are found. It is not ok
// if the selector selects nothing.
func TermOf(s *meshv1.MeshService_Selector) (Term, bool) {
	switch {
	case len(s.GetDataplaneTags()) > 0:
		return rarest(ByTag, s.GetDataplaneTags()), true
	case s.GetDataplaneRef() != nil:
		return Term{By: ByName, Value: s.GetDataplaneRef().GetName()}, true
	case s.GetDataplaneLabels() != nil:
		return TermOfLabels(s.GetDataplaneLabels().GetMatchLabels()), true
	}
	return Term{}, false
}

// TermOfLabels is the term among which resources with all of these labels are found; without labels
// it is that of [ByNothing].
func TermOfLabels(want map[string]string) Term { return rarest(ByLabel, want) }

func rarest(by By, pairs map[string]string) Term {
	name, ok := Rarest(pairs)
	if !ok {
		return Term{}
	}
	return Term{By: by, Name: name, Value: pairs[name]}
}

// Rarest picks the pair that the fewest resources are likely to have: first what names a service,
// a workload or a resource, last what the control plane writes, of equals the first by name. Pairs
// with the value "*", which stands for any, are left out; it is not ok if no other is there.
func Rarest(pairs map[string]string) (name string, ok bool) {
	best := 3
	for k, v := range pairs {
		rank := 1
		switch {
		case v == "*":
			continue
		case k == mesh.TagService || k == mesh.LabelWorkload || k == mesh.LabelDisplayName:
			rank = 0
		case strings.HasPrefix(k, "kuma.io/") || strings.HasPrefix(k, "k8s.kuma.io/"):
			rank = 2
		}
		if rank < best || rank == best && k < name {
			best, name, ok = rank, k, true
		}
	}
	return name, ok
}
