package kdstest

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// unique checks that a delta repeats nothing.
func (w *World) unique(x *Wire, f *kdsv1.Frame) error {
	d := f.GetDelta()
	if d == nil || len(d.GetCompleteKinds()) > 0 || w.togglesZones(x, x.lastResume, d.GetRevision()) {
		return nil
	}
	for _, item := range d.GetUpserts() {
		key := mesh.KeyFromProto(item.GetResource().GetKey())
		have, ok := x.to.View().Get(key)
		if !ok || have.OriginRevision != item.GetVersion() {
			continue
		}
		in, err := mesh.FromProto(item.GetResource())
		if err != nil {
			return err
		}
		// A status that changed there and back since the cursor is sent by a Source that resumes:
		// it cannot know.
		if own, ok := x.from.View().Get(key); ok && own.StatusRevision > x.lastResume {
			continue
		}
		if sameStatus(have.Status, in.Status) {
			return fmt.Errorf("promise unique: %s sends %s version %d again", x, key, item.GetVersion())
		}
	}
	return nil
}

// togglesZones says whether a Zone changed, after which a resuming Source cannot know what the other
// side was shown.
func (w *World) togglesZones(x *Wire, after, through uint64) bool {
	if x.Direction == kds.Up {
		return false
	}
	changes, err := x.from.changes(after, through)
	if err != nil {
		return true // compacted: there was a Reset
	}
	return slices.ContainsFunc(changes, func(c store.Change) bool { return c.Key.Kind == mesh.KindZone })
}

func sameStatus(a, b proto.Message) bool {
	if a == nil || b == nil {
		return (a == nil || proto.Size(a) == 0) && (b == nil || proto.Size(b) == 0)
	}
	return proto.Equal(a, b)
}

// atomic checks that the copies are those of the Sink's revision.
func (w *World) atomic(x *Wire) error {
	cursor := x.sink.Cursor()
	if cursor == nil || cursor.GetStoreId() != x.from.Store.ID() || len(x.to.Refuse) > 0 || x.to.tampered {
		return nil
	}
	if cursor.GetSchema() != w.agreed(x).Schema {
		return nil // a snapshot under the new agreement is on its way
	}
	state, ok := x.from.history[cursor.GetRevision()]
	if !ok {
		return fmt.Errorf("promise ordered: %s is at revision %d, which never was", x, cursor.GetRevision())
	}
	if diff := w.Difference(x, state); diff != "" {
		return fmt.Errorf("promise atomic: %s at revision %d: %s", x, cursor.GetRevision(), diff)
	}
	return nil
}

// Difference compares a receiver's copies with what the View shows of state; empty if they are equal.
func (w *World) Difference(x *Wire, state replica.View) string {
	view := w.view(x, w.agreed(x))
	for r := range state.All() {
		if r.Key.Kind == mesh.KindZone {
			view.NoteZone(r.Key.Name, r)
		}
	}
	want := map[mesh.Key]*mesh.Resource{}
	for r := range state.All() {
		if seen := view.See(r); seen != nil {
			want[seen.Key] = seen
		}
	}
	var diffs []string
	for r := range x.to.View().All() {
		if !kds.Exchanged(x.Direction, x.Zone, r.Key) || view.Withheld(r.Key.Kind) {
			continue
		}
		if x.sink.Keeps(r.Key) {
			continue // of a store that the zone had before
		}
		seen := want[r.Key]
		delete(want, r.Key)
		switch {
		case seen == nil:
			diffs = append(diffs, "has "+r.Key.String()+" too many")
		case !proto.Equal(seen.Spec, r.Spec) || !maps.Equal(seen.Labels, r.Labels) ||
			r.OriginRevision != seen.Revision:
			diffs = append(diffs,
				fmt.Sprintf("has %s version %d, want %d", r.Key, r.OriginRevision, seen.Revision))
		case seen.Status != nil && !sameStatus(seen.Status, r.Status):
			diffs = append(diffs, "has another status of "+r.Key.String())
		case !r.Created.Equal(seen.Created):
			diffs = append(diffs, "lost the creation time of "+r.Key.String())
		}
	}
	for key := range want {
		diffs = append(diffs, "lacks "+key.String())
	}
	sort.Strings(diffs)
	return strings.Join(diffs, ", ")
}

// Converged checks that every receiver has what it should, and that digests agree. All wires must
// be up and stable.
func (w *World) Converged() error {
	for _, x := range w.wires {
		if x.sink.Revision() != x.from.revision() {
			return fmt.Errorf("promise resumable: %s stopped at revision %d of %d", x, x.sink.Revision(),
				x.from.revision())
		}
	}
	return w.Same()
}

// Same checks that every receiver has what it should, and that a Source that says so knows it. All
// wires must be up and stable.
func (w *World) Same() error {
	for _, x := range w.wires {
		needed, ok := x.source.Settled()
		if !ok || x.sink.Revision() < needed {
			return fmt.Errorf("promise resumable: %s needs revision %d (%t), and stopped at %d", x,
				needed, ok, x.sink.Revision())
		}
		if len(x.to.Refuse) > 0 {
			continue
		}
		if diff := w.Difference(x, x.from.View()); diff != "" {
			return fmt.Errorf("promise resumable: %s: %s", x, diff)
		}
	}
	return nil
}
