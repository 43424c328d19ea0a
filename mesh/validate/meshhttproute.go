package validate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// dotSegment is what a path no longer has when Envoy compares it.
var dotSegment = regexp.MustCompile(`(?i)/(?:\.|%2e){1,2}(?:/|$)`)

func meshHTTPRouteRules(c *check, s *meshv1.MeshHTTPRoute) {
	gateway := s.GetTargetRef().GetKind() == "MeshGateway"
	for i, to := range s.GetTo() {
		path := fmt.Sprintf("spec.to[%d]", i)
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
		case dotSegment.MatchString(v):
			c.add(path+".path.value", "can never match: . and .. are resolved before a path is compared")
		case p.GetType() == "PathPrefix" && v != "/" && strings.HasSuffix(v, "/"):
			c.add(path+".path.value", "must not end with a slash: a prefix ends at a path segment anyway")
		default:
			c.encodedPath(path+".path.value", v)
		}
	}
	c.headerMatches(path+".headers", m.GetHeaders())
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
		c.encodedQuery(at+".name", q.GetName())
		if q.GetType() == "RegularExpression" {
			c.expression(at+".value", q.GetValue())
		} else {
			c.encodedQuery(at+".value", q.GetValue())
		}
	}
}

// headerMatches are conditions that must hold together.
func (c *check) headerMatches(path string, list []*meshv1.MeshHTTPRoute_HeaderMatch) {
	first := map[string]int{}
	for i, h := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.headerMatch(at, h)
		if name := h.GetName(); slices.Contains(ownHeaders, name) || strings.HasPrefix(name, "x-envoy-") {
			c.warn(
				at,
				"%s is written by Envoy before it looks for a route: what the caller sent does not count",
				name,
			)
		}
		j, again := first[h.GetName()]
		if !again {
			first[h.GetName()] = i
			continue
		}
		if o := list[j]; excludes(h, o) || excludes(o, h) {
			c.add(at, "can never hold together with %s[%d]", path[strings.LastIndexByte(path, '.')+1:], j)
		}
	}
}

// ownHeaders are those that Envoy writes, or takes from outside, on each request of a sidecar.
var ownHeaders = []string{"x-request-id", "x-forwarded-proto"}

// excludes says that no header meets both a and b.
func excludes(a, b *meshv1.MeshHTTPRoute_HeaderMatch) bool {
	exact := func(h *meshv1.MeshHTTPRoute_HeaderMatch) bool {
		return h.GetType() == "" || h.GetType() == "Exact"
	}
	switch {
	case a.GetType() == "Absent":
		return b.GetType() != "Absent"
	case exact(a) && exact(b):
		return a.GetValue() != b.GetValue()
	case exact(a) && b.GetType() == "Prefix":
		return !strings.HasPrefix(a.GetValue(), b.GetValue())
	}
	return false
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

// pathRewrite: the value that the type names must be there.
func (c *check) pathRewrite(path string, p *meshv1.MeshHTTPRoute_PathRewrite, prefixOnly bool) {
	switch {
	case p == nil:
	case p.GetType() == "ReplaceFullPath" && p.ReplaceFullPath == nil:
		c.add(path+".replaceFullPath", "is required for type ReplaceFullPath")
	case p.GetType() == "ReplacePrefixMatch" && p.ReplacePrefixMatch == nil:
		c.add(path+".replacePrefixMatch", "is required for type ReplacePrefixMatch")
	}
	if p != nil && p.ReplaceFullPath != nil {
		c.replacement(path+".replaceFullPath", p.GetReplaceFullPath())
	}
	if p != nil && p.ReplacePrefixMatch != nil {
		c.replacement(path+".replacePrefixMatch", p.GetReplacePrefixMatch())
	}
	if p.GetReplacePrefixMatch() != "" && !prefixOnly || p.GetType() == "ReplacePrefixMatch" && !prefixOnly {
		c.add(path+".replacePrefixMatch", "needs a path of type PathPrefix in every match of the rule")
	}
}

// replacement is a path that a request gets; the empty one is "/".
func (c *check) replacement(path, value string) {
	if value != "" && !strings.HasPrefix(value, "/") {
		c.add(path, "must begin with a slash, or be empty for /")
	}
	c.encodedPath(path, value)
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
