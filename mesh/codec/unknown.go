package codec

import (
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/internal/suggest"
	"github.com/meridian-mesh/meridian/mesh"
)

// movedFields are fields that a kind has elsewhere and not here, with what to do instead.
var movedFields = map[mesh.Kind]map[string]string{
	mesh.KindMesh: {
		"tracing": "is not a part of Mesh here: remove it; MeshTrace, which replaces it, is not " +
			"supported yet",
		"logging": "is not a part of Mesh here: remove it; MeshAccessLog, which replaces it, is not " +
			"supported yet",
		"metrics": "is not a part of Mesh here: remove it; MeshMetric, which replaces it, is not " +
			"supported yet",
	},
	mesh.KindDataplane: {
		"metrics": "is not a part of Dataplane here: remove it; MeshMetric, which replaces it, is not " +
			"supported yet",
	},
}

// unknownField says that a field is not known, with the nearest known one or, of few, all.
func unknownField(name string, known []string) string {
	if near := suggest.Nearest(name, known); near != "" {
		return "unknown field: did you mean " + near + "?"
	}
	if len(known) > 0 && len(known) <= 8 {
		known = slices.Sorted(slices.Values(known))
		return "unknown field: known are " + strings.Join(known, ", ")
	}
	return "unknown field"
}
