package kds_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// receiver applies what a Sink wants to a map of versions.
type receiver struct {
	t     *testing.T
	sink  *kds.Sink
	has   map[mesh.Key]uint64
	txns  int
	acked uint64
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	sink, err := kds.NewSink(kds.SinkConfig{
		Direction: kds.Down,
		Zone:      "east",
		Author:    "kds:global",
		Validate: func(r *mesh.Resource) error {
			if r.Labels["bad"] != "" {
				return fmt.Errorf("bad")
			}
			return nil
		},
	}, nil, func(func(*mesh.Resource) bool) {})
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{t: t, sink: sink, has: map[mesh.Key]uint64{}}
	r.recv(&kdsv1.Frame{Message: &kdsv1.Frame_Reset_{Reset_: &kdsv1.Reset{StoreId: "s"}}})
	r.recv(&kdsv1.Frame{Message: &kdsv1.Frame_Bookmark{Bookmark: &kdsv1.Bookmark{}}})
	r.commit()
	return r
}

func (r *receiver) recv(f *kdsv1.Frame) {
	r.t.Helper()
	if err := r.sink.Recv(f); err != nil {
		r.t.Fatal(err)
	}
}

// commit applies transactions until there is none.
func (r *receiver) commit() {
	r.t.Helper()
	for a, ok := r.sink.Next(); ok; a, ok = r.sink.Next() {
		r.txns++
		for _, op := range a.Txn.Ops {
			switch op := op.(type) {
			case store.Put:
				r.has[op.Resource.Key] = op.Resource.OriginRevision
			case store.Delete:
				delete(r.has, op.Key)
			}
		}
		if err := r.sink.Applied(); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, f := range r.sink.Frames() {
		if ack := f.GetAck(); ack != nil {
			r.acked = ack.GetRevision()
		}
	}
}

// history is random deltas, some of them repeated.
func history(rnd *rand.Rand) []*kdsv1.Frame {
	var frames []*kdsv1.Frame
	revision := uint64(0)
	for range 1 + rnd.IntN(30) {
		d := &kdsv1.Delta{From: revision, Revision: revision + 1 + uint64(rnd.IntN(3)),
			Committed: timestamppb.Now()}
		revision = d.Revision
		for i := range 6 {
			key := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: fmt.Sprint("p", i)}
			switch rnd.IntN(5) {
			case 0:
				d.Deletes = append(d.Deletes, key.Proto())
			case 1, 2:
				res := &mesh.Resource{Key: key, Spec: &meshv1.MeshTimeout{}}
				if rnd.IntN(6) == 0 {
					res.Labels = map[string]string{"bad": "1"}
				}
				p, err := res.Proto()
				if err != nil {
					panic(err)
				}
				d.Upserts = append(d.Upserts, &kdsv1.Item{Resource: p, Version: revision})
			}
		}
		frames = append(frames, &kdsv1.Frame{Message: &kdsv1.Frame_Delta{Delta: d}})
		if rnd.IntN(8) == 0 {
			frames = append(frames, frames[rnd.IntN(len(frames))])
		}
	}
	return frames
}

// Deltas that wait for a commit are applied in fewer transactions, with the same outcome as one by one.
func TestDeltasThatWaitAreFolded(t *testing.T) {
	t.Parallel()

	folded := 0
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		frames := history(rnd)
		one, many := newReceiver(t), newReceiver(t)
		for i, f := range frames {
			one.recv(f)
			one.commit()
			many.recv(f)
			if i > 0 && rnd.IntN(6) == 0 {
				many.commit()
			}
		}
		many.commit()

		// Of a key whose last word is rejected an older copy stays, as when the sender merges.
		for _, r := range one.sink.Rejections() {
			delete(one.has, mesh.KeyFromProto(r.GetCause()))
			delete(many.has, mesh.KeyFromProto(r.GetCause()))
		}
		if !maps.Equal(one.has, many.has) {
			t.Fatalf("seed %d: one by one %v, folded %v", seed, one.has, many.has)
		}
		if one.sink.Revision() != many.sink.Revision() || one.acked != many.acked {
			t.Fatalf("seed %d: at %d and %d, acked %d and %d", seed, one.sink.Revision(),
				many.sink.Revision(), one.acked, many.acked)
		}
		if a, b := one.sink.Rejections(), many.sink.Rejections(); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("seed %d: rejected %v and %v", seed, a, b)
		}
		folded += one.txns - many.txns
	}
	if folded < 1000 {
		t.Errorf("only %d transactions were saved", folded)
	}
}

// A delta that breaks the protocol is found although it waits among others.
func TestFoldLeavesBreachesToTake(t *testing.T) {
	t.Parallel()

	key := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "a"}
	p, err := (&mesh.Resource{Key: key, Spec: &meshv1.MeshTimeout{}}).Proto()
	if err != nil {
		t.Fatal(err)
	}
	item := &kdsv1.Item{Resource: p, Version: 1}
	delta := func(d *kdsv1.Delta) *kdsv1.Frame { return &kdsv1.Frame{Message: &kdsv1.Frame_Delta{Delta: d}} }
	for name, bad := range map[string]*kdsv1.Delta{
		"twice": {From: 2, Revision: 3, Upserts: []*kdsv1.Item{item, item}},
		"put and deleted": {
			From:     2,
			Revision: 3,
			Upserts:  []*kdsv1.Item{item},
			Deletes:  []*meshv1.Key{key.Proto()},
		},
		"gap":  {From: 5, Revision: 6, Upserts: []*kdsv1.Item{item}},
		"back": {From: 2, Revision: 1, Upserts: []*kdsv1.Item{item}},
	} {
		r := newReceiver(t)
		for revision := uint64(1); revision <= 2; revision++ {
			r.recv(delta(&kdsv1.Delta{From: revision - 1, Revision: revision, Upserts: []*kdsv1.Item{item}}))
		}
		r.recv(delta(bad))
		var found error
		for found == nil {
			if _, ok := r.sink.Next(); !ok {
				break
			}
			found = r.sink.Applied()
		}
		if found == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
