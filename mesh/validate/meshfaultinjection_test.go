package validate

import (
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
)

func TestValidateFaultInjection(t *testing.T) {
	t.Parallel()

	fault := func(s string) string {
		return policyDoc(mesh.KindMeshFaultInjection, "rules: [{default: {http: ["+s+"]}}]")
	}
	f := "spec.rules[0].default.http[0]."
	band := func(limit string) string {
		return fault("{responseBandwidth: {limit: '" + limit + "', percentage: 1}}")
	}
	badLimit := f +

		`responseBandwidth.limit: must be a number above 0 with the unit kbps, Mbps or Gbps, such as ` +
		`"50 kbps"`
	for _, tt := range []refused{
		{"all", fault("{abort: {httpStatus: 500, percentage: 0}, delay: {value: 0s, percentage: '2.5'}, " +
			"responseBandwidth: {limit: 50Mbps, percentage: 100}}, {}"), nil},
		{"empty match", policyDoc(mesh.KindMeshFaultInjection, "rules: [{matches: [{}], default: {}}]"), nil},
		{"match", policyDoc(mesh.KindMeshFaultInjection,
			"rules: [{matches: [{sni: {type: Exact, value: '*'}}], default: {}}]"),
			[]string{"spec.rules[0].matches[0].sni.value: must be a DNS name"}},
		{"no default", policyDoc(mesh.KindMeshFaultInjection, "rules: [{}]"),
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
		{"from by labels", policyDoc(mesh.KindMeshFaultInjection,
			"targetRef: {kind: Dataplane}, from: [{targetRef: {kind: MeshService, labels: {a: b}}, default: "+
				"{http: [{abort: {httpStatus: 500}}]}}]"), []string{
			"spec.from[0].targetRef.name: is required: callers are distinguished by their tag " +
				"kuma.io/service",
			"spec.from[0].default.http[0].abort.percentage: is required"}},
		{"from mesh by name",
			policyDoc(mesh.KindMeshFaultInjection,
				"targetRef: {kind: Dataplane}, from: [{targetRef: {kind: Mesh, name: default}, "+
					"default: {}}]"),
			[]string{"spec.from[0].targetRef.name: must not be given with kind Mesh"}},
	} {
		tt.run(t)
	}
}
