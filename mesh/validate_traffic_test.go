package mesh

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// confs of each policy that are valid wherever they may stand.
var someConf = map[Kind]string{
	KindMeshTimeout:               "{idleTimeout: 1s}",
	KindMeshLoadBalancingStrategy: "{}",
	KindMeshRateLimit:             "{local: {http: {disabled: true}}}",
	KindMeshHealthCheck:           "{http: {}}",
	KindMeshCircuitBreaker:        "{connectionLimits: {maxRetries: 1}}",
	KindMeshRetry:                 "{http: {numRetries: 1}}",
	KindMeshFaultInjection:        "{}",
}

func toEntry(kind Kind, ref string) string {
	switch kind {
	case KindMeshHTTPRoute, KindMeshTCPRoute:
		return "{targetRef: " + ref + ", rules: []}"
	}
	return "{targetRef: " + ref + ", default: " + someConf[kind] + "}"
}

func entry(kind Kind, list, ref string) string {
	if list == "rules" {
		return list + ": [{default: " + someConf[kind] + "}]"
	}
	return list + ": [" + toEntry(kind, ref) + "]"
}

func policyDoc(kind Kind, spec string) string {
	return "type: " + string(kind) + "\nname: a\nspec: {" + spec + "}"
}

var refOf = map[string]string{
	"Mesh": "{kind: Mesh}", "Sidecar": "{kind: Mesh, proxyTypes: [Sidecar]}",
	"Dataplane": "{kind: Dataplane}", "MeshSubset": "{kind: MeshSubset, tags: {a: b}}",
	"MeshService": "{kind: MeshService, name: a}", "MeshServiceSubset": "{kind: MeshServiceSubset, name: a}",
	"MeshGateway":          "{kind: MeshGateway, name: a}",
	"MeshHTTPRoute":        "{kind: MeshHTTPRoute, name: a}",
	"MeshExternalService":  "{kind: MeshExternalService, name: a}",
	"MeshMultiZoneService": "{kind: MeshMultiZoneService, name: a}",
}

// kindRefused says that a document is refused for the kind of the targetRef at path.
func kindRefused(t *testing.T, doc, path string) bool {
	t.Helper()
	_, err := Validate(decodeOne(t, doc).Resource)
	for _, v := range violations(t, err) {
		if strings.HasPrefix(v, path+".kind: ") && strings.Contains(v, "is not supported here") {
			return true
		}
	}
	return false
}

// The tables of traffic-policies 1.5, written out: S system only, N anywhere, - nowhere.
func TestTopLevelKinds(t *testing.T) {
	columns := []string{"Mesh", "Dataplane", "MeshSubset", "MeshService", "MeshServiceSubset", "MeshGateway",
		"MeshHTTPRoute", "MeshExternalService", "MeshMultiZoneService"}
	for kind, row := range map[Kind]string{
		KindMeshHTTPRoute:             "NNNNNS---",
		KindMeshTCPRoute:              "NNNNNS---",
		KindMeshLoadBalancingStrategy: "NNNNNN---",
		KindMeshRateLimit:             "NNNNNSS--",
		KindMeshHealthCheck:           "NNNNNN---",
		KindMeshCircuitBreaker:        "NNNNNN---",
		KindMeshRetry:                 "NNNNNSS--",
		KindMeshTimeout:               "NNNNNSS--",
		KindMeshFaultInjection:        "NNNNNS---",
	} {
		for i, column := range columns {
			spec := "targetRef: " + refOf[column]
			system := kindRefused(t, policyDoc(kind, spec), "spec.targetRef")
			own := kindRefused(t, "labels: {k8s.kuma.io/namespace: shop}\n"+policyDoc(kind, spec),
				"spec.targetRef")
			got := map[[2]bool]byte{{false, false}: 'N', {false, true}: 'S',
				{true, true}: '-'}[[2]bool{system, own}]
			if got != row[i] {
				t.Errorf("%s with top-level %s: %c, want %c", kind, column, got, row[i])
			}
		}
	}
}

func TestInnerKinds(t *testing.T) {
	columns := []string{"Mesh", "MeshService", "MeshExternalService", "MeshMultiZoneService", "MeshHTTPRoute",
		"MeshSubset", "MeshServiceSubset", "Dataplane", "MeshGateway"}
	for _, tt := range []struct {
		kind      Kind
		top, list string
		want      string // y allowed
	}{
		{KindMeshHTTPRoute, "Mesh", "to", "-yyy-----"}, {KindMeshHTTPRoute, "MeshGateway", "to", "y--------"},
		{KindMeshTCPRoute, "Mesh", "to", "-yyy-----"}, {KindMeshTCPRoute, "MeshGateway", "to", "y--------"},
		{KindMeshLoadBalancingStrategy, "Mesh", "to", "yy-yy----"},
		{KindMeshLoadBalancingStrategy, "MeshGateway", "to", "yy-y-----"},
		{KindMeshRateLimit, "Mesh", "to", "y--------"}, {KindMeshRateLimit, "Sidecar", "from", "y--------"},
		{KindMeshHealthCheck, "Mesh", "to", "yyyy-----"},
		{KindMeshHealthCheck, "MeshGateway", "to", "yyyy-----"},
		{KindMeshCircuitBreaker, "Mesh", "to", "yyyy-----"},
		{KindMeshCircuitBreaker, "Mesh", "from", "y--------"},
		{KindMeshRetry, "Mesh", "to", "yyyyy----"}, {KindMeshRetry, "MeshGateway", "to", "y-y------"},
		{KindMeshRetry, "MeshHTTPRoute", "to", "y-y------"},
		{KindMeshTimeout, "Mesh", "to", "yyyyy----"}, {KindMeshTimeout, "MeshHTTPRoute", "to", "y-y------"},
		{KindMeshTimeout, "Mesh", "from", "y--------"},
		{KindMeshFaultInjection, "Mesh", "to", "y--------"},
		{KindMeshFaultInjection, "Sidecar", "from", "yy---yy--"},
	} {
		for i, column := range columns {
			doc := policyDoc(tt.kind, "targetRef: "+refOf[tt.top]+", "+entry(tt.kind, tt.list, refOf[column]))
			if got := kindRefused(t, doc, "spec."+tt.list+"[0].targetRef"); got == (tt.want[i] == 'y') {
				t.Errorf("%s of %s under %s in %s: refused %v", column, tt.kind, tt.top, tt.list, got)
			}
		}
	}
}

// What may stand together: traffic-policies 1.5, the third table, and the scope that includes gateways.
func TestListsTogether(t *testing.T) {
	excl, exclFrom := "spec: must not combine rules with to or from: make two policies",
		"spec: must not combine rules with from: make two policies"
	none := "spec: needs at least one of to, rules and from"
	from, rules, to := "spec.from: "+needsSidecars, "spec.rules: "+needsSidecars, "spec.to: "+needsGateways
	all := "to from rules"
	for _, tt := range []struct {
		kind       Kind
		top, lists string
		want       []string
	}{
		{KindMeshTimeout, "Mesh", "", []string{none}}, {KindMeshCircuitBreaker, "Mesh", "", []string{none}},
		{KindMeshRateLimit, "Mesh", "", nil}, {KindMeshFaultInjection, "Mesh", "", nil},
		{KindMeshHealthCheck, "Mesh", "", nil},
		{KindMeshRetry, "Mesh", "", nil}, {KindMeshLoadBalancingStrategy, "Mesh", "", nil},
		{KindMeshTCPRoute, "Mesh", "", nil}, {KindMeshHTTPRoute, "Mesh", "", nil},
		{KindMeshCircuitBreaker, "Mesh", "to from", nil},
		{KindMeshCircuitBreaker, "Mesh", "from rules", []string{excl}},
		{KindMeshCircuitBreaker, "Mesh", "to rules", []string{excl}},
		{KindMeshCircuitBreaker, "Mesh", all, []string{excl}},
		{KindMeshRateLimit, "Sidecar", "from", nil}, {KindMeshRateLimit, "Sidecar", "rules", nil},
		{KindMeshRateLimit, "Dataplane", "rules", nil},
		{KindMeshRateLimit, "Sidecar", "from rules", []string{excl}},
		{KindMeshRateLimit, "Mesh", "rules", []string{rules}},
		{KindMeshRateLimit, "MeshSubset", "from", []string{from}},
		{KindMeshRateLimit, "MeshHTTPRoute", "rules", []string{rules}},
		{KindMeshRateLimit, "MeshGateway", "to", nil}, {KindMeshRateLimit, "MeshService", "to", []string{to}},
		{KindMeshRateLimit, "Mesh", "to from", []string{from}},
		{KindMeshRateLimit, "Sidecar", "to from", []string{to}},
		{KindMeshRateLimit, "Mesh", "to rules", []string{excl, rules}},
		{KindMeshFaultInjection, "Mesh", "rules", nil}, {KindMeshFaultInjection, "Mesh", "to rules", nil},
		{KindMeshFaultInjection, "Mesh", "from", []string{from}},
		{KindMeshFaultInjection, "Sidecar", "from", nil},
		{KindMeshFaultInjection, "Sidecar", "from rules", []string{exclFrom}},
		{KindMeshFaultInjection, "Dataplane", "to", []string{to}},
	} {
		spec := []string{"targetRef: " + refOf[tt.top]}
		for list := range strings.FieldsSeq(tt.lists) {
			spec = append(spec, entry(tt.kind, list, "{kind: Mesh}"))
		}
		refused{string(tt.kind) + " " + tt.top + " " + tt.lists, policyDoc(tt.kind, strings.Join(spec, ", ")),
			tt.want}.run(t)
	}
}

// A section of a Dataplane needs from or rules, where there are such.
func TestSections(t *testing.T) {
	no := "spec.targetRef.sectionName: must not be given: it selects one inbound, and the policy " +
		"has neither " +
		"from nor rules"
	for kind := range someConf {
		info, _ := Lookup(kind)
		top := "targetRef: {kind: Dataplane, sectionName: http}, "
		if kind != KindMeshRateLimit && kind != KindMeshFaultInjection {
			refused{string(kind) + " to", policyDoc(kind, top+entry(kind, "to", "{kind: Mesh}")),
				[]string{no}}.run(t)
		}
		if info.Policy.HasRules {
			refused{string(kind) + " rules", policyDoc(kind, top+entry(kind, "rules", "")), nil}.run(t)
		}
	}
}

func TestValidateTCPRoute(t *testing.T) {
	to := func(s string) string {
		return policyDoc(KindMeshTCPRoute, "to: [{targetRef: {kind: MeshService, name: b}, "+s+"}]")
	}
	b := "spec.to[0].rules[0].default.backendRefs"
	for _, tt := range []refused{
		{"good", to("rules: [{default: {backendRefs: [{kind: MeshService, name: c, port: 80, weight: 0}, " +
			"{kind: MeshMultiZoneService, name: c, sectionName: http}]}}]"), nil},
		{"itself", to("rules: []"), nil},
		{"two rules", to("rules: [{default: {backendRefs: [{kind: MeshService, name: c}]}}, {default: " +
			"{backendRefs: [{kind: MeshService, name: c}]}}]"),
			[]string{"spec.to[0].rules: must have at most one item"}},
		{"no default", to("rules: [{}]"), []string{"spec.to[0].rules[0].default: is required"}},
		{"no backends", to("rules: [{default: {}}]"), []string{b + ": is required"}},
		{"empty backends", to("rules: [{default: {backendRefs: []}}]"), []string{b + ": is required"}},
		{"backends", to("rules: [{default: {backendRefs: [{kind: Mesh}, {kind: " +
			"MeshMultiZoneService, name: c}, " +
			"{kind: MeshService, name: c, labels: {a: b}}]}}]"), []string{
			b + "[0].kind: must be one of MeshService, MeshServiceSubset, MeshExternalService, " +
				"MeshMultiZoneService",
			b + "[1].port: is required for a MeshMultiZoneService, or sectionName",
			b + "[2].labels: cannot be combined with name or namespace"}},
	} {
		tt.run(t)
	}
}

func TestValidateLoadBalancing(t *testing.T) {
	to := func(s string) string {
		return policyDoc(KindMeshLoadBalancingStrategy, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	lb := func(s string) string { return to("loadBalancer: {" + s + "}") }
	hash := func(s string) string { return to("hashPolicies: [" + s + "]") }
	local := func(s string) string { return to("localityAwareness: {" + s + "}") }
	d, h := "spec.to[0].default.", "spec.to[0].default.hashPolicies[0]."
	cross := d + "localityAwareness.crossZone."
	for _, tt := range []refused{
		{"all", to("localityAwareness: {disabled: true, localZone: {affinityTags: [{key: a, " +
			"weight: 9}, {key: " +
			"b, weight: 1}]}, crossZone: {failover: [{from: {zones: [a]}, to: {type: Only, zones: " +
			"[b]}}, {to: " +
			"{type: Any}}, {to: {type: None}}, {to: {type: AnyExcept, zones: [c]}}], failoverThreshold: " +
			"{percentage: '70.5'}}}, loadBalancer: {type: RingHash, ringHash: {hashFunction: MurmurHash2, " +
			"minRingSize: 1, maxRingSize: 8000000}}, " +
			"hashPolicies: [{type: Header, terminal: true, header: {name: X}}, {type: Cookie, " +
			"cookie: {name: " +
			"a, ttl: 0s, path: /}}, {type: Connection, connection: {sourceIP: true}}, {type: SourceIP, " +
			"connection: {}}, {type: QueryParameter, queryParameter: {name: a}}, {type: FilterState, " +
			"filterState: {key: a}}]"), nil},
		{"other bodies are ignored",
			lb("type: RoundRobin, maglev: {tableSize: 7}, leastRequest: {choiceCount: 2, " +
				"activeRequestBias: " +
				"'0.5'}, roundRobin: {}, random: {}"), nil},
		{"type", lb("roundRobin: {}"),
			[]string{d + "loadBalancer.type: is required: one of RoundRobin, LeastRequest, RingHash, " +
				"Random, Maglev"}},
		{"unknown type", lb("type: roundRobin"),
			[]string{d + "loadBalancer.type: must be one of RoundRobin, LeastRequest, RingHash, " +
				"Random, Maglev"}},
		{"choice count", lb("type: LeastRequest, leastRequest: {choiceCount: 1, activeRequestBias: -1}"),
			[]string{
				d + "loadBalancer.leastRequest.choiceCount: must be at least 2",
				d + "loadBalancer.leastRequest.activeRequestBias: must not be negative"}},
		{"bias as text", lb("type: LeastRequest, leastRequest: {activeRequestBias: high}"),
			[]string{d + "loadBalancer.leastRequest.activeRequestBias: must be a number, such as " +
				"5 or \"2.5\""}},
		{"hash function", lb("type: RingHash, ringHash: {hashFunction: XX_HASH, minRingSize: 0, " +
			"maxRingSize: 8000001}"), []string{
			d + "loadBalancer.ringHash.hashFunction: must be one of XXHash, MurmurHash2",
			d + "loadBalancer.ringHash.minRingSize: must be a number from 1 to 8000000",
			d + "loadBalancer.ringHash.maxRingSize: must be a number from 1 to 8000000"}},
		{"ring sizes", lb("type: RingHash, ringHash: {minRingSize: 9, maxRingSize: 8}"),
			[]string{d + "loadBalancer.ringHash.minRingSize: must not be above maxRingSize"}},
		{"table size", lb("type: Maglev, maglev: {tableSize: 5000012}"),
			[]string{d + "loadBalancer.maglev.tableSize: must be a number from 1 to 5000011"}},
		{"table no prime", lb("type: Maglev, maglev: {tableSize: 65535}"),
			[]string{d + "loadBalancer.maglev.tableSize: must be a prime number"}},
		{"default table", lb("type: Maglev, maglev: {tableSize: 65537}"), nil},
		{"hash policies twice",
			to("hashPolicies: [{type: Header, header: {name: a}}], loadBalancer: {type: " +
				"RingHash, ringHash: " +
				"{hashPolicies: [{type: Header}]}, maglev: {hashPolicies: [{type: Cookie, cookie: {}}]}}"),
			[]string{
				d + "loadBalancer.ringHash.hashPolicies: cannot be combined with hashPolicies beside " +
					"loadBalancer",
				d + "loadBalancer.ringHash.hashPolicies[0].header: is required for type Header",
				d + "loadBalancer.maglev.hashPolicies: cannot be combined with hashPolicies beside " +
					"loadBalancer", d + "loadBalancer.maglev.hashPolicies[0].cookie.name: is required"}},
		{"header", hash("{type: Header, header: {}}"), []string{h + "header.name: is required"}},
		{"header line end", hash(`{type: Header, header: {name: "a\nb"}}`),
			[]string{h + "header.name: must not contain line ends or other control characters"}},
		{"no header", hash("{type: Header, cookie: {name: a}}"),
			[]string{h + "header: is required for type Header"}},
		{"no cookie", hash("{type: Cookie}"), []string{h + "cookie: is required for type Cookie"}},
		{"cookie", hash("{type: Cookie, cookie: {name: a, ttl: -1s, path: a}}"),
			[]string{h + "cookie.ttl: must not be negative; 0 turns it off",
				h + "cookie.path: must begin with a slash"}},
		{"no connection", hash("{type: Connection}"),
			[]string{h + "connection: is required for type Connection"}},
		{"no source", hash("{type: SourceIP}"), []string{h + "connection: is required for type SourceIP"}},
		{"no parameter", hash("{type: QueryParameter}"),
			[]string{h + "queryParameter: is required for type QueryParameter"}},
		{"parameter", hash("{type: QueryParameter, queryParameter: {}}"),
			[]string{h + "queryParameter.name: is required"}},
		{"no state", hash("{type: FilterState}"),
			[]string{h + "filterState: is required for type FilterState"}},
		{"state", hash("{type: FilterState, filterState: {}}"), []string{h + "filterState.key: is required"}},
		{"hash type", hash("{header: {name: a}}"),
			[]string{h + "type: is required: one of Header, Cookie, Connection, SourceIP, QueryParameter, " +
				"FilterState"}},
		{"affinity", local("localZone: {affinityTags: [{key: '', weight: 0}, {key: b}]}"), []string{
			d + "localityAwareness.localZone.affinityTags: must have a weight for every tag or for none",
			d + "localityAwareness.localZone.affinityTags[0].key: is required",
			d + "localityAwareness.localZone.affinityTags[0].weight: must be greater than 0"}},
		{"failover", local("crossZone: {failover: [{from: {}, to: {type: Only}}, {from: {zones: ['']}, to: " +
			"{type: AnyExcept, zones: []}}, {to: {type: Any, zones: [a]}}, {to: {type: None, zones: [a]}}, " +
			"{to: {}}, {}]}"), []string{
			cross + "failover[0].from.zones: is required",
			cross + "failover[0].to.zones: is required with type Only",
			cross + "failover[1].from.zones[0]: must not be empty",
			cross + "failover[1].to.zones: is required with type AnyExcept",
			cross + "failover[2].to.zones: must not be given with type Any",
			cross + "failover[3].to.zones: must not be given with type None",
			cross + "failover[4].to.type: is required: one of None, Only, Any, AnyExcept",
			cross + "failover[5].to: is required"}},
		{"threshold", local("crossZone: {failoverThreshold: {percentage: 0}}"),
			[]string{cross + "failoverThreshold.percentage: must be above 0 and at most 100"}},
		{"threshold above", local("crossZone: {failoverThreshold: {percentage: '100.1'}}"),
			[]string{cross + "failoverThreshold.percentage: must be above 0 and at most 100"}},
		{"threshold text", local("crossZone: {failoverThreshold: {percentage: 70%}}"),
			[]string{cross + "failoverThreshold.percentage: must be a number, such as 5 or \"2.5\""}},
		{"no threshold", local("crossZone: {failoverThreshold: {}}"),
			[]string{cross + "failoverThreshold.percentage: is required"}},
		{"cross zone of one service",
			policyDoc(KindMeshLoadBalancingStrategy,
				"to: [{targetRef: {kind: MeshService, name: a, sectionName: b}, default: "+
					"{localityAwareness: "+
					"{crossZone: {}}}}, {targetRef: {kind: MeshService, labels: {a: b}}, default: "+
					"{localityAwareness: {crossZone: {}}}}, {targetRef: {kind: MeshService, name: "+
					"a}, default: "+
					"{localityAwareness: {crossZone: {}}}}]"), []string{
				"spec.to[0].default.localityAwareness.crossZone: must not be given for a MeshService with " +
					"sectionName or labels: it is of one zone; use a MeshMultiZoneService",
				"spec.to[1].default.localityAwareness.crossZone: must not be given for a MeshService with " +
					"sectionName or labels: it is of one zone; use a MeshMultiZoneService"}},
		{"route", policyDoc(KindMeshLoadBalancingStrategy,
			"to: [{targetRef: {kind: MeshHTTPRoute, name: a}, default: {hashPolicies: [], "+
				"loadBalancer: {type: "+
				"Random}, localityAwareness: {}}}]"), []string{
			d + "loadBalancer: must not be given for a MeshHTTPRoute: only hashPolicies are a route's own",
			d + "localityAwareness: must not be given for a MeshHTTPRoute: only hashPolicies are a " +
				"route's own"}},
		{"gateway", policyDoc(KindMeshLoadBalancingStrategy,
			"targetRef: {kind: MeshGateway, name: a}, to: [{targetRef: {kind: MeshService, name: "+
				"a}, default: "+
				"{loadBalancer: {type: Random}}}]"), []string{
			"spec.to[0].targetRef.kind: MeshService is not supported here: use one of Mesh"}},
	} {
		tt.run(t)
	}
}

func TestValidateLongDurations(t *testing.T) {
	rule := func(d string) string {
		return policyDoc(KindMeshTimeout,
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

func TestValidateRateLimit(t *testing.T) {
	rule := func(match, local string) string {
		return policyDoc(KindMeshRateLimit,
			"targetRef: {kind: Dataplane}, rules: [{matches: ["+match+"], default: {local: {"+local+"}}}]")
	}
	limit := func(s string) string { return rule("", s) }
	rate := func(s string) string { return limit("http: {requestRate: {" + s + "}}") }
	l := "spec.rules[0].default.local"
	id := "{spiffeID: {type: Exact, value: spiffe://d/a}}"
	for _, tt := range []refused{
		{"all", limit("http: {disabled: false, requestRate: {num: 5, interval: 51ms}, " +
			"onRateLimit: {status: " +
			"423, headers: {set: [{name: a, value: 'b,c'}], add: [{name: a, value: d}]}}}, tcp: " +
			"{connectionRate: {num: 1, interval: 1s}}"), nil},
		{"by caller", rule(id+", {sni: {type: Exact, value: a.b}}", "http: {disabled: true}"), nil},
		{"no default", policyDoc(KindMeshRateLimit, "targetRef: {kind: Dataplane}, rules: [{}]"),
			[]string{"spec.rules[0].default: is required"}},
		{"no local", policyDoc(KindMeshRateLimit, "targetRef: {kind: Dataplane}, rules: [{default: {}}]"),
			[]string{l + ": is required"}},
		{"neither", limit(""), []string{l + ": needs at least one of http and tcp"}},
		{"empty parts", limit("http: {}, tcp: {}"),
			[]string{l + ".http: needs at least one of disabled, requestRate and onRateLimit",
				l + ".tcp: needs at least one of disabled and connectionRate"}},
		{"empty rate", rate(""),
			[]string{l + ".http.requestRate.num: is required",
				l + ".http.requestRate.interval: is required"}},
		{"zero", rate("num: 0, interval: 50ms"),
			[]string{l + ".http.requestRate.num: must be greater than 0",
				l + ".http.requestRate.interval: must be longer than 50ms"}},
		{"tcp rate", limit("tcp: {connectionRate: {num: 0, interval: -1s}}"),
			[]string{l + ".tcp.connectionRate.num: must be greater than 0",
				l + ".tcp.connectionRate.interval: must be longer than 50ms"}},
		{"status", limit("http: {onRateLimit: {status: 0, headers: {set: [{name: A, value: b}], " +
			"add: [{name: " +
			"'', value: \"a\\nb\"}]}}}"), []string{
			l + ".http.onRateLimit.status: must be greater than 0",
			l + ".http.onRateLimit.headers.set[0].name: must be a header name in lower case",
			l + ".http.onRateLimit.headers.add[0].name: is required",
			l + ".http.onRateLimit.headers.add[0].value: must not contain line ends or other " +
				"control characters"}},
		{"status above", limit("http: {onRateLimit: {status: 600}}"),
			[]string{l + ".http.onRateLimit.status: must be at most 599"}},
		{"headers", limit("http: {onRateLimit: {headers: {set: [" +
			strings.Repeat("{name: a, value: b}, ", 17) + "]}}}"),
			[]string{l + ".http.onRateLimit.headers.set: must have at most 16 items"}},
		{"tcp by caller", rule(id, "tcp: {disabled: true}"),
			[]string{l + ".tcp: must not be given in a rule with a spiffeID: it cannot depend " +
				"on the caller"}},
		{"tcp by sni", rule("{sni: {type: Exact, value: a.b}}", "tcp: {disabled: true}"), nil},
		{"empty match", rule("{}", "http: {disabled: true}"),
			[]string{"spec.rules[0].matches[0]: needs spiffeID or sni"}},
		{"matches", rule("{spiffeID: {type: Prefix, value: spiffe://d/ns/}}, {spiffeID: {type: "+
			"Exact, value: "+
			"spiffe://d/ns/}}, {spiffeID: {type: Regex, value: http://a}}, {sni: {type: Prefix, "+
			"value: a b}}, "+
			"{spiffeID: {}}", "http: {disabled: true}"), []string{
			"spec.rules[0].matches[1].spiffeID.value: must not end with a slash nor have an empty " +
				"or relative " +
				"path segment", "spec.rules[0].matches[2].spiffeID.type: must be one of Exact, Prefix",
			"spec.rules[0].matches[2].spiffeID.value: must begin with spiffe://",
			"spec.rules[0].matches[3].sni.type: must be one of Exact",
			"spec.rules[0].matches[3].sni.value: must be a DNS name",
			"spec.rules[0].matches[4].spiffeID.type: is required: one of Exact, Prefix",
			"spec.rules[0].matches[4].spiffeID.value: is required"}},
		{"to", policyDoc(KindMeshRateLimit,
			"to: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 0, "+
				"interval: 1s}}}}}]"),
			[]string{"spec.to[0].default.local.http.requestRate.num: must be greater than 0"}},
		{"from", policyDoc(KindMeshRateLimit,
			"from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 0, "+
				"interval: 1s}}}}}]"),
			[]string{"spec.from[0].default.local.http.requestRate.num: must be greater than 0"}},
	} {
		tt.run(t)
	}
}

func TestValidateFaultInjection(t *testing.T) {
	fault := func(s string) string {
		return policyDoc(KindMeshFaultInjection, "rules: [{default: {http: ["+s+"]}}]")
	}
	f := "spec.rules[0].default.http[0]."
	band := func(limit string) string {
		return fault("{responseBandwidth: {limit: '" + limit + "', percentage: 1}}")
	}
	badLimit := f +

		`responseBandwidth.limit: must be a number above 0 with the unit kbps, Mbps or Gbps, such as "50 kbps"`
	for _, tt := range []refused{
		{"all", fault("{abort: {httpStatus: 500, percentage: 0}, delay: {value: 0s, percentage: '2.5'}, " +
			"responseBandwidth: {limit: 50Mbps, percentage: 100}}, {}"), nil},
		{"empty match", policyDoc(KindMeshFaultInjection, "rules: [{matches: [{}], default: {}}]"), nil},
		{"match", policyDoc(KindMeshFaultInjection,
			"rules: [{matches: [{sni: {type: Exact, value: '*'}}], default: {}}]"),
			[]string{"spec.rules[0].matches[0].sni.value: must be a DNS name"}},
		{"no default", policyDoc(KindMeshFaultInjection, "rules: [{}]"),
			[]string{"spec.rules[0].default: is required"}},
		{"required", fault("{abort: {}, delay: {}, responseBandwidth: {}}"),
			[]string{f + "abort.httpStatus: is required", f + "abort.percentage: is required",
				f + "delay.value: is required",
				f + "delay.percentage: is required", f + "responseBandwidth.limit: is required",
				f + "responseBandwidth.percentage: is required"}},
		{"ranges", fault("{abort: {httpStatus: 600, percentage: 101}, delay: {value: -1s, percentage: -1}, " +
			"responseBandwidth: {limit: 1kbps, percentage: 'x'}}"), []string{
			f + "abort.httpStatus: must be a number from 100 to 599",
			f + "abort.percentage: must be from 0 to 100",
			f + "delay.value: must not be negative; 0 turns it off",
			f + "delay.percentage: must be from 0 to 100",
			f + "responseBandwidth.percentage: must be a number, such as 5 or \"2.5\""}},
		{"status 99", fault("{abort: {httpStatus: 99, percentage: 1}}"),
			[]string{f + "abort.httpStatus: must be a number from 100 to 599"}},
		{"bps", band("50 bps"), []string{badLimit}}, {"no digits", band("kbps"), []string{badLimit}},
		{"two spaces", band("5  kbps"), []string{badLimit}},
		{"zero", band("0kbps"), []string{badLimit}}, {"case", band("5 KBPS"), []string{badLimit}},
		{"space", band("5 Gbps"), nil},
		{"from by labels", policyDoc(KindMeshFaultInjection,
			"targetRef: {kind: Dataplane}, from: [{targetRef: {kind: MeshService, labels: {a: b}}, default: "+
				"{http: [{abort: {httpStatus: 500}}]}}]"), []string{
			"spec.from[0].targetRef.name: is required: callers are told apart by their tag kuma.io/service",
			"spec.from[0].default.http[0].abort.percentage: is required"}},
		{"from mesh by name",
			policyDoc(KindMeshFaultInjection,
				"targetRef: {kind: Dataplane}, from: [{targetRef: {kind: Mesh, name: default}, "+
					"default: {}}]"),
			[]string{"spec.from[0].targetRef.name: must not be given with kind Mesh"}},
	} {
		tt.run(t)
	}
}

func TestBandwidth(t *testing.T) {
	for in, want := range map[string]uint64{"1kbps": 1, "8 kbps": 1, "50 kbps": 6, "8192kbps": 1000,
		"1Mbps": 122, "1Gbps": 122070, "999999999Gbps": 122070312377930} {
		if got, ok := BandwidthKiB(in); !ok || got != want {
			t.Errorf("%q is %d (%v), want %d", in, got, ok, want)
		}
	}
}

func TestValidateHealthCheck(t *testing.T) {
	to := func(s string) string {
		return policyDoc(KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	d := "spec.to[0].default"
	for _, tt := range []refused{
		{"all", to("interval: 1s, timeout: 1s, unhealthyThreshold: 1, healthyThreshold: 1, " +
			"initialJitter: 1s, " +
			"intervalJitter: 1s, intervalJitterPercent: 0, healthyPanicThreshold: '0.5', " +
			"failTrafficOnPanic: " +
			"true, eventLogPath: /tmp/a, alwaysLogHealthCheckFailures: false, noTrafficInterval: 1s, " +
			"reuseConnection: false, " +
			"http: {disabled: false, path: /a, expectedStatuses: [100, 599], requestHeadersToAdd: {set: " +
			"[{name: a, value: b}], add: [{name: c, value: d}]}}, tcp: {disabled: true, send: " +
			"Zm9v, receive: " +
			"[YmFy]}, grpc: {serviceName: a, authority: b}"), nil},
		{"nothing", to("interval: 1s"), []string{d + ": needs at least one of http, tcp and grpc"}},
		{"no default", policyDoc(KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}}]"),
			[]string{d + ": needs at least one of http, tcp and grpc"}},
		{"zero", to("tcp: {}, interval: 0s, timeout: -1s, unhealthyThreshold: 0, healthyThreshold: 0, " +
			"initialJitter: 0s, intervalJitter: 0s, intervalJitterPercent: 101, " +
			"healthyPanicThreshold: 101, " +
			"eventLogPath: a, noTrafficInterval: 0s"), []string{
			d + ".interval: must be longer than 0", d + ".timeout: must be longer than 0",
			d + ".unhealthyThreshold: must be greater than 0",
			d + ".healthyThreshold: must be greater than 0",
			d + ".initialJitter: must be longer than 0", d + ".intervalJitter: must be longer than 0",
			d + ".intervalJitterPercent: must be at most 100",
			d + ".healthyPanicThreshold: must be from 0 to 100",
			d + ".eventLogPath: must be the path of a file, such as /dev/stdout",
			d + ".noTrafficInterval: must be longer than 0"}},

		{"http", to(`http: {path: '', expectedStatuses: [200, 99, 600], requestHeadersToAdd: {add: [{name: A b}]}}, grpc: {authority: "a\r"}`), []string{
			d + ".http.path: is required", d + ".http.expectedStatuses[1]: must be a number from 100 to 599",
			d + ".http.expectedStatuses[2]: must be a number from 100 to 599",
			d + ".http.requestHeadersToAdd.add[0].name: must be a header name in lower case",
			d + ".grpc.authority: must not contain line ends or other control characters"}},
		{"path", to(`http: {path: "/a\nb"}`),
			[]string{d + ".http.path: must not contain line ends or other control characters"}},
		{"no bytes", to("tcp: {send: '', receive: ['']}"),
			[]string{d + ".tcp.send: must not be empty", d + ".tcp.receive[0]: must not be empty"}},
	} {
		tt.run(t)
	}
}

func TestValidateCircuitBreaker(t *testing.T) {
	rule := func(s string) string { return policyDoc(KindMeshCircuitBreaker, "rules: [{default: {"+s+"}}]") }
	outlier := func(s string) string { return rule("outlierDetection: {" + s + "}") }
	d, o := "spec.rules[0].default", "spec.rules[0].default.outlierDetection"
	five := o + ".detectors: needs at least one of totalFailures, gatewayFailures, localOriginFailures, " +
		"successRate and failurePercentage"
	for _, tt := range []refused{
		{"all", rule("connectionLimits: {maxConnections: 1, maxConnectionPools: 1, maxPendingRequests: 1, " +
			"maxRetries: 1, maxRequests: 1}, outlierDetection: {disabled: false, interval: 1s, " +
			"baseEjectionTime: 1s, maxEjectionPercent: 0, splitExternalAndLocalErrors: true, " +
			"healthyPanicThreshold: 0, detectors: {totalFailures: {consecutive: 1}, gatewayFailures: {}, " +
			"localOriginFailures: {consecutive: 1}, " +
			"successRate: {minimumHosts: 1, requestVolume: 1, standardDeviationFactor: '1.9'}, " +
			"failurePercentage: {minimumHosts: 1, requestVolume: 1, threshold: 0}}}"), nil},
		{"nothing", rule(""), []string{d + ": needs at least one of connectionLimits and outlierDetection"}},
		{"no default", policyDoc(KindMeshCircuitBreaker, "from: [{targetRef: {kind: Mesh}}]"),
			[]string{"spec.from[0].default: needs at least one of connectionLimits and outlierDetection"}},
		{"no limits", rule("connectionLimits: {}"), nil},
		{"zero limits", rule("connectionLimits: {maxConnections: 0, maxConnectionPools: 0, " +
			"maxPendingRequests: " +
			"0, maxRetries: 0, maxRequests: 0}"), []string{
			d + ".connectionLimits.maxConnections: must be greater than 0",
			d + ".connectionLimits.maxConnectionPools: must be greater than 0",
			d + ".connectionLimits.maxPendingRequests: must be greater than 0",
			d + ".connectionLimits.maxRetries: must be greater than 0",
			d + ".connectionLimits.maxRequests: must be greater than 0"}},
		{"disabled without detectors (decision 20)", outlier("disabled: true"), nil},
		{"no detectors", outlier("interval: 1s"),
			[]string{o + ".detectors: is required, unless outlierDetection is disabled"}},
		{"not disabled", outlier("disabled: false"),
			[]string{o + ".detectors: is required, unless outlierDetection is disabled"}},
		{"empty detectors", outlier("detectors: {}"), []string{five}},
		{"ranges", outlier("interval: 0s, baseEjectionTime: 0s, maxEjectionPercent: 101, " +
			"healthyPanicThreshold: '100.5', detectors: {totalFailures: {consecutive: 0}, gatewayFailures: " +
			"{consecutive: 0}, localOriginFailures: {consecutive: 0}, successRate: {minimumHosts: 0, " +
			"requestVolume: 0, standardDeviationFactor: 0}, failurePercentage: {minimumHosts: 0, " +
			"requestVolume: 0, threshold: 101}}"), []string{
			o + ".interval: must be longer than 0", o + ".baseEjectionTime: must be longer than 0",
			o + ".maxEjectionPercent: must be at most 100",
			o + ".healthyPanicThreshold: must be from 0 to 100",
			o + ".detectors.totalFailures.consecutive: must be greater than 0",
			o + ".detectors.gatewayFailures.consecutive: must be greater than 0",
			o + ".detectors.localOriginFailures.consecutive: must be greater than 0",
			o + ".detectors.successRate.minimumHosts: must be greater than 0",
			o + ".detectors.successRate.requestVolume: must be greater than 0",
			o + ".detectors.successRate.standardDeviationFactor: must be above 0 and at most 1000000",
			o + ".detectors.failurePercentage.minimumHosts: must be greater than 0",
			o + ".detectors.failurePercentage.requestVolume: must be greater than 0",
			o + ".detectors.failurePercentage.threshold: must be at most 100"}},
		{"to", policyDoc(KindMeshCircuitBreaker,
			"to: [{targetRef: {kind: Mesh}, default: {outlierDetection: {detectors: {}}}}]"),
			[]string{strings.Replace(five, "rules", "to", 1)}},
	} {
		tt.run(t)
	}
}

func TestValidateRetry(t *testing.T) {
	to := func(s string) string {
		return policyDoc(KindMeshRetry, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	d := "spec.to[0].default"
	h, g := d+".http", d+".grpc"
	items := "must be a status code of HTTP in quotes or one of " + strings.Join(httpRetryOn, ", ")
	for _, tt := range []refused{
		{"all", to("tcp: {maxConnectAttempt: 1}, http: {numRetries: 0, perTryTimeout: 0s, backOff: " +
			"{baseInterval: 25ms, maxInterval: 25ms}, rateLimitedBackOff: {resetHeaders: [{name: " +
			"retry-after, " +
			"format: Seconds}], maxInterval: 1s}, retryOn: [" + strings.Join(httpRetryOn, ", ") +
			", '503'], " +
			"retriableResponseHeaders: [{name: a, value: b}], retriableRequestHeaders: [{name: a, type: " +
			"Prefix, value: ''}], hostSelection: [{predicate: OmitPreviousHosts}, {predicate: " +
			"OmitHostsWithTags, tags: {a: b}}, {predicate: OmitPreviousPriorities, updateFrequency: 1}], " +
			"hostSelectionMaxAttempts: 3}, " +
			"grpc: {numRetries: 1, perTryTimeout: 1s, backOff: {maxInterval: 1s}, rateLimitedBackOff: " +
			"{resetHeaders: [{name: a, format: UnixTimestamp}]}, retryOn: [" +
			strings.Join(grpcRetryOn, ", ") + "]}"), nil},
		{"nothing", to(""), []string{d + ": needs at least one of http, grpc and tcp"}},
		{"empty parts", to("tcp: {}, http: {hostSelectionMaxAttempts: 1}, grpc: {}"),
			[]string{d + ".tcp: needs maxConnectAttempt",
				h + ": needs at least one of numRetries, perTryTimeout, backOff, " +
					"rateLimitedBackOff, retryOn, " +
					"retriableRequestHeaders, retriableResponseHeaders and hostSelection",
				g + ": needs at least one of numRetries, perTryTimeout, backOff, rateLimitedBackOff " +
					"and retryOn"}},
		{"tcp", to("tcp: {maxConnectAttempt: 0}"),
			[]string{d + ".tcp.maxConnectAttempt: must be greater than 0"}},
		{"back-off", to("http: {backOff: {}, rateLimitedBackOff: {}}, grpc: {backOff: {baseInterval: 2s, " +
			"maxInterval: 1s}, rateLimitedBackOff: {resetHeaders: [], maxInterval: 0s}}"), []string{
			h + ".backOff: needs at least one of baseInterval and maxInterval",
			h + ".rateLimitedBackOff.resetHeaders: is required",
			g + ".backOff.maxInterval: must not be shorter than baseInterval",
			g + ".rateLimitedBackOff.resetHeaders: is required",
			g + ".rateLimitedBackOff.maxInterval: must be longer than 0"}},
		{"back-off signs", to("http: {perTryTimeout: -1s, backOff: {baseInterval: 0s, maxInterval: -1s}}"),
			[]string{h + ".perTryTimeout: must not be negative; 0 turns it off",
				h + ".backOff.baseInterval: must be longer than 0",
				h + ".backOff.maxInterval: must be longer than 0"}},
		{"reset headers", to("http: {rateLimitedBackOff: {resetHeaders: [{name: A, format: seconds}, {}]}}"),
			[]string{h + ".rateLimitedBackOff.resetHeaders[0].name: must be a header name in lower case",
				h + ".rateLimitedBackOff.resetHeaders[0].format: must be one of Seconds, UnixTimestamp",
				h + ".rateLimitedBackOff.resetHeaders[1].name: is required",
				h + ".rateLimitedBackOff.resetHeaders[1].format: is required: one of Seconds, " +
					"UnixTimestamp"}},
		{"retry on", to("http: {retryOn: [5xx, teapot, '599', '4xx', '']}"),
			[]string{h + ".retryOn[1]: " + items, h + ".retryOn[2]: " + items, h + ".retryOn[3]: " + items,
				h + ".retryOn[4]: " + items}},
		{"retry on of grpc", to("grpc: {retryOn: [Canceled, 5xx]}"),
			[]string{g + ".retryOn[1]: must be one of Canceled, DeadlineExceeded, Internal, " +
				"ResourceExhausted, " +
				"Unavailable"}},
		{"header matches", to("http: {retriableResponseHeaders: [{name: A}, {name: a, type: " +
			"Present, value: " +
			"b}], retriableRequestHeaders: [{name: a, type: RegularExpression, value: '('}, {name: a, " +
			"type: Like}]}"), []string{
			h + ".retriableResponseHeaders[0].name: must be a header name in lower case",
			h + ".retriableResponseHeaders[1].value: must not be given with type Present",
			h + ".retriableRequestHeaders[0].value: is no regular expression in RE2 syntax: missing " +
				"closing ): `(`",
			h + ".retriableRequestHeaders[1].type: must be one of Exact, Present, RegularExpression, " +
				"Absent, Prefix"}},
		{"hosts", to("http: {hostSelection: [{predicate: OmitHostsWithTags}, {predicate: " +
			"OmitPreviousPriorities, updateFrequency: 0}, {predicate: OmitPreviousPriorities}, " +
			"{predicate: All}, {}]}"), []string{
			h + ".hostSelection[0].tags: is required for OmitHostsWithTags",
			h + ".hostSelection[1].updateFrequency: must be greater than 0 and at most 2147483647",
			h + ".hostSelection[2].predicate: OmitPreviousPriorities is given twice",
			h + ".hostSelection[3].predicate: must be one of OmitPreviousHosts, OmitHostsWithTags, " +
				"OmitPreviousPriorities",
			h + ".hostSelection[4].predicate: is required: one of OmitPreviousHosts, OmitHostsWithTags, " +
				"OmitPreviousPriorities"}},
	} {
		tt.run(t)
	}
}

// Forms that the codec refuses: scalars of the wrong type (traffic-policies 1.3, vector 34) and
// fields that nobody knows.
func TestDecodeRefusesConfs(t *testing.T) {
	breaker := func(s string) string {
		return policyDoc(KindMeshCircuitBreaker,
			"rules: [{default: {outlierDetection: {detectors: {successRate: {standardDeviationFactor: "+s+
				"}}}}}]")
	}
	idle := func(s string) string {
		return policyDoc(KindMeshTimeout, "rules: [{default: {idleTimeout: "+s+"}}]")
	}
	check := func(s string) string {
		return policyDoc(KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	factor, c := "spec.rules[0].default.outlierDetection.detectors.successRate.standardDeviationFactor",
		"spec.to[0].default."
	for text, want := range map[string]string{
		breaker("1.9"): factor +
			`: must be an integer or text: put 1.9 in quotes`,

		idle("1d"): `spec.rules[0].default.idleTimeout: "1d" is not a duration: use numbers with the units ns, us, ms, s, m or h, such as "1h30m"`,

		idle("5"): `spec.rules[0].default.idleTimeout: is a number without a unit: write a duration such as "5s"`,

		idle("'5'"):                          `spec.rules[0].default.idleTimeout: has no unit: write a duration such as "5s"`,
		check("tcp: {send: 'no base64!'}"):   c + "tcp.send: must be base64 text",
		check("tcp: {receive: [Zm9v, Zm9]}"): c + "tcp.receive[1]: must be base64 text",
		check("http: {initialJitter: 1s}"): c +
			"http.initialJitter: unknown field: known are disabled, expectedStatuses, path, " +
			"requestHeadersToAdd",
		check("http: {interval: 1s, " +
			"interval: 2s}"): c + "http.interval: is given twice",
		check("http: {interval: 5}"): c +
			`interval: is a number without a unit: write a duration such as "5s"`,

		check("http: {}, unhealthyThreshold: -1"): c +
			"unhealthyThreshold: must be a decimal integer from 0 to 4294967295",
		policyDoc(KindMeshRetry,
			"to: [{targetRef: {kind: Mesh}, default: {numRetries: 1}}]"): c +
			"numRetries: unknown field: known are grpc, http, tcp",
		policyDoc(KindMeshRetry,
			"to: [{targetRef: {kind: Mesh}, default: {http: {retryOn: [600]}}}]"): c +
			"http.retryOn[0]: must be text: put 600 in quotes",
		policyDoc(KindMeshRetry,
			"to: [{targetRef: {kind: Mesh}, default: {http: {retryOn: 503}}}]"): c +
			"http.retryOn: must be a list, not the number 503",
		policyDoc(KindMeshTCPRoute,
			"to: [{targetRef: {kind: MeshService, name: a}, rules: "+
				"[{matches: []}]}]"): "spec.to[0].rules[0].matches: unknown field: known are default",
		policyDoc(KindMeshCircuitBreaker,
			"rules: [{matches: []}]"): "spec.rules[0].matches: unknown field: known are default",
		policyDoc(KindMeshTCPRoute,
			"to: []"): "spec.to: must not be empty: leave it out or give at least one item",
		policyDoc(KindMeshRetry,
			"targetRef: {kind: Mesh, proxyTypes: []}"): "spec.targetRef.proxyTypes: must not be " +
			"empty: leave " +
			"it out or give at least one item",
		policyDoc(KindMeshHealthCheck, "rules: []"): "spec.rules: unknown field: known are targetRef, to",
		policyDoc(KindMeshTCPRoute,
			"to: [{targetRef: {kind: Mesh}, rules: [{default: {backendRefs: [{kind: MeshService, name: a, "+
				"weight: -1}]}}]}]"): "spec.to[0].rules[0].default.backendRefs[0].weight: must " +
			"be a decimal " +
			"integer from 0 to 4294967295",
		policyDoc(KindMeshRateLimit,
			"from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 1, "+
				"numRequests: 2}}}}}]"): "spec.from[0].default.local.http.requestRate.numRequests: unknown " +
			"field: known are interval, num",
	} {
		_, err := Decode([]byte(text))
		if got := violations(t, err); len(got) != 1 || got[0] != want {
			t.Errorf("%s\ngives  %q\nwanted %q", text, got, want)
		}
	}
	for text, want := range map[string]string{"1h2m3.5s": "1h2m3.5s", "1500us": "1.5ms", `"0"`: "0s",
		".5m": "30s"} {
		out, err := EncodeJSON(decodeOne(t, idle(text)).Resource)
		if err != nil || !strings.Contains(string(out), `"idleTimeout":"`+want+`"`) {
			t.Errorf("%s gives %s, %v", text, out, err)
		}
	}
}

// Documents 04 to 09 of public guides, as they stand.
func TestDecodePolicyGuides(t *testing.T) {
	rate := "spec.from[0].default.local.http.requestRate."
	http := "spec.to[0].default.http."
	deprecated := "spec.targetRef.kind: MeshService is deprecated here: use Dataplane with labels"
	for name, tt := range map[string]struct {
		key      string
		warnings []string
		conf     string
	}{
		"canary": {"MeshHTTPRoute booking-gateway-to-ticket-booking", []string{deprecated}, ""},
		"least-request": {"MeshLoadBalancingStrategy ticket-booking-to-mesh", []string{deprecated},
			`{"loadBalancer":{"type":"LeastRequest"}}`},
		"rate-limit": {"MeshRateLimit ticket-booking-from-mesh",
			[]string{rate + "numRequests: read as num, which is the field's name", deprecated,
				"spec.from: is deprecated: use rules"},
			`{"local":{"http":{"requestRate":{"num":100,"interval":"1s"},"onRateLimit":{"status":429}}}}`},
		"health-check": {"MeshHealthCheck flight-search-to-mesh",
			[]string{http + "interval: read as spec.to[0].default.interval, which is where the field belongs",
				http + "unhealthyThreshold: read as spec.to[0].default.unhealthyThreshold, which " +
					"is where the " +
					"field belongs", deprecated},
			`{"interval":"5s","unhealthyThreshold":3,"http":{"path":"/health"}}`},
		"circuit-breaker": {"MeshCircuitBreaker ticket-booking-to-mesh", []string{deprecated},

			`{"outlierDetection":{"baseEjectionTime":"30s","splitExternalAndLocalErrors":true,"detectors":{"totalFailures":{"consecutive":5}}}}`},
		"retry": {"MeshRetry ticket-booking-to-mesh",
			[]string{http + "retryOn[1]: read as ConnectFailure, which is how it is spelt", deprecated},
			`{"http":{"numRetries":3,"retryOn":["5xx","ConnectFailure"]}}`},
	} {
		data, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		doc := decodeOne(t, string(data))
		warnings, err := Validate(doc.Resource)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		k := doc.Resource.Key
		if got := string(k.Kind) + " " + k.Name; got != tt.key || !doc.DerivedName || k.Mesh != "default" {
			t.Errorf("%s is %v", name, k)
		}
		if diff := cmp.Diff(tt.warnings, append(doc.Warnings[1:], warnings...)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
		text, err := EncodeJSON(doc.Resource)
		if err != nil || !strings.Contains(string(text), `"default":`+tt.conf) {
			t.Errorf("%s: %s %v", name, text, err)
		}
		again := decodeOne(t, string(text))
		if diff := cmp.Diff(doc.Resource, again.Resource, protocmp.Transform()); diff != "" ||
			len(again.Warnings) != 0 {
			t.Errorf("%s again: %q\n%s", name, again.Warnings, diff)
		}
	}
}

func TestStatusCodes(t *testing.T) {
	for code := range 1000 {
		if got, want := isStatus(fmt.Sprintf("%03d", code)), http.StatusText(code) != ""; got != want {
			t.Errorf("%d: %v", code, got)
		}
	}
	for _, s := range []string{"", "5xx", "0503", "+50", "50"} {
		if isStatus(s) {
			t.Errorf("%q accepted", s)
		}
	}
}

func TestNormalise(t *testing.T) {
	limit := func(top, rate string) string {
		return policyDoc(KindMeshRateLimit,
			top+"from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {"+rate+
				", interval: 1s}}}}}]")
	}
	check := func(s string) string {
		return policyDoc(KindMeshHealthCheck, "to: [{targetRef: {kind: Mesh}, default: "+s+"}]")
	}
	retry := func(s string) string {
		return policyDoc(KindMeshRetry, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	sidecars := "spec.targetRef: from is about sidecars, so this is read as kind Mesh with " +
		"proxyTypes [Sidecar]"
	d := "spec.to[0].default."
	for _, tt := range []struct {
		text, want string
		warnings   []string
	}{
		{limit("", "num: 1"), `"targetRef":{"kind":"Mesh","proxyTypes":["Sidecar"]}`, []string{sidecars}},
		{limit("targetRef: {kind: Mesh}, ", "requests: 1"), `"num":1`,
			[]string{sidecars,
				"spec.from[0].default.local.http.requestRate.requests: read as num, which is the " +
					"field's name"}},
		{limit("targetRef: {kind: Mesh, proxyTypes: [Sidecar]}, ", "num: 1"), `"num":1`, nil},
		{limit("targetRef: {kind: Dataplane}, ", "num: 1"), `"targetRef":{"kind":"Dataplane"}`, nil},
		{check("{interval: 1s, http: {interval: 2s, timeout: 3s, healthyThreshold: 4, path: /}}"),
			`{"interval":"1s","timeout":"3s","healthyThreshold":4,"http":{"path":"/"}}`, []string{
				d + "http.interval: left out: interval beside http holds",
				d + "http.timeout: read as spec.to[0].default.timeout, which is where the field belongs",
				d + "http.healthyThreshold: read as spec.to[0].default.healthyThreshold, which " +
					"is where the " +
					"field belongs"}},
		{check("{http: null, tcp: {}}"), `{"tcp":{}}`, nil},
		{retry("http: {retryOn: [503, 5XX, gateway-error, HTTP_METHOD_GET, Reset, '429']}"),
			`["503","5xx","GatewayError","HttpMethodGet","Reset","429"]`, []string{
				d + "http.retryOn[0]: read as text: put 503 in quotes",
				d + "http.retryOn[1]: read as 5xx, which is how it is spelt",
				d + "http.retryOn[2]: read as GatewayError, which is how it is spelt",
				d + "http.retryOn[3]: read as HttpMethodGet, which is how it is spelt"}},
		{retry("grpc: {retryOn: [deadline-exceeded]}"), `["DeadlineExceeded"]`,
			[]string{d + "grpc.retryOn[0]: read as DeadlineExceeded, which is how it is spelt"}},
		// An alias stands for the same nodes twice: both are read, and neither sees what became of the other.
		{retry("http: &h {retryOn: [503]}}}, {targetRef: {kind: Mesh}, default: {http: *h"),
			`{"retryOn":["503"]}}},{"targetRef":{"kind":"Mesh"},"default":{"http":{"retryOn":["503"]}}}`,
			[]string{
				d + "http.retryOn[0]: read as text: put 503 in quotes",
				"spec.to[1].default.http.retryOn[0]: read as text: put 503 in quotes"}},
	} {
		doc := decodeOne(t, tt.text)
		text, err := EncodeJSON(doc.Resource)
		if err != nil || !strings.Contains(string(text), tt.want) {
			t.Errorf("%s\ngives %s, %v; want %s", tt.text, text, err, tt.want)
		}
		if diff := cmp.Diff(tt.warnings, doc.Warnings); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", tt.text, diff)
		}
		if _, err := Validate(doc.Resource); err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
	}
}

func TestPolicyWarnings(t *testing.T) {
	for text, want := range map[string][]string{
		policyDoc(KindMeshLoadBalancingStrategy,
			"to: [{targetRef: {kind: Mesh}, default: {loadBalancer: {type: Maglev, maglev: {hashPolicies: "+
				"[{type: SourceIP, connection: {}}]}}}}]"): {
			"spec.to[0].default.loadBalancer.maglev.hashPolicies: is deprecated here: use " +
				"hashPolicies beside " +
				"loadBalancer",
			"spec.to[0].default.loadBalancer.maglev.hashPolicies[0].type: SourceIP is deprecated: use " +
				"Connection with sourceIP true"},
		policyDoc(KindMeshHealthCheck,
			"to: [{targetRef: {kind: Mesh}, default: {tcp: {}, healthyPanicThreshold: 5}}]"): {
			"spec.to[0].default.healthyPanicThreshold: is deprecated here: use " +
				"outlierDetection.healthyPanicThreshold of MeshCircuitBreaker"},
		policyDoc(KindMeshRateLimit,
			"to: [{targetRef: {kind: Mesh}, default: {local: {http: {onRateLimit: {status: 300}}}}}]"): {
			"spec.to: " + noGateways,
			"spec.to[0].default.local.http.onRateLimit.status: is below 400: the answer will " +
				"have status 429"},
		policyDoc(KindMeshFaultInjection,
			"rules: [{default: {http: [{abort: {httpStatus: 100, percentage: 1}}]}}]"): {
			"spec.rules[0].default.http[0].abort.httpStatus: has no effect: an answer below 200 " +
				"ends no request"},
		policyDoc(KindMeshRetry,
			"targetRef: {kind: MeshHTTPRoute, name: a}, to: [{targetRef: {kind: Mesh}, default: {http: "+
				"{numRetries: 1}}}]"): {
			"spec.targetRef.kind: MeshHTTPRoute has no effect here: use it in to[].targetRef"},
	} {
		got, err := Validate(decodeOne(t, text).Resource)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", text, diff)
		}
	}
}

// Resources of peers have not gone through Decode: lists may hold nil.
func TestValidateForeignPolicies(t *testing.T) {
	for _, spec := range []*Resource{
		{
			Key: Key{Kind: KindMeshTCPRoute},
			Spec: &meshv1.MeshTCPRoute{To: []*meshv1.MeshTCPRoute_To{nil,
				{Rules: []*meshv1.MeshTCPRoute_Rule{nil}}}},
		},
		{
			Key: Key{Kind: KindMeshLoadBalancingStrategy},
			Spec: &meshv1.MeshLoadBalancingStrategy{To: []*meshv1.MeshLoadBalancingStrategy_To{nil,
				{Default: &meshv1.MeshLoadBalancingStrategy_Conf{
					HashPolicies: []*meshv1.MeshLoadBalancingStrategy_HashPolicy{nil}}}}},
		},
		{
			Key: Key{Kind: KindMeshRateLimit},
			Spec: &meshv1.MeshRateLimit{
				From:  []*meshv1.MeshRateLimit_From{nil},
				To:    []*meshv1.MeshRateLimit_To{nil},
				Rules: []*meshv1.MeshRateLimit_Rule{nil, {Matches: []*meshv1.Match{nil}}},
			},
		},
		{
			Key: Key{Kind: KindMeshFaultInjection},
			Spec: &meshv1.MeshFaultInjection{
				From: []*meshv1.MeshFaultInjection_From{nil},
				Rules: []*meshv1.MeshFaultInjection_Rule{nil, {
					Matches: []*meshv1.Match{nil},
					Default: &meshv1.MeshFaultInjection_Conf{Http: []*meshv1.MeshFaultInjection_Fault{nil}},
				}},
			},
		},
		{
			Key:  Key{Kind: KindMeshHealthCheck},
			Spec: &meshv1.MeshHealthCheck{To: []*meshv1.MeshHealthCheck_To{nil}},
		},
		{
			Key: Key{Kind: KindMeshCircuitBreaker},
			Spec: &meshv1.MeshCircuitBreaker{
				To:    []*meshv1.MeshCircuitBreaker_To{nil},
				From:  []*meshv1.MeshCircuitBreaker_From{nil},
				Rules: []*meshv1.MeshCircuitBreaker_Rule{nil},
			},
		},
		{
			Key: Key{Kind: KindMeshRetry},
			Spec: &meshv1.MeshRetry{To: []*meshv1.MeshRetry_To{nil,
				{Default: &meshv1.MeshRetry_Conf{Http: &meshv1.MeshRetry_Http{
					HostSelection:           []*meshv1.MeshRetry_HostSelection{nil},
					RetriableRequestHeaders: []*meshv1.MeshHTTPRoute_HeaderMatch{nil},
				}}}}},
		},
	} {
		spec.Key.Mesh, spec.Key.Name = "m", "a"
		if _, err := Validate(spec); err == nil {
			t.Errorf("%v accepted", spec)
		}
	}
}
