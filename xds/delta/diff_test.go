package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
)

// contents are the versions of a table by type and name.
func contents(t *Table) map[string]string {
	out := map[string]string{}
	for _, typ := range Types {
		for r := range t.All(typ) {
			out[typ.String()+"/"+r.Name] = r.Version
		}
	}
	return out
}

// TestDiffIsTheDifference: a step applied to the old table gives the new one, says nothing twice,
// and changes nothing that was the same, however resources move between segments.
func TestDiffIsTheDifference(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() *Table {
		segments := make([][]*Resource, 1+rng.IntN(4))
		for i := range 30 {
			if rng.IntN(3) > 0 {
				at := rng.IntN(len(segments))
				r := NewResource(Type(i%int(numTypes)), fmt.Sprint("r", i), []byte{byte(rng.IntN(3))})
				segments[at] = append(segments[at], r)
			}
		}
		out := &Table{}
		for _, rs := range segments {
			out.Segments = append(out.Segments, NewSegment(rs))
		}
		return out
	}
	check := func(old, now *Table) {
		t.Helper()
		step := now.Diff(old)
		got := map[string]string{}
		if old != nil {
			got = contents(old)
		}
		seen := map[string]bool{}
		for _, typ := range Types {
			for _, r := range step.Changed[typ] {
				k := typ.String() + "/" + r.Name
				if got[k] == r.Version {
					t.Fatalf("%s did not change", k)
				}
				if seen[k] {
					t.Fatalf("%s twice", k)
				}
				seen[k], got[k] = true, r.Version
			}
			for _, name := range step.Removed[typ] {
				k := typ.String() + "/" + name
				if seen[k] {
					t.Fatalf("%s twice", k)
				}
				seen[k] = true
				delete(got, k)
			}
		}
		if want := contents(now); !maps.Equal(want, got) {
			t.Fatal(cmp.Diff(want, got))
		}
	}
	last := random()
	check(nil, last)
	for range 2000 {
		now := random()
		for i := range now.Segments { // keep some segments as they are
			if i < len(last.Segments) && rng.IntN(3) == 0 {
				other := map[string]bool{}
				for j, s := range now.Segments {
					if j != i {
						for k := range contents(&Table{Segments: []*Segment{s}}) {
							other[k] = true
						}
					}
				}
				clash := false
				for k := range contents(&Table{Segments: []*Segment{last.Segments[i]}}) {
					clash = clash || other[k]
				}
				if !clash {
					now.Segments[i] = last.Segments[i]
				}
			}
		}
		check(last, now)
		check(now, now)
		last = now
	}
}

// TestDiffIsShared: proxies of a group share one comparison, and the memory of it does not keep old
// segments alive.
func TestDiffIsShared(t *testing.T) {
	segment := func(v byte) *Segment {
		return NewSegment([]*Resource{NewResource(TypeCluster, "a", []byte{v}),
			NewResource(TypeCluster, "b", []byte{7})})
	}
	own := []*Segment{NewSegment(nil), NewSegment(nil)}
	old, now := segment(1), segment(2)
	first := (&Table{Segments: []*Segment{now, own[0]}}).Diff(&Table{Segments: []*Segment{old, own[0]}})
	second := (&Table{Segments: []*Segment{now, own[1]}}).Diff(&Table{Segments: []*Segment{old, own[1]}})
	if first != second {
		t.Error("two proxies of a group computed the same step twice")
	}
	if len(first.Changed[TypeCluster]) != 1 {
		t.Errorf("changed %v", first.Changed)
	}
	gone := make(chan struct{})
	runtime.AddCleanup(old, func(c chan struct{}) { close(c) }, gone)
	old = nil
	for range 100 {
		runtime.GC()
		select {
		case <-gone:
			runtime.KeepAlive(now)
			return
		default:
			runtime.Gosched()
		}
	}
	t.Error("the old segment is kept alive")
}

func TestEncodeIsTheMessage(t *testing.T) {
	a, b := NewResource(TypeCluster, "a", []byte("\x0a\x01a")), &Resource{
		Type:    TypeCluster,
		Name:    "b",
		Version: "v",
		Body:    []byte("\x0a\x01b"),
	}
	r := &response{typ: TypeCluster, nonce: "n1", resources: []*Resource{a, b}, removed: []string{"x", "y"}}
	var got discoveryv3.DeltaDiscoveryResponse
	wire := r.encode().Materialize()
	if err := proto.Unmarshal(wire, &got); err != nil {
		t.Fatal(err)
	}
	want := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl:          TypeCluster.URL(),
		Nonce:            "n1",
		RemovedResources: []string{"x", "y"},
		Resources: []*discoveryv3.Resource{
			{Name: "a", Version: a.Version, Resource: &anypb.Any{TypeUrl: TypeCluster.URL(), Value: a.Body}},
			{Name: "b", Version: "v", Resource: &anypb.Any{TypeUrl: TypeCluster.URL(), Value: b.Body}},
		},
	}
	if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if d := len(wire) - r.size(); d < 0 || d > 100 {
		t.Errorf("size %d, encoded %d", r.size(), len(wire))
	}
}

func TestMentions(t *testing.T) {
	for _, c := range []struct {
		text, name string
		want       bool
	}{
		{"Error adding/updating listener(s) kri_a_1: bad", "kri_a_1", true},
		{"Error adding/updating listener(s) kri_a_10: bad", "kri_a_1", false},
		{"xkri_a_1", "kri_a_1", false},
		{"xweb web", "web", true},
		{"cluster web.", "web", true},
		{"cluster web.default: bad", "web", false},
		{"'web'", "web", true},
		{"anything", "", false},
		{"", "web", false},
	} {
		if got := mentions(c.text, c.name); got != c.want {
			t.Errorf("mentions(%q, %q) = %v", c.text, c.name, got)
		}
	}
}

// FuzzEndpointsOf: whatever an encoded cluster holds, reading it neither panics nor hangs.
func FuzzEndpointsOf(f *testing.F) {
	f.Add([]byte("\x0a\x01a\x10\x03"))
	f.Add([]byte("\x10\x03\x1a\x03\x12\x01s"))
	f.Fuzz(func(t *testing.T, b []byte) { endpointsOf("name", b) })
}
