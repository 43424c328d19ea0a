package kds

import (
	"fmt"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// A zone that was alone owned what global owns from now on. Its first snapshot of global would replace all
// of that, so it is refused until global has it, or the zone has it no more.

const (
	// federateRetryMs is how long a zone waits until it asks for a snapshot again.
	federateRetryMs = 5000
	// maxNamed bounds how many resources the reason names.
	maxNamed = 10
)

// ownedAlone says whether a zone that was alone wrote r, and global would have to have it: what came from
// global has its revision there, defaults and secrets are made by each root control plane itself.
func (s *Sink) ownedAlone(r *mesh.Resource) bool {
	info, ok := mesh.Lookup(r.Key.Kind)
	return ok && s.cfg.Direction == Down && r.OriginRevision == 0 && !info.Secret() &&
		r.Labels[mesh.LabelManagedBy] != mesh.ManagedByDefaults
}

// unfederated refuses a first snapshot that lacks what the zone owned while it was alone.
func (s *Sink) unfederated(items []*kdsv1.Item) error {
	if s.cursor != nil || len(s.alone) == 0 {
		return nil
	}
	sent := make(map[mesh.Key]*kdsv1.Item, len(items))
	for _, item := range items {
		sent[mesh.KeyFromProto(item.GetResource().GetKey())] = item
	}
	var missing []string
	for key, own := range s.alone {
		item := sent[key]
		if item == nil {
			missing = append(missing, key.String())
		} else if r, err := mesh.FromProto(item.GetResource()); err != nil || !proto.Equal(r.Spec, own.Spec) {
			missing = append(missing, key.String()+" (global's is another)")
		}
	}
	if len(missing) == 0 {
		return nil
	}
	sort.Strings(missing)
	named := strings.Join(missing[:min(maxNamed, len(missing))], ", ")
	if n := len(missing) - maxNamed; n > 0 {
		named += fmt.Sprintf(" and %d more", n)
	}
	return &CloseError{&kdsv1.Close{
		Code:         kdsv1.Close_CODE_PROTOCOL,
		RetryAfterMs: federateRetryMs,
		Reason: fmt.Sprintf("this zone owned resources while it had no global, and they would be lost: %s. "+
			"%s", named, hint.CarryOver),
	}}
}
