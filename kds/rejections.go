package kds

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// rejectedItem is what a Sink remembers of an item that it left out.
type rejectedItem struct {
	Version     uint64      `json:"version"`
	Fingerprint fingerprint `json:"fingerprint"`
	Field       string      `json:"field,omitempty"`
	Reason      string      `json:"reason"`
}

func (s *Sink) keepRejected(key mesh.Key, item rejectedItem) {
	s.forgetRejected(key)
	s.rejected[key] = item
	s.rejectedBytes += sizeOf(key, item)
}

func (s *Sink) forgetRejected(key mesh.Key) {
	if item, ok := s.rejected[key]; ok {
		s.rejectedBytes -= sizeOf(key, item)
		delete(s.rejected, key)
	}
}

// sizeOf is about what a rejection takes in memory, bytes, with its fingerprint.
func sizeOf(key mesh.Key, item rejectedItem) int {
	return 300 + len(key.Mesh) + len(key.Zone) + len(key.Namespace) + len(key.Name) + len(item.Field) +
		len(item.Reason)
}

func (s *Sink) foreign(key mesh.Key) string {
	owner := "global"
	if key.Zone != "" {
		owner = "zone " + key.Zone
	}
	if s.cfg.Direction == Up {
		return fmt.Sprintf("%s of %s cannot come from zone %s: a zone may send resources of its own, of "+
			"kinds that go up", key.Kind, owner, s.cfg.Zone)
	}
	return fmt.Sprintf("%s of %s cannot come from global to zone %s", key.Kind, owner, s.cfg.Zone)
}

// Rejections lists the items of the other side that are rejected and not applied.
func (s *Sink) Rejections() []*meshv1.Rejection {
	m := make(map[mesh.Key]*meshv1.Rejection, len(s.rejected))
	for key, r := range s.rejected {
		m[key] = &meshv1.Rejection{
			Stage:    meshv1.Rejection_STAGE_STORE,
			Cause:    key.Proto(),
			Revision: r.Version,
			Field:    r.Field,
			Reason:   r.Reason,
		}
	}
	return sortedRejections(m)
}
