package xds

import (
	"slices"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
)

// TestInternedNames: a name with a newline or a tab survives in the keys of queries, and is not
// mistaken for two.
func TestInternedNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a\nb", "a\tb", "a\t\t\t\t\tb\n", "\n", ""} {
		k := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: name}
		keys := []mesh.Key{k, {Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "other"}}
		if got := internKeys(keys).Slice(); !slices.Equal(got, keys) {
			t.Errorf("keys %q came back as %q", keys, got)
		}

		outbounds := []compile.Outbound{{
			Name:    name,
			Address: "240.0.0.1",
			Port:    80,
			Ref:     compile.Ref{Key: k, Section: name},
		}}
		if got := internScope(outbounds).Slice(); !slices.Equal(got, outbounds) {
			t.Errorf("outbounds %+v came back as %+v", outbounds, got)
		}

		if got := internNames([]string{"z", name}).Slice(); !slices.Equal(got, []string{name, "z"}) {
			t.Errorf("names %q and z came back as %q", name, got)
		}
	}
	if internKeys([]mesh.Key{{Name: "a"}, {Name: "b"}}) == internKeys([]mesh.Key{{Name: "a\nb"}}) {
		t.Error("two names are one with a newline")
	}
}
