package kds_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/kds/kdstest"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// sent is a Source that resumed with n timeouts at the other side.
func sent(t *testing.T, n int) (*kds.Source, []*mesh.Resource) {
	t.Helper()
	var all []*mesh.Resource
	for i := range n {
		r, err := kdstest.Make(mesh.KindMeshTimeout, "", fmt.Sprintf("policy-%d", i), 1)
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
	return src, all
}

func nack(key mesh.Key, reason string) *kdsv1.Frame {
	return &kdsv1.Frame{Message: &kdsv1.Frame_Nack{Nack: &kdsv1.Nack{
		Revision:   1,
		Rejections: []*meshv1.Rejection{{Cause: key.Proto(), Reason: reason}},
	}}}
}

func TestRejectionsAreOfWhatWasSentAndBounded(t *testing.T) {
	t.Parallel()

	src, all := sent(t, kds.MaxRejections+10)
	unknown := all[0].Key
	unknown.Name = "never-sent"
	answer, err := src.Recv(nack(unknown, "x"))
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Rejected) != 0 || len(src.Rejections()) != 0 {
		t.Errorf("a rejection of a key that was never sent is kept: %v", src.Rejections())
	}

	long := strings.Repeat("ä", kds.MaxReason)
	for _, r := range all {
		if _, err := src.Recv(nack(r.Key, long)); err != nil {
			t.Fatal(err)
		}
	}
	kept := src.Rejections()
	if len(kept) != kds.MaxRejections {
		t.Errorf("%d rejections are kept, must be %d", len(kept), kds.MaxRejections)
	}
	if reason := kept[0].GetReason(); len(reason) > kds.MaxReason || !utf8.ValidString(reason) {
		t.Errorf("a reason of %d bytes, valid %t", len(reason), utf8.ValidString(reason))
	}

	// One that stands can still change.
	if _, err := src.Recv(nack(mesh.KeyFromProto(kept[0].GetCause()), "other")); err != nil {
		t.Fatal(err)
	}
	if got := src.Rejections()[0].GetReason(); got != "other" {
		t.Errorf("reason %q", got)
	}
}

// fromZone is global's Sink of zone east, in the middle of a snapshot.
func fromZone(t *testing.T, maxBytes int) *kds.Sink {
	t.Helper()
	sink, err := kds.NewSink(kds.SinkConfig{
		Direction: kds.Up,
		Zone:      "east",
		Author:    "zone:east",
		MaxBytes:  maxBytes,
	}, nil, replica.NewView(0).All())
	if err != nil {
		t.Fatal(err)
	}
	reset := &kdsv1.Frame{Message: &kdsv1.Frame_Reset_{Reset_: &kdsv1.Reset{StoreId: "east"}}}
	if err := sink.Recv(reset); err != nil {
		t.Fatal(err)
	}
	return sink
}

func items(t *testing.T, keys ...mesh.Key) *kdsv1.Frame {
	t.Helper()
	list := &kdsv1.Items{}
	for _, key := range keys {
		r := &mesh.Resource{Key: key, Spec: &meshv1.MeshService{}}
		p, err := r.Proto()
		if err != nil {
			t.Fatal(err)
		}
		list.Items = append(list.Items, &kdsv1.Item{Resource: p, Version: 1})
	}
	return &kdsv1.Frame{Message: &kdsv1.Frame_Items{Items: list}}
}

func bookmark(revision uint64) *kdsv1.Frame {
	return &kdsv1.Frame{Message: &kdsv1.Frame_Bookmark{Bookmark: &kdsv1.Bookmark{Revision: revision}}}
}

func TestMalformedKeysAreAnsweredAndNotRemembered(t *testing.T) {
	t.Parallel()

	sink := fromZone(t, 0)
	good := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: "good"}
	bad := []mesh.Key{good, good, good, good}
	bad[0].Name = ""
	bad[1].Name = "a/b"
	bad[2].Mesh = ""
	bad[3].Kind = "Nonsense"
	if err := sink.Recv(items(t, append(bad, good)...)); err != nil {
		t.Fatal(err)
	}
	if err := sink.Recv(bookmark(1)); err != nil {
		t.Fatal(err)
	}
	a, ok := sink.Next()
	if !ok || len(a.Rejected) != len(bad) {
		t.Fatalf("%d rejections, must be %d: %v", len(a.Rejected), len(bad), a.Rejected)
	}
	if err := sink.Applied(); err != nil {
		t.Fatal(err)
	}
	if kept := sink.Rejections(); len(kept) != 0 {
		t.Errorf("remembered: %v", kept)
	}
	for _, op := range a.Txn.Ops {
		if meta, ok := op.(store.SetMeta); ok && strings.Contains(string(meta.Value), "rejected") {
			t.Errorf("stored: %s", meta.Value)
		}
	}
}

func TestSinkBoundsWhatItKeeps(t *testing.T) {
	t.Parallel()

	const limit = 100_000
	key := func(i int) mesh.Key {
		return mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: "east", Name: fmt.Sprint("s", i)}
	}
	foreign := func(i int) mesh.Key {
		k := key(i)
		k.Zone = "west"
		return k
	}
	first := func(t *testing.T, sink *kds.Sink) {
		t.Helper()
		if err := sink.Recv(bookmark(1)); err != nil {
			t.Fatal(err)
		}
		sink.Next()
		if err := sink.Applied(); err != nil {
			t.Fatal(err)
		}
	}
	delta := func(i int, key mesh.Key) *kdsv1.Frame {
		return &kdsv1.Frame{Message: &kdsv1.Frame_Delta{Delta: &kdsv1.Delta{
			From:     uint64(i),
			Revision: uint64(i + 1),
			Upserts:  items(t, key).GetItems().GetItems(),
		}}}
	}
	for _, c := range []struct {
		name string
		step func(t *testing.T, sink *kds.Sink, i int) error
	}{
		{"a snapshot without an end", func(t *testing.T, sink *kds.Sink, i int) error {
			return sink.Recv(items(t, key(i)))
		}},
		{"frames that wait for a commit", func(t *testing.T, sink *kds.Sink, i int) error {
			if i == 0 {
				first(t, sink)
			}
			return sink.Recv(delta(i+1, key(i)))
		}},
		{"rejections", func(t *testing.T, sink *kds.Sink, i int) error {
			if i == 0 {
				first(t, sink)
			}
			if err := sink.Recv(delta(i+1, foreign(i))); err != nil {
				return err
			}
			sink.Next()
			return sink.Applied()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()

			sink := fromZone(t, limit)
			for i := range limit {
				err := c.step(t, sink, i)
				if err == nil {
					continue
				}
				if !strings.Contains(err.Error(), "the limit is 100000") {
					t.Errorf("%v", err)
				}
				if i < 100 {
					t.Errorf("ended after %d of them", i)
				}
				return
			}
			t.Errorf("%d frames are kept", limit)
		})
	}
}

func TestWhatAZoneSaysIsCut(t *testing.T) {
	t.Parallel()

	long := strings.Repeat("x", 10*kds.MaxReason)
	p := &kdsv1.Progress{}
	hello := &kdsv1.Hello{Instance: long, Version: long}
	for range 2 * kds.MaxRejections {
		p.Pending = append(p.Pending, long)
		p.Rejections = append(p.Rejections, &meshv1.Rejection{Reason: long, Field: long, Resource: long})
		hello.CaPins = append(hello.CaPins, long)
	}
	kds.CutProgress(p)
	kds.CutHello(hello)
	if len(p.GetPending()) != kds.MaxPending || len(p.GetRejections()) != kds.MaxRejections ||
		len(hello.GetCaPins()) != kds.MaxPins {
		t.Errorf("%d pending, %d rejections, %d pins", len(p.GetPending()), len(p.GetRejections()),
			len(hello.GetCaPins()))
	}
	r := p.GetRejections()[0]
	for _, text := range []string{p.GetPending()[0], r.GetReason(), r.GetField(), r.GetResource(),
		hello.GetInstance(), hello.GetVersion(), hello.GetCaPins()[0]} {
		if len(text) > kds.MaxReason {
			t.Errorf("a text of %d bytes", len(text))
		}
	}
}
