package validate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func (c *check) positive(path string, d *durationpb.Duration) {
	if d != nil && d.AsDuration() <= 0 {
		c.add(path, "must be longer than 0")
	}
}

func (c *check) notNegative(path string, d *durationpb.Duration) {
	if d != nil && d.AsDuration() < 0 {
		c.add(path, "must not be negative; 0 turns it off")
	}
}

// timeout: traffic-policies 9.1, with decision 12.19 (requestHeadersTimeout may stand alone) and
// natural paths (12.21).
func (c *check) timeout(s *meshv1.MeshTimeout) {
	top := s.GetTargetRef().GetKind()
	c.top(mesh.KindMeshTimeout, s.GetTargetRef(), len(s.GetFrom())+len(s.GetRules()) > 0)
	if len(s.GetTo())+len(s.GetFrom())+len(s.GetRules()) == 0 {
		c.add("spec", "needs at least one of to, rules and from")
	}
	if len(s.GetRules()) > 0 && len(s.GetTo())+len(s.GetFrom()) > 0 {
		c.add("spec", "must not combine rules with to or from: make two policies")
	}
	toKinds := []string{"Mesh", "MeshService", "MeshExternalService", "MeshMultiZoneService", "MeshHTTPRoute"}
	if top == "MeshGateway" || top == "MeshHTTPRoute" {
		toKinds = []string{"Mesh", "MeshExternalService"}
		if len(s.GetFrom()) > 0 {
			c.add("spec.from", "must not be given with a top-level %s", top)
		}
	}
	if len(s.GetFrom()) > 0 {
		c.warn("spec.from", "is deprecated: use rules")
	}
	for i, to := range s.GetTo() {
		path := fmt.Sprintf("spec.to[%d]", i)
		c.target(path+".targetRef", to.GetTargetRef(), level{kinds: toKinds})
		c.timeoutConf(path+".default", to.GetDefault())
		if top == "MeshHTTPRoute" {
			c.forbidTimeouts(path+".default", to.GetDefault(), "with a top-level MeshHTTPRoute", false)
		} else if to.GetTargetRef().GetKind() == "MeshHTTPRoute" {
			c.inertTimeouts(path+".default", to.GetDefault())
		}
	}
	for i, from := range s.GetFrom() {
		path := fmt.Sprintf("spec.from[%d]", i)
		c.target(path+".targetRef", from.GetTargetRef(), level{kinds: []string{"Mesh"}})
		c.timeoutConf(path+".default", from.GetDefault())
	}
	for i, rule := range s.GetRules() {
		path := fmt.Sprintf("spec.rules[%d]", i)
		caller := false
		for j, m := range rule.GetMatches() {
			c.match(fmt.Sprintf("%s.matches[%d]", path, j), m)
			caller = caller || m.GetSpiffeId() != nil
		}
		c.timeoutConf(path+".default", rule.GetDefault())
		if caller {
			c.forbidTimeouts(path+".default", rule.GetDefault(),
				"in a rule with a spiffeID: it cannot depend on the caller", true)
		}
	}
}

func (c *check) timeoutConf(path string, conf *meshv1.MeshTimeout_Conf) {
	h := conf.GetHttp()
	if conf.GetConnectionTimeout() == nil && conf.GetIdleTimeout() == nil && h == nil {
		c.add(path, "needs at least one of connectionTimeout, idleTimeout and http")
	}
	c.positive(path+".connectionTimeout", conf.GetConnectionTimeout())
	c.notNegative(path+".idleTimeout", conf.GetIdleTimeout())
	if h == nil {
		return
	}
	if h.GetRequestTimeout() == nil && h.GetStreamIdleTimeout() == nil && h.GetMaxStreamDuration() == nil &&
		h.GetMaxConnectionDuration() == nil && h.GetRequestHeadersTimeout() == nil {
		c.add(path+".http", "needs at least one of requestTimeout, streamIdleTimeout, maxStreamDuration, "+
			"maxConnectionDuration and requestHeadersTimeout")
	}
	c.notNegative(path+".http.requestTimeout", h.GetRequestTimeout())
	c.notNegative(path+".http.streamIdleTimeout", h.GetStreamIdleTimeout())
	c.notNegative(path+".http.maxStreamDuration", h.GetMaxStreamDuration())
	c.notNegative(path+".http.maxConnectionDuration", h.GetMaxConnectionDuration())
	c.notNegative(path+".http.requestHeadersTimeout", h.GetRequestHeadersTimeout())
}

type namedDuration struct {
	name string
	d    *durationpb.Duration
}

// routeless are the timeouts that are no property of a route.
func routeless(conf *meshv1.MeshTimeout_Conf, headers bool) []namedDuration {
	h := conf.GetHttp()
	out := []namedDuration{{"connectionTimeout", conf.GetConnectionTimeout()},
		{"idleTimeout", conf.GetIdleTimeout()},
		{"http.maxStreamDuration", h.GetMaxStreamDuration()},
		{"http.maxConnectionDuration", h.GetMaxConnectionDuration()}}
	if headers {
		out = append(out, namedDuration{"http.requestHeadersTimeout", h.GetRequestHeadersTimeout()})
	}
	return slices.DeleteFunc(out, func(n namedDuration) bool { return n.d == nil })
}

func (c *check) forbidTimeouts(path string, conf *meshv1.MeshTimeout_Conf, where string, headers bool) {
	for _, n := range routeless(conf, headers) {
		c.add(path+"."+n.name, "must not be given %s", where)
	}
}

func (c *check) inertTimeouts(path string, conf *meshv1.MeshTimeout_Conf) {
	for _, n := range routeless(conf, true) {
		c.warn(path+"."+n.name, "has no effect on a route")
	}
}

// permission: security reference 4.1.
func (c *check) permission(s *meshv1.MeshTrafficPermission) {
	c.top(mesh.KindMeshTrafficPermission, s.GetTargetRef(), true)
	switch {
	case len(s.GetFrom()) == 0 && len(s.GetRules()) == 0:
		c.add("spec", "needs rules or from")
	case len(s.GetFrom()) > 0 && len(s.GetRules()) > 0:
		c.add("spec", "must not combine rules and from: make two policies")
	}
	if len(s.GetFrom()) > 0 {
		c.warn("spec.from", "is deprecated: use rules")
	}
	for i, f := range s.GetFrom() {
		c.callerTarget(fmt.Sprintf("spec.from[%d].targetRef", i), f.GetTargetRef())
	}
	for i, r := range s.GetRules() {
		path, d := fmt.Sprintf("spec.rules[%d].default", i), r.GetDefault()
		if d != nil && len(d.GetAllow())+len(d.GetDeny())+len(d.GetAllowWithShadowDeny()) == 0 {
			c.add(path, "needs at least one of allow, deny and allowWithShadowDeny")
		}
		for _, l := range []struct {
			name    string
			matches []*meshv1.Match
		}{{"allow", d.GetAllow()}, {"deny", d.GetDeny()},
			{"allowWithShadowDeny", d.GetAllowWithShadowDeny()}} {
			for j, m := range l.matches {
				c.match(fmt.Sprintf("%s.%s[%d]", path, l.name, j), m)
			}
		}
	}
}

// httpRoute: traffic-policies 2.2 and 2.3 with decisions 12.3, 12.4 and 12.25.
func (c *check) httpRoute(s *meshv1.MeshHTTPRoute) {
	gateway := s.GetTargetRef().GetKind() == "MeshGateway"
	c.top(mesh.KindMeshHTTPRoute, s.GetTargetRef(), false)
	kinds := []string{"MeshService", "MeshExternalService", "MeshMultiZoneService"}
	if gateway {
		kinds = []string{"Mesh"}
	}
	for i, to := range s.GetTo() {
		path := fmt.Sprintf("spec.to[%d]", i)
		c.target(path+".targetRef", to.GetTargetRef(), level{kinds: kinds})
		if len(to.GetHostnames()) > 0 && !gateway {
			c.add(path+".hostnames", "must not be given: only routes of a MeshGateway have hostnames")
		}
		for j, r := range to.GetRules() {
			c.routeRule(fmt.Sprintf("%s.rules[%d]", path, j), r, gateway)
		}
	}
}

func (c *check) routeRule(path string, r *meshv1.MeshHTTPRoute_Rule, gateway bool) {
	prefixOnly := len(r.GetMatches()) > 0
	for i, m := range r.GetMatches() {
		c.routeMatch(fmt.Sprintf("%s.matches[%d]", path, i), m)
		prefixOnly = prefixOnly && m.GetPath().GetType() == "PathPrefix"
	}
	redirect := false
	for i, f := range r.GetDefault().GetFilters() {
		at := fmt.Sprintf("%s.default.filters[%d]", path, i)
		c.filter(at, f, prefixOnly, gateway)
		redirect = redirect || f.GetType() == "RequestRedirect"
	}
	for i, f := range r.GetDefault().GetFilters() {
		if t := f.GetType(); redirect && (t == "URLRewrite" || t == "RequestMirror") {
			c.add(fmt.Sprintf("%s.default.filters[%d]", path, i),
				"%s cannot be combined with RequestRedirect in one rule", t)
		}
	}
	for i, b := range r.GetDefault().GetBackendRefs() {
		c.backend(fmt.Sprintf("%s.default.backendRefs[%d]", path, i), b)
	}
	if gateway && !redirect && len(r.GetDefault().GetBackendRefs()) == 0 {
		c.add(path+".default.backendRefs", "is required for a MeshGateway, unless a filter redirects")
	}
}

func (c *check) routeMatch(path string, m *meshv1.MeshHTTPRoute_RouteMatch) {
	if p := m.GetPath(); p.GetValue() != "" {
		v := p.GetValue()
		switch {
		case p.GetType() == "RegularExpression":
			c.expression(path+".path.value", v)
		case !strings.HasPrefix(v, "/"):
			c.add(path+".path.value", "must begin with a slash")
		case p.GetType() == "PathPrefix" && v != "/" && strings.HasSuffix(v, "/"):
			c.add(path+".path.value", "must not end with a slash: a prefix ends at a path segment anyway")
		}
	}
	for i, h := range m.GetHeaders() {
		c.headerMatch(fmt.Sprintf("%s.headers[%d]", path, i), h)
	}
	names := map[string]bool{}
	for i, q := range m.GetQueryParams() {
		at := fmt.Sprintf("%s.queryParams[%d]", path, i)
		if names[q.GetName()] {
			c.add(at+".name", "is given twice in one match")
		}
		names[q.GetName()] = true
		if len(q.GetName()) > 1024 { // Envoy takes no more
			c.add(at+".name", "must have at most 1024 bytes")
		}
		if q.GetType() == "RegularExpression" {
			c.expression(at+".value", q.GetValue())
		}
	}
}

func (c *check) headerMatch(path string, h *meshv1.MeshHTTPRoute_HeaderMatch) {
	c.headerName(path+".name", h.GetName())
	switch h.GetType() {
	case "Present", "Absent":
		if h.GetValue() != "" {
			c.add(path+".value", "must not be given with type %s", h.GetType())
		}
	case "RegularExpression":
		c.expression(path+".value", h.GetValue())
	}
}

// expression must be one that Envoy's engine, RE2, takes; Go's is the same language.
func (c *check) expression(path, expr string) {
	if _, err := regexp.Compile(expr); err != nil {
		c.add(path, "is no regular expression in RE2 syntax: %s",
			strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

var headerToken = regexp.MustCompile("^[a-z0-9!#$%&'*+\\-.^_|~`]+$")

func (c *check) headerName(path, name string) {
	if name != "" && !headerToken.MatchString(name) {
		c.add(path, "must be a header name in lower case")
	}
}

func (c *check) filter(path string, f *meshv1.MeshHTTPRoute_Filter, prefixOnly, gateway bool) {
	require := func(missing bool, body string) {
		if missing {
			c.add(path+"."+body, "is required for a filter of type %s", f.GetType())
		}
	}
	switch f.GetType() {
	case "RequestHeaderModifier":
		require(f.GetRequestHeaderModifier() == nil, "requestHeaderModifier")
		c.headerModifier(path+".requestHeaderModifier", f.GetRequestHeaderModifier())
	case "ResponseHeaderModifier":
		require(f.GetResponseHeaderModifier() == nil, "responseHeaderModifier")
		c.headerModifier(path+".responseHeaderModifier", f.GetResponseHeaderModifier())
	case "RequestRedirect":
		require(f.GetRequestRedirect() == nil, "requestRedirect")
		c.preciseHostname(path+".requestRedirect.hostname", f.GetRequestRedirect().GetHostname())
		c.pathRewrite(path+".requestRedirect.path", f.GetRequestRedirect().GetPath(), prefixOnly)
	case "URLRewrite":
		w, at := f.GetUrlRewrite(), path+".urlRewrite"
		require(w == nil, "urlRewrite")
		c.preciseHostname(at+".hostname", w.GetHostname())
		c.pathRewrite(at+".path", w.GetPath(), prefixOnly)
		if w.GetHostToBackendHostname() && !gateway {
			c.add(at+".hostToBackendHostname", "must not be given: only routes of a MeshGateway have it")
		} else if w.GetHostToBackendHostname() && w.GetHostname() != "" {
			c.add(at+".hostToBackendHostname", "cannot be combined with hostname")
		}
	case "RequestMirror":
		m, at := f.GetRequestMirror(), path+".requestMirror"
		require(m == nil, "requestMirror")
		c.percentage(at+".percentage", m.GetPercentage())
		c.backend(at+".backendRef", m.GetBackendRef())
	}
}

// pathRewrite: the value that the type names must be there (decision 12.3).
func (c *check) pathRewrite(path string, p *meshv1.MeshHTTPRoute_PathRewrite, prefixOnly bool) {
	switch {
	case p == nil:
	case p.GetType() == "ReplaceFullPath" && p.ReplaceFullPath == nil:
		c.add(path+".replaceFullPath", "is required for type ReplaceFullPath")
	case p.GetType() == "ReplacePrefixMatch" && p.ReplacePrefixMatch == nil:
		c.add(path+".replacePrefixMatch", "is required for type ReplacePrefixMatch")
	}
	if p.GetReplacePrefixMatch() != "" && !prefixOnly || p.GetType() == "ReplacePrefixMatch" && !prefixOnly {
		c.add(path+".replacePrefixMatch", "needs a path of type PathPrefix in every match of the rule")
	}
}

// changedHeader is the name of a header that a policy adds, sets or removes. Envoy keeps the host to itself.
func (c *check) changedHeader(path, name string) {
	c.headerName(path, name)
	if name == "host" {
		c.add(path, "must not be host, which Envoy sets itself; filters of type URLRewrite have hostname")
	}
}

func (c *check) headerModifier(path string, m *meshv1.MeshHTTPRoute_HeaderModifier) {
	if m == nil {
		return
	}
	if len(m.GetSet())+len(m.GetAdd())+len(m.GetRemove()) == 0 {
		c.add(path, "needs at least one of set, add and remove")
	}
	seen := map[string]bool{}
	name := func(at, name string) {
		c.changedHeader(at, name)
		if name != "" && seen[name] {
			c.add(at, "is given twice: a header is set, added to or removed once")
		}
		seen[name] = true
	}
	for i, h := range m.GetSet() {
		name(fmt.Sprintf("%s.set[%d].name", path, i), h.GetName())
		c.printable(fmt.Sprintf("%s.set[%d].value", path, i), h.GetValue())
	}
	for i, h := range m.GetAdd() {
		name(fmt.Sprintf("%s.add[%d].name", path, i), h.GetName())
		c.printable(fmt.Sprintf("%s.add[%d].value", path, i), h.GetValue())
	}
	for i, h := range m.GetRemove() {
		at := fmt.Sprintf("%s.remove[%d]", path, i)
		if h == "" {
			c.add(at, "must not be empty")
		}
		name(at, h)
	}
}

// number reads an integer or a decimal as text; it is not ok if there is none, or text that is no number.
func (c *check) number(path string, p *meshv1.IntOrString) (float64, bool) {
	if p == nil {
		return 0, false
	}
	v, ok := mesh.Number(p)
	if !ok {
		c.add(path, "must be a number, such as 5 or \"2.5\"")
	}
	return v, ok
}

// percentage is a number from 0 to 100.
func (c *check) percentage(path string, p *meshv1.IntOrString) {
	if v, ok := c.number(path, p); ok && (v < 0 || v > 100) {
		c.add(path, "must be from 0 to 100")
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// printable is text that goes into a header: proxies refuse line ends and zero bytes there.
func (c *check) printable(path, s string) {
	if strings.ContainsFunc(s, func(r rune) bool { return isControl(r) && r != '\t' }) {
		c.add(path, "must not contain line ends or other control characters")
	}
}
