package kdstest

import (
	"fmt"
	"math/rand/v2"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// Simulate does steps random things from seed to a World of three zones, with promises checked
// after each, then lets it come to rest and checks that all copies are what they should be. The
// same seed does the same.
func Simulate(seed uint64, steps int) (err error) {
	r := rand.New(rand.NewPCG(seed, 0))
	cfg := Config{
		Zones:  []string{"east", "west", "north"},
		Window: []int{1, 300, 2000, 0}[r.IntN(4)],
		Chunk:  []int{1, 200, 0}[r.IntN(3)],
		Slow:   r.IntN(2) == 0,
		Lazy:   seed%2 == 0,
	}
	w := New(cfg)
	defer w.Close()
	defer func() {
		if err != nil {
			err = fmt.Errorf("seed %d: %w", seed, err)
		}
	}()
	for i := range steps {
		if err := w.step(r); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	for _, x := range w.wires {
		if err := w.Connect(x); err != nil {
			return err
		}
	}
	if err := w.Stabilize(); err != nil {
		return err
	}
	// What a lazy Source did not announce is nothing that the other side lacks.
	if err := w.Same(); err != nil {
		return err
	}
	if err := w.Announce(); err != nil {
		return err
	}
	if err := w.Stabilize(); err != nil {
		return err
	}
	if err := w.Converged(); err != nil {
		return err
	}
	if err := w.CheckSummaries(); err != nil {
		return err
	}
	if err := w.Stabilize(); err != nil {
		return err
	}
	if n := w.Mismatches(); n > 0 {
		return fmt.Errorf("summaries of %d kinds differ though all copies are equal", n)
	}
	if err := w.CheckDigests(); err != nil {
		return err
	}
	if err := w.Stabilize(); err != nil {
		return err
	}
	if n := w.Mismatches(); n > 0 {
		return fmt.Errorf("digests of %d kinds differ though all copies are equal", n)
	}
	return nil
}

var downKinds = []mesh.Kind{mesh.KindMeshTimeout, mesh.KindMeshTimeout, mesh.KindMesh,
	mesh.KindMeshMultiZoneService, mesh.KindSecret, mesh.KindGlobalSecret}
var upKinds = []mesh.Kind{mesh.KindMeshService, mesh.KindMeshService, mesh.KindMeshTimeout,
	mesh.KindZoneIngress, mesh.KindDataplane}

// step does one random thing.
func (w *World) step(r *rand.Rand) error {
	zone := w.cfg.Zones[r.IntN(len(w.cfg.Zones))]
	x := w.wires[r.IntN(len(w.wires))]
	switch n := r.IntN(100); {
	case n < 15:
		return w.write(r, w.Global, downKinds)
	case n < 30:
		return w.write(r, w.Zones[zone], upKinds)
	case n < 32:
		on := r.IntN(2) == 0
		return w.Commit(w.Global, store.Put{Resource: &mesh.Resource{
			Key:  mesh.Key{Kind: mesh.KindZone, Name: zone},
			Spec: &meshv1.Zone{Enabled: &on},
		}})
	case n < 33:
		return w.Commit(w.Global, store.Delete{Key: mesh.Key{Kind: mesh.KindZone, Name: zone}})
	case n < 45:
		return w.Connect(x)
	case n < 49:
		w.Cut(x)
	case n < 50:
		w.Restart(w.nodes()[r.IntN(len(w.nodes()))])
	case n == 50 && r.IntN(4) == 0:
		return w.Recreate(w.nodes()[r.IntN(len(w.nodes()))])
	case n < 53:
		return w.nodes()[r.IntN(len(w.nodes()))].Compact()
	case n < 56:
		if x.Connected() {
			switch n {
			case 53:
				x.source.CheckDigest()
			case 54:
				x.source.CheckSummary()
			default:
				x.source.Announce()
			}
			return w.send(x)
		}
	default:
		for range r.IntN(6) {
			if _, err := w.Deliver(w.wires[r.IntN(len(w.wires))], r.IntN(3) > 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// write commits a few random writes in one transaction.
func (w *World) write(r *rand.Rand, n *Node, kinds []mesh.Kind) error {
	ops := map[mesh.Key][]store.Op{}
	var order []mesh.Key
	for range 1 + r.IntN(3) {
		kind := kinds[r.IntN(len(kinds))]
		res, err := Make(kind, n.zone(), string(rune('a'+r.IntN(5))), r.IntN(4))
		if err != nil {
			return err
		}
		if _, ok := ops[res.Key]; ok {
			continue
		}
		ops[res.Key] = nil
		order = append(order, res.Key)
		info, _ := mesh.Lookup(kind)
		switch r.IntN(5) {
		case 0:
			ops[res.Key] = []store.Op{store.Delete{Key: res.Key}}
		case 1:
			if info.NewStatus != nil {
				ops[res.Key] = []store.Op{store.PutStatus{Key: res.Key, Status: MakeStatus(kind, r.IntN(4))}}
			}
		case 2:
			if info.NewStatus != nil {
				ops[res.Key] = append(ops[res.Key], store.PutStatus{
					Key:    res.Key,
					Status: MakeStatus(kind, r.IntN(4)),
				})
			}
			fallthrough
		default:
			if r.IntN(8) == 0 {
				res.Labels = map[string]string{mesh.LabelSync: mesh.SyncDisabled}
			} else if r.IntN(8) == 0 {
				res.Labels = map[string]string{mesh.LabelGraceStarted: "now"}
			}
			ops[res.Key] = append(ops[res.Key], store.Put{Resource: res})
		}
	}
	var all []store.Op
	for _, key := range order {
		all = append(all, ops[key]...)
	}
	return w.Commit(n, all...)
}
