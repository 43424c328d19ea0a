package policy

import (
	"cmp"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// ranked is an entry of "to" with the head of its policy.
type ranked struct {
	Entry
	policy *mesh.Resource
	head   Head
}

// toRank ranks the target of a "to" entry by its kind; a MeshService with a section outranks one
// without.
func toRank(e Entry) int {
	rank := 2 * kindRank(e.Target.GetKind())
	if e.Target.GetKind() == targetService && e.Target.GetSectionName() != "" {
		rank++
	}
	return rank
}

// entriesFor are the entries of "to" that mean d, by ascending priority.
func entriesFor(policies []*mesh.Resource, d Destination) []ranked {
	var out []ranked
	for _, p := range policies {
		var head Head
		for e := range entries(p, "to") {
			if head.Target == nil {
				head = HeadOf(p)
			}
			ref := p.Key
			ref.Zone, ref.Namespace = head.Zone, head.Namespace
			if ResolvesTo(e.Target, ref, d) {
				out = append(out, ranked{Entry: e, policy: p, head: head})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b ranked) int {
		return cmp.Or(compareRank(a.head, b.head), cmp.Compare(toRank(a.Entry), toRank(b.Entry)),
			compareName(a.head, b.head), cmp.Compare(a.Index, b.Index))
	})
	return out
}

// ForDestination merges the "to" entries of one kind's policies for d. The policies
// are those that select the proxy, ascending by [Compare]. Of MeshTCPRoute
// the conf is that of the one rule, and one without backendRefs means the destination itself; a
// Conf of nil means that no route is about d. A MeshHTTPRoute as destination gets what is said of
// the route and of the whole mesh, not what is said of the service behind it.
func ForDestination(policies []*mesh.Resource, d Destination) Effective {
	return mergeEntries(entriesFor(policies, d))
}

// ForRoute is [ForDestination] for a MeshHTTPRoute. It is not ok if no entry is about the route:
// what is said of the service behind it holds then.
func ForRoute(policies []*mesh.Resource, route Destination) (Effective, bool) {
	about := false
	for _, p := range policies {
		for e := range entries(p, "to") {
			about = about || e.Target.GetKind() == targetHTTPRoute
		}
	}
	if !about { // the common case, at little cost
		return Effective{}, false
	}
	list := entriesFor(policies, route)
	if !slices.ContainsFunc(list, func(r ranked) bool { return r.Target.GetKind() == targetHTTPRoute }) {
		return Effective{}, false
	}
	return mergeEntries(list), true
}

func mergeEntries(list []ranked) Effective {
	var e Effective
	byDefault := false // what defaults of the system say of outlier detection is in e
	for _, r := range list {
		if replacesDefaults(r.Conf) {
			if byDefault && !r.head.Default {
				e.clear("outlierDetection")
			}
			byDefault = r.head.Default
		}
		if c, ok := r.Conf.(*meshv1.MeshTCPRoute_Conf); ok && len(c.GetBackendRefs()) == 0 {
			e.clear("backendRefs") // a route without rules: to the destination itself
		}
		e.add(r.Conf, Origin{Key: r.policy.Key, Rule: r.Index})
	}
	return e
}
