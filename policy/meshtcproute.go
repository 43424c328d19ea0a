package policy

import (
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// TCPRule is what MeshTCPRoutes say of the connections to a destination. Its parts are shared with
// the policies: do not change them.
type TCPRule struct {
	// BackendRefs is empty if connections go to the destination itself.
	BackendRefs []*meshv1.BackendRef
	// Origin names the "to" entry that says so.
	Origin Origin
	// Policy is the resource of Origin, for which the references are to be resolved.
	Policy *mesh.Resource
}

// TCPRoute is the rule of the highest-ranking entry that means d: the one
// rule of an entry replaces that of lower ones whole, for all it has is a list. An entry without
// rules means the destination itself and replaces as well. False if no entry means d. The policies
// are those that select the proxy, ascending by [Compare].
func TCPRoute(policies []*mesh.Resource, d Destination) (TCPRule, bool) {
	list := entriesFor(policies, d)
	for i := len(list) - 1; i >= 0; i-- {
		to, ok := list[i].message.Interface().(*meshv1.MeshTCPRoute_To)
		if !ok {
			continue
		}
		r := TCPRule{Origin: Origin{Key: list[i].policy.Key, Rule: list[i].Index}, Policy: list[i].policy}
		if rules := to.GetRules(); len(rules) > 0 {
			r.BackendRefs = rules[0].GetDefault().GetBackendRefs()
		}
		return r, true
	}
	return TCPRule{}, false
}
