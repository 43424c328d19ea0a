package compile

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

// TestEveryKindContributes: each kind of policy has its rows, in the order in which kinds act.
func TestEveryKindContributes(t *testing.T) {
	order := func(k mesh.Kind) int {
		info, ok := mesh.Lookup(k)
		if !ok || info.Policy == nil {
			t.Fatalf("%s is not a policy", k)
		}
		return info.Policy.Order
	}
	for i := range toKinds {
		if i > 0 && order(toKinds[i-1].kind) >= order(toKinds[i].kind) {
			t.Errorf("the row of %s comes too late", toKinds[i].kind)
		}
	}
	for i := range inboundKinds {
		if i > 0 && order(inboundKinds[i-1].kind) >= order(inboundKinds[i].kind) {
			t.Errorf("the inbound row of %s comes too late", inboundKinds[i].kind)
		}
	}
	for _, info := range mesh.Kinds {
		if info.Policy == nil {
			continue
		}
		routes := info.Kind == mesh.KindMeshHTTPRoute ||
			info.Kind == mesh.KindMeshTCPRoute // they make routes: the engine reads them
		if inbound := info.Policy.HasFrom() || info.Policy.HasRules; inbound != IsInboundConf(info.Kind) {
			t.Errorf("%s has from or rules: %t, an inbound row: %t", info.Kind, inbound, !inbound)
		}
		if !routes && !IsOutboundConf(info.Kind) && !IsInboundConf(info.Kind) {
			t.Errorf("%s has no row: it says nothing to proxies", info.Kind)
		}
	}
}
