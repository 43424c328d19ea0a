package api

import (
	"context"

	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/fanout"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/xds/inspect"
)

// CountSelected implements meridian.admin.v1.InspectService. A zone counts over its own view; global
// has no proxies of its own and counts none.
func (i *inspector) CountSelected(ctx context.Context,
	req *adminv1.CountSelectedRequest) (*adminv1.CountSelectedResponse, error) {
	if _, err := authz.Authorize(ctx, adminv1.InspectService_CountSelected_FullMethodName, nil); err != nil {
		return nil, err
	}
	view, err := i.view(ctx, 0)
	if err != nil {
		return nil, err
	}
	head := policy.HeadOf(&mesh.Resource{Key: mesh.KeyFromProto(req.GetKey()), Labels: req.GetLabels()})
	if req.GetTarget() != nil {
		head.Target = req.GetTarget()
	}
	return &adminv1.CountSelectedResponse{
		Count: inspect.CountSelected(view, i.cfg.Zone, head, req.GetLimit()),
	}, nil
}

// matches is the admission.Count of this control plane. Global asks all zones at once, each for a
// number, and stops at the first that has a match.
func (i *inspector) matches(ctx context.Context, r *mesh.Resource) (matches, known bool) {
	view, err := i.view(ctx, 0)
	if err != nil {
		return false, false
	}
	head := policy.HeadOf(r)
	if !i.global() {
		return inspect.CountSelected(view, i.cfg.Zone, head, 1) > 0, true
	}
	req := &adminv1.CountSelectedRequest{
		Key:    r.Key.Proto(),
		Labels: r.Labels,
		Target: head.Target,
		Limit:  1,
	}
	const method = adminv1.InspectService_CountSelected_FullMethodName
	ctx, found := context.WithCancel(ctx)
	defer found()
	known = true
	for _, z := range fanout.Each(ctx, i.zones, zoneNames(view), forwardTimeout,
		func(ctx context.Context, zone string) (bool, error) {
			resp := &adminv1.CountSelectedResponse{}
			err := fanout.Call(ctx, i.zones, zone, method, req, resp)
			if resp.GetCount() > 0 {
				found()
			}
			return resp.GetCount() > 0, err
		}) {
		matches = matches || z.Value
		known = known && z.Err == nil
	}
	return matches, known || matches
}
