package policy

import (
	"cmp"
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Roles of a policy, label kuma.io/policy-role. An absent role is RoleSystem.
const (
	RoleSystem        = "system"
	RoleProducer      = "producer"
	RoleConsumer      = "consumer"
	RoleWorkloadOwner = "workload-owner"
)

// Names of target kinds that are no kinds of resources.
const (
	targetMesh          = "Mesh"
	targetDataplane     = "Dataplane"
	targetSubset        = "MeshSubset"
	targetGateway       = "MeshGateway"
	targetService       = "MeshService"
	targetServiceSubset = "MeshServiceSubset"
	targetHTTPRoute     = "MeshHTTPRoute"
)

// Head is what decides whom a policy selects and how it ranks. It is small; compare two with [Head.Equal].
type Head struct {
	Key mesh.Key
	// Target is the top-level targetRef, never nil: an absent one is Mesh.
	Target *meshv1.TargetRef
	// Origin is "global" or "zone".
	Origin string
	// Role is never empty.
	Role        string
	DisplayName string
	Zone        string
	Namespace   string
	// Shadow policies select no proxy; they are shown by inspection only.
	Shadow bool
	// Default policies were made by the system and rank below all others.
	Default bool
}

var wholeMesh = &meshv1.TargetRef{Kind: targetMesh}

// HeadOf reads the head of a policy. The Target is shared with r.
func HeadOf(r *mesh.Resource) Head {
	h := Head{
		Key:         r.Key,
		Target:      topTarget(r.Spec),
		Origin:      cmp.Or(r.Labels[mesh.LabelOrigin], originOf(r.Key)),
		Role:        cmp.Or(r.Labels[mesh.LabelPolicyRole], RoleSystem),
		DisplayName: r.DisplayName(),
		Zone:        cmp.Or(r.Key.Zone, r.Labels[mesh.LabelZone]),
		Namespace:   cmp.Or(r.Key.Namespace, r.Labels[mesh.LabelNamespace]),
		Shadow:      r.Labels[mesh.LabelEffect] == mesh.EffectShadow,
		Default:     r.Labels[mesh.LabelManagedBy] == mesh.ManagedByDefaults,
	}
	if h.Namespace == mesh.SystemNamespace {
		h.Namespace = ""
	}
	return h
}

func originOf(k mesh.Key) string {
	if k.Zone == "" {
		return mesh.OriginGlobal
	}
	return mesh.OriginZone
}

func topTarget(spec proto.Message) *meshv1.TargetRef {
	if s, ok := spec.(interface{ GetTargetRef() *meshv1.TargetRef }); ok {
		if t := s.GetTargetRef(); t != nil {
			return t
		}
	}
	return wholeMesh
}

// Equal says that a change from one to the other cannot change which proxies are selected, nor any order.
func (h Head) Equal(o Head) bool {
	ht, ot := h.Target, o.Target
	h.Target, o.Target = nil, nil
	return h == o && proto.Equal(ht, ot)
}

// kindRank orders target kinds ascending; destinations stand between proxies and what narrows a service.
func kindRank(kind string) int {
	const destinations, narrower = 4, 100
	switch kind {
	case "", targetMesh:
		return 0
	case targetDataplane:
		return 1
	case targetSubset:
		return 2
	case targetGateway:
		return 3
	case targetServiceSubset:
		return narrower
	case targetHTTPRoute:
		return narrower + 1
	}
	if rank, ok := destination.Rank(mesh.Kind(kind)); ok {
		return destinations + rank
	}
	return narrower + 2
}

func originRank(origin string) int {
	switch origin {
	case mesh.OriginGlobal:
		return 0
	case mesh.OriginZone:
		return 2
	}
	return 1
}

func roleRank(role string) int {
	switch role {
	case RoleProducer:
		return 1
	case RoleConsumer:
		return 2
	case RoleWorkloadOwner:
		return 3
	}
	return 0
}

// dataplaneRank ranks Dataplane targets: labels, then names, each without a section before with one.
//
// Kuma leaves a target without name and labels unordered against both, which is not transitive:
// with labels "aaa", plain "mmm" and name "zzz" each would override the next, in a circle, and the
// result would depend on the order of the input. Here a plain target ranks with the names. Only one
// result differs from Kuma's: a plain target overrides one by labels also if its policy's name is
// the larger.
func dataplaneRank(t *meshv1.TargetRef) int {
	rank := 0
	if len(t.GetLabels()) == 0 {
		rank = 2
	}
	return rank + boolRank(t.GetSectionName() != "")
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareRank is all of the order above the display name.
func compareRank(a, b Head) int {
	if c := cmp.Or(-cmp.Compare(boolRank(a.Default), boolRank(b.Default)),
		cmp.Compare(kindRank(a.Target.GetKind()), kindRank(b.Target.GetKind()))); c != 0 {
		return c
	}
	if a.Target.GetKind() == targetDataplane {
		if c := cmp.Compare(dataplaneRank(a.Target), dataplaneRank(b.Target)); c != 0 {
			return c
		}
	}
	c := cmp.Compare(originRank(a.Origin), originRank(b.Origin))
	if c == 0 && a.Target.GetKind() == targetGateway {
		c = cmp.Compare(len(a.Target.GetTags()), len(b.Target.GetTags()))
	}
	return cmp.Or(c, cmp.Compare(roleRank(a.Role), roleRank(b.Role)))
}

// compareName is the rest: the smaller name ranks higher, and keys break the tie.
func compareName(a, b Head) int {
	return cmp.Or(-cmp.Compare(a.DisplayName, b.DisplayName), -a.Key.Compare(b.Key))
}

// Compare orders policies by ascending priority: a later one overrides an earlier one. Defaults of
// the system come first.
func Compare(a, b Head) int { return cmp.Or(compareRank(a, b), compareName(a, b)) }

// Entry is one entry of "to", "from" or "rules".
type Entry struct {
	// Target is nil for rules.
	Target *meshv1.TargetRef
	// Conf is the entry's "default"; nil if absent or if the kind's entries have none. For
	// MeshTCPRoute it is that of the one rule, and never nil.
	Conf proto.Message
	// Index in the list.
	Index int

	message protoreflect.Message
}

// ToEntries are the entries of "to" of a policy of any kind.
func ToEntries(r *mesh.Resource) []Entry { return slices.Collect(entries(r, "to")) }

// FromEntries are the entries of "from" of a policy of any kind.
func FromEntries(r *mesh.Resource) []Entry { return slices.Collect(entries(r, "from")) }

// RuleEntries are the entries of "rules" of a policy of any kind.
func RuleEntries(r *mesh.Resource) []Entry { return slices.Collect(entries(r, "rules")) }

// entries walks a list of a policy, by name, so that every kind's is the same to walk.
func entries(r *mesh.Resource, list protoreflect.Name) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		if r.Spec == nil {
			return
		}
		spec := r.Spec.ProtoReflect()
		fd := spec.Descriptor().Fields().ByName(list)
		if fd == nil || !fd.IsList() || fd.Message() == nil || !spec.Has(fd) {
			return
		}
		fields := fd.Message().Fields()
		target, conf := fields.ByName("target_ref"), fields.ByName("default")
		l := spec.Get(fd).List()
		for i := range l.Len() {
			m := l.Get(i).Message()
			e := Entry{Index: i, message: m}
			if target != nil && m.Has(target) {
				e.Target, _ = m.Get(target).Message().Interface().(*meshv1.TargetRef)
			}
			if conf != nil && m.Has(conf) {
				e.Conf = m.Get(conf).Message().Interface()
			}
			if to, ok := m.Interface().(*meshv1.MeshTCPRoute_To); ok {
				e.Conf = tcpConf(to)
			}
			if !yield(e) {
				return
			}
		}
	}
}

// tcpConf is the one rule of a MeshTCPRoute; without a rule, connections go to the destination itself.
func tcpConf(to *meshv1.MeshTCPRoute_To) proto.Message {
	for _, r := range to.GetRules() {
		if r.GetDefault() != nil {
			return r.GetDefault()
		}
	}
	return &meshv1.MeshTCPRoute_Conf{}
}
