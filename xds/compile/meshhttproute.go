package compile

import (
	"cmp"
	"math"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// RouteInput is what the routes of a destination come from.
type RouteInput struct {
	Ref  Ref
	Port Port
	// Rules as policy.HTTPRoutes gives them.
	Rules []policy.HTTPRule
	// Policy of the destination, and of a MeshHTTPRoute to it.
	Policy   ir.RoutePolicy
	ForRoute func(route mesh.Key) ir.RoutePolicy
	// Resolve finds the backend of a reference in a policy; false if there is none that requests
	// can be sent to.
	Resolve func(ref *meshv1.BackendRef, policy mesh.Key) (Ref, bool)
}

// Routes are the routes of a destination in order, and the backends that they need besides the
// destination itself, each once. What no rule matches goes to the destination.
func Routes(in RouteInput) (ir.RouteConfig, []Ref) {
	b := &routeBuilder{in: in, seen: map[Ref]bool{in.Ref: true}}
	covered := false
	for _, flat := range policy.SortRoutes(in.Rules) {
		b.add(flat)
		covered = covered || policy.MatchesAll(flat.Match)
	}
	if !covered {
		b.routes = append(b.routes, ir.Route{
			Match:       ir.Match{Path: "/"},
			Backends:    []ir.Backend{{Cluster: in.Ref.KRI(), Weight: 1}},
			RoutePolicy: in.Policy,
		})
	}
	return ir.RouteConfig{Name: in.Ref.KRI(), Common: in.Policy, Routes: b.routes}, b.extra
}

type routeBuilder struct {
	in     RouteInput
	routes []ir.Route
	extra  []Ref
	seen   map[Ref]bool
}

func (b *routeBuilder) need(r Ref) string {
	if !b.seen[r] {
		b.seen[r] = true
		b.extra = append(b.extra, r)
	}
	return r.KRI()
}

func (b *routeBuilder) add(flat policy.FlatRoute) {
	rule := flat.Rule
	r := ir.Route{
		Name:        rule.Policy.Key.KRI("rule_" + strconv.Itoa(rule.Index)),
		RoutePolicy: b.in.ForRoute(rule.Policy.Key),
	}
	b.backends(&r, rule)
	var rewrite *meshv1.MeshHTTPRoute_PathRewrite
	var request, response headerFold
	for _, f := range rule.Conf.GetFilters() {
		switch f.GetType() {
		case "RequestHeaderModifier":
			request.then(f.GetRequestHeaderModifier())
		case "ResponseHeaderModifier":
			response.then(f.GetResponseHeaderModifier())
		case "RequestRedirect":
			rd := f.GetRequestRedirect()
			status := rd.GetStatusCode()
			if status == 0 {
				status = 302
			}
			r.Redirect = &ir.Redirect{
				Scheme: rd.GetScheme(),
				Host:   rd.GetHostname(),
				Port:   rd.GetPort(),
				Status: status,
			}
			rewrite = rd.GetPath()
		case "URLRewrite":
			// A later filter changes only what it gives.
			r.HostRewrite = cmp.Or(f.GetUrlRewrite().GetHostname(), r.HostRewrite)
			if p := f.GetUrlRewrite().GetPath(); p != nil {
				rewrite = p
			}
		case "RequestMirror":
			owner := rule.Policy
			if rule.Filters != nil {
				owner = rule.Filters
			}
			// A mirror without a backend is dropped: the request itself is not affected.
			if ref, ok := b.in.Resolve(f.GetRequestMirror().GetBackendRef(), owner.Key); ok {
				r.Mirrors = append(r.Mirrors, ir.Mirror{
					Cluster:    b.need(ref),
					Millionths: millionths(f.GetRequestMirror().GetPercentage()),
				})
			}
		}
	}
	r.RequestHeaders, r.ResponseHeaders = request.edit(), response.edit()
	if r.Redirect != nil {
		r.Backends, r.Status, r.Mirrors, r.HostRewrite = nil, 0, nil, ""
	}
	for _, m := range paths(flat.Match) {
		out := r
		out.Match = m
		setRewrite(&out, flat.Match, rewrite)
		b.routes = append(b.routes, out)
	}
}

// backends are the shares of a route. A share without a backend answers 500; it never falls to another route.
func (b *routeBuilder) backends(r *ir.Route, rule policy.HTTPRule) {
	refs := rule.Conf.GetBackendRefs()
	if len(refs) == 0 {
		r.Backends = []ir.Backend{{Cluster: b.in.Ref.KRI(), Weight: 1}}
		return
	}
	owner := rule.Policy
	if rule.Backends != nil {
		owner = rule.Backends
	}
	alive := false
	for _, ref := range refs {
		weight := uint32(1)
		if ref.Weight != nil {
			weight = ref.GetWeight()
		}
		if weight == 0 {
			continue
		}
		backend := ir.Backend{Weight: weight}
		if found, ok := b.in.Resolve(ref, owner.Key); ok {
			backend.Cluster, alive = b.need(found), true
		}
		r.Backends = append(r.Backends, backend)
	}
	if !alive {
		r.Backends, r.Status = nil, 500
	}
}

// paths are the conditions for one match: a prefix takes whole segments, so "/v1" is the path
// itself and what is below.
func paths(m *meshv1.MeshHTTPRoute_RouteMatch) []ir.Match {
	base := ir.Match{Method: m.GetMethod()}
	for _, h := range m.GetHeaders() {
		base.Headers = append(base.Headers, headerMatch(h))
	}
	for _, q := range m.GetQueryParams() {
		v := ir.ValueMatch{Name: q.GetName(), Value: q.GetValue()}
		if q.GetType() == "RegularExpression" {
			v.Kind = ir.ValueRegex
		}
		base.Query = append(base.Query, v)
	}
	value := m.GetPath().GetValue()
	switch m.GetPath().GetType() {
	case "Exact":
		base.PathType, base.Path = ir.PathExact, value
	case "RegularExpression":
		base.PathType, base.Path = ir.PathRegex, value
	default:
		trimmed := strings.TrimSuffix(value, "/")
		if trimmed == "" {
			base.Path = "/"
			break
		}
		exact, below := base, base
		exact.PathType, exact.Path = ir.PathExact, trimmed
		below.PathType, below.Path = ir.PathPrefix, trimmed+"/"
		return []ir.Match{exact, below}
	}
	return []ir.Match{base}
}

func headerMatch(h *meshv1.MeshHTTPRoute_HeaderMatch) ir.ValueMatch {
	v := ir.ValueMatch{Name: h.GetName(), Value: h.GetValue()}
	switch h.GetType() {
	case "Present":
		v.Kind = ir.ValuePresent
	case "Absent":
		v.Kind = ir.ValueAbsent
	case "RegularExpression":
		v.Kind = ir.ValueRegex
	case "Prefix":
		v.Kind = ir.ValuePrefix
		if v.Value == "" {
			v.Kind = ir.ValuePresent
		}
	}
	return v
}

// setRewrite replaces the path or the matched prefix. The replacement of a prefix ends with a slash
// exactly where the prefix does: "/v1/foo" with "/v1" to "/v2" is "/v2/foo", with "/v1" to "/" it
// is "/foo".
func setRewrite(r *ir.Route, m *meshv1.MeshHTTPRoute_RouteMatch, p *meshv1.MeshHTTPRoute_PathRewrite) {
	switch p.GetType() {
	case "ReplaceFullPath":
		if p.ReplaceFullPath != nil {
			full := cmp.Or(p.GetReplaceFullPath(), "/")
			r.ReplacePath = &full
		}
	case "ReplacePrefixMatch":
		if p.ReplacePrefixMatch == nil || m.GetPath().GetType() != "PathPrefix" {
			return
		}
		to := strings.TrimSuffix(p.GetReplacePrefixMatch(), "/")
		if r.Match.PathType == ir.PathExact {
			if to == "" {
				to = "/"
			}
			r.ReplacePath = &to
			return
		}
		to += "/"
		r.ReplacePrefix = &to
	}
}

// headerFold is what a list of filters does to headers, in the order of the list. Envoy removes first,
// then sets, then adds, in whatever order the message has them.
type headerFold struct {
	names []string
	edits map[string]*headerEdit
}

// headerEdit is what becomes of one header.
type headerEdit struct {
	// replaced says that nothing is left of what the caller, or the answer, had.
	replaced bool
	values   []string
}

func (f *headerFold) of(name string) *headerEdit {
	if f.edits == nil {
		f.edits = map[string]*headerEdit{}
	}
	e := f.edits[name]
	if e == nil {
		e = &headerEdit{}
		f.edits[name] = e
		f.names = append(f.names, name)
	}
	return e
}

// then applies one more filter. A filter names each header once.
func (f *headerFold) then(m *meshv1.MeshHTTPRoute_HeaderModifier) {
	for _, h := range m.GetSet() {
		*f.of(h.GetName()) = headerEdit{replaced: true, values: []string{h.GetValue()}}
	}
	for _, h := range m.GetAdd() {
		e := f.of(h.GetName())
		e.values = append(e.values, h.GetValue())
	}
	for _, name := range m.GetRemove() {
		*f.of(name) = headerEdit{replaced: true}
	}
}

func (f *headerFold) edit() ir.HeaderEdit {
	var out ir.HeaderEdit
	for _, name := range f.names {
		e := f.edits[name]
		values := e.values
		switch {
		case e.replaced && len(values) == 0:
			out.Remove = append(out.Remove, name)
		case e.replaced:
			out.Set = append(out.Set, ir.Header{Name: name, Value: values[0]})
			values = values[1:]
		}
		for _, v := range values {
			out.Add = append(out.Add, ir.Header{Name: name, Value: v})
		}
	}
	return out
}

// millionths reads a percentage; absent is all.
func millionths(p *meshv1.IntOrString) uint32 {
	percent := 100.0
	switch v := p.GetValue().(type) {
	case *meshv1.IntOrString_IntValue:
		percent = float64(v.IntValue)
	case *meshv1.IntOrString_StringValue:
		if f, err := strconv.ParseFloat(v.StringValue, 64); err == nil {
			percent = f
		}
	}
	return uint32(math.Round(min(max(percent, 0), 100) * 10000))
}
