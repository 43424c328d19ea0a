package services

import (
	"maps"
	"net/netip"
	"slices"
	"text/template"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// keySet is a set of keys.
type keySet map[mesh.Key]struct{}

func (s keySet) add(k mesh.Key) { s[k] = struct{}{} }

func (s keySet) sorted() []mesh.Key { return slices.SortedFunc(maps.Keys(s), mesh.Key.Compare) }

// multimap indexes keys by a comparable value.
type multimap[K comparable] map[K]keySet

func (m multimap[K]) add(at K, k mesh.Key) {
	set, ok := m[at]
	if !ok {
		set = keySet{}
		m[at] = set
	}
	set.add(k)
}

func (m multimap[K]) remove(at K, k mesh.Key) {
	set := m[at]
	delete(set, k)
	if len(set) == 0 {
		delete(m, at)
	}
}

// bucket is where a Dataplane and the services that might select it meet.
type bucket struct {
	mesh, kind, key, value string
}

// serviceName is a value of kuma.io/service within a mesh.
type serviceName struct{ mesh, name string }

// hostKey is a hostname among the destinations of one kind in one mesh.
type hostKey struct {
	mesh string
	kind mesh.Kind
	host string
}

// generator is a HostnameGenerator ready to use.
type generator struct {
	key      mesh.Key
	resource *mesh.Resource
	template *template.Template
	err      error
}

// index is what is known, arranged for finding what a change touches.
type index struct {
	// dataplanes by the buckets they are in; services of this zone by the one bucket of their selector.
	dataplanes multimap[bucket]
	services   multimap[bucket]
	// names: Dataplanes by the service names of their inbounds.
	names multimap[serviceName]
	// meshServices: services of this zone by mesh.
	meshServices multimap[string]
	destinations keySet
	addresses    map[netip.Addr]mesh.Key
	generators   []generator
	claims       map[mesh.Key][]claim
	claimants    multimap[hostKey]
}

func newIndex() index {
	return index{
		dataplanes:   multimap[bucket]{},
		services:     multimap[bucket]{},
		names:        multimap[serviceName]{},
		meshServices: multimap[string]{},
		destinations: keySet{},
		addresses:    map[netip.Addr]mesh.Key{},
		claims:       map[mesh.Key][]claim{},
		claimants:    multimap[hostKey]{},
	}
}

// dirty is what the next plan must look at.
type dirty struct {
	names    map[serviceName]struct{}
	services keySet
	// destinations whose address or hostnames may change.
	destinations keySet
}

func newDirty() dirty {
	return dirty{names: map[serviceName]struct{}{}, services: keySet{}, destinations: keySet{}}
}

// apply takes a batch into the indexes and marks what it touches.
func (s *state) apply(b replica.Batch) {
	s.view = b.View
	if b.Reset {
		s.index = newIndex()
		s.dirty = newDirty()
		s.timed = map[mesh.Key]timed{}
		s.loadGenerators()
		for r := range b.View.All() {
			s.change(store.Change{Type: store.ChangeSpec, Key: r.Key, Resource: r})
		}
		return
	}
	for _, c := range b.Changes {
		s.change(c)
	}
}

func (s *state) change(c store.Change) {
	switch c.Key.Kind {
	case mesh.KindMesh:
		if c.Type != store.ChangeStatus {
			s.meshChanged(c.Key.Name)
		}
	case mesh.KindDataplane:
		s.dataplaneChanged(c)
	case mesh.KindDataplaneInsight:
		k := c.Key
		k.Kind = mesh.KindDataplane
		if dp, ok := s.view.Get(k); ok {
			s.touchServicesOf(dp)
		}
	case mesh.KindMeshService, mesh.KindMeshMultiZoneService:
		s.destinationChanged(c)
	case mesh.KindVirtualAddress:
		s.addressChanged(c)
	case mesh.KindHostnameGenerator:
		if c.Type != store.ChangeStatus {
			s.loadGenerators()
			for k := range s.index.destinations {
				s.dirty.destinations.add(k)
			}
		}
	}
}

func (s *state) meshChanged(name string) {
	for n := range s.index.names {
		if n.mesh == name {
			s.dirty.names[n] = struct{}{}
		}
	}
	for k := range s.index.meshServices[name] {
		s.dirty.services.add(k)
		s.dirty.names[serviceName{k.Mesh, k.Name}] = struct{}{}
	}
}

func (s *state) dataplaneChanged(c store.Change) {
	if c.Key.Zone != s.cfg.Zone {
		return
	}
	if old := c.Old; old != nil {
		for b := range bucketsOf(old) {
			s.index.dataplanes.remove(b, old.Key)
		}
		for n := range namesOf(old) {
			s.index.names.remove(n, old.Key)
			s.dirty.names[n] = struct{}{}
		}
		s.touchServicesOf(old)
	}
	if now := c.Resource; now != nil {
		for b := range bucketsOf(now) {
			s.index.dataplanes.add(b, now.Key)
		}
		for n := range namesOf(now) {
			s.index.names.add(n, now.Key)
			s.dirty.names[n] = struct{}{}
		}
		s.touchServicesOf(now)
	}
}

// touchServicesOf marks the services that could select dp.
func (s *state) touchServicesOf(dp *mesh.Resource) {
	for b := range bucketsOf(dp) {
		for k := range s.index.services[b] {
			s.dirty.services.add(k)
		}
	}
}

func (s *state) destinationChanged(c store.Change) {
	own := c.Key.Kind == mesh.KindMeshService && c.Key.Zone == s.cfg.Zone
	if c.Type == store.ChangeStatus {
		if own {
			s.dirty.services.add(c.Key)
		}
		return
	}
	s.dirty.destinations.add(c.Key)
	if c.Resource == nil {
		delete(s.index.destinations, c.Key)
	} else {
		s.index.destinations.add(c.Key)
	}
	if !own {
		return
	}
	s.dirty.names[serviceName{c.Key.Mesh, c.Key.Name}] = struct{}{}
	if c.Old != nil {
		if b, ok := bucketOf(c.Old); ok {
			s.index.services.remove(b, c.Key)
		}
		s.index.meshServices.remove(c.Key.Mesh, c.Key)
	}
	if c.Resource != nil {
		if b, ok := bucketOf(c.Resource); ok {
			s.index.services.add(b, c.Key)
		}
		s.index.meshServices.add(c.Key.Mesh, c.Key)
		s.dirty.services.add(c.Key)
	}
}

func (s *state) addressChanged(c store.Change) {
	if c.Key.Zone != s.cfg.Zone {
		return
	}
	if c.Old != nil {
		if ip, err := netip.ParseAddr(mesh.Spec[*meshv1.VirtualAddress](c.Old).GetIp()); err == nil &&
			s.index.addresses[ip] == c.Key {
			delete(s.index.addresses, ip)
		}
		s.dirty.destinations.add(mesh.KeyFromProto(mesh.Spec[*meshv1.VirtualAddress](c.Old).GetDestination()))
	}
	if c.Resource != nil {
		spec := mesh.Spec[*meshv1.VirtualAddress](c.Resource)
		if ip, err := netip.ParseAddr(spec.GetIp()); err == nil {
			s.index.addresses[ip] = c.Key
		}
		s.dirty.destinations.add(mesh.KeyFromProto(spec.GetDestination()))
	}
}

// bucketsOf are the buckets in which services that select dp can be.
func bucketsOf(dp *mesh.Resource) map[bucket]struct{} {
	m := dp.Key.Mesh
	out := map[bucket]struct{}{
		{mesh: m, kind: "all"}:                    {},
		{mesh: m, kind: "name", key: dp.Key.Name}: {},
	}
	for k, v := range dp.Labels {
		out[bucket{m, "label", k, v}] = struct{}{}
	}
	for _, in := range mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetInbound() {
		for k, v := range in.GetTags() {
			out[bucket{m, "tag", k, v}] = struct{}{}
		}
	}
	return out
}

// bucketOf is the bucket of a service's selector; none if it selects nothing.
func bucketOf(service *mesh.Resource) (bucket, bool) {
	m := service.Key.Mesh
	sel := mesh.Spec[*meshv1.MeshService](service).GetSelector()
	switch {
	case len(sel.GetDataplaneTags()) > 0:
		k := slices.Min(slices.Collect(maps.Keys(sel.GetDataplaneTags())))
		// The service tag sets proxies apart best.
		if _, ok := sel.GetDataplaneTags()[mesh.TagService]; ok {
			k = mesh.TagService
		}
		return bucket{m, "tag", k, sel.GetDataplaneTags()[k]}, true
	case sel.GetDataplaneRef() != nil:
		return bucket{mesh: m, kind: "name", key: sel.GetDataplaneRef().GetName()}, true
	case sel.GetDataplaneLabels() != nil:
		labels := sel.GetDataplaneLabels().GetMatchLabels()
		if len(labels) == 0 {
			return bucket{mesh: m, kind: "all"}, true
		}
		k := slices.Min(slices.Collect(maps.Keys(labels)))
		return bucket{m, "label", k, labels[k]}, true
	}
	return bucket{}, false
}

// selects says whether a MeshService selects a Dataplane of its mesh (core-resources 11.2).
func selects(sel *meshv1.MeshService_Selector, dp *mesh.Resource) bool {
	inbounds := mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetInbound()
	switch {
	case len(sel.GetDataplaneTags()) > 0:
		return slices.ContainsFunc(inbounds, func(in *meshv1.Dataplane_Inbound) bool {
			return subset(sel.GetDataplaneTags(), in.GetTags())
		})
	case sel.GetDataplaneRef() != nil:
		return len(inbounds) > 0 && dp.Key.Name == sel.GetDataplaneRef().GetName()
	case sel.GetDataplaneLabels() != nil:
		return subset(sel.GetDataplaneLabels().GetMatchLabels(), dp.Labels)
	}
	return false
}

// subset says whether every pair of want is in have.
func subset(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// namesOf are the service names of dp's inbounds.
func namesOf(dp *mesh.Resource) map[serviceName]struct{} {
	out := map[serviceName]struct{}{}
	for _, in := range mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetInbound() {
		if v := in.GetTags()[mesh.TagService]; v != "" && in.GetState() != "Ignored" {
			out[serviceName{dp.Key.Mesh, v}] = struct{}{}
		}
	}
	return out
}
