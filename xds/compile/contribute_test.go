package compile

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

// TestEveryKindContributes: each kind of policy has the hooks that its row in package mesh calls for.
func TestEveryKindContributes(t *testing.T) {
	for _, info := range mesh.Kinds {
		if info.Policy == nil {
			continue
		}
		routes := info.Kind == mesh.KindMeshHTTPRoute ||
			info.Kind == mesh.KindMeshTCPRoute // they make routes: the engine reads them
		if inbound := info.Policy.HasFrom() || info.Policy.HasRules; inbound != IsInboundConfig(info.Kind) {
			t.Errorf("%s has from or rules: %t, an inbound row: %t", info.Kind, inbound, !inbound)
		}
		if !routes && !IsOutboundConfig(info.Kind) && !IsInboundConfig(info.Kind) {
			t.Errorf("%s has no row: it says nothing to proxies", info.Kind)
		}
	}
}
