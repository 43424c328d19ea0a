package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/fanout"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/xds/inspect"
)

// diffTimeout bounds a zone's computation, which grows with its proxies.
const diffTimeout = time.Minute

// differ shows what a change would do. Each zone computes it for its own proxies.
type differ struct {
	adminv1.UnimplementedDiffServiceServer
	*base
	writer *writer
}

// Diff implements meridian.admin.v1.DiffService.
func (d *differ) Diff(ctx context.Context, req *adminv1.DiffRequest) (*adminv1.DiffResponse, error) {
	if _, err := authz.Authorize(ctx, adminv1.DiffService_Diff_FullMethodName, nil); err != nil {
		return nil, err
	}
	resources, err := d.admit(ctx, req)
	if err != nil {
		return nil, err
	}
	out := &adminv1.DiffResponse{}
	if req.GetGuard() && !d.guarded(resources) {
		return out, nil
	}
	if d.global() {
		err = d.diffInZones(ctx, req, resources, out)
	} else {
		err = d.diffHere(ctx, req, resources, out)
	}
	if err != nil {
		return nil, err
	}
	if !req.GetAdmitted() {
		out.Guards = d.guards(resources, out.GetZones())
	}
	return out, nil
}

// admit gives the resources as they would be stored: each goes through the pipeline of a write that
// writes nothing. A resource of a mesh that is among the resources does not miss its mesh.
func (d *differ) admit(ctx context.Context, req *adminv1.DiffRequest) ([]*mesh.Resource, error) {
	var out []*mesh.Resource
	bad := &mesh.ValidationError{}
	created := map[string]bool{}
	for n, p := range req.GetResources() {
		r, err := mesh.FromProto(p)
		if err != nil {
			return nil, problem.New(http.StatusBadRequest, problem.TitleDiff,
				"resource %d cannot be read: %v", n, err)
		}
		if r.Key.Kind == mesh.KindMesh {
			created[r.Key.Name] = true
		}
		if req.GetAdmitted() {
			if _, err := validate.Resource(r); err != nil {
				return nil, err
			}
			out = append(out, r)
			continue
		}
		got, err := d.writer.wouldAdmit(ctx, r)
		var p *problem.Problem
		var noMesh *admission.NoMeshError
		switch {
		case errors.As(err, &p) && len(p.Violations) > 0:
			for _, v := range p.Violations {
				bad.Add(fmt.Sprintf("%s %s: %s", r.Key.Kind, r.Key.Name, v.Field), "%s", v.Reason)
			}
		case errors.As(err, &noMesh) && created[noMesh.Mesh]:
			// A mesh that does not exist has no proxies that could change.
		case err != nil:
			return nil, err
		case got.Changed:
			out = append(out, got.Resource)
		}
	}
	if len(bad.Violations) > 0 {
		return nil, problem.Invalid(problem.TitleDiff, bad.Violations...)
	}
	return out, nil
}

// guarded says that a write of the resources could need to be sure.
func (d *differ) guarded(resources []*mesh.Resource) bool {
	return slices.ContainsFunc(resources, func(r *mesh.Resource) bool {
		info, ok := mesh.Lookup(r.Key.Kind)
		return ok && info.Policy != nil && (d.cfg.GuardShare > 0 || inspect.CanEmpty(r.Key.Kind))
	})
}

// guards are the reasons to be sure first.
func (d *differ) guards(resources []*mesh.Resource, zones []*adminv1.ZoneDiff) []string {
	if !d.guarded(resources) {
		return nil
	}
	var out []string
	proxies, changed := uint32(0), uint32(0)
	for _, z := range zones {
		proxies, changed = proxies+z.GetProxies(), changed+z.GetChanged()
		for _, text := range z.GetEmptied() {
			out = append(out, fmt.Sprintf("zone %s: %s", z.GetZone(), text))
		}
	}
	share := d.cfg.GuardShare
	if share > 0 && int(changed) >= d.cfg.GuardProxies && changed*100 > proxies*uint32(share) {
		out = append(out, fmt.Sprintf("%d of %d proxies would change; this control plane lets %d %% pass "+
			"without confirmation", changed, proxies, share))
	}
	return out
}

func (d *differ) diffHere(ctx context.Context, req *adminv1.DiffRequest, resources []*mesh.Resource,
	out *adminv1.DiffResponse) error {
	view, err := d.view(ctx, 0)
	if err != nil {
		return err
	}
	z, err := inspect.Diff(view, d.cfg.Zone, resources, int(req.GetSize()), req.GetVerbose())
	if err != nil {
		return problem.New(http.StatusInternalServerError, problem.TitleDiff, "%v", err)
	}
	out.Zones = []*adminv1.ZoneDiff{z}
	return nil
}

// stays says that zones do not get a resource of global.
func stays(r *mesh.Resource) bool {
	info, ok := mesh.Lookup(r.Key.Kind)
	return !ok || !info.SyncDown || r.Labels[mesh.LabelSync] == mesh.SyncDisabled
}

// diffInZones asks every zone. One that cannot be asked is named in the warnings.
func (d *differ) diffInZones(ctx context.Context, req *adminv1.DiffRequest, resources []*mesh.Resource,
	out *adminv1.DiffResponse) error {
	view, err := d.view(ctx, 0)
	if err != nil {
		return err
	}
	ask := &adminv1.DiffRequest{
		Size:     req.GetSize(),
		Verbose:  req.GetVerbose(),
		Admitted: true,
	}
	if ask.Resources, err = protos(slices.DeleteFunc(slices.Clone(resources), stays)); err != nil {
		return err
	}
	for _, z := range fanout.All[adminv1.DiffResponse](ctx, d.zones, zoneNames(view), diffTimeout,
		adminv1.DiffService_Diff_FullMethodName, ask) {
		if z.Err != nil {
			out.Warnings = append(out.Warnings, leftOut(z.Zone, z.Err))
			continue
		}
		out.Zones = append(out.Zones, z.Value.GetZones()...)
	}
	return ctx.Err()
}
