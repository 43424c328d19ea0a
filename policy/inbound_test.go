package policy

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// One conditioned rule: the common conf of the default still holds.
func TestInboundConditioned(t *testing.T) {
	in := ForInbound(sorted(read(t, defaults+`
type: MeshTimeout
name: caller
spec:
  rules:
  - matches: [{spiffeID: {type: Exact, value: spiffe://default/web}}]
    default: {http: {requestTimeout: 3s}}
`)))
	all := in.CatchAll.Conf.(*meshv1.MeshTimeout_Conf)
	if requestTimeout(all) != 0 || all.Http.RequestTimeout == nil ||
		all.ConnectionTimeout.AsDuration() != 10*time.Second || all.IdleTimeout.AsDuration() != 2*time.Hour {
		t.Errorf("catch-all %v", all)
	}
	if len(in.Conditioned) != 1 || requestTimeout(in.Conditioned[0].Conf) != 3*time.Second ||
		in.Conditioned[0].Conf.(*meshv1.MeshTimeout_Conf).IdleTimeout != nil {
		t.Errorf("conditioned %v", in.Conditioned)
	}
}

func TestInboundOrderAndSubsumption(t *testing.T) {
	in := ForInbound(sorted(read(t, `
type: MeshTimeout
name: a
spec:
  from: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]
---
type: MeshTimeout
name: b
spec:
  rules:
  - default: {idleTimeout: 2s}
  - {matches: [{sni: {type: Exact, value: a}}], default: {http: {requestTimeout: 1s}}}
  - matches:
    - {spiffeID: {type: Prefix, value: spiffe://d/ns/shop}}
    - {spiffeID: {type: Prefix, value: spiffe://d/ns}}
    default: {http: {requestTimeout: 2s}}
  - matches: [{spiffeID: {type: Exact, value: spiffe://d/ns/shop/web}}]
    default: {http: {streamIdleTimeout: 3s}}
  - matches: [{spiffeID: {type: Exact, value: spiffe://d/ns/shopping}, sni: {type: Exact, value: a}}]
    default: {http: {streamIdleTimeout: 4s}}
`)))
	if got := in.CatchAll.Conf.(*meshv1.MeshTimeout_Conf).IdleTimeout.AsDuration(); got != time.Second {
		t.Errorf("catch-all idle is %v: a ranks above b", got)
	}
	type row struct {
		ID, SNI         string
		Request, Stream time.Duration
	}
	var got []row
	for _, c := range in.Conditioned {
		h := c.Conf.(*meshv1.MeshTimeout_Conf).Http
		got = append(got, row{c.Match.GetSpiffeId().GetValue(), c.Match.GetSni().GetValue(),
			h.GetRequestTimeout().AsDuration(), h.GetStreamIdleTimeout().AsDuration()})
	}
	want := []row{
		{"spiffe://d/ns/shopping", "a", 2 * time.Second,
			4 * time.Second}, // under spiffe://d/ns, and not under spiffe://d/ns/shop
		{"spiffe://d/ns/shop/web", "", 2 * time.Second, 3 * time.Second},
		{"spiffe://d/ns/shop", "", 2 * time.Second, 0},
		{"spiffe://d/ns", "", 2 * time.Second, 0},
		{"", "a", time.Second, 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestPermissionsOfRules(t *testing.T) {
	p := Permissions(sorted(read(t, `
type: MeshTrafficPermission
name: a
spec:
  rules:
  - default:
      allow:
      - {sni: {type: Exact, value: s}}
      - {spiffeID: {type: Prefix, value: spiffe://d/ns}}
      - {spiffeID: {type: Exact, value: spiffe://d/ns/web}}
---
type: MeshTrafficPermission
name: b
spec:
  rules:
  - default:
      deny: [{spiffeID: {type: Exact, value: spiffe://d/ns/legacy}}]
      allowWithShadowDeny: [{spiffeID: {type: Exact, value: spiffe://d/x}}]
---
type: MeshTrafficPermission
name: c
spec: {from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]}
`)))
	if !p.HasRules || !p.HasFrom {
		t.Errorf("forms %v %v", p.HasRules, p.HasFrom)
	}
	ids := func(l []PermissionMatch) (out []string) {
		for _, m := range l {
			out = append(out, m.Policy+" "+m.Match.GetSpiffeId().GetValue()+m.Match.GetSni().GetValue())
		}
		return out
	}
	if diff := cmp.Diff([]string{"kri_mtp_default___b_ spiffe://d/ns/legacy"}, ids(p.Deny)); diff != "" {
		t.Errorf("deny %s", diff)
	}
	if diff := cmp.Diff([]string{"kri_mtp_default___a_ spiffe://d/ns/web",
		"kri_mtp_default___a_ spiffe://d/ns", "kri_mtp_default___a_ s", "kri_mtp_default___b_ spiffe://d/x"},
		ids(p.Allow)); diff != "" {
		t.Errorf("allow %s", diff)
	}
	if diff := cmp.Diff([]string{"kri_mtp_default___b_ spiffe://d/x"}, ids(p.Shadow)); diff != "" {
		t.Errorf("shadow %s", diff)
	}
}

func TestPermissionsOfFrom(t *testing.T) {
	p := Permissions(sorted(read(t, `
type: MeshTrafficPermission
name: b
spec:
  from:
  - {targetRef: {kind: Mesh}, default: {action: Allow}}
  - {targetRef: {kind: MeshService, name: x}, default: {action: Deny}}
`)))
	want := []Principal{{
		Not:    [][]Tag{{{Key: "kuma.io/service", Value: "x"}}},
		Origin: Origin{Key: mesh.Key{Kind: mesh.KindMeshTrafficPermission, Mesh: "default", Name: "b"}},
	}}
	if diff := cmp.Diff(want, p.Principals); diff != "" || p.HasRules || !p.HasFrom {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if none := Permissions(nil); none.HasFrom || none.HasRules || none.Principals != nil {
		t.Errorf("of nothing: %v", none)
	}
	for tag, want := range map[Tag]string{{"kuma.io/service", "web"}: "spiffe://m/web",
		{"version", "1"}: "kuma://version/1"} {
		if uri, prefix := tag.URI("m"); uri != want || prefix {
			t.Errorf("%v is %q", tag, uri)
		}
	}
	if uri, prefix := (Tag{"version", "*"}).URI("m"); uri != "kuma://version/" || !prefix {
		t.Errorf("any version is %q %v", uri, prefix)
	}
}

// The principals say the same as the list they come from, in which the last entry that fits decides.
func TestPrincipalsProperty(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	values := []string{"a", "b", "*"}
	actions := []string{"Allow", "Deny", "AllowWithShadowDeny"}
	for range 3000 {
		spec := &meshv1.MeshTrafficPermission{}
		for range 1 + rnd.IntN(6) {
			ref := &meshv1.TargetRef{Kind: "MeshSubset", Tags: map[string]string{}}
			for _, k := range []string{"kuma.io/service", "version", "kuma.io/zone"} {
				if rnd.IntN(2) == 0 {
					ref.Tags[k] = values[rnd.IntN(3)]
				}
			}
			spec.From = append(spec.From, &meshv1.MeshTrafficPermission_From{
				TargetRef: ref,
				Default:   &meshv1.MeshTrafficPermission_FromConf{Action: actions[rnd.IntN(3)]},
			})
		}
		p := Permissions([]*mesh.Resource{{Spec: spec}})
		for range 20 {
			var caller []Tag
			for _, k := range []string{"kuma.io/service", "version", "kuma.io/zone"} {
				for range rnd.IntN(3) { // a certificate may show several services
					caller = append(caller, Tag{k, values[rnd.IntN(2)]})
				}
			}
			action := "Deny"
			for _, f := range spec.From {
				if tags, _ := callerTags(f.TargetRef); hasTags(caller, tags) {
					action = f.Default.Action
				}
			}
			fits := func(l []Principal) bool {
				for _, p := range l {
					if p.Fits(caller) {
						return true
					}
				}
				return false
			}
			if fits(p.Principals) != (action != "Deny") ||
				fits(p.ShadowPrincipals) != (action == "AllowWithShadowDeny") {
				t.Fatalf("%v of %v: list says %s, principals %v, shadow %v", caller, spec, action,
					p.Principals, p.ShadowPrincipals)
			}
		}
	}
}
