package selector

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func dataplane(zone, name string, labels map[string]string, inbounds ...map[string]string) *mesh.Resource {
	spec := &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Address: "10.0.0.1"}}
	for i, tags := range inbounds {
		spec.Networking.Inbound = append(spec.Networking.Inbound, &meshv1.Dataplane_Inbound{
			Port: uint32(8080 + i),
			Tags: tags,
		})
	}
	return &mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: zone, Name: name},
		Labels: labels,
		Spec:   spec,
	}
}

func byLabels(labels map[string]string) *meshv1.MeshService_Selector {
	return &meshv1.MeshService_Selector{
		DataplaneLabels: &meshv1.MeshService_DataplaneLabels{MatchLabels: labels},
	}
}

func byTags(tags map[string]string) *meshv1.MeshService_Selector {
	return &meshv1.MeshService_Selector{DataplaneTags: tags}
}

func byName(name string) *meshv1.MeshService_Selector {
	return &meshv1.MeshService_Selector{DataplaneRef: &meshv1.MeshService_DataplaneRef{Name: name}}
}

func TestSelectsDataplane(t *testing.T) {
	t.Parallel()

	dp := dataplane("east", "web-1", map[string]string{"app": "web"},
		map[string]string{mesh.TagService: "web", "version": "1"},
		map[string]string{mesh.TagService: "admin", mesh.TagZone: "west"})
	for name, tc := range map[string]struct {
		selector *meshv1.MeshService_Selector
		dp       *mesh.Resource
		want     bool
	}{
		"nothing":            {&meshv1.MeshService_Selector{}, dp, false},
		"written label":      {byLabels(map[string]string{"app": "web"}), dp, true},
		"other value":        {byLabels(map[string]string{"app": "api"}), dp, false},
		"no labels":          {byLabels(nil), dp, true},
		"name as label":      {byLabels(map[string]string{mesh.LabelDisplayName: "web-1"}), dp, true},
		"zone as label":      {byLabels(map[string]string{mesh.LabelZone: "east"}), dp, true},
		"mesh as label":      {byLabels(map[string]string{mesh.LabelMesh: "default"}), dp, true},
		"namespace as label": {byLabels(map[string]string{mesh.LabelNamespace: ""}), dp, false},
		"tags of one inbound": {byTags(map[string]string{mesh.TagService: "web", "version": "1"}), dp,
			true},
		"tags of two inbounds": {byTags(map[string]string{mesh.TagService: "admin", "version": "1"}), dp,
			false},
		"zone that follows": {byTags(map[string]string{mesh.TagService: "web", mesh.TagZone: "east"}), dp,
			true},
		"zone that is given": {byTags(map[string]string{mesh.TagService: "admin", mesh.TagZone: "west"}),
			dp, true},
		"zone not of the key": {byTags(map[string]string{mesh.TagService: "admin", mesh.TagZone: "east"}),
			dp, false},
		"inbound without tags": {byTags(map[string]string{mesh.TagZone: "east"}),
			dataplane("east", "a", nil, nil), true},
		"name":                  {byName("web-1"), dp, true},
		"name without inbounds": {byName("a"), dataplane("east", "a", nil), false},
	} {
		if got := SelectsDataplane(tc.selector, tc.dp); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()

	r := &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "m", Zone: "east", Name: "web"},
		Labels: map[string]string{
			"app":            "web",
			mesh.LabelZone:   "west",
			mesh.LabelOrigin: mesh.OriginZone,
		},
	}
	want := map[string]string{
		"app":                 "web",
		mesh.LabelDisplayName: "web",
		mesh.LabelMesh:        "m",
		mesh.LabelZone:        "east",
		mesh.LabelOrigin:      mesh.OriginZone,
	}
	if diff := cmp.Diff(want, Labels(r)); diff != "" {
		t.Errorf("labels (-want +got)\n%s", diff)
	}
	want[mesh.LabelEnv] = "universal"
	if diff := cmp.Diff(want, LabelsAt(r, "east")); diff != "" {
		t.Errorf("labels at their own zone (-want +got)\n%s", diff)
	}
	want[mesh.LabelOrigin] = mesh.OriginGlobal
	if diff := cmp.Diff(want, LabelsAt(r, "west")); diff != "" {
		t.Errorf("labels at another zone (-want +got)\n%s", diff)
	}

	r.Labels[mesh.LabelDisplayName] = "shown"
	if got := Labels(r)[mesh.LabelDisplayName]; got != "shown" {
		t.Errorf("a written display name becomes %q", got)
	}
}

func TestRarest(t *testing.T) {
	t.Parallel()

	for want, pairs := range map[string]map[string]string{
		mesh.TagService:       {mesh.TagService: "a", "a": "b"},
		mesh.LabelDisplayName: {mesh.LabelDisplayName: "a", mesh.LabelZone: "b", "a": "b"},
		"b":                   {mesh.LabelZone: "b", "c": "d", "b": "x", "a": "*"},
		mesh.LabelZone:        {mesh.LabelZone: "b"},
		"":                    {"a": "*"},
	} {
		if got, ok := Rarest(pairs); got != want || ok != (want != "") {
			t.Errorf("%v: %q %t, want %q", pairs, got, ok, want)
		}
	}
}

// random draws from few words, so that selectors often match.
type random struct{ *rand.Rand }

func (r random) word(words ...string) string { return words[r.IntN(len(words))] }

func (r random) pairs(atMost int, words ...string) map[string]string {
	out := map[string]string{}
	for range r.IntN(atMost + 1) {
		out[r.word(words...)] = r.word("a", "b", "east", "west", "default", "*", "")
	}
	return out
}

func (r random) labels(atMost int) map[string]string {
	return r.pairs(atMost, "a", "b", mesh.LabelZone, mesh.LabelMesh, mesh.LabelDisplayName,
		mesh.LabelNamespace, mesh.LabelOrigin, mesh.LabelEnv, mesh.LabelWorkload)
}

func (r random) tags(atMost int) map[string]string {
	return r.pairs(atMost, "a", "b", mesh.TagService, mesh.TagZone, mesh.TagProtocol)
}

func (r random) key(kind mesh.Kind) mesh.Key {
	return mesh.Key{
		Kind:      kind,
		Mesh:      r.word("default", "a"),
		Zone:      r.word("east", "west", ""),
		Namespace: r.word("", "", "a"),
		Name:      r.word("a", "b", "c"),
	}
}

func (r random) dataplane() *mesh.Resource {
	inbounds := make([]map[string]string, r.IntN(3))
	for i := range inbounds {
		inbounds[i] = r.tags(3)
	}
	dp := dataplane("", "", r.labels(3), inbounds...)
	dp.Key = r.key(mesh.KindDataplane)
	return dp
}

func (r random) selector() *meshv1.MeshService_Selector {
	switch r.IntN(4) {
	case 0:
		return byTags(r.tags(2))
	case 1:
		return byName(r.word("a", "b", "c"))
	case 2:
		return byLabels(r.labels(2))
	}
	return &meshv1.MeshService_Selector{}
}

// TestIndexFindsWhatMatches: among the Dataplanes that have the term of a selector are all that it
// selects, and no selector that selects something is without a term.
func TestIndexFindsWhatMatches(t *testing.T) {
	t.Parallel()

	rnd := random{rand.New(rand.NewPCG(1, 2))}
	matched := 0
	for range 3000 {
		index := map[Term][]*mesh.Resource{}
		var all []*mesh.Resource
		for range 8 {
			dp := rnd.dataplane()
			all = append(all, dp)
			terms := ProxyOf(dp).Terms()
			for i, term := range terms {
				if slices.Contains(terms[:i], term) {
					t.Fatalf("%v has the term %v twice", dp, term)
				}
				index[term] = append(index[term], dp)
			}
		}

		s := rnd.selector()
		selects := func(dp *mesh.Resource) bool { return SelectsDataplane(s, dp) }
		want := slices.DeleteFunc(slices.Clone(all), func(dp *mesh.Resource) bool { return !selects(dp) })
		term, ok := TermOf(s)
		if !ok && len(want) > 0 {
			t.Fatalf("%v selects %v and has no term", s, want)
		}
		var got []*mesh.Resource
		for _, dp := range index[term] {
			if ok && selects(dp) {
				got = append(got, dp)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v: the term %v finds %v, want %v", s, term, got, want)
		}
		matched += len(want)
	}
	if matched < 1000 {
		t.Errorf("only %d matches: the test says nothing", matched)
	}
}

// TestLabelIndexFindsWhatMatches is the same for services, which are selected by labels, and for the
// three ways to ask for labels.
func TestLabelIndexFindsWhatMatches(t *testing.T) {
	t.Parallel()

	rnd := random{rand.New(rand.NewPCG(3, 4))}
	matched := 0
	for range 20000 {
		r := &mesh.Resource{Key: rnd.key(mesh.KindMeshService), Labels: rnd.labels(3)}
		want := rnd.labels(2)
		matches := Matches(want, r)
		if effective := Labels(r); Subset(want, effective) != matches {
			t.Fatalf("%v of %v: %t, but its labels are %v", want, r, matches, effective)
		}
		each := map[string]string{}
		EachLabel(r.Key, r.Labels, func(label, value string) {
			if _, ok := each[label]; ok {
				t.Fatalf("%v has the label %s twice", r, label)
			}
			each[label] = value
		})
		if !maps.Equal(each, Labels(r)) {
			t.Fatalf("%v has each of %v and all of %v", r, each, Labels(r))
		}
		if matches && !slices.Contains(Terms(r), TermOfLabels(want)) {
			t.Fatalf("%v matches %v and has not its term %v", want, r, TermOfLabels(want))
		}
		if matches {
			matched++
		}
	}
	if matched < 1000 {
		t.Errorf("only %d matches: the test says nothing", matched)
	}
}

func BenchmarkSelectsDataplane(b *testing.B) {
	dp := ProxyOf(dataplane("east", "web-1", map[string]string{"app": "web"},
		map[string]string{mesh.TagService: "web", "version": "1"}))
	for name, s := range map[string]*meshv1.MeshService_Selector{
		"tags":   byTags(map[string]string{mesh.TagService: "web", mesh.TagZone: "east"}),
		"labels": byLabels(map[string]string{"app": "web", mesh.LabelDisplayName: "web-1"}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !dp.SelectedBy(s) {
					b.Fatal("not selected")
				}
			}
		})
	}
}

func ExampleSelectsDataplane() {
	dp := &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: "east", Name: "web-1"},
		Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Inbound: []*meshv1.Dataplane_Inbound{{
				Port: 8080,
				Tags: map[string]string{mesh.TagService: "web"},
			}},
		}},
	}
	// The zone's tag counts although the document does not have it.
	s := &meshv1.MeshService_Selector{DataplaneTags: map[string]string{
		mesh.TagService: "web",
		mesh.TagZone:    "east",
	}}
	term, _ := TermOf(s)
	fmt.Println(SelectsDataplane(s, dp), term.Name, term.Value)
	// Output: true kuma.io/service web
}
