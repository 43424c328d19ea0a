package policy

import (
	"cmp"
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// HTTPRule is a merged rule of MeshHTTPRoute. Its parts are shared with the policies: do not change them.
type HTTPRule struct {
	Matches []*meshv1.MeshHTTPRoute_RouteMatch
	Conf    *meshv1.MeshHTTPRoute_Conf
	// Origin names the "to" entry of the highest-ranking policy that has a rule with these matches;
	// Rule says which rule.
	Origin Origin
	// Index of the rule in that entry's rules.
	Index int
	// Policy is the resource of Origin.
	Policy *mesh.Resource
	// Backends and Filters are the policies whose backendRefs and filters Conf has, for which the
	// references in them are to be resolved; nil if none has any.
	Backends, Filters *mesh.Resource
}

// HTTPRoutes merges the rules of MeshHTTPRoutes for a destination. The
// policies are those that select the proxy, ascending by [Compare]. Rules of the highest-ranking
// policy come first, in their written order; rules with the same matches are one, at the place of
// the highest; filters and backendRefs are each taken whole from the highest that has them. The
// result is neither flattened nor sorted: see [SortRoutes].
func HTTPRoutes(policies []*mesh.Resource, d Destination) []HTTPRule {
	entries := entriesFor(policies, d)
	// Highest first; within one policy and rank the first entry comes first.
	slices.SortStableFunc(entries, func(a, b ranked) int {
		return cmp.Or(-compareRank(a.head, b.head), -cmp.Compare(toRank(a.Entry), toRank(b.Entry)),
			-compareName(a.head, b.head), cmp.Compare(a.Index, b.Index))
	})
	var out []HTTPRule
	place := map[string]int{} // by the key of the matches
	for _, e := range entries {
		to, ok := e.message.Interface().(*meshv1.MeshHTTPRoute_To)
		if !ok {
			continue
		}
		for i, rule := range to.GetRules() {
			key := matchesKey(rule.GetMatches())
			at, merged := place[key]
			if !merged {
				r := HTTPRule{
					Matches: rule.GetMatches(),
					Conf:    &meshv1.MeshHTTPRoute_Conf{},
					Policy:  e.policy,
					Index:   i,
					Origin:  Origin{Key: e.policy.Key, Rule: e.Index},
				}
				at, out = len(out), append(out, r)
				place[key] = at
			}
			r := &out[at]
			if r.Conf.Filters == nil && len(rule.GetDefault().GetFilters()) > 0 {
				r.Conf.Filters, r.Filters = rule.GetDefault().GetFilters(), e.policy
			}
			if r.Conf.BackendRefs == nil && len(rule.GetDefault().GetBackendRefs()) > 0 {
				r.Conf.BackendRefs, r.Backends = rule.GetDefault().GetBackendRefs(), e.policy
			}
		}
	}
	return out
}

// matchesKey is equal for matches that are deeply equal after defaults are spelled out. It holds for
// one process: the encoding of messages may change with the library.
func matchesKey(list []*meshv1.MeshHTTPRoute_RouteMatch) string {
	var key []byte
	for _, m := range list {
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(withDefaults(m))
		if err != nil { // not valid UTF-8, which no document and no peer brings here
			body = []byte(prototext.Format(m))
		}
		key = binary.AppendUvarint(key, uint64(len(body)))
		key = append(key, body...)
	}
	return string(key)
}

func withDefaults(m *meshv1.MeshHTTPRoute_RouteMatch) *meshv1.MeshHTTPRoute_RouteMatch {
	if !slices.ContainsFunc(m.GetHeaders(),
		func(h *meshv1.MeshHTTPRoute_HeaderMatch) bool { return h.GetType() == "" }) {
		return m
	}
	m = proto.CloneOf(m)
	for _, h := range m.GetHeaders() {
		h.Type = cmp.Or(h.GetType(), "Exact")
	}
	return m
}

// FlatRoute is a rule with one of its matches.
type FlatRoute struct {
	// Match always has a path: one without is PathPrefix "/".
	Match *meshv1.MeshHTTPRoute_RouteMatch
	// Rule that it comes from.
	Rule HTTPRule
}

var anyPath = &meshv1.MeshHTTPRoute_PathMatch{Type: "PathPrefix", Value: "/"}

// SortRoutes flattens rules to one match each and puts them in the order in which a proxy must try
// them. A missing path counts as the prefix "/".
func SortRoutes(rules []HTTPRule) []FlatRoute {
	var out []FlatRoute
	for _, r := range rules {
		for _, m := range r.Matches {
			if m.GetPath() == nil {
				m = proto.CloneOf(m)
				if m == nil {
					m = &meshv1.MeshHTTPRoute_RouteMatch{}
				}
				m.Path = anyPath
			}
			out = append(out, FlatRoute{Match: m, Rule: r})
		}
	}
	slices.SortStableFunc(out, func(a, b FlatRoute) int { return compareRoutes(a.Match, b.Match) })
	return out
}

func pathRank(p *meshv1.MeshHTTPRoute_PathMatch) int {
	switch p.GetType() {
	case "Exact":
		return 0
	case "PathPrefix":
		return 1
	}
	return 2
}

func compareRoutes(a, b *meshv1.MeshHTTPRoute_RouteMatch) int {
	c := cmp.Compare(pathRank(a.GetPath()), pathRank(b.GetPath()))
	if c == 0 && a.GetPath().GetType() != "Exact" {
		c = -cmp.Compare(len(a.GetPath().GetValue()), len(b.GetPath().GetValue()))
	}
	return cmp.Or(c,
		-cmp.Compare(boolRank(a.GetMethod() != ""), boolRank(b.GetMethod() != "")),
		-cmp.Compare(len(a.GetHeaders()), len(b.GetHeaders())),
		-cmp.Compare(len(a.GetQueryParams()), len(b.GetQueryParams())))
}

// MatchesAll says that a match fits every request: path prefix "/" and nothing else. If no route of
// a destination does, a proxy needs a last route to the destination itself.
func MatchesAll(m *meshv1.MeshHTTPRoute_RouteMatch) bool {
	p := m.GetPath()
	return (p == nil || p.GetType() == "PathPrefix" && p.GetValue() == "/") &&
		m.GetMethod() == "" && len(m.GetHeaders()) == 0 && len(m.GetQueryParams()) == 0
}
