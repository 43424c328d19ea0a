package services

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

var dns1035 = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)

// generate makes, updates or removes the generated MeshService of one name: there is one while
// Dataplanes of this zone offer a service of that name, and a hand-written one is left alone.
func (s *state) generate(n serviceName) {
	key := mesh.Key{
		Kind: mesh.KindMeshService,
		Mesh: n.mesh,
		Zone: s.cfg.Zone,
		Name: n.name,
	}
	existing := s.get(key)
	delete(s.timed, key)
	if existing != nil && existing.Labels[mesh.LabelManagedBy] != mesh.ManagedByServiceGenerator {
		return
	}
	m := s.mesh(n.mesh)
	if m == nil || m.GetMeshServices().GetMode() == "Disabled" {
		if existing != nil {
			s.removeService(key)
		}
		return
	}
	members := s.members(n)
	if len(members) == 0 {
		if existing != nil {
			s.grace(existing)
		}
		return
	}
	if !dns1035.MatchString(n.name) {
		s.log.Info("no MeshService is generated for a name that is not a DNS label of at most "+
			"63 characters; rename the service or write a MeshService for it by hand",
			zap.String("mesh", n.mesh), zap.String("service", n.name))
		return
	}
	next := &mesh.Resource{Key: key, Created: s.now, Spec: &meshv1.MeshService{}}
	if existing != nil {
		next = existing.Clone()
	}
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	delete(next.Labels, mesh.LabelGraceStarted)
	maps.Copy(next.Labels, map[string]string{
		mesh.LabelMesh: n.mesh, mesh.LabelDisplayName: n.name,
		mesh.LabelManagedBy: mesh.ManagedByServiceGenerator,
		mesh.LabelEnv:       "universal", mesh.LabelZone: s.cfg.Zone, mesh.LabelOrigin: mesh.OriginZone,
	})
	spec := next.Spec.(*meshv1.MeshService)
	spec.Selector = &meshv1.MeshService_Selector{DataplaneTags: map[string]string{mesh.TagService: n.name}}
	spec.Ports = s.unitedPorts(n.name, spec.GetPorts(), members)
	s.dirty.services.add(key)
	s.putIfChanged(existing, next)
}

// putIfChanged plans next unless it says what existing says.
func (s *state) putIfChanged(existing, next *mesh.Resource) {
	if existing != nil && maps.Equal(existing.Labels, next.Labels) && proto.Equal(existing.Spec, next.Spec) {
		return
	}
	s.put(next)
	if destination.Is(next.Key.Kind) {
		s.dirty.destinations.add(next.Key)
	}
}

// removeService plans the delete of a service, and the release of its address with it.
func (s *state) removeService(k mesh.Key) {
	s.remove(k)
	s.dirty.destinations.add(k)
}

// members are the Dataplanes with the service name, oldest first.
func (s *state) members(n serviceName) []*mesh.Resource {
	var out []*mesh.Resource
	for k := range s.index.names[n] {
		if dp, ok := s.view.Get(k); ok {
			out = append(out, dp)
		}
	}
	slices.SortFunc(out, olderFirst)
	return out
}

// olderFirst orders by creation, then key.
func olderFirst(a, b *mesh.Resource) int {
	return cmp.Or(a.Created.Compare(b.Created), a.Key.Compare(b.Key))
}

// unitedPorts are the ports of all members, by number: a rolling update that adds a port serves it from the
// first new instance on, and one that ends loses none. Of a number that members name differently, what is
// there stays as long as one of them agrees; else the oldest counts.
func (s *state) unitedPorts(name string, current []*meshv1.ServicePort,
	members []*mesh.Resource) []*meshv1.ServicePort {
	offered := map[uint32][]*meshv1.ServicePort{}
	for _, dp := range members {
		for _, p := range portsOf(dp, name) {
			offered[p.GetPort()] = append(offered[p.GetPort()], p)
		}
	}
	var out []*meshv1.ServicePort
	for _, number := range slices.Sorted(maps.Keys(offered)) {
		port := offered[number][0]
		for _, p := range current {
			if p.GetPort() == number && slices.ContainsFunc(offered[number],
				func(o *meshv1.ServicePort) bool { return proto.Equal(o, p) }) {
				port = p
			}
		}
		for _, o := range offered[number] {
			if !proto.Equal(o, port) {
				s.log.Info(
					"instances of a service disagree about the name or protocol of a port",
					zap.String(
						"service",
						name,
					),
					zap.Uint32("port", number),
					zap.String("used", port.GetName()+
						" "+port.GetAppProtocol()),
					zap.String("other", o.GetName()+" "+o.GetAppProtocol()),
				)
				break
			}
		}
		out = append(out, port)
	}
	return out
}

// portsOf are the service ports that dp's inbounds of the name make.
func portsOf(dp *mesh.Resource, name string) []*meshv1.ServicePort {
	var out []*meshv1.ServicePort
	seen := map[uint32]bool{}
	for _, in := range mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetInbound() {
		if in.GetTags()[mesh.TagService] != name || in.GetState() == "Ignored" || seen[in.GetPort()] {
			continue
		}
		seen[in.GetPort()] = true
		out = append(out, &meshv1.ServicePort{
			Port:        in.GetPort(),
			Name:        selector.Section(in),
			AppProtocol: cmp.Or(in.GetProtocol(), in.GetTags()[mesh.TagProtocol], "tcp"),

			TargetPort: &meshv1.IntOrString{
				Value: &meshv1.IntOrString_IntValue{IntValue: int64(in.GetPort())},
			},
		})
	}
	slices.SortFunc(out, func(a, b *meshv1.ServicePort) int { return cmp.Compare(a.GetPort(), b.GetPort()) })
	return out
}

// grace stamps a service without Dataplanes, and deletes it when the grace period is over.
func (s *state) grace(existing *mesh.Resource) {
	key := existing.Key
	started, err := time.Parse(time.RFC3339, existing.Labels[mesh.LabelGraceStarted])
	if err != nil {
		next := existing.Clone()
		if next.Labels == nil {
			next.Labels = map[string]string{}
		}
		started = s.now.UTC().Truncate(time.Second)
		next.Labels[mesh.LabelGraceStarted] = started.Format(time.RFC3339)
		s.dirty.services.add(key)
		s.put(next)
	}
	end := started.Add(s.cfg.DeletionGrace)
	if !end.After(s.now) {
		s.removeService(key)
		return
	}
	s.timed[key] = timed{at: end, name: serviceName{key.Mesh, key.Name}}
}
