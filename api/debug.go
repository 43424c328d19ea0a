package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

const titleDebug = "Could not look"

// adminTimeout bounds what Envoy's admin interface may take to answer.
const adminTimeout = 15 * time.Second

// ChangeState says whether a zone knows what became of a revision.
type ChangeState uint8

// States of a change.
const (
	ChangeKnown ChangeState = iota
	// ChangeAhead revisions have not been taken in yet, or do not exist.
	ChangeAhead
	// ChangeForgotten revisions are too old, or from before the control plane started.
	ChangeForgotten
	// ChangeElsewhere revisions of global changed nothing that this zone has.
	ChangeElsewhere
)

// Debugger is a zone as far as it knows how its proxies are.
type Debugger interface {
	// Proxy compares what a proxy has with what it should have; without streams if it is not connected.
	Proxy(key mesh.Key) *adminv1.DebugProxyResponse
	// Change says what became of a revision of the zone's store.
	Change(revision uint64) (*adminv1.DebugChangeResponse, ChangeState)
	// Local finds the revision of the zone's store that brought what a revision of global changed here.
	Local(global uint64) (uint64, ChangeState)
	// Admin asks Envoy's admin interface; see DebugService.ProxyAdmin. Errors are for people if
	// they are [NotNow].
	Admin(ctx context.Context, key mesh.Key, what, filter string) ([]byte, error)
}

// NotNow is an error of a [Debugger]: what is asked cannot be had as things are, and why.
type NotNow string

func (e NotNow) Error() string { return string(e) }

// AdminQuestions are what can be asked of Envoy's admin interface.
var AdminQuestions = []string{"config_dump", "clusters", "stats", "listeners", "server_info"}

// debugService is the gRPC form of what zones know of their proxies.
type debugService struct {
	adminv1.UnimplementedDebugServiceServer
	api *API
}

// proxyKey completes the key of a Dataplane or ZoneIngress: the zone that has it.
func (a *API) proxyKey(ctx context.Context, key mesh.Key) (mesh.Key, error) {
	if key.Kind != mesh.KindDataplane && key.Kind != mesh.KindZoneIngress {
		return key, invalid(titleDebug, []mesh.Violation{{
			Field:  "key.kind",
			Reason: "must be Dataplane or ZoneIngress",
		}})
	}
	if a.isGlobal() && key.Zone != "" {
		view, err := a.view(ctx, 0)
		if err != nil {
			return key, err
		}
		if _, ok := zonesOf(view)[key.Zone]; !ok {
			return key, problem(http.StatusNotFound, titleDebug, "there is no zone %q", key.Zone)
		}
		return key, nil // the zone itself says whether it has it
	}
	r, err := a.get(ctx, key, false, 0)
	if err != nil {
		return key, err
	}
	return r.Key, nil
}

func (d *debugService) DebugProxy(ctx context.Context,
	req *adminv1.DebugProxyRequest) (*adminv1.DebugProxyResponse, error) {
	a := d.api
	if _, err := a.authorize(ctx, verbRead, nil); err != nil {
		return nil, err
	}
	key, err := a.proxyKey(ctx, mesh.KeyFromProto(req.GetKey()))
	if err != nil {
		return nil, err
	}
	if a.isGlobal() {
		resp := &adminv1.DebugProxyResponse{}
		return resp, forwardTo(ctx, a, key.Zone, adminv1.DebugService_DebugProxy_FullMethodName,
			&adminv1.DebugProxyRequest{Key: key.Proto()}, resp)
	}
	if a.conf.Debug == nil {
		return nil, problem(http.StatusNotImplemented, titleDebug, "this control plane has no proxies")
	}
	return a.conf.Debug.Proxy(key), nil
}

func (d *debugService) DebugChange(ctx context.Context,
	req *adminv1.DebugChangeRequest) (*adminv1.DebugChangeResponse, error) {
	a := d.api
	if _, err := a.authorize(ctx, verbRead, nil); err != nil {
		return nil, err
	}
	if req.GetRevision() == 0 {
		return nil, invalid(titleDebug, []mesh.Violation{{Field: "revision", Reason: "must be 1 or more"}})
	}
	if a.isGlobal() {
		return a.changeInZones(ctx, req)
	}
	switch {
	case a.conf.Debug == nil:
		return nil, problem(http.StatusNotImplemented, titleDebug, "this control plane has no proxies")
	case req.GetZone() != "" && req.GetZone() != a.conf.Zone:
		return nil, problem(http.StatusNotFound, titleDebug,
			"this is the control plane of zone %s; ask the one of zone %s, or global", a.conf.Zone,
			req.GetZone())
	case req.GetOfGlobal():
		return d.ofGlobal(req.GetRevision())
	}
	resp, state := a.conf.Debug.Change(req.GetRevision())
	switch state {
	case ChangeAhead:
		return nil, problem(http.StatusNotFound, titleDebug, "revision %d is not there yet; zone %s is at %d",
			req.GetRevision(), a.conf.Zone, a.conf.Replica.View().Revision())
	case ChangeForgotten:
		return nil, problem(http.StatusNotFound, titleDebug,
			"revision %d is no longer remembered, or from before zone %s started", req.GetRevision(),
			a.conf.Zone)
	}
	return resp, nil
}

// ofGlobal is what became of a revision of global in this zone. What changed nothing here concerns nobody.
func (d *debugService) ofGlobal(global uint64) (*adminv1.DebugChangeResponse, error) {
	a := d.api
	local, state := a.conf.Debug.Local(global)
	resp := &adminv1.DebugChangeResponse{Zone: a.conf.Zone}
	if state == ChangeKnown {
		resp, state = a.conf.Debug.Change(local)
	}
	switch state {
	case ChangeAhead:
		return nil, problem(http.StatusNotFound, titleDebug, "it has not applied revision %d of global",
			global)
	case ChangeForgotten:
		return nil, problem(http.StatusNotFound, titleDebug,
			"it no longer remembers revision %d of global, or had it before it started", global)
	}
	resp.GlobalRevision = global
	return resp, nil
}

// changeInZones asks one zone of a revision of its own, or every zone of one of global's.
func (a *API) changeInZones(ctx context.Context,
	req *adminv1.DebugChangeRequest) (*adminv1.DebugChangeResponse, error) {
	view, err := a.view(ctx, 0)
	if err != nil {
		return nil, err
	}
	zones := zonesOf(view)
	if zone := req.GetZone(); zone != "" {
		if _, ok := zones[zone]; !ok {
			return nil, problem(http.StatusNotFound, titleDebug, "there is no zone %q", zone)
		}
		resp := &adminv1.DebugChangeResponse{}
		return resp, forwardTo(ctx, a, zone, adminv1.DebugService_DebugChange_FullMethodName,
			&adminv1.DebugChangeRequest{
				Revision: req.GetRevision(),
				Zone:     zone,
			}, resp)
	}
	if req.GetRevision() > view.Revision() {
		return nil, problem(http.StatusNotFound, titleDebug, "revision %d is not there yet; global is at %d",
			req.GetRevision(), view.Revision())
	}
	out := &adminv1.DebugChangeResponse{GlobalRevision: req.GetRevision()}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(forwardParallel)
	for name, state := range zones {
		g.Go(func() error {
			resp, away := &adminv1.DebugChangeResponse{}, ""
			if state == "Offline" {
				away = "it is offline"
			} else if err := forwardTo(ctx, a, name, adminv1.DebugService_DebugChange_FullMethodName,
				&adminv1.DebugChangeRequest{Revision: req.GetRevision(), OfGlobal: true}, resp); err != nil {
				away = strings.TrimPrefix(a.asProblem(err, titleDebug).Detail,
					"zone "+name+" cannot be asked: ")
			}
			mu.Lock()
			defer mu.Unlock()
			if away != "" {
				out.Warnings = append(out.Warnings, "zone "+name+" cannot say: "+away)
			} else {
				out.Zones = append(out.Zones, resp)
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
	slices.Sort(out.Warnings)
	slices.SortFunc(out.Zones,
		func(x, y *adminv1.DebugChangeResponse) int { return strings.Compare(x.GetZone(), y.GetZone()) })
	return out, ctx.Err()
}

func (d *debugService) ProxyAdmin(ctx context.Context,
	req *adminv1.ProxyAdminRequest) (*adminv1.ProxyAdminResponse, error) {
	a := d.api
	// What runs in a proxy is shown to administrators alone: it names addresses, and headers that people set.
	if _, err := a.authorize(ctx, verbWrite, nil); err != nil {
		return nil, err
	}
	if !slices.Contains(AdminQuestions, req.GetWhat()) {
		return nil, invalid(titleDebug, []mesh.Violation{{
			Field:  "what",
			Reason: "must be one of " + strings.Join(AdminQuestions, ", "),
		}})
	}
	key, err := a.proxyKey(ctx, mesh.KeyFromProto(req.GetKey()))
	if err != nil {
		return nil, err
	}
	if a.isGlobal() {
		resp := &adminv1.ProxyAdminResponse{}
		return resp, forwardWithin(ctx, a, adminTimeout, key.Zone,
			adminv1.DebugService_ProxyAdmin_FullMethodName,
			&adminv1.ProxyAdminRequest{Key: key.Proto(), What: req.GetWhat(), Filter: req.GetFilter()}, resp)
	}
	if a.conf.Debug == nil {
		return nil, problem(http.StatusNotImplemented, titleDebug, "this control plane has no proxies")
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	body, err := a.conf.Debug.Admin(ctx, key, req.GetWhat(), req.GetFilter())
	var not NotNow
	if errors.As(err, &not) {
		p := problem(http.StatusConflict, titleDebug, "%s %s: %s", key.Kind, key.Name, not)
		p.code = codes.FailedPrecondition
		return nil, p
	}
	return &adminv1.ProxyAdminResponse{Body: body}, err
}

// methods are what the tunnel serves.
func (d *debugService) methods(add func(string, func(context.Context, []byte) ([]byte, error))) {
	a := d.api
	add(adminv1.DebugService_DebugProxy_FullMethodName,
		call(a, adminv1.DebugService_DebugProxy_FullMethodName,
			func() *adminv1.DebugProxyRequest { return &adminv1.DebugProxyRequest{} }, d.DebugProxy))
	add(adminv1.DebugService_DebugChange_FullMethodName,
		call(a, adminv1.DebugService_DebugChange_FullMethodName,
			func() *adminv1.DebugChangeRequest { return &adminv1.DebugChangeRequest{} }, d.DebugChange))
	add(adminv1.DebugService_ProxyAdmin_FullMethodName,
		call(a, adminv1.DebugService_ProxyAdmin_FullMethodName,
			func() *adminv1.ProxyAdminRequest { return &adminv1.ProxyAdminRequest{} }, d.ProxyAdmin))
}
