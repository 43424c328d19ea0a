package mesh

import (
	"fmt"
	"slices"
	"strings"
)

// replacedKinds are kinds of the older policy model, each with what replaces it (design 9.8).
var replacedKinds = map[string]string{
	"CircuitBreaker":    "MeshCircuitBreaker",
	"ExternalService":   "MeshExternalService",
	"FaultInjection":    "MeshFaultInjection",
	"HealthCheck":       "MeshHealthCheck",
	"MeshGatewayRoute":  "MeshHTTPRoute",
	"ProxyTemplate":     "MeshProxyPatch",
	"RateLimit":         "MeshRateLimit",
	"Retry":             "MeshRetry",
	"Timeout":           "MeshTimeout",
	"TrafficLog":        "MeshAccessLog",
	"TrafficPermission": "MeshTrafficPermission",
	"TrafficRoute":      "MeshHTTPRoute or MeshTCPRoute",
	"TrafficTrace":      "MeshTrace",
	"VirtualOutbound":   "MeshService and HostnameGenerator",
}

// plannedKinds exist in the world that users come from and not here yet.
var plannedKinds = []string{"MeshAccessLog", "MeshExternalService", "MeshGateway",
	"MeshIdentity", "MeshMetric", "MeshOpenTelemetryBackend", "MeshPassthrough",
	"MeshProxyPatch", "MeshTLS", "MeshTrace", "MeshTrust", "MeshZoneAddress",
	"Workload", "ZoneEgress"}

// movedFields are fields that a kind has elsewhere and not here, with what to do instead.
var movedFields = map[Kind]map[string]string{
	KindMesh: {
		"tracing": "is not a part of Mesh here: remove it; MeshTrace, which replaces it, is not " +
			"supported yet",
		"logging": "is not a part of Mesh here: remove it; MeshAccessLog, which replaces it, is not " +
			"supported yet",
		"metrics": "is not a part of Mesh here: remove it; MeshMetric, which replaces it, is not " +
			"supported yet",
	},
	KindDataplane: {
		"metrics": "is not a part of Dataplane here: remove it; MeshMetric, which replaces it, is not " +
			"supported yet",
	},
}

func unknownKind(name string) string {
	if by, ok := replacedKinds[name]; ok {
		if legacyKinds[name] != nil {
			return fmt.Sprintf("%s is of the older policy model: its documents are stored as %s, "+
				"which is the "+
				"kind to name here", name, by)
		}
		if _, ok := Lookup(Kind(by)); ok {
			return fmt.Sprintf("%s is of the older policy model and not supported here: use %s", name, by)
		}
		return fmt.Sprintf("%s is of the older policy model: it is replaced by %s", name, by)
	}
	if slices.Contains(plannedKinds, name) {
		return name + " is not supported yet"
	}
	known := make([]string, len(Kinds))
	for i, k := range Kinds {
		known[i] = string(k.Kind)
	}
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("unknown kind %q: did you mean %s?", clip(name), near)
	}
	return fmt.Sprintf("unknown kind %q", clip(name))
}

// unknownField says that a field is not known, with the nearest known one or, of few, all.
func unknownField(name string, known []string) string {
	if near := nearest(name, known); near != "" {
		return "unknown field: did you mean " + near + "?"
	}
	if len(known) > 0 && len(known) <= 8 {
		known = slices.Sorted(slices.Values(known))
		return "unknown field: known are " + strings.Join(known, ", ")
	}
	return "unknown field"
}

// nearest is the known name that a misspelt one most likely means, or empty.
func nearest(name string, known []string) string {
	if len(name) > 64 {
		return ""
	}
	flat := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
	}
	best, bestDistance := "", 1+min(3, (len(name)+1)/3)
	for _, k := range known {
		if d := distance(flat(name), flat(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the insertions, removals, replacements and swaps of neighbours that turn a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := [3][]int{make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(x); i++ {
		before, last, row := rows[(i+2)%3], rows[i%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(x)+1)%3][len(y)]
}
