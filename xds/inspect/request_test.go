package inspect

import (
	"net/url"
	"testing"

	"github.com/meridian-mesh/meridian/xds/ir"
)

func TestRequestFits(t *testing.T) {
	t.Parallel()
	q := request{
		path:    "/v1/orders",
		query:   url.Values{"page": {"2"}},
		method:  "GET",
		headers: map[string]string{"x-canary": "yes"},
		uris:    []string{"spiffe://default/web", "kuma://team/a"},
		sni:     "sni.msvc.default.east.web.http",
	}
	header := func(kind ir.ValueKind, name, value string) ir.Match {
		return ir.Match{Path: "/", Headers: []ir.ValueMatch{{Name: name, Kind: kind, Value: value}}}
	}
	caller := func(m ir.IdentityMatch) ir.Match { return ir.Match{Path: "/", Callers: []ir.IdentityMatch{m}} }
	for name, c := range map[string]struct {
		match ir.Match
		want  bool
	}{
		"prefix":                {ir.Match{Path: "/v1/"}, true},
		"prefix byte by byte":   {ir.Match{Path: "/v1/or"}, true},
		"other prefix":          {ir.Match{Path: "/v2/"}, false},
		"exact":                 {ir.Match{PathType: ir.PathExact, Path: "/v1/orders"}, true},
		"exact is not a prefix": {ir.Match{PathType: ir.PathExact, Path: "/v1"}, false},
		"regex":                 {ir.Match{PathType: ir.PathRegex, Path: "/v[0-9]/.*"}, true},
		"regex takes the whole": {ir.Match{PathType: ir.PathRegex, Path: "/v[0-9]"}, false},
		"regex alternatives":    {ir.Match{PathType: ir.PathRegex, Path: "/a|/v1/orders"}, true},
		"method":                {ir.Match{Path: "/", Method: "GET"}, true},
		"other method":          {ir.Match{Path: "/", Method: "POST"}, false},
		"header in any case":    {header(ir.ValueExact, "X-Canary", "yes"), true},
		"header's value exact":  {header(ir.ValueExact, "x-canary", "Yes"), false},
		"header present":        {header(ir.ValuePresent, "x-canary", ""), true},
		"header absent":         {header(ir.ValueAbsent, "x-canary", ""), false},
		"other header absent":   {header(ir.ValueAbsent, "x-other", ""), true},
		"header regex":          {header(ir.ValueRegex, "x-canary", "y.s"), true},
		"header regex partly":   {header(ir.ValueRegex, "x-canary", "y"), false},
		"header prefix":         {header(ir.ValuePrefix, "x-canary", "ye"), true},
		"query": {ir.Match{
			Path:  "/",
			Query: []ir.ValueMatch{{Name: "page", Value: "2"}},
		}, true},
		"query missing": {ir.Match{
			Path:  "/",
			Query: []ir.ValueMatch{{Name: "size", Value: "2"}},
		}, false},
		"identity": {caller(ir.IdentityMatch{SpiffeID: "spiffe://default/web"}), true},
		"identity below": {caller(ir.IdentityMatch{
			SpiffeID: "spiffe://default/",
			Prefix:   true,
		}), true},
		"identity by segments": {caller(ir.IdentityMatch{
			SpiffeID: "spiffe://default/we",
			Prefix:   true,
		}), false},
		"other server name": {caller(ir.IdentityMatch{
			SpiffeID: "spiffe://default/web",
			SNI:      "other",
		}), false},
	} {
		if got := q.fits(c.match); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestAdmitted(t *testing.T) {
	t.Parallel()
	web := request{uris: []string{"spiffe://default/web", "kuma://team/a"}}
	inClear := request{}
	uri := func(u string) ir.URIMatch { return ir.URIMatch{URI: u} }
	denyWeb := ir.Rule{Match: ir.IdentityMatch{SpiffeID: "spiffe://default/web"}, Deny: true, Name: "deny"}
	allowAll := ir.Rule{Match: ir.IdentityMatch{SpiffeID: "spiffe://default", Prefix: true}, Name: "allow"}
	for name, c := range map[string]struct {
		caller request
		table  *ir.RBAC
		want   bool
	}{
		"no table":        {web, nil, true},
		"nothing said":    {web, &ir.RBAC{}, false},
		"denial first":    {web, &ir.RBAC{ByRules: true, Rules: []ir.Rule{denyWeb, allowAll}}, false},
		"allowed":         {web, &ir.RBAC{ByRules: true, Rules: []ir.Rule{allowAll}}, true},
		"no one in clear": {inClear, &ir.RBAC{ByRules: true, Rules: []ir.Rule{allowAll}}, false},
		"principal": {web,
			&ir.RBAC{Principals: []ir.Principal{{All: []ir.URIMatch{uri("kuma://team/a")}}}}, true},
		"principal of others": {web,
			&ir.RBAC{Principals: []ir.Principal{{All: []ir.URIMatch{uri("kuma://team/b")}}}}, false},
		"excepted": {web,
			&ir.RBAC{Principals: []ir.Principal{{Not: [][]ir.URIMatch{{uri("kuma://team/a")}}}}}, false},
		"partly excepted": {web,
			&ir.RBAC{Principals: []ir.Principal{{Not: [][]ir.URIMatch{{uri("kuma://team/a"),
				uri("kuma://x/y")}}}}}, true},
		"prefix of a tag": {web, &ir.RBAC{Principals: []ir.Principal{{All: []ir.URIMatch{{
			URI:    "kuma://team/",
			Prefix: true,
		}}}}}, true},
	} {
		if got, _ := c.caller.admitted(c.table); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
