package api

import (
	"context"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/inspect"
)

// matches is the admission.Count of this control plane.
func (i *inspector) matches(ctx context.Context, r *mesh.Resource) (matches, known bool) {
	view, err := i.view(ctx, 0)
	if err != nil {
		return false, false
	}
	head := policy.HeadOf(r)
	if !i.global() {
		return inspect.CountSelected(view, i.cfg.Zone, head, 1) > 0, true
	}
	dataplanes, _ := mesh.Lookup(mesh.KindDataplane)
	got, err := i.listRemote(ctx, view, Selection{
		Kind: dataplanes,
		Mesh: r.Key.Mesh,
		Size: 1,
		Keep: func(dp *mesh.Resource) bool {
			alone := view.With(view.Revision(), []store.Change{{Key: dp.Key, Resource: dp}})
			return inspect.CountSelected(alone, dp.Key.Zone, head, 1) > 0
		},
	})
	return got.Total > 0, err == nil && len(got.Warnings) == 0
}
