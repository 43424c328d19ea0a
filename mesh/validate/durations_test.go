package validate

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func TestValidateLongDurations(t *testing.T) {
	t.Parallel()

	rule := func(d string) string {
		return policyDoc(mesh.KindMeshTimeout,
			"rules: [{default: {idleTimeout: 1s}}, {default: {http: {requestTimeout: "+d+"}}}]")
	}
	for _, tt := range []refused{
		{"ten years", rule("87600h"), nil},
		{"longer", rule("87600h1s"),
			[]string{"spec.rules[1].default.http.requestTimeout: must be at most 87600h"}},
	} {
		tt.run(t)
	}
}
