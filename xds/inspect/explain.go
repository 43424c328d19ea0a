package inspect

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/policy"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Errors of [Explain]; what wraps them is a text for people.
var (
	// ErrNoCaller says that the zone has no such Dataplane or MeshService.
	ErrNoCaller = errors.New("there is no such caller")
	// ErrAmbiguous says that the destination can be more than one.
	ErrAmbiguous = errors.New("more than one destination is meant")
	// ErrBadRequest says that the request itself cannot be read.
	ErrBadRequest = errors.New("the request makes no sense")
)

// Explain follows a request: from the caller, through its sidecar's outbound, route, timeouts,
// retries and balancing, to the instances of each backend and the policies of their inbounds. zone
// is the one that view is of.
func Explain(s *xds.Static, view replica.View, zone string,
	req *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	dp, err := findCaller(view, zone, req)
	if err != nil {
		return nil, err
	}
	in, err := s.Inspect(dp.Key)
	if err != nil {
		return nil, fmt.Errorf("the configuration of %s cannot be computed: %w", dp.Key.Name, err)
	}
	target, err := url.ParseRequestURI(cmp.Or(req.GetPath(), "/"))
	if err != nil || !strings.HasPrefix(target.Path, "/") {
		return nil, fmt.Errorf("%w: path %q must begin with a slash", ErrBadRequest, req.GetPath())
	}
	x := &explanation{
		static: s,
		view:   view,
		zone:   zone,
		in:     in,
		out:    &adminv1.ExplainResponse{},
		request: request{
			path:    target.EscapedPath(),
			query:   target.Query(),
			method:  cmp.Or(req.GetMethod(), "GET"),
			headers: map[string]string{},
		},
	}
	for k, v := range req.GetHeaders() {
		x.request.headers[strings.ToLower(k)] = v
	}
	o, err := x.findOutbound(req)
	if err != nil {
		return nil, err
	}
	if o != nil {
		x.follow(*o)
	}
	return x.finish(), nil
}

type explanation struct {
	static  *xds.Static
	view    replica.View
	zone    string
	in      *xds.Inspection
	request request
	out     *adminv1.ExplainResponse
	// partly are problems that only a share of the requests meet.
	partly bool
}

func (x *explanation) step(subject string, from *adminv1.PolicyEntry, format string, args ...any) {
	x.out.Steps = append(x.out.Steps, &adminv1.ExplainStep{
		Subject: subject,
		Text:    fmt.Sprintf(format, args...),
		From:    from,
	})
}

func (x *explanation) problem(subject string, from *adminv1.PolicyEntry, format string, args ...any) {
	x.step(subject, from, format, args...)
	x.out.Steps[len(x.out.Steps)-1].Problem = true
}

func (x *explanation) finish() *adminv1.ExplainResponse {
	for _, s := range x.out.Steps {
		if s.Problem {
			head := "the request fails: "
			if x.partly {
				head = "some of the requests fail: "
			}
			x.out.Verdict = head + s.Text
			return x.out
		}
	}
	x.out.Ok = true
	if x.out.Verdict == "" {
		x.out.Verdict = "the request reaches the application"
	}
	return x.out
}

// findCaller takes a Dataplane's name, else a service's of the zone, of which the first instance by
// name is taken.
func findCaller(view replica.View, zone string, req *adminv1.ExplainRequest) (*mesh.Resource, error) {
	if dp := firstOf(view, mesh.KindDataplane, req.GetMesh(), zone, req.GetFrom()); dp != nil {
		return dp, nil
	}
	var svc *mesh.Resource
	for info := range destination.From(destination.Selected) {
		if svc == nil {
			svc = firstOf(view, info.Kind, req.GetMesh(), zone, req.GetFrom())
		}
	}
	if svc == nil {
		return nil, fmt.Errorf("%w: zone %s has neither a Dataplane nor a MeshService %q in mesh %s",
			ErrNoCaller, zone, req.GetFrom(), req.GetMesh())
	}
	for dp := range view.List(mesh.KindDataplane, req.GetMesh()) {
		if dp.Key.Zone == zone &&
			compile.NewInstance(dp, nil).Selected(destination.SelectorOf(svc)) {
			return dp, nil
		}
	}
	return nil, fmt.Errorf("%w: MeshService %s of zone %s has no instance", ErrNoCaller, req.GetFrom(), zone)
}

func firstOf(view replica.View, kind mesh.Kind, meshName, zone, name string) *mesh.Resource {
	for r := range view.List(kind, meshName) {
		if r.Key.Zone == zone && r.Key.Name == name {
			return r
		}
	}
	return nil
}

// findOutbound finds what the caller means; nil, with a problem told, if its sidecar has no way there.
func (x *explanation) findOutbound(req *adminv1.ExplainRequest) (*xds.InspectedOutbound, error) {
	x.step("caller", nil, "%s of zone %s%s", x.in.Proxy.Key.Name, x.zone, shownAs(x.in))
	to, port := req.GetTo(), req.GetPort()
	if host, p, err := net.SplitHostPort(to); err == nil && port == 0 {
		if n, err := strconv.ParseUint(p, 10, 16); err == nil {
			to, port = host, uint32(n)
		}
	}
	var found []xds.InspectedOutbound
	for _, o := range x.in.Outbounds {
		if x.named(o, to) && (port == 0 || o.Port.Number == port) {
			found = append(found, o)
		}
	}
	// A service of the caller's own zone is nearer than one of the same name elsewhere.
	if own := slices.DeleteFunc(slices.Clone(found),
		func(o xds.InspectedOutbound) bool { return o.Ref.Key.Zone != x.zone }); len(own) > 0 {
		if !slices.ContainsFunc(found,
			func(o xds.InspectedOutbound) bool { return o.Ref.Key.Kind != own[0].Ref.Key.Kind }) {
			found = own
		}
	}
	one := func(o xds.InspectedOutbound) bool { return o.Ref == found[0].Ref }
	switch {
	case len(found) > 0 && !slices.ContainsFunc(found, func(o xds.InspectedOutbound) bool { return !one(o) }):
		// The same port at several addresses is answered the same way at each.
		return &found[0], nil
	case len(found) == 0:
		x.noOutbound(to, port)
		return nil, nil
	}
	var names []string
	for _, o := range found {
		names = append(names, o.Ref.KRI())
	}
	slices.Sort(names)
	return nil, fmt.Errorf("%w by %q: say which, by its port or its KRI: %s", ErrAmbiguous, req.GetTo(),
		strings.Join(slices.Compact(names), ", "))
}

func shownAs(in *xds.Inspection) string {
	if in.MTLS == "" {
		return ", mesh mTLS is off"
	}
	var ids []string
	for _, u := range policy.CertificateURIs(in.Proxy) {
		if strings.HasPrefix(u, "spiffe://") {
			ids = append(ids, u)
		}
	}
	if len(ids) == 0 {
		return ", without an identity of a service"
	}
	return ", known as " + strings.Join(ids, ", ")
}

// named says that a destination goes by a name: its own, a hostname, a virtual address, or a KRI
// with or without the port.
func (x *explanation) named(o xds.InspectedOutbound, name string) bool {
	k := o.Ref.Key
	return name == k.Name || name == o.Ref.KRI() || name == k.KRI("") || name == o.Address ||
		slices.Contains(x.hostnames(k), name)
}

func (x *explanation) hostnames(k mesh.Key) []string {
	r, ok := x.view.Get(k)
	if !ok {
		return nil
	}
	var out []string
	if s, ok := r.Status.(interface {
		GetAddresses() []*meshv1.HostnameAddress
	}); ok {
		for _, a := range s.GetAddresses() {
			out = append(out, a.GetHostname())
		}
	}
	return out
}

// noOutbound says why the sidecar has no way to the destination.
func (x *explanation) noOutbound(to string, port uint32) {
	var there []*mesh.Resource
	for _, info := range destination.Kinds {
		for r := range x.view.List(info.Kind, x.in.Proxy.Key.Mesh) {
			if r.Key.Name == to || r.Key.KRI("") == to || slices.Contains(x.hostnames(r.Key), to) {
				there = append(there, r)
			}
		}
	}
	switch {
	case len(there) == 0:
		var kinds []string
		for _, info := range destination.Kinds {
			kinds = append(kinds, "no "+string(info.Kind))
		}
		x.problem("outbound", nil, "mesh %s has %s of the name, hostname or KRI %q", x.in.Proxy.Key.Mesh,
			strings.Join(kinds, " and "), to)
	case slices.ContainsFunc(x.in.Outbounds,
		func(o xds.InspectedOutbound) bool { return o.Ref.Key == there[0].Key }):
		var ports []string
		for _, o := range x.in.Outbounds {
			if o.Ref.Key == there[0].Key {
				ports = append(ports, strconv.FormatUint(uint64(o.Port.Number), 10))
			}
		}
		x.problem("outbound", nil, "%s has no port %d; it has %s", to, port, strings.Join(ports, ", "))
	default:
		x.problem("outbound", nil,
			"the sidecar of %s has no outbound to %s: the Dataplane's networking.outbound does not list "+
				"it, or its "+
				"networking.transparentProxying.reachableBackends leave it out", x.in.Proxy.Key.Name,
			there[0].Key.KRI(""))
	}
}

func (x *explanation) follow(o xds.InspectedOutbound) {
	x.step("outbound", nil, "%s, port %d (%s), of which the sidecar listens at %s", o.Ref.KRI(),
		o.Port.Number, o.Port.Protocol,
		net.JoinHostPort(o.Address, strconv.FormatUint(uint64(o.Outbound.Port), 10)))
	var backends []ir.Backend
	switch {
	case len(o.Connections) > 0:
		x.step("route", tcpOrigin(x.in.To, o.About), "every connection goes to %s",
			backendsText(o.Connections, "nowhere, it is closed"))
		backends = o.Connections
	case len(o.Routes) > 0:
		r, ok := x.route(o)
		if !ok {
			return
		}
		backends = r.Backends
	default:
		backends = []ir.Backend{{Cluster: o.Ref.KRI(), Weight: 1}}
		x.connectionPolicies(o)
	}
	total := uint32(0)
	for _, b := range backends {
		total += b.Weight
	}
	before := len(x.out.Steps)
	good := 0
	for _, b := range backends {
		n := len(x.out.Steps)
		x.backend(o, b, total)
		if !slices.ContainsFunc(x.out.Steps[n:], func(s *adminv1.ExplainStep) bool { return s.Problem }) {
			good++
		}
	}
	if good > 0 && slices.ContainsFunc(x.out.Steps[before:],
		func(s *adminv1.ExplainStep) bool { return s.Problem }) {
		x.partly = true
	}
}

// route finds the first route that takes the request, and tells what it does; false if the request
// ends there.
func (x *explanation) route(o xds.InspectedOutbound) (ir.Route, bool) {
	for i, r := range o.Routes {
		if !x.request.fits(r.Match) {
			continue
		}
		told := route(x.in, o, r)
		origin := told.From
		switch {
		case r.Redirect != nil:
			x.step("route", origin, "%s: %s", told.Match, told.Action)
			x.out.Verdict = "the request is answered by the sidecar: it " + told.Action
			return r, false
		case r.Status != 0:
			x.problem("route", origin, "%s: answered %d, for none of the route's backends is there",
				told.Match, r.Status)
			return r, false
		}
		x.step("route", origin, "%s (the %s of %d): %s", told.Match, ordinal(i+1), len(o.Routes), told.Action)
		if r.HostRewrite != "" || r.ReplacePath != nil || r.ReplacePrefix != nil ||
			len(r.RequestHeaders.Set)+len(r.RequestHeaders.Add)+len(r.RequestHeaders.Remove) > 0 {
			x.step("route", origin,
				"routes are chosen once: what the route changes of the request does not choose another")
		}
		x.requestPolicies(o, r)
		return r, true
	}
	x.problem("route", nil, "none of the %d routes takes %s %s: answered 404", len(o.Routes),
		x.request.method, x.request.path)
	return ir.Route{}, false
}

func ordinal(n int) string {
	switch n {
	case 1:
		return "first"
	case 2:
		return "second"
	case 3:
		return "third"
	}
	return strconv.Itoa(n) + "th"
}
