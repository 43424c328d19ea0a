package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Key identifies a resource; see the package comment. It is comparable and a value.
type Key struct {
	Kind      Kind
	Mesh      string // empty for kinds of global scope
	Zone      string // origin zone, empty = global
	Namespace string // empty on Universal and for the system namespace
	Name      string
}

// String is "MeshTimeout/default/zone/namespace/name" with empty parts left empty; [ParseKey] reads it.
func (k Key) String() string {
	return strings.Join([]string{string(k.Kind), k.Mesh, k.Zone, k.Namespace, k.Name}, "/")
}

// ParseKey reads the text form of a Key. None of the parts can contain a slash.
func ParseKey(s string) (Key, error) {
	p := strings.Split(s, "/")
	if len(p) != 5 {
		return Key{}, fmt.Errorf("resource key %q has %d parts, must be kind/mesh/zone/namespace/name", s,
			len(p))
	}
	return Key{
		Kind:      Kind(p[0]),
		Mesh:      p[1],
		Zone:      p[2],
		Namespace: p[3],
		Name:      p[4],
	}, nil
}

// Check gives the row of the key's kind, or says why no store takes the key.
func (k Key) Check() (*KindInfo, error) {
	info, ok := Lookup(k.Kind)
	if !ok {
		return nil, fmt.Errorf("unknown kind %q", k.Kind)
	}
	if k.Name == "" {
		return nil, errors.New("the name is empty")
	}
	switch {
	case info.Scope == ScopeMesh && k.Mesh == "":
		return nil, errors.New("it has no mesh, which its kind demands")
	case info.Scope == ScopeGlobal && k.Mesh != "":
		return nil, errors.New("it has a mesh, but its kind is of global scope")
	}
	for _, part := range []string{k.Mesh, k.Zone, k.Namespace, k.Name} {
		if strings.ContainsAny(part, "/\x00") || !utf8.ValidString(part) {
			return nil, fmt.Errorf("%q has a slash, a zero byte or is not UTF-8", part)
		}
	}
	return info, nil
}

// Compare orders keys by kind, mesh, name, namespace, zone.
func (k Key) Compare(o Key) int {
	// Spelled out, for it is the inner loop of every lookup: cmp.Or would compare all five parts each time.
	if c := cmp.Compare(k.Kind, o.Kind); c != 0 {
		return c
	}
	if c := cmp.Compare(k.Mesh, o.Mesh); c != 0 {
		return c
	}
	if c := cmp.Compare(k.Name, o.Name); c != 0 {
		return c
	}
	if c := cmp.Compare(k.Namespace, o.Namespace); c != 0 {
		return c
	}
	return cmp.Compare(k.Zone, o.Zone)
}

// KRI is the resource identifier
// kri_<short>_<mesh>_<zone>_<namespace>_<name>_<section>; empty for kinds without a short name.
func (k Key) KRI(section string) string {
	info, ok := Lookup(k.Kind)
	if !ok || info.Short == "" {
		return ""
	}
	return strings.Join([]string{"kri", info.Short, k.Mesh, k.Zone, k.Namespace, k.Name, section}, "_")
}

// Proto is the wire form.
func (k Key) Proto() *meshv1.Key {
	return &meshv1.Key{
		Kind:      string(k.Kind),
		Mesh:      k.Mesh,
		Zone:      k.Zone,
		Namespace: k.Namespace,
		Name:      k.Name,
	}
}

// KeyFromProto reads the wire form; nil gives the zero Key.
func KeyFromProto(p *meshv1.Key) Key {
	return Key{
		Kind:      Kind(p.GetKind()),
		Mesh:      p.GetMesh(),
		Zone:      p.GetZone(),
		Namespace: p.GetNamespace(),
		Name:      p.GetName(),
	}
}

// Resource is one resource as a control plane holds it. See the package comment on immutability.
type Resource struct {
	Key    Key
	Labels map[string]string
	Spec   proto.Message
	// Status is nil if the kind has none or none was written yet.
	Status proto.Message

	// Revision of the local store at the last write of spec or labels; StatusRevision at that of
	// status. 0 before the first commit.
	Revision       uint64
	StatusRevision uint64
	// OriginRevision is the version that the sender gave a copy received over KDS; 0 for local resources.
	OriginRevision uint64
	// Generation counts spec writes since creation, from 1.
	Generation int64
	Created    time.Time
	Modified   time.Time
}

// Clone is a deep copy that the caller may change.
func (r *Resource) Clone() *Resource {
	c := *r
	c.Labels = maps.Clone(r.Labels)
	if r.Spec != nil {
		c.Spec = proto.Clone(r.Spec)
	}
	if r.Status != nil {
		c.Status = proto.Clone(r.Status)
	}
	return &c
}

// DisplayName is the label kuma.io/display-name, else the name.
func (r *Resource) DisplayName() string {
	if n := r.Labels[LabelDisplayName]; n != "" {
		return n
	}
	return r.Key.Name
}

// Proto is the envelope for the wire and for rows. Specs are marshalled deterministically.
func (r *Resource) Proto() (*meshv1.Resource, error) {
	p := &meshv1.Resource{
		Key:            r.Key.Proto(),
		Labels:         r.Labels,
		Revision:       r.Revision,
		StatusRevision: r.StatusRevision,
		OriginRevision: r.OriginRevision,
		Generation:     r.Generation,
	}
	if !r.Created.IsZero() {
		p.Created = timestamppb.New(r.Created)
	}
	if !r.Modified.IsZero() {
		p.Modified = timestamppb.New(r.Modified)
	}
	var err error
	if p.Spec, err = toAny(r.Spec); err != nil {
		return nil, fmt.Errorf("encode spec of %s: %w", r.Key, err)
	}
	if p.Status, err = toAny(r.Status); err != nil {
		return nil, fmt.Errorf("encode status of %s: %w", r.Key, err)
	}
	return p, nil
}

func toAny(m proto.Message) (*anypb.Any, error) {
	if m == nil {
		return nil, nil
	}
	a := &anypb.Any{}
	return a, anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true})
}

// ErrUnknownKind says that a kind is not in [Kinds].
var ErrUnknownKind = errors.New("unknown kind")

// FromProto reads the envelope. It fails with [ErrUnknownKind] or if spec or status are of another
// type than the kind's.
func FromProto(p *meshv1.Resource) (*Resource, error) {
	r := &Resource{
		Key:            KeyFromProto(p.GetKey()),
		Labels:         p.GetLabels(),
		Revision:       p.GetRevision(),
		StatusRevision: p.GetStatusRevision(),
		OriginRevision: p.GetOriginRevision(),
		Generation:     p.GetGeneration(),
	}
	if p.GetCreated() != nil {
		r.Created = p.GetCreated().AsTime()
	}
	if p.GetModified() != nil {
		r.Modified = p.GetModified().AsTime()
	}
	info, ok := Lookup(r.Key.Kind)
	if !ok {
		return nil, fmt.Errorf("%w %q", ErrUnknownKind, r.Key.Kind)
	}
	r.Spec = info.NewSpec()
	if p.GetSpec() != nil {
		if err := p.GetSpec().UnmarshalTo(r.Spec); err != nil {
			return nil, fmt.Errorf("decode spec of %s: %w", r.Key, err)
		}
	}
	if p.GetStatus() != nil {
		if info.NewStatus == nil {
			return nil, fmt.Errorf("decode status of %s: kind has no status", r.Key)
		}
		r.Status = info.NewStatus()
		if err := p.GetStatus().UnmarshalTo(r.Status); err != nil {
			return nil, fmt.Errorf("decode status of %s: %w", r.Key, err)
		}
	}
	return r, nil
}

// Spec returns r's spec as S; it panics if the kind's spec is another type, for that is a bug of the caller.
func Spec[S proto.Message](r *Resource) S { return r.Spec.(S) }

// Status returns r's status as S, or the zero S (whose getters work) if none was written.
func Status[S proto.Message](r *Resource) S {
	s, _ := r.Status.(S)
	return s
}

// VirtualAddressKey is the key of the VirtualAddress that the control plane of zone keeps for a destination.
func VirtualAddressKey(zone string, destination Key) Key {
	short := "x"
	if info, ok := Lookup(destination.Kind); ok {
		short = info.Short
	}
	return Key{
		Kind: KindVirtualAddress,
		Mesh: destination.Mesh,
		Zone: zone,
		Name: strings.Join([]string{short, destination.Zone, destination.Namespace, destination.Name}, ":"),
	}
}

// InsightKey is the key of the insight of a Dataplane or ZoneIngress.
func InsightKey(proxy Key) Key {
	k := proxy
	k.Kind = KindDataplaneInsight
	if proxy.Kind == KindZoneIngress {
		k.Kind = KindZoneIngressInsight
	}
	return k
}
