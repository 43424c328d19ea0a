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
	"github.com/meridian-mesh/meridian/store/replica"
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
	resources, warnings, err := d.admit(ctx, req)
	if err != nil {
		return nil, err
	}
	out := &adminv1.DiffResponse{Inert: warnings}
	change := inspect.Change{Puts: resources}
	for _, k := range req.GetDeletes() {
		change.Deletes = append(change.Deletes, mesh.KeyFromProto(k))
	}
	view, err := d.view(ctx, 0)
	if err != nil {
		return nil, err
	}
	guarded := d.guarded(view, change)
	if req.GetGuard() && !guarded {
		return out, nil
	}
	if err := d.compute(ctx, req, change, out); err != nil {
		return nil, err
	}
	if !req.GetAdmitted() && guarded {
		out.Guards = d.guards(out.GetZones())
	}
	return out, nil
}

// compute asks the zones what would change, or computes it in a zone.
func (d *differ) compute(ctx context.Context, req *adminv1.DiffRequest, change inspect.Change,
	out *adminv1.DiffResponse) error {
	if d.global() {
		return d.diffInZones(ctx, req, change, out)
	}
	return d.diffHere(ctx, req, change, out)
}

// guardTimeout bounds what the guard adds to a write.
const guardTimeout = 10 * time.Second

// Guard gives the reasons to be sure before a change is written: what it would leave without an instance.
// warnings name what could not be computed; the write is not held up by that.
func (d *differ) Guard(ctx context.Context, change inspect.Change) (guards, warnings []string) {
	view, err := d.view(ctx, 0)
	if err != nil || !d.guarded(view, change) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	out := &adminv1.DiffResponse{}
	if err := d.compute(ctx, &adminv1.DiffRequest{Guard: true}, change, out); err != nil {
		return nil, []string{fmt.Sprintf("the effect on proxies could not be computed: %v", err)}
	}
	for _, w := range out.GetWarnings() {
		warnings = append(warnings, "the effect on proxies was not computed everywhere: "+w)
	}
	return d.guards(out.GetZones()), warnings
}

// admit gives the resources as they would be stored: each goes through the pipeline of a write that
// writes nothing. A resource of a mesh that is among the resources does not miss its mesh. warnings are
// those of the writes, each with its resource.
func (d *differ) admit(
	ctx context.Context,
	req *adminv1.DiffRequest,
) (out []*mesh.Resource, warnings []string,
	err error) {
	bad := &mesh.ValidationError{}
	created := map[string]bool{}
	for n, p := range req.GetResources() {
		r, err := mesh.FromProto(p)
		if err != nil {
			return nil, nil, problem.New(http.StatusBadRequest, problem.TitleDiff,
				"resource %d cannot be read: %v", n, err)
		}
		if r.Key.Kind == mesh.KindMesh {
			created[r.Key.Name] = true
		}
		if req.GetAdmitted() {
			if _, err := validate.Resource(r); err != nil {
				return nil, nil, err
			}
			out = append(out, r)
			continue
		}
		got, warned, err := d.writer.wouldAdmit(ctx, r)
		for _, w := range warned {
			warnings = append(warnings, fmt.Sprintf("%s %s: %s", r.Key.Kind, r.Key.Name, w))
		}
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
			return nil, nil, err
		case got.Changed:
			out = append(out, got.Resource)
		}
	}
	if len(bad.Violations) > 0 {
		return nil, nil, problem.Invalid(problem.TitleDiff, bad.Violations...)
	}
	return out, warnings, nil
}

// guarded says that a change could need to be sure. A destination or a proxy that is new takes nothing away.
func (d *differ) guarded(view replica.View, change inspect.Change) bool {
	guarded := func(k mesh.Key) bool {
		if info, ok := mesh.Lookup(k.Kind); ok && info.Policy != nil {
			return inspect.CanEmpty(k.Kind) || d.cfg.GuardShare > 0
		}
		_, there := view.Get(k)
		return there && inspect.CanEmpty(k.Kind)
	}
	return slices.ContainsFunc(change.Puts, func(r *mesh.Resource) bool { return guarded(r.Key) }) ||
		slices.ContainsFunc(change.Deletes, guarded)
}

// guards are the reasons to be sure first.
func (d *differ) guards(zones []*adminv1.ZoneDiff) []string {
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

func (d *differ) diffHere(ctx context.Context, req *adminv1.DiffRequest, change inspect.Change,
	out *adminv1.DiffResponse) error {
	view, err := d.view(ctx, 0)
	if err != nil {
		return err
	}
	z, err := inspect.Diff(view, d.cfg.Zone, change, int(req.GetSize()), req.GetVerbose())
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
func (d *differ) diffInZones(ctx context.Context, req *adminv1.DiffRequest, change inspect.Change,
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
	if ask.Resources, err = protos(slices.DeleteFunc(slices.Clone(change.Puts), stays)); err != nil {
		return err
	}
	for _, k := range change.Deletes {
		ask.Deletes = append(ask.Deletes, k.Proto())
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
