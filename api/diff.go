package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/xds/inspect"
)

const titleDiff = "Could not compare"

// diffTimeout bounds a zone's computation, which grows with its proxies.
const diffTimeout = time.Minute

// differ is the gRPC form of what a change would do. Each zone computes it for its own proxies.
type differ struct {
	adminv1.UnimplementedDiffServiceServer
	api *API
}

func (d *differ) Diff(ctx context.Context, req *adminv1.DiffRequest) (*adminv1.DiffResponse, error) {
	a := d.api
	if _, err := a.authorize(ctx, verbRead, nil); err != nil {
		return nil, err
	}
	resources, err := a.admitted(ctx, req)
	if err != nil {
		return nil, err
	}
	out := &adminv1.DiffResponse{}
	if req.GetGuard() && !a.guarded(resources) {
		return out, nil
	}
	if a.isGlobal() {
		err = a.diffInZones(ctx, req, resources, out)
	} else {
		err = a.diffHere(ctx, req, resources, out)
	}
	if err != nil {
		return nil, err
	}
	if !req.GetAdmitted() {
		out.Guards = a.guards(resources, out.GetZones())
	}
	return out, nil
}

// admitted are the resources as they would be stored: each goes through the pipeline of a write
// that writes nothing. Of a mesh among them its other resources are not told that it is missing.
func (a *API) admitted(ctx context.Context, req *adminv1.DiffRequest) ([]*mesh.Resource, error) {
	var out []*mesh.Resource
	bad := &mesh.ValidationError{}
	fresh := map[string]bool{}
	for i, p := range req.GetResources() {
		r, err := mesh.FromProto(p)
		if err != nil {
			return nil, problem(http.StatusBadRequest, titleDiff, "resource %d cannot be read: %v", i, err)
		}
		if r.Key.Kind == mesh.KindMesh {
			fresh[r.Key.Name] = true
		}
		if req.GetAdmitted() {
			if _, err := validate.Resource(r); err != nil {
				return nil, err
			}
			out = append(out, r)
			continue
		}
		got, err := a.put(ctx, put{resource: r, dryRun: true, quiet: true})
		var p *Problem
		switch {
		case errors.As(err, &p) && len(p.Violations) > 0:
			for _, v := range p.Violations {
				bad.Add(fmt.Sprintf("%s %s: %s", r.Key.Kind, r.Key.Name, v.Field), "%s", v.Reason)
			}
		case errors.As(err, &p) && p.Status == http.StatusNotFound && fresh[r.Key.Mesh]:
			// A mesh that is not there has no proxies either.
		case err != nil:
			return nil, err
		case got.changed:
			out = append(out, got.resource)
		}
	}
	if len(bad.Violations) > 0 {
		return nil, invalid(titleDiff, bad.Violations)
	}
	return out, nil
}

// guarded says that a write of the resources could need to be sure.
func (a *API) guarded(resources []*mesh.Resource) bool {
	return slices.ContainsFunc(resources, func(r *mesh.Resource) bool {
		info, ok := mesh.Lookup(r.Key.Kind)
		return ok && info.Policy != nil && (a.conf.GuardShare > 0 || inspect.CanEmpty(r.Key.Kind))
	})
}

// guards are the reasons to be sure first.
func (a *API) guards(resources []*mesh.Resource, zones []*adminv1.ZoneDiff) []string {
	if !a.guarded(resources) {
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
	if share := a.conf.GuardShare; share > 0 && int(changed) >= a.conf.GuardProxies &&
		changed*100 > proxies*uint32(share) {
		out = append(out, fmt.Sprintf("%d of %d proxies would change; this control plane lets %d %% pass "+
			"without being told so (--guard-share)", changed, proxies, share))
	}
	return out
}

func (a *API) diffHere(ctx context.Context, req *adminv1.DiffRequest, resources []*mesh.Resource,
	out *adminv1.DiffResponse) error {
	view, err := a.view(ctx, 0)
	if err != nil {
		return err
	}
	z, err := inspect.Diff(view, a.conf.Zone, resources, int(req.GetSize()), req.GetVerbose())
	if err != nil {
		return problem(http.StatusInternalServerError, titleDiff, "%v", err)
	}
	out.Zones = []*adminv1.ZoneDiff{z}
	return nil
}

// stays says that zones do not get a resource of global.
func stays(r *mesh.Resource) bool {
	info, ok := mesh.Lookup(r.Key.Kind)
	return !ok || !info.SyncDown || r.Labels[mesh.LabelSync] == mesh.SyncDisabled
}

// diffInZones asks every zone, all at once. One that is away is named in the warnings.
func (a *API) diffInZones(ctx context.Context, req *adminv1.DiffRequest, resources []*mesh.Resource,
	out *adminv1.DiffResponse) error {
	view, err := a.view(ctx, 0)
	if err != nil {
		return err
	}
	ask := &adminv1.DiffRequest{Size: req.GetSize(), Verbose: req.GetVerbose(), Admitted: true}
	if ask.Resources, err = protos(slices.DeleteFunc(slices.Clone(resources), stays)); err != nil {
		return err
	}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(forwardParallel)
	for name, state := range zonesOf(view) {
		g.Go(func() error {
			resp := &adminv1.DiffResponse{}
			away := ""
			if state == "Offline" {
				away = "it is offline"
			} else if err := forwardWithin(ctx, a, diffTimeout, name, adminv1.DiffService_Diff_FullMethodName,
				ask, resp); err != nil {
				away = strings.TrimPrefix(a.asProblem(err, titleDiff).Detail,
					"zone "+name+" cannot be asked: ")
			}
			mu.Lock()
			defer mu.Unlock()
			if away != "" {
				out.Warnings = append(out.Warnings, awayWarning(name, away))
			}
			out.Zones = append(out.Zones, resp.GetZones()...)
			return nil
		})
	}
	_ = g.Wait() // none fails
	slices.Sort(out.Warnings)
	slices.SortFunc(out.Zones,
		func(x, y *adminv1.ZoneDiff) int { return strings.Compare(x.GetZone(), y.GetZone()) })
	return ctx.Err()
}

// methods are what the tunnel serves.
func (d *differ) methods(add func(string, func(context.Context, []byte) ([]byte, error))) {
	add(adminv1.DiffService_Diff_FullMethodName, call(d.api, adminv1.DiffService_Diff_FullMethodName,
		func() *adminv1.DiffRequest { return &adminv1.DiffRequest{} }, d.Diff))
}
