package services

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/hostname"
	"github.com/meridian-mesh/meridian/mesh/selector"
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

// meshTerm is where a Dataplane and the services that might select it meet.
type meshTerm struct {
	mesh string
	term selector.Term
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
	template *hostname.Template
	err      error
}

// index is what is known, arranged for finding what a change touches.
type index struct {
	// dataplanes by the buckets they are in; services of this zone by the one bucket of their selector.
	dataplanes multimap[meshTerm]
	services   multimap[meshTerm]
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
		dataplanes:   multimap[meshTerm]{},
		services:     multimap[meshTerm]{},
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
	case mesh.KindVirtualAddress:
		s.addressChanged(c)
	case mesh.KindHostnameGenerator:
		if c.Type != store.ChangeStatus {
			s.loadGenerators()
			for k := range s.index.destinations {
				s.dirty.destinations.add(k)
			}
		}
	default:
		if destination.Is(c.Key.Kind) {
			s.destinationChanged(c)
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
		for _, t := range termsOf(old) {
			s.index.dataplanes.remove(t, old.Key)
		}
		for n := range namesOf(old) {
			s.index.names.remove(n, old.Key)
			s.dirty.names[n] = struct{}{}
		}
		s.touchServicesOf(old)
	}
	if now := c.Resource; now != nil {
		for _, t := range termsOf(now) {
			s.index.dataplanes.add(t, now.Key)
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
	for _, t := range termsOf(dp) {
		for k := range s.index.services[t] {
			s.dirty.services.add(k)
		}
	}
}

func (s *state) destinationChanged(c store.Change) {
	own := isLocal(c.Key, s.cfg.Zone)
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
		if t, ok := termOf(c.Old); ok {
			s.index.services.remove(t, c.Key)
		}
		s.index.meshServices.remove(c.Key.Mesh, c.Key)
	}
	if c.Resource != nil {
		if t, ok := termOf(c.Resource); ok {
			s.index.services.add(t, c.Key)
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

// termsOf are the terms at which services that select dp can be.
func termsOf(dp *mesh.Resource) []meshTerm {
	terms := selector.ProxyOf(dp).Terms()
	out := make([]meshTerm, len(terms))
	for i, t := range terms {
		out[i] = meshTerm{mesh: dp.Key.Mesh, term: t}
	}
	return out
}

// termOf is the term of a service's selector; it is not ok if the service selects nothing.
func termOf(service *mesh.Resource) (meshTerm, bool) {
	t, ok := selector.TermOf(destination.SelectorOf(service))
	return meshTerm{mesh: service.Key.Mesh, term: t}, ok
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
