package validate

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func TestValidateLoadBalancing(t *testing.T) {
	t.Parallel()

	to := func(s string) string {
		return policyDoc(mesh.KindMeshLoadBalancingStrategy,
			"to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
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
				d + "loadBalancer.leastRequest.choiceCount: must be a number from 2 to 100",
				d + "loadBalancer.leastRequest.activeRequestBias: must be from 0 to 100"}},
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
			[]string{h + "header.name: must be a header name in lower case"}},
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
			policyDoc(mesh.KindMeshLoadBalancingStrategy,
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
		{"route", policyDoc(mesh.KindMeshLoadBalancingStrategy,
			"to: [{targetRef: {kind: MeshHTTPRoute, name: a}, default: {hashPolicies: [], "+
				"loadBalancer: {type: "+
				"Random}, localityAwareness: {}}}]"), []string{
			d + "loadBalancer: must not be given for a MeshHTTPRoute: only hashPolicies are a route's own",
			d + "localityAwareness: must not be given for a MeshHTTPRoute: only hashPolicies are a " +
				"route's own"}},
		{"gateway", policyDoc(mesh.KindMeshLoadBalancingStrategy,
			"targetRef: {kind: MeshGateway, name: a}, to: [{targetRef: {kind: MeshService, name: "+
				"a}, default: "+
				"{loadBalancer: {type: Random}}}]"), []string{
			"spec.to[0].targetRef.kind: MeshService is not supported here: use one of Mesh"}},
	} {
		tt.run(t)
	}
}
