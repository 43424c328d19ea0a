package api

import (
	"context"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
)

// aimWarning is what to tell the author of a policy that selects no proxy, empty if it selects one
// or nobody can tell: a zone may be away. A policy for the whole mesh is never warned of, for such
// policies come before the proxies.
func (a *API) aimWarning(ctx context.Context, r *mesh.Resource) string {
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok || info.Policy == nil {
		return ""
	}
	head := policy.HeadOf(r)
	if kind := head.Target.GetKind(); head.Shadow || kind == "" || kind == string(mesh.KindMesh) {
		return ""
	}
	dataplanes, _ := mesh.Lookup(mesh.KindDataplane)
	s := selection{
		kind: dataplanes,
		mesh: r.Key.Mesh,
		size: 1,
		keep: func(dp *mesh.Resource) bool { return a.selects(head, dp) },
	}
	if head.Target.GetKind() == string(mesh.KindDataplane) {
		s.name = head.Target.GetName()
	}
	got, err := a.list(ctx, s)
	if err != nil || len(got.warnings) > 0 || got.total > 0 {
		return ""
	}
	return "targetRef: targets no proxy today; it is stored, and holds as soon as a proxy that it " +
		"means is there"
}

// selects says whether a policy selects a Dataplane, by the MeshServices that this control plane knows.
func (a *API) selects(head policy.Head, dp *mesh.Resource) bool {
	subject := policy.Subject{Dataplane: dp, ServiceLabels: map[mesh.Key]map[string]string{}}
	if slices.Contains([]string{string(mesh.KindMeshService), "MeshServiceSubset"}, head.Target.GetKind()) {
		instance := compile.NewInstance(dp, nil)
		for svc := range a.conf.Replica.View().List(mesh.KindMeshService, dp.Key.Mesh) {
			if svc.Key.Zone == dp.Key.Zone &&
				instance.Selected(mesh.Spec[*meshv1.MeshService](svc).GetSelector()) {
				subject.Services = append(subject.Services, svc.Key)
				subject.ServiceLabels[svc.Key] = svc.Labels
			}
		}
	}
	_, ok := head.Select(subject)
	return ok
}
