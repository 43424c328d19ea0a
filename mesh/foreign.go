package mesh

import (
	"fmt"
	"slices"

	"github.com/meridian-mesh/meridian/internal/suggest"
)

// replacement is the kind that a kind of the older policy model became.
type replacement struct {
	by string
	// translated kinds are read all the same, as documents of the kind that replaced them.
	translated bool
}

var replacedKinds = map[string]replacement{
	"CircuitBreaker":    {by: "MeshCircuitBreaker"},
	"ExternalService":   {by: "MeshExternalService"},
	"FaultInjection":    {by: "MeshFaultInjection"},
	"HealthCheck":       {by: "MeshHealthCheck"},
	"MeshGatewayRoute":  {by: "MeshHTTPRoute"},
	"ProxyTemplate":     {by: "MeshProxyPatch"},
	"RateLimit":         {by: "MeshRateLimit"},
	"Retry":             {by: "MeshRetry", translated: true},
	"Timeout":           {by: "MeshTimeout"},
	"TrafficLog":        {by: "MeshAccessLog"},
	"TrafficPermission": {by: "MeshTrafficPermission", translated: true},
	"TrafficRoute":      {by: "MeshHTTPRoute or MeshTCPRoute"},
	"TrafficTrace":      {by: "MeshTrace"},
	"VirtualOutbound":   {by: "MeshService and HostnameGenerator"},
}

// TranslatedKind is the kind as which documents of a kind of the older policy model are stored. It
// is not ok for every other name.
func TranslatedKind(name string) (Kind, bool) {
	r := replacedKinds[name]
	return Kind(r.by), r.translated
}

// plannedKinds exist in Kuma and not here yet.
var plannedKinds = []string{
	"MeshAccessLog", "MeshExternalService", "MeshGateway", "MeshIdentity", "MeshMetric",
	"MeshOpenTelemetryBackend", "MeshPassthrough", "MeshProxyPatch", "MeshTLS", "MeshTrace",
	"MeshTrust", "MeshZoneAddress", "Workload", "ZoneEgress",
}

// PlannedKind reports whether name is a kind of Kuma that is not supported yet.
func PlannedKind(name string) bool { return slices.Contains(plannedKinds, name) }

// foreignKinds are kinds of documents beside Kuma's, with what they are of.
var foreignKinds = map[string]string{
	"AccessAudit":         "Kong Mesh",
	"AccessRole":          "Kong Mesh",
	"AccessRoleBinding":   "Kong Mesh",
	"MeshGlobalRateLimit": "Kong Mesh",
	"MeshOPA":             "Kong Mesh",
	"OPAPolicy":           "Kong Mesh",
	"ContainerPatch":      "Kuma on Kubernetes",
	"MeshGatewayConfig":   "Kuma on Kubernetes",
	"MeshGatewayInstance": "Kuma on Kubernetes",
	"Deployment":          "Kubernetes",
	"Gateway":             "the Gateway API",
	"GatewayClass":        "the Gateway API",
	"GRPCRoute":           "the Gateway API",
	"HTTPRoute":           "the Gateway API",
	"Namespace":           "Kubernetes",
	"Pod":                 "Kubernetes",
	"Service":             "Kubernetes",
	"ServiceAccount":      "Kubernetes",
	"TCPRoute":            "the Gateway API",
}

// UnknownKind is the reason of a violation by a name that is not a kind: what replaced it, that it
// is not supported yet, or the nearest name that is one.
func UnknownKind(name string) string {
	if r, ok := replacedKinds[name]; ok {
		if r.translated {
			return fmt.Sprintf("%s is of the older policy model: its documents are stored as %s, "+
				"which is the kind to name here", name, r.by)
		}
		if _, ok := Lookup(Kind(r.by)); ok {
			return fmt.Sprintf("%s is of the older policy model and not supported here: use %s", name, r.by)
		}
		return fmt.Sprintf("%s is of the older policy model: it is replaced by %s", name, r.by)
	}
	if PlannedKind(name) {
		return name + " is not supported yet"
	}
	if of, ok := foreignKinds[name]; ok {
		return fmt.Sprintf("%s is a kind of %s, not supported yet", name, of)
	}
	known := make([]string, len(Kinds))
	for i, k := range Kinds {
		known[i] = string(k.Kind)
	}
	if near := suggest.Nearest(name, known); near != "" {
		return fmt.Sprintf("unknown kind %q: did you mean %s?", Clip(name), near)
	}
	return fmt.Sprintf("unknown kind %q", Clip(name))
}
