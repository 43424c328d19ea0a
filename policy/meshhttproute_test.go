package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func route(name, rules string) string {
	return "type: MeshHTTPRoute\nname: " + name +
		"\nspec: {to: [{targetRef: {kind: MeshService, name: backend}, rules: [" + rules + "]}]}\n---\n"
}

func rule(match, conf string) string { return "{matches: [" + match + "], default: " + conf + "}" }

func to(name string) string { return "{backendRefs: [{kind: MeshService, name: " + name + "}]}" }

// show writes a route as "path method headers → backends".
func show(m *meshv1.MeshHTTPRoute_RouteMatch, c *meshv1.MeshHTTPRoute_Conf) string {
	out := []string{m.GetPath().GetType() + " " + m.GetPath().GetValue()}
	if m.GetMethod() != "" {
		out = append(out, m.GetMethod())
	}
	for _, h := range m.GetHeaders() {
		out = append(out, h.GetName())
	}
	for _, q := range m.GetQueryParams() {
		out = append(out, "?"+q.GetName())
	}
	for _, b := range c.GetBackendRefs() {
		out = append(out, "→"+b.GetName())
	}
	return strings.Join(out, " ")
}

func TestSortRoutes(t *testing.T) {
	p := func(kind, value string) string { return "{path: {type: " + kind + ", value: " + value + "}}" }
	for _, tt := range []struct {
		name, policies string
		want           []string
	}{
		{"one rule", route("a",
			rule(p("PathPrefix", "/"),
				"{backendRefs: [{kind: MeshService, name: v1, weight: 90}, {kind: MeshService, name: v2, "+
					"weight: 10}]}")),
			[]string{"PathPrefix / →v1 →v2"}},
		{"exact before prefix, longer before shorter", route("a",
			rule(p("Exact", "/b"), "{}")+", "+rule(p("PathPrefix", "/a"), "{}")+", "+
				rule(p("PathPrefix", "/abc"), "{}")+", "+rule(p("RegularExpression", "/x.*"), "{}")),
			[]string{"Exact /b", "PathPrefix /abc", "PathPrefix /a", "RegularExpression /x.*"}},
		{"a rule stays, whatever its backends",
			route("a", rule(p("PathPrefix", "/v1"),
				"{backendRefs: [{kind: MeshService, name: gone, weight: 0}]}")),
			[]string{"PathPrefix /v1 →gone"}},
		{"weights are for routes that split",
			route("a", rule(p("PathPrefix", "/v1"),
				"{backendRefs: [{kind: MeshService, name: v1, weight: 0}, {kind: MeshService, name: v2, "+
					"weight: 10}]}")),
			[]string{"PathPrefix /v1 →v1 →v2"}},
		{"no path counts as /",
			route("a", rule(p("PathPrefix", "/"), to("all"))+", "+rule("{method: GET}", to("get"))),
			[]string{"PathPrefix / GET →get", "PathPrefix / →all"}},
		{"method, headers, query",
			route("a", rule("{}", "{}")+", "+rule("{queryParams: [{type: Exact, name: q, value: a}]}", "{}")+
				", "+rule("{headers: [{name: h}]}", "{}")+", "+
				rule("{headers: [{name: h}, {name: i}]}", "{}")+
				", "+rule("{method: PUT}", "{}")),
			[]string{"PathPrefix / PUT", "PathPrefix / h i", "PathPrefix / h", "PathPrefix / ?q",
				"PathPrefix /"}},
		{"tie: the higher policy first, then position",
			route("b", rule(p("Exact", "/1"), to("b1"))+", "+rule(p("Exact", "/2"), to("b2"))) +
				route("a", rule(p("Exact", "/3"), to("a3"))),
			[]string{"Exact /3 →a3", "Exact /1 →b1", "Exact /2 →b2"}},
		{"matches are one route each", route("a", rule(p("Exact", "/1")+", "+p("PathPrefix", "/2"), to("x"))),
			[]string{"Exact /1 →x", "PathPrefix /2 →x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range SortRoutes(HTTPRoutes(sorted(read(t, tt.policies)), backend)) {
				got = append(got, show(f.Match, f.Rule.Conf))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Rules with the same matches are one; filters and backendRefs each come from the
// highest that has them.
func TestRulesMerge(t *testing.T) {
	filter := func(name string) string {
		return "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [" + name + "]}}"
	}
	policies := sorted(read(t,
		route("aaa", rule("{headers: [{name: h, value: a}]}", "{filters: ["+filter("a")+"]}")+", "+
			rule("{headers: [{name: h, type: Exact, value: a}]}", "{filters: ["+filter("second")+"]}"))+
			route("zzz", rule("{}", to("other"))+", "+
				rule("{headers: [{name: h, type: Exact, value: a}]}",
					"{filters: ["+filter("z")+"], backendRefs: [{kind: MeshService, name: v2}]}"))))
	got := HTTPRoutes(policies, backend)
	if len(got) != 2 {
		t.Fatalf("%d rules, want 2", len(got))
	}
	r := got[0]
	if f := r.Conf.Filters; len(f) != 1 || f[0].RequestHeaderModifier.Remove[0] != "a" ||
		r.Filters.Key.Name != "aaa" {
		t.Errorf("filters %v of %v", f, r.Filters.Key)
	}
	if b := r.Conf.BackendRefs; len(b) != 1 || b[0].Name != "v2" || r.Backends.Key.Name != "zzz" ||
		r.Policy.Key.Name != "aaa" || r.Index != 0 {
		t.Errorf("backends %v of %v, rule of %v", b, r.Backends.Key, r.Policy.Key)
	}
	if got[1].Index != 0 || got[1].Policy.Key.Name != "zzz" || len(got[1].Matches) != 1 {
		t.Errorf("second rule %v", got[1])
	}
	second := policies[0].Spec.(*meshv1.MeshHTTPRoute).To[0].Rules[1]
	if second.Default.Filters[0].RequestHeaderModifier.Remove[0] != "z" {
		t.Error("a policy changed")
	}
}

func TestRoutesOfASection(t *testing.T) {
	text := route("a", rule("{}", to("x"))) +
		strings.Replace(route("z", rule("{}", to("y"))), "name: backend}",
			"name: backend, sectionName: main}", 1)
	got := HTTPRoutes(sorted(read(t, text)), backend)
	if len(got) != 1 || got[0].Conf.BackendRefs[0].Name != "y" || got[0].Policy.Key.Name != "z" {
		t.Errorf("the rule for the port does not win: %v", got)
	}
	other := backend
	other.Section = "side"
	if got := HTTPRoutes(sorted(read(t, text)), other); len(got) != 1 ||
		got[0].Conf.BackendRefs[0].Name != "x" {
		t.Errorf("another port: %v", got)
	}
}

func TestMatchesAll(t *testing.T) {
	for _, tt := range []struct {
		m    *meshv1.MeshHTTPRoute_RouteMatch
		want bool
	}{
		{&meshv1.MeshHTTPRoute_RouteMatch{}, true},
		{&meshv1.MeshHTTPRoute_RouteMatch{Path: anyPath}, true},
		{&meshv1.MeshHTTPRoute_RouteMatch{Path: anyPath, Method: "GET"}, false},
		{&meshv1.MeshHTTPRoute_RouteMatch{Path: &meshv1.MeshHTTPRoute_PathMatch{
			Type:  "Exact",
			Value: "/",
		}}, false},
	} {
		if got := MatchesAll(tt.m); got != tt.want {
			t.Errorf("%v: %v", tt.m, got)
		}
	}
}
