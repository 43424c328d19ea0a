package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/fanout"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store"
)

// adminTimeout bounds what Envoy's admin interface may take to answer.
const adminTimeout = 15 * time.Second

// Debugger is a zone as far as it knows how its proxies are.
type Debugger interface {
	// Proxy compares what a proxy has with what it should have; without streams if it is not connected.
	Proxy(key mesh.Key) *adminv1.DebugProxyResponse
	// Change says what became of a revision of the zone's store.
	Change(revision uint64) (*adminv1.DebugChangeResponse, store.RevisionState)
	// Local finds the revision of the zone's store that brought what a revision of global changed here.
	Local(global uint64) (uint64, store.RevisionState)
	// Admin asks Envoy's admin interface; see DebugService.ProxyAdmin. Errors are for people if
	// they are [NotNow].
	Admin(ctx context.Context, key mesh.Key, what, filter string) ([]byte, error)
}

// NotNow is an error of a [Debugger]: what is asked cannot be had as things are, and why.
type NotNow string

func (e NotNow) Error() string { return string(e) }

// AdminQuestions are the words of what can be asked of Envoy's admin interface.
var AdminQuestions = codec.EnumWords(adminv1.AdminQuestion(0).Descriptor())

// proxies shows what zones know of their proxies.
type proxies struct {
	adminv1.UnimplementedDebugServiceServer
	*base
	reader *reader
}

// proxy completes the key of a Dataplane or ZoneIngress: the zone that has it.
func (p *proxies) proxy(ctx context.Context, key mesh.Key) (mesh.Key, error) {
	return p.reader.locate(ctx, problem.TitleDebug, key, mesh.KindDataplane, mesh.KindZoneIngress)
}

// debugger is what knows this zone's proxies.
func (p *proxies) debugger() (Debugger, error) {
	if p.cfg.Debug == nil {
		return nil, problem.New(http.StatusNotImplemented, problem.TitleDebug,
			"this control plane has no proxies")
	}
	return p.cfg.Debug, nil
}

// DebugProxy implements meridian.admin.v1.DebugService.
func (p *proxies) DebugProxy(ctx context.Context,
	req *adminv1.DebugProxyRequest) (*adminv1.DebugProxyResponse, error) {
	const method = adminv1.DebugService_DebugProxy_FullMethodName
	if _, err := authz.Authorize(ctx, method, nil); err != nil {
		return nil, err
	}
	key, err := p.proxy(ctx, mesh.KeyFromProto(req.GetKey()))
	if err != nil {
		return nil, err
	}
	if p.global() {
		resp := &adminv1.DebugProxyResponse{}
		return resp, p.askZone(ctx, key.Zone, forwardTimeout, method,
			&adminv1.DebugProxyRequest{Key: key.Proto()}, resp)
	}
	d, err := p.debugger()
	if err != nil {
		return nil, err
	}
	return d.Proxy(key), nil
}

// DebugChange implements meridian.admin.v1.DebugService.
func (p *proxies) DebugChange(ctx context.Context,
	req *adminv1.DebugChangeRequest) (*adminv1.DebugChangeResponse, error) {
	if _, err := authz.Authorize(ctx, adminv1.DebugService_DebugChange_FullMethodName, nil); err != nil {
		return nil, err
	}
	if req.GetRevision() == 0 {
		return nil, problem.Invalid(problem.TitleDebug,
			mesh.Violation{Field: "revision", Reason: "must be 1 or more"})
	}
	if p.global() {
		return p.changeInZones(ctx, req)
	}
	d, err := p.debugger()
	if err != nil {
		return nil, err
	}
	if err := p.otherZone(problem.TitleDebug, req.GetZone()); err != nil {
		return nil, err
	}
	if req.GetOfGlobal() {
		return p.changeOfGlobal(d, req.GetRevision())
	}
	resp, state := d.Change(req.GetRevision())
	switch state {
	case store.RevisionAhead:
		return nil, problem.New(http.StatusNotFound, problem.TitleDebug,
			"revision %d is not there yet; zone %s is at %d", req.GetRevision(), p.cfg.Zone,
			p.cfg.Replica.View().Revision())
	case store.RevisionForgotten:
		return nil, problem.New(http.StatusNotFound, problem.TitleDebug,
			"revision %d is no longer remembered, or from before zone %s started", req.GetRevision(),
			p.cfg.Zone)
	}
	return resp, nil
}

// changeOfGlobal is what became of a revision of global in this zone. What changed nothing here
// affects no proxy.
func (p *proxies) changeOfGlobal(d Debugger, global uint64) (*adminv1.DebugChangeResponse, error) {
	local, state := d.Local(global)
	resp := &adminv1.DebugChangeResponse{Zone: p.cfg.Zone}
	if state == store.RevisionKnown {
		resp, state = d.Change(local)
	}
	switch state {
	case store.RevisionAhead:
		return nil, problem.New(http.StatusNotFound, problem.TitleDebug,
			"it has not applied revision %d of global", global)
	case store.RevisionForgotten:
		return nil, problem.New(http.StatusNotFound, problem.TitleDebug,
			"it no longer remembers revision %d of global, or had it before it started", global)
	}
	resp.GlobalRevision = global
	return resp, nil
}

// changeInZones asks one zone of a revision of its own, or every zone of one of global's.
func (p *proxies) changeInZones(ctx context.Context,
	req *adminv1.DebugChangeRequest) (*adminv1.DebugChangeResponse, error) {
	const method = adminv1.DebugService_DebugChange_FullMethodName
	view, err := p.view(ctx, 0)
	if err != nil {
		return nil, err
	}
	if zone := req.GetZone(); zone != "" {
		if err := checkZone(view, problem.TitleDebug, zone); err != nil {
			return nil, err
		}
		resp := &adminv1.DebugChangeResponse{}
		return resp, p.askZone(ctx, zone, forwardTimeout, method,
			&adminv1.DebugChangeRequest{Revision: req.GetRevision(), Zone: zone}, resp)
	}
	if req.GetRevision() > view.Revision() {
		return nil, problem.New(http.StatusNotFound, problem.TitleDebug,
			"revision %d is not there yet; global is at %d", req.GetRevision(), view.Revision())
	}
	out := &adminv1.DebugChangeResponse{GlobalRevision: req.GetRevision()}
	for _, z := range fanout.All[adminv1.DebugChangeResponse](ctx, p.zones, zoneNames(view), forwardTimeout,
		method, &adminv1.DebugChangeRequest{Revision: req.GetRevision(), OfGlobal: true}) {
		if z.Err != nil {
			out.Warnings = append(out.Warnings,
				fmt.Sprintf("zone %s cannot say: %s", z.Zone, fanout.Reason(z.Err)))
			continue
		}
		out.Zones = append(out.Zones, z.Value)
	}
	return out, ctx.Err()
}

// ProxyAdmin implements meridian.admin.v1.DebugService.
func (p *proxies) ProxyAdmin(ctx context.Context,
	req *adminv1.ProxyAdminRequest) (*adminv1.ProxyAdminResponse, error) {
	const method = adminv1.DebugService_ProxyAdmin_FullMethodName
	if _, err := authz.Authorize(ctx, method, nil); err != nil {
		return nil, err
	}
	question := codec.EnumWord(req.GetQuestion())
	if !slices.Contains(AdminQuestions, question) {
		return nil, problem.Invalid(problem.TitleDebug, mesh.Violation{
			Field:  "question",
			Reason: "must be one of " + strings.Join(AdminQuestions, ", "),
		})
	}
	key, err := p.proxy(ctx, mesh.KeyFromProto(req.GetKey()))
	if err != nil {
		return nil, err
	}
	row := about(ctx, actionDump, key)
	row.What = words(named("Envoy's", question), named("filter", req.GetFilter()))
	p.audit.try(ctx, row)
	if p.global() {
		resp := &adminv1.ProxyAdminResponse{}
		return resp, p.askZone(ctx, key.Zone, adminTimeout, method, &adminv1.ProxyAdminRequest{
			Key:      key.Proto(),
			Question: req.GetQuestion(),
			Filter:   req.GetFilter(),
		}, resp)
	}
	d, err := p.debugger()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	body, err := d.Admin(ctx, key, question, req.GetFilter())
	var not NotNow
	if errors.As(err, &not) {
		p := problem.New(http.StatusConflict, problem.TitleDebug, "%s %s: %s", key.Kind, key.Name, not)
		p.Code = codes.FailedPrecondition
		return nil, p
	}
	return &adminv1.ProxyAdminResponse{Body: body}, err
}
