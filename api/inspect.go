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
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/inspect"
)

const titleInspect = "Could not inspect"

// inspector is the gRPC form of what policies come to. Dataplanes are inspected in their zone, over
// a copy of its view; global finds the zone and asks there.
type inspector struct {
	adminv1.UnimplementedInspectServiceServer
	api *API
}

func (a *API) isGlobal() bool { return a.conf.Role == RoleGlobal }

// forwardTo asks a zone. What it answers in error becomes the caller's.
func forwardTo(ctx context.Context, a *API, zone, method string, req, resp proto.Message) error {
	return forwardWithin(ctx, a, forwardTimeout, zone, method, req, resp)
}

func forwardWithin(ctx context.Context, a *API, timeout time.Duration, zone, method string,
	req, resp proto.Message) error {
	if a.conf.Forward == nil {
		return problem(http.StatusBadGateway, titleTunnel, "this control plane has no way to ask zone %s",
			zone)
	}
	body, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	raw, err := a.conf.Forward(ctx, zone, method, body)
	if err != nil {
		p := fromGRPC(err)
		if p.Status == http.StatusBadGateway || p.Status == http.StatusGatewayTimeout {
			p.Detail = fmt.Sprintf("zone %s cannot be asked: %s", zone, p.Detail)
		}
		return p
	}
	return proto.Unmarshal(raw, resp)
}

// zoneOf completes a Dataplane's key: the zone that has it.
func (a *API) zoneOf(ctx context.Context, key mesh.Key) (mesh.Key, error) {
	if key.Kind != mesh.KindDataplane {
		return key, invalid(titleInspect, []mesh.Violation{{Field: "key.kind", Reason: "must be Dataplane"}})
	}
	if a.isGlobal() && key.Zone != "" {
		return key, nil // the zone itself says whether it has it
	}
	r, err := a.get(ctx, key, false, 0)
	if err != nil {
		var p *Problem
		if errors.As(err, &p) && p.Status == http.StatusNotFound && p.Detail == "Not found" {
			p.Detail = fmt.Sprintf("Not found: there is no Dataplane %q in mesh %s", key.Name, key.Mesh)
		}
		return key, err
	}
	return r.Key, nil
}

// static is the engine over what this zone has read.
func (a *API) static(ctx context.Context, shadow bool) (*xds.Static, replica.View, error) {
	view, err := a.view(ctx, 0)
	if err != nil {
		return nil, view, err
	}
	if shadow {
		view = inspect.WithShadow(view)
	}
	return xds.NewStatic(a.conf.Zone, view), view, nil
}

func (a *API) inspectOwn(ctx context.Context, key mesh.Key,
	shadow bool) (*xds.Static, *xds.Inspection, uint64, error) {
	s, view, err := a.static(ctx, shadow)
	if err != nil {
		return nil, nil, 0, err
	}
	in, err := s.Inspect(key)
	if err != nil {
		return nil, nil, 0, problem(http.StatusInternalServerError, titleInspect,
			"the configuration of Dataplane %s cannot be computed: %v", key.Name, err)
	}
	if in == nil {
		return nil, nil, 0, problem(http.StatusNotFound, titleInspect,
			"Not found: zone %s has no Dataplane %q in mesh %s", a.conf.Zone, key.Name, key.Mesh)
	}
	return s, in, view.Revision(), nil
}

func (i *inspector) InspectDataplane(ctx context.Context,
	req *adminv1.InspectDataplaneRequest) (*adminv1.InspectDataplaneResponse, error) {
	a := i.api
	if _, err := a.authorize(ctx, verbRead, nil); err != nil {
		return nil, err
	}
	key, err := a.zoneOf(ctx, mesh.KeyFromProto(req.GetKey()))
	if err != nil {
		return nil, err
	}
	if a.isGlobal() {
		resp := &adminv1.InspectDataplaneResponse{}
		err := forwardTo(ctx, a, key.Zone, adminv1.InspectService_InspectDataplane_FullMethodName,
			&adminv1.InspectDataplaneRequest{Key: key.Proto()}, resp)
		return resp, err
	}
	_, in, revision, err := a.inspectOwn(ctx, key, false)
	if err != nil {
		return nil, err
	}
	return inspect.Dataplane(in, revision), nil
}

func (i *inspector) InspectView(ctx context.Context,
	req *adminv1.InspectViewRequest) (*adminv1.InspectViewResponse, error) {
	a := i.api
	if _, err := a.authorize(ctx, verbRead, nil); err != nil {
		return nil, err
	}
	key, err := a.zoneOf(ctx, mesh.KeyFromProto(req.GetKey()))
	if err != nil {
		return nil, err
	}
	if a.isGlobal() {
		resp := &adminv1.InspectViewResponse{}
		err := forwardTo(ctx, a, key.Zone, adminv1.InspectService_InspectView_FullMethodName,
			&adminv1.InspectViewRequest{Key: key.Proto(), Path: req.GetPath(), Shadow: req.GetShadow()}, resp)
		return resp, err
	}
	s, in, _, err := a.inspectOwn(ctx, key, req.GetShadow())
	if err != nil {
		return nil, err
	}
	doc, err := inspect.View(s, in, req.GetPath())
	if errors.Is(err, inspect.ErrNotFound) {
		return nil, problem(http.StatusNotFound, titleInspect, "%v", err)
	}
	return &adminv1.InspectViewResponse{Json: doc}, err
}

func (i *inspector) InspectPolicy(ctx context.Context,
	req *adminv1.InspectPolicyRequest) (*adminv1.InspectPolicyResponse, error) {
	a := i.api
	key := mesh.KeyFromProto(req.GetKey())
	info, ok := mesh.Lookup(key.Kind)
	if !ok || info.Policy == nil {
		return nil, invalid(titleInspect, []mesh.Violation{{
			Field:  "key.kind",
			Reason: fmt.Sprintf("%q is no kind of policy", key.Kind),
		}})
	}
	if a.isGlobal() {
		r, err := a.get(ctx, key, false, 0) // a zone's own policies are known here too
		if err != nil {
			return nil, err
		}
		return a.policyInZones(ctx, r.Key, req)
	}
	r, err := a.get(ctx, key, key.Zone != "", 0)
	if err != nil {
		return nil, err
	}
	s, view, err := a.static(ctx, false)
	if err != nil {
		return nil, err
	}
	effect, err := inspect.Policy(s, view, a.conf.Zone, r.Key, int(req.GetSize()), req.GetNamesOnly())
	if err != nil {
		return nil, problem(http.StatusInternalServerError, titleInspect, "%v", err)
	}
	return &adminv1.InspectPolicyResponse{Zones: []*adminv1.ZoneEffect{effect}}, nil
}

// policyInZones asks every zone, all at once. One that is away is named in the warnings.
func (a *API) policyInZones(ctx context.Context, key mesh.Key,
	req *adminv1.InspectPolicyRequest) (*adminv1.InspectPolicyResponse, error) {
	view, err := a.view(ctx, 0)
	if err != nil {
		return nil, err
	}
	out := &adminv1.InspectPolicyResponse{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(forwardParallel)
	for name, state := range zonesOf(view) {
		if key.Zone != "" && name != key.Zone {
			continue // a zone's own policy is nobody else's
		}
		g.Go(func() error {
			resp := &adminv1.InspectPolicyResponse{}
			away := ""
			if state == "Offline" {
				away = "it is offline"
			} else if err := forwardTo(ctx, a, name, adminv1.InspectService_InspectPolicy_FullMethodName,
				&adminv1.InspectPolicyRequest{
					Key:       key.Proto(),
					Size:      req.GetSize(),
					NamesOnly: req.GetNamesOnly(),
				}, resp); err != nil {
				away = strings.TrimPrefix(a.asProblem(err, titleInspect).Detail,
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
		func(x, y *adminv1.ZoneEffect) int { return strings.Compare(x.GetZone(), y.GetZone()) })
	return out, ctx.Err()
}

func (i *inspector) Explain(ctx context.Context,
	req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	a := i.api
	if _, err := a.authorize(ctx, verbRead, nil); err != nil {
		return nil, err
	}
	var bad []mesh.Violation
	for _, f := range []struct{ field, value string }{{"from", req.GetFrom()}, {"to", req.GetTo()}} {
		if f.value == "" {
			bad = append(bad, mesh.Violation{Field: f.field, Reason: "must not be empty"})
		}
	}
	if bad != nil {
		return nil, invalid("Could not explain", bad)
	}
	if req.GetMesh() == "" {
		req = proto.CloneOf(req)
		req.Mesh = mesh.DefaultMesh
	}
	if a.isGlobal() {
		zone, err := a.callerZone(ctx, req)
		if err != nil {
			return nil, err
		}
		resp := &adminv1.ExplainResponse{}
		return resp, forwardTo(ctx, a, zone, adminv1.InspectService_Explain_FullMethodName, req, resp)
	}
	if req.GetZone() != "" && req.GetZone() != a.conf.Zone {
		return nil, problem(http.StatusNotFound, "Could not explain",
			"this is the control plane of zone %s; ask the one of zone %s, or global", a.conf.Zone,
			req.GetZone())
	}
	s, view, err := a.static(ctx, false)
	if err != nil {
		return nil, err
	}
	resp, err := inspect.Explain(s, view, a.conf.Zone, req)
	switch {
	case errors.Is(err, inspect.ErrNoCaller):
		return nil, problem(http.StatusNotFound, "Could not explain", "%v", err)
	case errors.Is(err, inspect.ErrAmbiguous), errors.Is(err, inspect.ErrBadRequest):
		return nil, problem(http.StatusBadRequest, "Could not explain", "%v", err)
	case err != nil:
		return nil, problem(http.StatusInternalServerError, "Could not explain", "%v", err)
	}
	return resp, nil
}

// callerZone finds, at global, the zone that has the caller: as a Dataplane, else as a MeshService.
func (a *API) callerZone(ctx context.Context, req *adminv1.ExplainRequest) (string, error) {
	view, err := a.view(ctx, 0)
	if err != nil {
		return "", err
	}
	if z := req.GetZone(); z != "" {
		if _, ok := zonesOf(view)[z]; !ok {
			return "", problem(http.StatusNotFound, "Could not explain", "there is no zone %q", z)
		}
		return z, nil
	}
	info, _ := mesh.Lookup(mesh.KindDataplane)
	got, err := a.listRemote(ctx, view, info, selection{
		kind: info,
		mesh: req.GetMesh(),
		name: req.GetFrom(),
		size: maxPage,
		keep: func(r *mesh.Resource) bool { return r.Key.Name == req.GetFrom() },
	})
	if err != nil {
		return "", err
	}
	var zones []string
	for _, r := range got.resources {
		zones = append(zones, r.Key.Zone)
	}
	if len(zones) == 0 {
		for r := range view.List(mesh.KindMeshService, req.GetMesh()) {
			if r.Key.Name == req.GetFrom() {
				zones = append(zones, r.Key.Zone)
			}
		}
	}
	slices.Sort(zones)
	zones = slices.Compact(zones)
	switch len(zones) {
	case 1:
		return zones[0], nil
	case 0:
		hint := ""
		if len(got.warnings) > 0 {
			hint = " (" + strings.Join(got.warnings, "; ") + ")"
		}
		return "", problem(http.StatusNotFound, "Could not explain",
			"there is neither a Dataplane nor a MeshService %q in mesh %s%s", req.GetFrom(), req.GetMesh(),
			hint)
	}
	return "", problem(http.StatusBadRequest, "Could not explain",
		"zones %s all have a caller %q: say which zone", strings.Join(zones, ", "), req.GetFrom())
}

// methods are what the tunnel serves.
func (i *inspector) methods(add func(string, func(context.Context, []byte) ([]byte, error))) {
	a := i.api
	add(adminv1.InspectService_InspectDataplane_FullMethodName,
		call(a, adminv1.InspectService_InspectDataplane_FullMethodName,
			func() *adminv1.InspectDataplaneRequest { return &adminv1.InspectDataplaneRequest{} },
			i.InspectDataplane))
	add(adminv1.InspectService_InspectPolicy_FullMethodName,
		call(a, adminv1.InspectService_InspectPolicy_FullMethodName,
			func() *adminv1.InspectPolicyRequest { return &adminv1.InspectPolicyRequest{} }, i.InspectPolicy))
	add(adminv1.InspectService_InspectView_FullMethodName,
		call(a, adminv1.InspectService_InspectView_FullMethodName,
			func() *adminv1.InspectViewRequest { return &adminv1.InspectViewRequest{} }, i.InspectView))
	add(adminv1.InspectService_Explain_FullMethodName, call(a, adminv1.InspectService_Explain_FullMethodName,
		func() *adminv1.ExplainRequest { return &adminv1.ExplainRequest{} }, i.Explain))
}
