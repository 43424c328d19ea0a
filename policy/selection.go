package policy

import (
	"maps"
	"slices"
	"strconv"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Bucket is the index value under which a policy is found by the proxies that it might select. It
// is one of "mesh", "dataplane", "dataplane/name=N", "label/k=v", "tag/k=v", "service",
// "service/NAME", or "none", where no proxy looks.
type Bucket string

const (
	bucketMesh      Bucket = "mesh"
	bucketDataplane Bucket = "dataplane"
	bucketService   Bucket = "service"
	bucketNone      Bucket = "none"
)

// Subject is a proxy as policies see it.
type Subject struct {
	// Dataplane of the proxy.
	Dataplane *mesh.Resource
	// Services are the MeshServices that select it.
	Services []mesh.Key
	// ServiceLabels are the labels of Services, for targets that name a MeshService by labels. It
	// may be nil; labels that follow from a key are then all that such a target can ask for.
	ServiceLabels map[mesh.Key]map[string]string
}

// Selection is the part of a proxy that a policy selects.
type Selection struct {
	// AllInbounds says that everything is selected, also on a proxy without inbounds.
	AllInbounds bool
	// Inbounds are section names: the inbound's name, else its port as text. In the Dataplane's order.
	Inbounds []string
}

// Has says that the inbound with that section name is selected.
func (s Selection) Has(section string) bool {
	return s.AllInbounds || slices.Contains(s.Inbounds, section)
}

func listenerSection(l *meshv1.Dataplane_Listener) string {
	if l.GetName() != "" {
		return l.GetName()
	}
	return strconv.FormatUint(uint64(l.GetPort()), 10)
}

// Bucket of the policy. Of several labels or tags one is picked, the one most likely to be rare.
func (h Head) Bucket() Bucket {
	t := h.Target
	switch t.GetKind() {
	case "", targetMesh:
		return bucketMesh
	case targetDataplane:
		if t.GetName() != "" {
			return Bucket("dataplane/name=" + t.GetName())
		}
		if k, ok := selector.Rarest(t.GetLabels()); ok {
			return Bucket("label/" + k + "=" + t.GetLabels()[k])
		}
		return bucketDataplane
	case targetSubset:
		if k, ok := selector.Rarest(t.GetTags()); ok {
			return Bucket("tag/" + k + "=" + t.GetTags()[k])
		}
		return bucketMesh
	case targetService, targetServiceSubset:
		if t.GetName() != "" && len(t.GetLabels()) == 0 {
			return Bucket("service/" + t.GetName())
		}
		return bucketService
	}
	return bucketNone // MeshGateway and MeshHTTPRoute: there are no builtin gateways
}

// Buckets are all buckets that a proxy must look into, each once.
func Buckets(s Subject) []Bucket {
	out := []Bucket{bucketMesh, bucketDataplane, bucketService,
		Bucket("dataplane/name=" + s.Dataplane.Key.Name)}
	seen := map[Bucket]bool{}
	add := func(b Bucket) {
		if !seen[b] {
			seen[b] = true
			out = append(out, b)
		}
	}
	selector.EachLabel(s.Dataplane.Key, s.Dataplane.Labels, func(k, v string) {
		add(Bucket("label/" + k + "=" + v))
	})
	for _, tags := range tagSets(s.Dataplane) {
		for k, v := range tags.tags {
			add(Bucket("tag/" + k + "=" + v))
		}
		if name := tags.tags[mesh.TagService]; name != "" {
			add(Bucket("service/" + name))
		}
		if zone, ok := selector.Tag(tags.dataplane, tags.tags, mesh.TagZone); ok {
			add(Bucket("tag/" + mesh.TagZone + "=" + zone))
		}
	}
	for _, k := range s.Services {
		add(Bucket("service/" + k.Name))
	}
	slices.Sort(out[4:])
	return out
}

// tagSet is one inbound's written tags, or the gateway's (section "").
type tagSet struct {
	dataplane mesh.Key
	section   string
	gateway   bool
	tags      map[string]string
}

func (t tagSet) has(k, v string) bool {
	have, ok := selector.Tag(t.dataplane, t.tags, k)
	return ok && (have == v || v == "*")
}

func (t tagSet) hasAll(want map[string]string) bool {
	for k, v := range want {
		if !t.has(k, v) {
			return false
		}
	}
	return true
}

func tagSets(dataplane *mesh.Resource) []tagSet {
	n := mesh.Spec[*meshv1.Dataplane](dataplane).GetNetworking()
	out := make([]tagSet, 0, len(n.GetInbound())+1)
	add := func(t tagSet) {
		t.dataplane = dataplane.Key
		out = append(out, t)
	}
	for _, in := range n.GetInbound() {
		add(tagSet{section: selector.Section(in), tags: in.GetTags()})
	}
	if g := n.GetGateway(); g != nil {
		add(tagSet{gateway: true, tags: g.GetTags()})
	}
	return out
}

// Select says whether and where the policy selects the proxy. Unlike Kuma
// it selects a proxy without inbounds as a whole.
func (h Head) Select(s Subject) (Selection, bool) {
	dp := s.Dataplane
	if h.Shadow || h.Key.Mesh != dp.Key.Mesh || !h.reaches(dp.Key) {
		return Selection{}, false
	}
	t := h.Target
	switch t.GetKind() {
	case "", targetMesh:
		return Selection{AllInbounds: true}, proxyTypeAllowed(t, dp)
	case targetDataplane:
		return h.selectDataplane(dp)
	case targetSubset:
		if !proxyTypeAllowed(t, dp) {
			return Selection{}, false
		}
		if len(t.GetTags()) == 0 {
			return Selection{AllInbounds: true}, true
		}
		return selectTags(dp, t.GetTags())
	case targetService:
		return h.selectService(s)
	case targetServiceSubset:
		tags := make(map[string]string, len(t.GetTags())+1)
		maps.Copy(tags, t.GetTags())
		tags[mesh.TagService] = t.GetName()
		return selectTags(dp, tags)
	}
	return Selection{}, false
}

// reaches is the scope of a role: a producer's policy goes everywhere, others stay in their
// namespace and zone.
func (h Head) reaches(dp mesh.Key) bool {
	if h.Role == RoleProducer {
		return true
	}
	if (h.Role == RoleConsumer || h.Role == RoleWorkloadOwner) && h.Namespace != dp.Namespace {
		return false
	}
	return h.Origin != mesh.OriginZone || h.Zone == "" || dp.Zone == "" || h.Zone == dp.Zone
}

func proxyTypeAllowed(t *meshv1.TargetRef, dp *mesh.Resource) bool {
	if len(t.GetProxyTypes()) == 0 {
		return true
	}
	want := "Sidecar"
	if mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetGateway() != nil {
		want = "Gateway"
	}
	return slices.Contains(t.GetProxyTypes(), want)
}

func (h Head) selectDataplane(dp *mesh.Resource) (Selection, bool) {
	t, n := h.Target, mesh.Spec[*meshv1.Dataplane](dp).GetNetworking()
	switch {
	case n.GetGateway().GetType() == "BUILTIN":
		return Selection{}, false
	case t.GetName() != "":
		if t.GetName() != dp.Key.Name || !namespaceFits(t.GetNamespace(), h.Namespace, dp.Key.Namespace) {
			return Selection{}, false
		}
	case !selector.Matches(t.GetLabels(), dp):
		return Selection{}, false
	}
	if t.GetSectionName() == "" {
		return Selection{AllInbounds: true}, true
	}
	var sel Selection
	for _, in := range n.GetInbound() {
		if selector.Section(in) == t.GetSectionName() {
			sel.Inbounds = append(sel.Inbounds, t.GetSectionName())
		}
	}
	for _, l := range n.GetListeners() {
		if listenerSection(l) == t.GetSectionName() {
			sel.Inbounds = append(sel.Inbounds, t.GetSectionName())
		}
	}
	return sel, len(sel.Inbounds) > 0
}

func selectTags(dp *mesh.Resource, want map[string]string) (Selection, bool) {
	var sel Selection
	for _, set := range tagSets(dp) {
		switch {
		case !set.hasAll(want):
		case set.gateway:
			sel.AllInbounds = true
		default:
			sel.Inbounds = append(sel.Inbounds, set.section)
		}
	}
	return sel, sel.AllInbounds || len(sel.Inbounds) > 0
}

// selectService takes the inbounds with the tag kuma.io/service, and else the whole proxy if a
// MeshService that the target means selects it.
func (h Head) selectService(s Subject) (Selection, bool) {
	t := h.Target
	if t.GetName() != "" {
		if sel, ok := selectTags(s.Dataplane, map[string]string{mesh.TagService: t.GetName()}); ok {
			return filterSection(sel, t.GetSectionName())
		}
	}
	ref := h.Key
	ref.Zone, ref.Namespace = h.Zone, h.Namespace
	for _, k := range s.Services {
		if Refers(t, ref, k, s.ServiceLabels[k]) {
			return filterSection(Selection{AllInbounds: true}, "")
		}
	}
	return Selection{}, false
}

func filterSection(sel Selection, section string) (Selection, bool) {
	if section == "" || sel.AllInbounds {
		return sel, true
	}
	sel.Inbounds = slices.DeleteFunc(sel.Inbounds, func(s string) bool { return s != section })
	return sel, len(sel.Inbounds) > 0
}

// OfKind are the policies of one kind, in their order.
func OfKind(policies []*mesh.Resource, kind mesh.Kind) []*mesh.Resource {
	var out []*mesh.Resource
	for _, p := range policies {
		if p.Key.Kind == kind {
			out = append(out, p)
		}
	}
	return out
}
