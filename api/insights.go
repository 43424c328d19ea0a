package api

import (
	"context"
	"math"

	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// Insights are those of some proxies of one kind, by their keys; zones keep theirs in their status,
// so there are none of them.
func (r *reader) Insights(ctx context.Context,
	proxies []*mesh.Resource) (map[mesh.Key]*mesh.Resource, error) {
	out := map[mesh.Key]*mesh.Resource{}
	if len(proxies) == 0 || proxies[0].Key.Kind == mesh.KindZone {
		return out, nil
	}
	kind, _ := mesh.Lookup(mesh.InsightKey(proxies[0].Key).Kind)
	const method = adminv1.ResourceService_ListResources_FullMethodName
	if _, err := authz.Authorize(ctx, method, kind); err != nil {
		return nil, err
	}
	view, err := r.view(ctx, 0)
	if err != nil {
		return nil, err
	}
	if !r.remote(kind) {
		for _, p := range proxies {
			if in, ok := view.Get(mesh.InsightKey(p.Key)); ok {
				out[in.Key] = in
			}
		}
		return out, nil
	}

	s := Selection{Kind: kind, Size: math.MaxInt / 4, Mesh: proxies[0].Key.Mesh}
	for _, p := range proxies {
		if p.Key.Mesh != s.Mesh {
			s.Mesh = ""
		}
	}
	if len(proxies) == 1 {
		s.Name, s.Zone = proxies[0].Key.Name, &proxies[0].Key.Zone
	}
	got, err := r.listRemote(ctx, view, s)
	if err != nil {
		return nil, err
	}
	for _, in := range got.Resources {
		out[in.Key] = in
	}
	return out, nil
}
