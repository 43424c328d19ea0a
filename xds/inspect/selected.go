package inspect

import (
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds/compile"
)

// CountSelected counts the Dataplanes of a zone that a policy would select, and stops at limit; 0
// counts all. The policy need not be stored: its head is enough.
func CountSelected(view replica.View, zone string, head policy.Head, limit uint32) uint32 {
	services := candidates(view, zone, head)
	count := uint32(0)
	for dp := range view.List(mesh.KindDataplane, head.Key.Mesh) {
		if dp.Key.Zone != zone {
			continue
		}
		if !selects(head, dp, services) {
			continue
		}
		count++
		if count == limit {
			break
		}
	}
	return count
}

// candidates are the MeshServices of the zone by which a policy could select a Dataplane.
func candidates(view replica.View, zone string, head policy.Head) []*mesh.Resource {
	switch head.Target.GetKind() {
	case string(mesh.KindMeshService), "MeshServiceSubset":
	default:
		return nil
	}
	name := head.Target.GetName()
	if len(head.Target.GetLabels()) > 0 {
		name = "" // labels decide
	}
	var out []*mesh.Resource
	for s := range view.List(mesh.KindMeshService, head.Key.Mesh) {
		if s.Key.Zone == zone && (name == "" || name == s.Key.Name) {
			out = append(out, s)
		}
	}
	return out
}

// selects says whether a policy selects a Dataplane, given the MeshServices that may select it.
func selects(head policy.Head, dp *mesh.Resource, services []*mesh.Resource) bool {
	subject := policy.Subject{Dataplane: dp, ServiceLabels: map[mesh.Key]map[string]string{}}
	if len(services) > 0 {
		instance := compile.NewInstance(dp, nil)
		for _, s := range services {
			if instance.Selected(destination.SelectorOf(s)) {
				subject.Services = append(subject.Services, s.Key)
				subject.ServiceLabels[s.Key] = s.Labels
			}
		}
	}
	_, ok := head.Select(subject)
	return ok
}
