package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/fanout"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/inspect"
)

// inspector shows what policies come to. Dataplanes are inspected in their zone, over a copy of its
// view; global finds the zone and asks there.
type inspector struct {
	adminv1.UnimplementedInspectServiceServer
	*base
	reader *reader
}

// askZone asks one zone. What it answers in error becomes the caller's.
func (b *base) askZone(ctx context.Context, zone string, timeout time.Duration, method string,
	req, resp proto.Message) error {
	return fanout.One(ctx, b.zones, zone, timeout, method, req, resp)
}

// otherZone is a problem if the caller means another zone than this one.
func (b *base) otherZone(title, zone string) error {
	if zone == "" || zone == b.cfg.Zone {
		return nil
	}
	return problem.New(http.StatusNotFound, title,
		"this is the control plane of zone %s; ask the one of zone %s, or global", b.cfg.Zone, zone)
}

// dataplane completes a Dataplane's key: the zone that has it.
func (i *inspector) dataplane(ctx context.Context, key mesh.Key) (mesh.Key, error) {
	return i.reader.locate(ctx, problem.TitleInspect, key, mesh.KindDataplane)
}

// static is the engine over what this zone has read.
func (i *inspector) static(ctx context.Context, shadow bool) (*xds.Static, replica.View, error) {
	view, err := i.view(ctx, 0)
	if err != nil {
		return nil, view, err
	}
	if shadow {
		view = inspect.WithShadow(view)
	}
	return xds.NewStatic(i.cfg.Zone, view), view, nil
}

func (i *inspector) inspectOwn(ctx context.Context, key mesh.Key,
	shadow bool) (*xds.Static, *xds.Inspection, uint64, error) {
	s, view, err := i.static(ctx, shadow)
	if err != nil {
		return nil, nil, 0, err
	}
	in, err := s.Inspect(key)
	if err != nil {
		return nil, nil, 0, problem.New(http.StatusInternalServerError, problem.TitleInspect,
			"the configuration of Dataplane %s cannot be computed: %v", key.Name, err)
	}
	if in == nil {
		return nil, nil, 0, problem.New(http.StatusNotFound, problem.TitleInspect,
			"Not found: zone %s has no Dataplane %q in mesh %s", i.cfg.Zone, key.Name, key.Mesh)
	}
	return s, in, view.Revision(), nil
}

// InspectDataplane implements meridian.admin.v1.InspectService.
func (i *inspector) InspectDataplane(ctx context.Context,
	req *adminv1.InspectDataplaneRequest) (*adminv1.InspectDataplaneResponse, error) {
	const method = adminv1.InspectService_InspectDataplane_FullMethodName
	if _, err := authz.Authorize(ctx, method, nil); err != nil {
		return nil, err
	}
	key, err := i.dataplane(ctx, mesh.KeyFromProto(req.GetKey()))
	if err != nil {
		return nil, err
	}
	if i.global() {
		resp := &adminv1.InspectDataplaneResponse{}
		return resp, i.askZone(ctx, key.Zone, forwardTimeout, method,
			&adminv1.InspectDataplaneRequest{Key: key.Proto()}, resp)
	}
	_, in, revision, err := i.inspectOwn(ctx, key, false)
	if err != nil {
		return nil, err
	}
	return inspect.Dataplane(in, revision), nil
}

// InspectView implements meridian.admin.v1.InspectService.
func (i *inspector) InspectView(ctx context.Context,
	req *adminv1.InspectViewRequest) (*adminv1.InspectViewResponse, error) {
	const method = adminv1.InspectService_InspectView_FullMethodName
	if _, err := authz.Authorize(ctx, method, nil); err != nil {
		return nil, err
	}
	key, err := i.dataplane(ctx, mesh.KeyFromProto(req.GetKey()))
	if err != nil {
		return nil, err
	}
	if slices.Contains(req.GetPath(), "_config") {
		row := about(ctx, actionDump, key)
		row.What = "the configuration of the proxy"
		i.audit.try(ctx, row)
	}
	if i.global() {
		resp := &adminv1.InspectViewResponse{}
		return resp, i.askZone(ctx, key.Zone, forwardTimeout, method, &adminv1.InspectViewRequest{
			Key:    key.Proto(),
			Path:   req.GetPath(),
			Shadow: req.GetShadow(),
		}, resp)
	}
	s, in, _, err := i.inspectOwn(ctx, key, req.GetShadow())
	if err != nil {
		return nil, err
	}
	doc, err := inspect.View(s, in, req.GetPath())
	if errors.Is(err, inspect.ErrNotFound) {
		return nil, problem.New(http.StatusNotFound, problem.TitleInspect, "%v", err)
	}
	return &adminv1.InspectViewResponse{Json: doc}, err
}

// InspectPolicy implements meridian.admin.v1.InspectService.
func (i *inspector) InspectPolicy(ctx context.Context,
	req *adminv1.InspectPolicyRequest) (*adminv1.InspectPolicyResponse, error) {
	key := mesh.KeyFromProto(req.GetKey())
	info, ok := mesh.Lookup(key.Kind)
	if !ok || info.Policy == nil {
		return nil, problem.Invalid(problem.TitleInspect, mesh.Violation{
			Field:  "key.kind",
			Reason: fmt.Sprintf("%q is not a kind of policy", key.Kind),
		})
	}
	if _, err := authz.Authorize(ctx, adminv1.InspectService_InspectPolicy_FullMethodName, info); err != nil {
		return nil, err
	}
	exact := !i.global() && key.Zone != ""
	r, err := i.reader.Get(ctx, key, exact, 0) // global knows the policies of zones, too
	if err != nil {
		return nil, err
	}
	if i.global() {
		return i.policyInZones(ctx, r, req)
	}
	s, view, err := i.static(ctx, false)
	if err != nil {
		return nil, err
	}
	effect, err := inspect.Policy(s, view, i.cfg.Zone, r.Key, int(req.GetSize()), req.GetNamesOnly())
	if err != nil {
		return nil, problem.New(http.StatusInternalServerError, problem.TitleInspect, "%v", err)
	}
	return &adminv1.InspectPolicyResponse{
		Zones: []*adminv1.ZoneEffect{effect},
		Inert: admission.Inert(view, r),
	}, nil
}

// policyInZones asks every zone that a policy can concern: a zone's own concerns that zone alone.
func (i *inspector) policyInZones(ctx context.Context, r *mesh.Resource,
	req *adminv1.InspectPolicyRequest) (*adminv1.InspectPolicyResponse, error) {
	key := r.Key
	view, err := i.view(ctx, 0)
	if err != nil {
		return nil, err
	}
	zones := zoneNames(view)
	if key.Zone != "" {
		zones = slices.DeleteFunc(zones, func(name string) bool { return name != key.Zone })
	}
	out := &adminv1.InspectPolicyResponse{Inert: admission.Inert(view, r)}
	for _, z := range fanout.All[adminv1.InspectPolicyResponse](ctx, i.zones, zones, forwardTimeout,
		adminv1.InspectService_InspectPolicy_FullMethodName, &adminv1.InspectPolicyRequest{
			Key:       key.Proto(),
			Size:      req.GetSize(),
			NamesOnly: req.GetNamesOnly(),
		}) {
		if z.Err != nil {
			out.Warnings = append(out.Warnings, leftOut(z.Zone, z.Err))
			continue
		}
		out.Zones = append(out.Zones, z.Value.GetZones()...)
	}
	return out, ctx.Err()
}

// Explain implements meridian.admin.v1.InspectService.
func (i *inspector) Explain(ctx context.Context,
	req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	const method = adminv1.InspectService_Explain_FullMethodName
	if _, err := authz.Authorize(ctx, method, nil); err != nil {
		return nil, err
	}
	var bad []mesh.Violation
	for _, f := range []struct{ field, value string }{{"from", req.GetFrom()}, {"to", req.GetTo()}} {
		if f.value == "" {
			bad = append(bad, mesh.Violation{Field: f.field, Reason: "must not be empty"})
		}
	}
	if bad != nil {
		return nil, problem.Invalid(problem.TitleExplain, bad...)
	}
	if req.GetMesh() == "" {
		req = proto.CloneOf(req)
		req.Mesh = mesh.DefaultMesh
	}
	if i.global() {
		zone, err := i.callerZone(ctx, req)
		if err != nil {
			return nil, err
		}
		resp := &adminv1.ExplainResponse{}
		return resp, i.askZone(ctx, zone, forwardTimeout, method, req, resp)
	}
	if err := i.otherZone(problem.TitleExplain, req.GetZone()); err != nil {
		return nil, err
	}
	s, view, err := i.static(ctx, false)
	if err != nil {
		return nil, err
	}
	resp, err := inspect.Explain(s, view, i.cfg.Zone, req)
	switch {
	case errors.Is(err, inspect.ErrNoCaller):
		return nil, problem.New(http.StatusNotFound, problem.TitleExplain, "%v", err)
	case errors.Is(err, inspect.ErrAmbiguous), errors.Is(err, inspect.ErrBadRequest):
		return nil, problem.New(http.StatusBadRequest, problem.TitleExplain, "%v", err)
	case err != nil:
		return nil, problem.New(http.StatusInternalServerError, problem.TitleExplain, "%v", err)
	}
	return resp, nil
}

// callerZone finds, at global, the zone that has the caller: as a Dataplane, else as a MeshService.
func (i *inspector) callerZone(ctx context.Context, req *adminv1.ExplainRequest) (string, error) {
	view, err := i.view(ctx, 0)
	if err != nil {
		return "", err
	}
	if z := req.GetZone(); z != "" {
		return z, checkZone(view, problem.TitleExplain, z)
	}
	info, _ := mesh.Lookup(mesh.KindDataplane)
	got, err := i.getRemote(ctx, view, info, mesh.Key{
		Kind: mesh.KindDataplane,
		Mesh: req.GetMesh(),
		Name: req.GetFrom(),
	}, false)
	if err != nil {
		return "", err
	}
	var zones []string
	for _, r := range got.Resources {
		zones = append(zones, r.Key.Zone)
	}
	if len(zones) == 0 {
		for info := range destination.From(destination.Selected) {
			for r := range view.List(info.Kind, req.GetMesh()) {
				if r.Key.Name == req.GetFrom() {
					zones = append(zones, r.Key.Zone)
				}
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
		if len(got.Warnings) > 0 {
			hint = " (" + strings.Join(got.Warnings, "; ") + ")"
		}
		return "", problem.New(http.StatusNotFound, problem.TitleExplain,
			"there is neither a Dataplane nor a MeshService %q in mesh %s%s", req.GetFrom(), req.GetMesh(),
			hint)
	}
	return "", problem.New(http.StatusBadRequest, problem.TitleExplain,
		"zones %s all have a caller %q; %s", strings.Join(zones, ", "), req.GetFrom(), hint.OneZone)
}
