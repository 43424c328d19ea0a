package kds_test

import (
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/kds/kdstest"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// A summary that differs leads to the digests of every kind, and these to what is missing.
func TestSummaryThatDiffersIsRepaired(t *testing.T) {
	t.Parallel()

	var all []*mesh.Resource
	for _, name := range []string{"a", "b"} {
		r, err := kdstest.Make(mesh.KindMeshTimeout, "", name, 1)
		if err != nil {
			t.Fatal(err)
		}
		r.Revision = 1
		all = append(all, r)
	}
	src := kds.NewSource(kds.SourceConfig{
		StoreID: "global",
		View:    &kds.View{Direction: kds.Down, Zone: "east"},
	})
	src.Resume(replica.NewView(1, all...), 1, nil, time.Time{})

	copied := all[0].Clone()
	copied.OriginRevision = 1
	sink, err := kds.NewSink(kds.SinkConfig{Direction: kds.Down, Zone: "east", Author: "kds:global"},
		[]byte(`{"store_id": "global", "revision": 1}`), replica.NewView(1, copied).All())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Next(); err != nil { // the digest of a resumption, which gets lost here
		t.Fatal(err)
	}

	src.CheckSummary()
	want := []string{
		"Digest{1 of all}",
		"answer Digest{1 MeshTimeout:1}",
		"Digest{1 MeshTimeout:2}",
		"answer Digest{1 MeshTimeout:1}",
		"answer ResetKind{MeshTimeout}",
		"Delta{1..1 +MeshTimeout/a@1 +MeshTimeout/b@1 all of MeshTimeout}",
		"answer Ack{1}",
		"Digest{1 MeshTimeout:2}",
		"answer Digest{1 MeshTimeout:2}",
	}
	got := exchange(t, src, sink)
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("frame %d of\n%q\nmust be that of\n%q", i, got, want)
		}
	}
	if !src.Equal() || !sink.Equal() {
		t.Errorf("equal: source %t, sink %t", src.Equal(), sink.Equal())
	}
	if src.Stats().Mismatches != 1 || sink.Mismatches() != 1 {
		t.Errorf("mismatches: source %d, sink %d; must be 1", src.Stats().Mismatches, sink.Mismatches())
	}

	src.CheckSummary()
	got = exchange(t, src, sink)
	if len(got) != 2 || got[0] != "Digest{1 of all}" || got[1] != "answer Digest{1 of all}" {
		t.Errorf("after that: %q", got)
	}
}

// exchange hands frames to and fro until there are none, and describes them in order.
func exchange(t *testing.T, src *kds.Source, sink *kds.Sink) []string {
	t.Helper()
	var out []string
	for {
		f, err := src.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			return out
		}
		out = append(out, kdstest.Describe(f))
		for _, answer := range answers(t, sink, f) {
			out = append(out, "answer "+kdstest.Describe(answer))
			if _, err := src.Recv(answer); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// answers of a Sink, whose transactions are taken as durable.
func answers(t *testing.T, sink *kds.Sink, f *kdsv1.Frame) []*kdsv1.Frame {
	t.Helper()
	if err := sink.Recv(f); err != nil {
		t.Fatal(err)
	}
	for {
		if _, ok := sink.Next(); !ok {
			return sink.Frames()
		}
		if err := sink.Applied(); err != nil {
			t.Fatal(err)
		}
	}
}
