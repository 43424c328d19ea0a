package policy

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Which of two timeouts wins, by the kinds, names and sections of their targets.
func TestVectorsOfTimeouts(t *testing.T) {
	const (
		inMesh, plain = "{kind: Mesh}", "{kind: Dataplane}"
		byName        = "{kind: Dataplane, name: web}"
		byLabels      = "{kind: Dataplane, labels: {app: web}}"
		byService     = "{kind: MeshService, name: web}"
	)
	for _, tt := range []struct {
		name, policies string
		want           time.Duration
	}{
		{"1", timeout("aaa", inMesh, "", "1s") + timeout("bbb", inMesh, "", "2s"), time.Second},
		{"defaults rank lowest", timeout("zzz", inMesh, "", "1s"),
			time.Second},
		{"3", timeout("aaa", inMesh, "", "1s") + timeout("zzz", inMesh, "backend", "2s"), 2 * time.Second},
		{"4", timeout("aaa", inMesh, "backend", "1s") + timeout("zzz", byName, "", "2s"), 2 * time.Second},
		{"5", timeout("zzz", byName, "", "1s") + timeout("aaa", byLabels, "", "2s"), time.Second},
		{"6", timeout("zzz", byName, "", "1s") + timeout("aaa", plain, "", "2s"), 2 * time.Second},
		{"7", timeout("zzz", byLabels, "", "1s") + timeout("aaa", plain, "", "2s"), 2 * time.Second},
		{"8", timeout("zzz", byService, "", "1s") + timeout("aaa", byName, "", "2s"), time.Second},
		{"later entry of one policy",
			"type: MeshTimeout\nname: a\nspec: {to: [{targetRef: {kind: Mesh}, default: {http: " +
				"{requestTimeout: 1s}}}, {targetRef: {kind: Mesh}, default: {http: {requestTimeout: 2s}}}]}",
			2 * time.Second},
		{"service before mesh in one policy",
			"type: MeshTimeout\nname: a\nspec: {to: [{targetRef: {kind: MeshService, name: " +
				"backend}, default: " +
				"{http: {requestTimeout: 1s}}}, {targetRef: {kind: Mesh}, default: {http: " +
				"{requestTimeout: 2s}}}]}", time.Second},
		{"section beats service",
			"type: MeshTimeout\nname: a\nspec: {to: [{targetRef: {kind: MeshService, name: backend, " +
				"sectionName: main}, default: {http: {requestTimeout: 1s}}}, {targetRef: {kind: " +
				"MeshService, " +
				"name: backend}, default: {http: {requestTimeout: 2s}}}]}", time.Second},
		{"another section", "type: MeshTimeout\nname: a\nspec: {to: [{targetRef: {kind: MeshService, name: " +
			"backend, sectionName: other}, default: {http: {requestTimeout: 1s}}}]}", 15 * time.Second},
		{"another service", timeout("aaa", inMesh, "frontend", "1s"), 15 * time.Second},
		{"another proxy", timeout("aaa", "{kind: Dataplane, name: api}", "", "1s"), 15 * time.Second},
		{"only defaults", "", 15 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			policies := selecting(web(), read(t, defaults+tt.policies))
			if got := requestTimeout(ForDestination(policies, backend).Conf); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestProvenance(t *testing.T) {
	policies := sorted(read(t, defaults+timeout("zzz", "{kind: Mesh}", "backend", "2s")))
	e := ForDestination(policies, backend)
	base, own := Origin{Key: policies[0].Key}, Origin{Key: policies[1].Key}
	want := map[string]Origin{"connectionTimeout": base, "idleTimeout": base, "http.requestTimeout": own,
		"http.streamIdleTimeout": base}
	if diff := cmp.Diff(want, e.Fields); diff != "" {
		t.Errorf("fields (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]Origin{base, own}, e.Origins); diff != "" {
		t.Errorf("origins (-want +got)\n%s", diff)
	}
	if e := ForDestination(nil, backend); e.Conf != nil || e.Origins != nil {
		t.Errorf("of nothing: %v", e)
	}
}

// A rule for a route has what is said of the route and of the mesh, not of the service.
func TestRouteAsDestination(t *testing.T) {
	policies := sorted(read(t, defaults+timeout("a", "{kind: Mesh}", "backend", "7s")+
		"type: MeshTimeout\nname: b\nspec: {to: [{targetRef: {kind: MeshHTTPRoute, name: split}, default: "+
		"{http: {requestTimeout: 70s}}}]}"))
	conf := ForDestination(policies, Destination{Key: mesh.Key{
		Kind: mesh.KindMeshHTTPRoute,
		Mesh: "default",
		Name: "split",
	}}).Conf.(*meshv1.MeshTimeout_Conf)
	if requestTimeout(conf) != 70*time.Second || conf.Http.StreamIdleTimeout.AsDuration() != 30*time.Minute {
		t.Errorf("got %v", conf)
	}
}

func TestCompare(t *testing.T) {
	ref := func(kind string, mod func(*meshv1.TargetRef)) *meshv1.TargetRef {
		r := &meshv1.TargetRef{Kind: kind}
		if mod != nil {
			mod(r)
		}
		return r
	}
	name := func(r *meshv1.TargetRef) { r.Name = "n" }
	labels := func(r *meshv1.TargetRef) { r.Labels = map[string]string{"a": "b"} }
	section := func(r *meshv1.TargetRef) { r.Name, r.SectionName = "n", "s" }
	at := func(n string) Head { return Head{Key: mesh.Key{Name: n}, DisplayName: n, Target: wholeMesh} }
	with := func(h Head, mod func(*Head)) Head { mod(&h); return h }
	// Ascending.
	order := []Head{
		with(at("a"), func(h *Head) { h.Default, h.Target = true, ref("MeshService", name) }),
		with(at("z"), func(h *Head) { h.Origin = "global" }),
		with(at("b"), func(h *Head) { h.Origin = "global" }),
		with(at("z"), func(h *Head) { h.Origin, h.Role = "global", RoleProducer }),
		with(at("z"), func(h *Head) { h.Origin, h.Role = "global", RoleConsumer }),
		with(at("z"), func(h *Head) { h.Origin, h.Role = "global", RoleWorkloadOwner }),
		at("z"),
		with(at("z"), func(h *Head) { h.Origin = "zone" }),
		with(at("a"), func(h *Head) { h.Target = ref("Dataplane", labels) }),
		with(at("z"), func(h *Head) { h.Target = ref("Dataplane", name) }),
		with(at("z"), func(h *Head) { h.Target = ref("Dataplane", section) }),
		with(at("z"), func(h *Head) { h.Target = ref("MeshSubset", nil) }),
		with(at("z"), func(h *Head) { h.Target = ref("MeshGateway", nil) }),
		with(at("z"), func(h *Head) { h.Target = ref("MeshService", name) }),
		with(at("z"), func(h *Head) { h.Target = ref("MeshServiceSubset", name) }),
		with(at("z"), func(h *Head) { h.Target = ref("MeshHTTPRoute", name) }),
	}
	for i, a := range order {
		for j, b := range order {
			got := Compare(a, b)
			if want := i - j; got < 0 != (want < 0) || got > 0 != (want > 0) {
				t.Errorf("%d against %d gives %d", i, j, got)
			}
		}
	}
	if c := Compare(with(at("a"), func(h *Head) { h.Key.Zone = "x" }),
		with(at("a"), func(h *Head) { h.Key.Zone = "y" })); c == 0 {
		t.Error("two policies of one name tie")
	}
}

// Compare is a total order: Kuma's is not.
func TestCompareIsAnOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	pick := func(s ...string) string { return s[rnd.IntN(len(s))] }
	random := func() Head {
		h := Head{
			Target: &meshv1.TargetRef{
				Kind:        pick("Mesh", "Dataplane", "Dataplane", "MeshGateway", "MeshService"),
				Name:        pick("", "n"),
				SectionName: pick("", "s"),
			},
			Origin:      pick("global", "", "zone"),
			Role:        pick(RoleSystem, RoleProducer),
			DisplayName: pick("a", "b", "c"),
			Default:     rnd.IntN(4) == 0,
		}
		if h.Target.Name == "" && rnd.IntN(2) == 0 {
			h.Target.Labels = map[string]string{"a": "b"}
		}
		h.Key = mesh.Key{Name: h.DisplayName, Zone: pick("", "east")}
		return h
	}
	for range 200000 {
		a, b, c := random(), random(), random()
		if Compare(a, b) != -Compare(b, a) {
			t.Fatalf("%v and %v: %d and %d", a, b, Compare(a, b), Compare(b, a))
		}
		if Compare(a, b) < 0 && Compare(b, c) < 0 && Compare(a, c) >= 0 {
			t.Fatalf("%v < %v < %v, but not the first below the last", a, b, c)
		}
	}
}

func TestHeadOf(t *testing.T) {
	r := read(t, "type: MeshTimeout\nname: a\nlabels: {kuma.io/display-name: b, kuma.io/effect: shadow, "+
		"kuma.io/policy-role: consumer, k8s.kuma.io/namespace: shop, kuma.io/managed-by: "+
		"meridian-defaults}\nspec: {rules: [{default: {idleTimeout: 1s}}]}")[0]
	r.Key.Zone = "east"
	h := HeadOf(r)
	if h.Target.GetKind() != "Mesh" || h.Origin != "zone" || h.Role != RoleConsumer || h.DisplayName != "b" ||
		h.Zone != "east" || h.Namespace != "shop" || !h.Shadow || !h.Default {
		t.Errorf("got %+v", h)
	}
	other := r.Clone()
	other.Spec.(*meshv1.MeshTimeout).Rules[0].Default.IdleTimeout = durationpb.New(time.Hour)
	if !h.Equal(HeadOf(other)) {
		t.Error("a change of the conf changes the head")
	}
	other.Spec.(*meshv1.MeshTimeout).TargetRef = &meshv1.TargetRef{Kind: "Dataplane"}
	if h.Equal(HeadOf(other)) {
		t.Error("a change of the target does not change the head")
	}
}

func TestSelect(t *testing.T) {
	all, http, admin := Selection{AllInbounds: true}, Selection{Inbounds: []string{"http"}},
		Selection{Inbounds: []string{"9000"}}
	none := Selection{}
	for _, tt := range []struct {
		name, target string
		policy       func(*mesh.Resource)
		want         Selection
	}{
		{"mesh", "{kind: Mesh}", nil, all},
		{"sidecars", "{kind: Mesh, proxyTypes: [Sidecar]}", nil, all},
		{"gateways", "{kind: Mesh, proxyTypes: [Gateway]}", nil, none},
		{"plain dataplane", "{kind: Dataplane}", nil, all},
		{"name", "{kind: Dataplane, name: web}", nil, all},
		{"other name", "{kind: Dataplane, name: web2}", nil, none},
		{"labels", "{kind: Dataplane, labels: {app: web}}", nil, all},
		{"computed label", "{kind: Dataplane, labels: {kuma.io/zone: east}}", nil, all},
		{"one label of two", "{kind: Dataplane, labels: {app: web, tier: x}}", nil, none},
		{"section", "{kind: Dataplane, sectionName: http}", nil, http},
		{"number of a named inbound", "{kind: Dataplane, sectionName: '8000'}", nil, none},
		{"number of a nameless inbound", "{kind: Dataplane, sectionName: '9000'}", nil, admin},
		{"subset", "{kind: MeshSubset, tags: {version: '1'}}", nil, http},
		{"subset by zone", "{kind: MeshSubset, tags: {kuma.io/zone: east}}", nil,
			Selection{Inbounds: []string{"http", "9000"}}},
		{"subset of tags of two inbounds",
			"{kind: MeshSubset, tags: {version: '1', kuma.io/service: web-admin}}", nil, none},
		{"whole subset", "{kind: MeshSubset}", nil, all},
		{"service tag", "{kind: MeshService, name: web-admin}", nil, admin},
		{"service", "{kind: MeshService, name: web-all}", nil, all},
		{"service by labels", "{kind: MeshService, labels: {kuma.io/display-name: web-all}}", nil, all},
		{"service of another name", "{kind: MeshService, name: api}", nil, none},
		{"service subset", "{kind: MeshServiceSubset, name: web, tags: {version: '*'}}", nil, http},
		{"gateway", "{kind: MeshGateway, name: web}", nil, none},
		{"other mesh", "{kind: Mesh}", func(r *mesh.Resource) { r.Key.Mesh = "other" }, none},
		{"other zone", "{kind: Mesh}", func(r *mesh.Resource) { r.Key.Zone = "west" }, none},
		{"own zone", "{kind: Mesh}", func(r *mesh.Resource) { r.Key.Zone = "east" }, all},
		{"producer of another zone", "{kind: Mesh}", func(r *mesh.Resource) {
			r.Key.Zone, r.Key.Namespace, r.Labels = "west", "shop",
				map[string]string{mesh.LabelPolicyRole: RoleProducer}
		}, all},
		{"consumer of another namespace", "{kind: Mesh}", func(r *mesh.Resource) {
			r.Key.Namespace, r.Labels = "shop", map[string]string{mesh.LabelPolicyRole: RoleConsumer}
		}, none},
		{"shadow", "{kind: Mesh}",
			func(r *mesh.Resource) { r.Labels = map[string]string{mesh.LabelEffect: mesh.EffectShadow} },
			none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := read(t, "type: MeshTimeout\nname: a\nspec: {targetRef: "+tt.target+
				", rules: [{default: {idleTimeout: 1s}}]}")[0]
			if tt.policy != nil {
				tt.policy(p)
			}
			h, s := HeadOf(p), web()
			got, ok := h.Select(s)
			if !ok {
				got = Selection{}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			// Whatever selects is found in a bucket.
			if ok && !slices.Contains(Buckets(s), h.Bucket()) {
				t.Errorf("bucket %q is not among %v", h.Bucket(), Buckets(s))
			}
		})
	}
}

// Unlike in Kuma, a data plane without inbounds gets its policies.
func TestSelectWithoutInbounds(t *testing.T) {
	s := web()
	s.Dataplane.Spec = &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{}}
	for _, target := range []string{"{kind: Mesh}", "{kind: Dataplane, name: web}",
		"{kind: MeshService, name: web-all}"} {
		h := HeadOf(read(t, timeout("a", target, "", "1s"))[0])
		if sel, ok := h.Select(s); !ok || !sel.AllInbounds {
			t.Errorf("%s: %v %v", target, sel, ok)
		}
	}
	s.Dataplane.Spec = &meshv1.Dataplane{
		Networking: &meshv1.Dataplane_Networking{
			Gateway: &meshv1.Dataplane_Gateway{Tags: map[string]string{"kuma.io/service": "edge"}}}}
	for target, want := range map[string]bool{"{kind: Mesh, proxyTypes: [Gateway]}": true,
		"{kind: Mesh, proxyTypes: [Sidecar]}": false, "{kind: MeshService, name: edge}": true} {
		if _, ok := HeadOf(read(t, timeout("a", target, "", "1s"))[0]).Select(s); ok != want {
			t.Errorf("gateway: %s selects: %v", target, ok)
		}
	}
}

// A policy that selects a subject is in one of its buckets, for random targets and subjects.
func TestBucketsProperty(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	pick := func(s ...string) string { return s[rnd.IntN(len(s))] }
	pairs := func(keys ...string) map[string]string {
		out := map[string]string{}
		for range rnd.IntN(3) {
			out[pick(keys...)] = pick("a", "b", "*")
		}
		return out
	}
	selected := 0
	for range 20000 {
		in := &meshv1.Dataplane_Inbound{
			Port: 80,
			Name: pick("", "a"),
			Tags: pairs("kuma.io/service", "kuma.io/zone", "v"),
		}
		s := Subject{Dataplane: &mesh.Resource{
			Key:    mesh.Key{Mesh: "m", Name: pick("a", "b"), Zone: pick("", "a")},
			Labels: pairs("v", "kuma.io/workload"),

			Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
				Inbound: []*meshv1.Dataplane_Inbound{in},
			}},
		}}
		if rnd.IntN(2) == 0 {
			s.Services = []mesh.Key{{Kind: mesh.KindMeshService, Mesh: "m", Name: pick("a", "b", "c")}}
		}
		h := Head{
			Key: mesh.Key{Mesh: "m"},
			Target: &meshv1.TargetRef{
				Kind:   pick("Mesh", "Dataplane", "MeshSubset", "MeshService", "MeshServiceSubset"),
				Name:   pick("", "a", "b"),
				Labels: pairs("v", "kuma.io/zone", "kuma.io/display-name"),
				Tags:   pairs("kuma.io/service", "kuma.io/zone", "v"),
			},
		}
		if _, ok := h.Select(s); ok {
			selected++
			if !slices.Contains(Buckets(s), h.Bucket()) {
				t.Fatalf("%v selects %v with %v, but its bucket %q is not among %v", h.Target,
					s.Dataplane.Key, in.Tags, h.Bucket(), Buckets(s))
			}
		}
	}
	if selected < 1000 {
		t.Errorf("only %d pairs select: the test says little", selected)
	}
}

func TestMerge(t *testing.T) {
	dp := func() *meshv1.Dataplane {
		return &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: "a",
			Gateway: &meshv1.Dataplane_Gateway{Tags: map[string]string{"a": "1", "b": "1"}},
			Inbound: []*meshv1.Dataplane_Inbound{{Port: 1}, {Port: 2}},
		}}
	}
	src := &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		AdvertisedAddress: "b",
		Gateway:           &meshv1.Dataplane_Gateway{Tags: map[string]string{"b": "2", "c": "2"}},
		Inbound:           []*meshv1.Dataplane_Inbound{{Port: 3}},
	}}
	before := proto.Clone(src)
	got := dp()
	Merge(got, src)
	want := &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Address:           "a",
		AdvertisedAddress: "b",
		Gateway:           &meshv1.Dataplane_Gateway{Tags: map[string]string{"a": "1", "b": "2", "c": "2"}},
		Inbound:           []*meshv1.Dataplane_Inbound{{Port: 3}},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	Merge(got, dp())
	if !proto.Equal(before, src) {
		t.Errorf("src changed to %v", src)
	}
	zero := &meshv1.MeshTimeout_Conf{IdleTimeout: durationpb.New(time.Hour)}
	Merge(zero, &meshv1.MeshTimeout_Conf{IdleTimeout: durationpb.New(0)})
	if zero.IdleTimeout.AsDuration() != 0 {
		t.Error("a given 0 does not override")
	}
}

func randomConf(rnd *rand.Rand) *meshv1.MeshTimeout_Conf {
	d := func() *durationpb.Duration {
		if rnd.IntN(2) == 0 {
			return nil
		}
		return durationpb.New(time.Duration(rnd.IntN(100)) * time.Second)
	}
	c := &meshv1.MeshTimeout_Conf{ConnectionTimeout: d(), IdleTimeout: d()}
	if rnd.IntN(3) > 0 {
		c.Http = &meshv1.MeshTimeout_Http{RequestTimeout: d(), StreamIdleTimeout: d(), MaxStreamDuration: d()}
	}
	return c
}

// Merging twice is merging once; merging in groups is merging one by one; nothing that is merged changes.
func TestMergeLaws(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		a, b, c := randomConf(rnd), randomConf(rnd), randomConf(rnd)
		ca, cb, cc := proto.Clone(a), proto.Clone(b), proto.Clone(c)
		left := &meshv1.MeshTimeout_Conf{}
		for _, m := range []proto.Message{a, b, c} {
			Merge(left, m)
		}
		bc := &meshv1.MeshTimeout_Conf{}
		Merge(bc, b)
		Merge(bc, c)
		right := &meshv1.MeshTimeout_Conf{}
		Merge(right, a)
		Merge(right, bc)
		if !proto.Equal(left, right) {
			t.Fatalf("(a+b)+c is %v, a+(b+c) is %v", left, right)
		}
		again := proto.Clone(left)
		Merge(again, c)
		if !proto.Equal(left, again) {
			t.Fatalf("merging %v again changes %v to %v", c, left, again)
		}
		if !proto.Equal(a, ca) || !proto.Equal(b, cb) || !proto.Equal(c, cc) {
			t.Fatal("a source changed")
		}
	}
}

// The order in which policies arrive has no influence once they are sorted, and every leaf is as
// its origin says.
func TestForDestinationLaws(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	kinds := []*meshv1.TargetRef{nil, {Kind: "Mesh"}, {Kind: "Dataplane"}, {
		Kind: "Dataplane",
		Name: "web",
	}, {
		Kind:   "Dataplane",
		Labels: map[string]string{"app": "web"},
	}, {Kind: "MeshSubset"}, {
		Kind: "MeshService",
		Name: "web",
	}}
	tos := []*meshv1.TargetRef{{Kind: "Mesh"}, {
		Kind: "MeshService",
		Name: "backend",
	}, {
		Kind:        "MeshService",
		Name:        "backend",
		SectionName: "main",
	}, {
		Kind: "MeshService",
		Name: "other",
	}}
	for range 500 {
		var policies []*mesh.Resource
		for i := range 1 + rnd.IntN(6) {
			spec := &meshv1.MeshTimeout{TargetRef: kinds[rnd.IntN(len(kinds))]}
			for range 1 + rnd.IntN(3) {
				spec.To = append(spec.To, &meshv1.MeshTimeout_To{
					TargetRef: tos[rnd.IntN(len(tos))],
					Default:   randomConf(rnd),
				})
			}
			policies = append(policies, &mesh.Resource{
				Key: mesh.Key{
					Kind: mesh.KindMeshTimeout,
					Mesh: "default",
					Zone: []string{"", "east"}[rnd.IntN(2)],
					Name: string(rune('a' + i)),
				},
				Spec: spec,
			})
		}
		first := ForDestination(sorted(policies), backend)
		rnd.Shuffle(len(policies), func(i, j int) { policies[i], policies[j] = policies[j], policies[i] })
		second := ForDestination(sorted(policies), backend)
		if diff := cmp.Diff(first, second, protocmp.Transform()); diff != "" {
			t.Fatalf("another order gives\n%s", diff)
		}
		for path, origin := range first.Fields {
			for _, p := range policies {
				if p.Key != origin.Key {
					continue
				}
				from := ToEntries(p)[origin.Rule].Conf.(*meshv1.MeshTimeout_Conf)
				if got, want := leaf(first.Conf.(*meshv1.MeshTimeout_Conf), path),
					leaf(from, path); !proto.Equal(got, want) {
					t.Fatalf("%s is %v, but its origin says %v", path, got, want)
				}
			}
		}
	}
}

func leaf(c *meshv1.MeshTimeout_Conf, path string) *durationpb.Duration {
	return map[string]*durationpb.Duration{"connectionTimeout": c.GetConnectionTimeout(),
		"idleTimeout": c.GetIdleTimeout(), "http.requestTimeout": c.GetHttp().GetRequestTimeout(),
		"http.streamIdleTimeout": c.GetHttp().GetStreamIdleTimeout(),
		"http.maxStreamDuration": c.GetHttp().GetMaxStreamDuration()}[path]
}
