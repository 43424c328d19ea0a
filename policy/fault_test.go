package policy

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
)

// told says what Faults gave, one line each: policy/rule, callers, abort statuses.
func told(list []Fault) []string {
	var out []string
	for _, f := range list {
		var callers []string
		for _, m := range f.Matches {
			callers = append(callers, strings.TrimSuffix(m.GetSpiffeId().GetType()+" "+m.GetSpiffeId().GetValue()+" "+m.GetSni().GetValue(), " "))
		}
		var statuses []string
		for _, h := range f.Faults {
			statuses = append(statuses, strconv.Itoa(int(h.GetAbort().GetHttpStatus())))
		}
		out = append(out, f.Origin.Key.Name+"/"+strconv.Itoa(f.Origin.Rule)+" ["+strings.Join(callers, ", ")+"] "+strings.Join(statuses, ","))
	}
	return out
}

const faultTop = "spec:\n  targetRef: {kind: Mesh, proxyTypes: [Sidecar]}\n"

// Vector 27, and the rest of the order: rules are never merged, more specific matches first, then ascending priority.
func TestFaultsOfRules(t *testing.T) {
	list := Faults(sorted(read(t, `
type: MeshFaultInjection
name: aaa
`+faultTop+`  rules:
  - default: {http: [{abort: {httpStatus: 501, percentage: 10}}]}
  - {matches: [{spiffeID: {type: Prefix, value: spiffe://d/a}}], default: {http: [{abort: {httpStatus: 510, percentage: 1}}]}}
---
type: MeshFaultInjection
name: zzz
`+faultTop+`  rules:
  - default: {http: [{abort: {httpStatus: 502, percentage: 10}}, {abort: {httpStatus: 503, percentage: 10}}]}
  - {matches: [{spiffeID: {type: Prefix, value: spiffe://d/a/b}}, {spiffeID: {type: Exact, value: spiffe://d/c}}], default: {http: [{abort: {httpStatus: 520, percentage: 1}}]}}
  - {matches: [{sni: {type: Exact, value: x}}], default: {http: [{abort: {httpStatus: 530, percentage: 1}}]}}
  - {matches: [{sni: {type: Exact, value: x}}, {}], default: {http: [{abort: {httpStatus: 540, percentage: 1}}]}}
  - default: {}
---
type: MeshFaultInjection
name: old
`+faultTop+`  from: [{targetRef: {kind: Mesh}, default: {http: [{abort: {httpStatus: 599, percentage: 1}}]}}]
`)))
	want := []string{
		"zzz/1 [Exact spiffe://d/c, Prefix spiffe://d/a/b] 520",
		"aaa/1 [Prefix spiffe://d/a] 510",
		"zzz/2 [  x] 530",
		"zzz/0 [] 502,503",
		"zzz/3 [] 540",
		"aaa/0 [] 501",
	}
	if diff := cmp.Diff(want, told(list)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The older form: the last entry that fits a caller holds, in the order of the list and not by how much it asks for.
func TestFaultsOfFrom(t *testing.T) {
	entry := func(target, status string) string {
		http := "{http: [{abort: {httpStatus: " + status + ", percentage: 1}}]}"
		if status == "" {
			http = "{}"
		}
		return "  - {targetRef: " + target + ", default: " + http + "}\n"
	}
	web, v1, every := "{kind: MeshService, name: web}", "{kind: MeshSubset, tags: {version: v1}}", "{kind: Mesh}"
	callers := map[string][]Tag{"web v1": {{mesh.TagService, "web"}, {"version", "v1"}}, "web": {{mesh.TagService, "web"}}, "v1": {{"version", "v1"}}, "other": nil}
	for _, tc := range []struct {
		name string
		from string
		want map[string]string
	}{
		{"later for all", entry(web, "501") + entry(every, "502"), map[string]string{"web v1": "502", "web": "502", "v1": "502", "other": "502"}},
		{"overlap", entry(every, "501") + entry(web, "502") + entry(v1, "503"), map[string]string{"web v1": "503", "web": "502", "v1": "503", "other": "501"}},
		{"empty replaces nothing", entry(web, "501") + entry(every, ""), map[string]string{"web v1": "501", "web": "501", "v1": "", "other": ""}},
		{"said twice", entry(web, "501") + entry(web, "502"), map[string]string{"web v1": "502", "web": "502", "v1": "", "other": ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list := Faults(sorted(read(t, "type: MeshFaultInjection\nname: a\n"+faultTop+"  from:\n"+tc.from)))
			got := map[string]string{}
			for name, tags := range callers {
				var all []string
				for _, f := range list {
					if f.Principal.Fits(tags) {
						all = append(all, strconv.Itoa(int(f.Faults[0].GetAbort().GetHttpStatus())))
					}
				}
				slices.Sort(all)
				got[name] = strings.Join(all, " and ")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
