package kds

import (
	"fmt"
	"strings"
	"unicode/utf8"

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

// malformed says why a store would refuse the key, which would hold up all that came with it.
func malformed(key mesh.Key) string {
	info, ok := mesh.Lookup(key.Kind)
	switch {
	case !ok:
		return "unknown kind"
	case key.Name == "":
		return "the name is empty"
	case (info.Scope == mesh.ScopeMesh) != (key.Mesh != ""):
		return fmt.Sprintf("kind %s and mesh %q do not go together", key.Kind, key.Mesh)
	}
	for _, part := range []string{key.Mesh, key.Zone, key.Namespace, key.Name} {
		if strings.ContainsAny(part, "/\x00") || !utf8.ValidString(part) {
			return fmt.Sprintf("%q has a slash, a zero byte or is not UTF-8", part)
		}
	}
	return ""
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
