package api

import (
	"context"
	"math"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/xds/compile"
)

// Members are the Dataplanes that a destination selects, all on one page. A key without zone means the only
// service of that name.
func (r *reader) Members(ctx context.Context, service mesh.Key) (Page, error) {
	svc, err := r.Get(ctx, service, service.Zone != "", 0)
	if err != nil {
		return Page{}, err
	}
	selector := destination.SelectorOf(svc)
	dataplanes, _ := mesh.Lookup(mesh.KindDataplane)
	return r.List(ctx, Selection{
		Kind: dataplanes,
		Mesh: svc.Key.Mesh,
		Zone: &svc.Key.Zone,
		Size: math.MaxInt / 4,
		Keep: func(dp *mesh.Resource) bool { return compile.NewInstance(dp, nil).Selected(selector) },
	})
}
