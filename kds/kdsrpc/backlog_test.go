package kdsrpc

import (
	"context"
	"testing"

	"github.com/meridian-mesh/meridian/kds"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// A peer that asks on and on and reads no answer has to wait instead of filling the memory.
func TestPeerThatReadsNothingWaits(t *testing.T) {
	n := newNode(t)
	sink, err := kds.NewSink(kds.SinkConfig{Direction: kds.Up, Zone: "east", Author: "zone:east"},
		[]byte(`{"store_id": "east", "revision": 1}`), n.replica.View().All())
	if err != nil {
		t.Fatal(err)
	}
	h := &hostSink{
		sink:  sink,
		store: n.store,
		l: &link[kdsv1.Frame]{
			in:   make(chan *kdsv1.Frame),
			out:  make(chan *kdsv1.Frame),
			errs: make(chan error),
		},
		received:   func(*kdsv1.Frame) (bool, error) { return false, nil },
		taken:      func(*kdsv1.Frame) {},
		mismatched: func(uint64) {},
	}
	run(t, func(ctx context.Context) error { return h.run(ctx) })

	question := &kdsv1.Frame{Message: &kdsv1.Frame_Digest{Digest: &kdsv1.Digest{Revision: 1}}}
	for range maxBacklog + 1 {
		h.l.in <- question
	}
	select {
	case h.l.in <- question:
		t.Fatalf("%d questions are taken before an answer is read", maxBacklog+2)
	case <-h.l.out:
	}
	h.l.in <- question
}
