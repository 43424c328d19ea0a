package delta

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"weak"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meridian-mesh/meridian/mesh"
)

// Type is a type of xDS resource.
type Type uint8

// The types, in the order in which additions are sent.
const (
	TypeCluster Type = iota
	TypeEndpoint
	TypeListener
	TypeRoute
	TypeSecret
	numTypes
)

// Types are all types.
var Types = []Type{TypeCluster, TypeEndpoint, TypeListener, TypeRoute, TypeSecret}

var typeURLs = [numTypes]string{
	TypeCluster:  "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	TypeEndpoint: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	TypeListener: "type.googleapis.com/envoy.config.listener.v3.Listener",
	TypeRoute:    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	TypeSecret:   "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
}

var typeNames = [numTypes]string{"cluster", "endpoint", "listener", "route", "secret"}

// URL is the type URL on the wire.
func (t Type) URL() string { return typeURLs[t] }

// String is "cluster", "endpoint", "listener", "route" or "secret".
func (t Type) String() string {
	if t >= numTypes {
		return "unknown"
	}
	return typeNames[t]
}

// TypeOf finds the type of a type URL. It does not copy bytes.
func TypeOf[S string | []byte](url S) (Type, bool) {
	for t, u := range typeURLs {
		if string(url) == u {
			return Type(t), true
		}
	}
	return 0, false
}

// Resource is one encoded xDS resource. It is immutable and shared by pointer by every proxy that
// has it. Make it with [NewResource]; a literal works, at the cost of a second copy of Body when it
// is first sent.
type Resource struct {
	Type Type
	Name string
	// Version is a hash of Body: resources of one name are the same exactly if their versions are.
	Version string
	// Body is the Envoy message, encoded.
	Body []byte
	// Cause names the policies and destinations that it came from: whose status a rejection is written to.
	Cause []mesh.Key
	// Former says that it is an earlier content, instead of one that proxies rejected.
	Former bool

	entry atomic.Pointer[entry]
	// endpoints is the name of the ClusterLoadAssignment that a cluster waits for; empty for others.
	endpoints string
}

// entry is an encoded resource, and the same as gRPC takes it: made once and not for each response.
type entry struct {
	bytes  []byte
	buffer mem.Buffer
}

// NewResource makes a resource of an encoded Envoy message; it computes the version and keeps
// body's content, not body.
func NewResource(t Type, name string, body []byte, cause ...mesh.Key) *Resource {
	sum := sha256.Sum256(body)
	r := &Resource{
		Type:    t,
		Name:    name,
		Version: hex.EncodeToString(sum[:8]),
		Cause:   cause,
	}
	bytes := encodeEntry(t, name, r.Version, body)
	r.Body = bytes[len(bytes)-len(body):]
	r.entry.Store(&entry{bytes, mem.SliceBuffer(bytes)})
	if t == TypeCluster {
		r.endpoints = endpointsOf(name, body)
	}
	return r
}

// endpointsOf reads the name of the endpoints that a cluster of type EDS takes.
func endpointsOf(name string, cluster []byte) string {
	const (
		fieldType      protowire.Number = 2
		fieldEDSConfig protowire.Number = 3
		fieldService   protowire.Number = 2
		typeEDS                         = 3
	)
	eds := false
	for len(cluster) > 0 {
		num, typ, n := protowire.ConsumeTag(cluster)
		if n < 0 {
			return ""
		}
		cluster = cluster[n:]
		switch {
		case num == fieldType && typ == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(cluster)
			eds = v == typeEDS
		case num == fieldEDSConfig && typ == protowire.BytesType:
			config, _ := protowire.ConsumeBytes(cluster)
			for len(config) > 0 {
				num, typ, n := protowire.ConsumeTag(config)
				if n < 0 {
					return ""
				}
				config = config[n:]
				if num == fieldService && typ == protowire.BytesType {
					if v, _ := protowire.ConsumeBytes(config); len(v) > 0 {
						name = string(v)
					}
				}
				if n = protowire.ConsumeFieldValue(num, typ, config); n < 0 {
					return ""
				}
				config = config[n:]
			}
		}
		if n = protowire.ConsumeFieldValue(num, typ, cluster); n < 0 {
			return ""
		}
		cluster = cluster[n:]
	}
	if !eds {
		return ""
	}
	return name
}

// bytes is the encoded field "resources" of a DeltaDiscoveryResponse that holds r.
func (r *Resource) bytes() []byte {
	return r.encoded().bytes
}

func (r *Resource) encoded() *entry {
	if e := r.entry.Load(); e != nil {
		return e
	}
	bytes := encodeEntry(r.Type, r.Name, r.Version, r.Body)
	r.entry.CompareAndSwap(nil, &entry{bytes, mem.SliceBuffer(bytes)})
	return r.entry.Load()
}

// anyBytes is the encoded field "resources" of a DiscoveryResponse that holds r: the end of what
// bytes gives, for the field of the Any has the same number in both messages.
func (r *Resource) anyBytes() []byte {
	entry := r.bytes()
	any := anySize(r.Type, r.Body)
	return entry[len(entry)-protowire.SizeTag(resourceAny)-protowire.SizeBytes(any):]
}

func anySize(t Type, body []byte) int {
	return protowire.SizeTag(anyTypeURL) + protowire.SizeBytes(len(t.URL())) + protowire.SizeTag(anyValue) +
		protowire.SizeBytes(len(body))
}

// Field numbers of envoy.service.discovery.v3.
const (
	// Of a DiscoveryResponse, whose "resources" has the number of resourceAny.
	sotwVersion protowire.Number = 1
	sotwTypeURL protowire.Number = 4
	sotwNonce   protowire.Number = 5

	// Of a DeltaDiscoveryRequest.
	requestNode    protowire.Number = 1
	requestTypeURL protowire.Number = 2
	requestNonce   protowire.Number = 6

	responseResources protowire.Number = 2
	responseTypeURL   protowire.Number = 4
	responseNonce     protowire.Number = 5
	responseRemoved   protowire.Number = 6

	resourceVersion protowire.Number = 1
	resourceAny     protowire.Number = 2
	resourceName    protowire.Number = 3

	anyTypeURL protowire.Number = 1
	anyValue   protowire.Number = 2
)

// encodeEntry puts body last, so that Resource.Body can be a part of it.
func encodeEntry(t Type, name, version string, body []byte) []byte {
	any := anySize(t, body)
	res := protowire.SizeTag(resourceVersion) + protowire.SizeBytes(len(version)) +
		protowire.SizeTag(resourceName) + protowire.SizeBytes(len(name)) +
		protowire.SizeTag(resourceAny) + protowire.SizeBytes(any)
	b := make([]byte, 0, protowire.SizeTag(responseResources)+protowire.SizeBytes(res))
	b = protowire.AppendTag(b, responseResources, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(res))
	b = protowire.AppendTag(b, resourceVersion, protowire.BytesType)
	b = protowire.AppendString(b, version)
	b = protowire.AppendTag(b, resourceName, protowire.BytesType)
	b = protowire.AppendString(b, name)
	b = protowire.AppendTag(b, resourceAny, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(any))
	b = protowire.AppendTag(b, anyTypeURL, protowire.BytesType)
	b = protowire.AppendString(b, t.URL())
	b = protowire.AppendTag(b, anyValue, protowire.BytesType)
	return protowire.AppendBytes(b, body)
}

// Segment is an immutable set of resources, shared by many proxies: the outbounds of a group, the
// inbounds of one proxy.
type Segment struct {
	byType [numTypes][]*Resource // sorted by name
	// byName finds the resources of long lists: names have much in common, so that a binary search
	// compares long prefixes, for each stream again.
	byName [numTypes]map[string]*Resource

	// memo is the difference from the segment that this one replaced, for the next that asks.
	memo atomic.Pointer[segmentStep]
}

type segmentStep struct {
	// from is weak: a segment must not keep the whole chain of its predecessors alive.
	from weak.Pointer[Segment]
	step *Step
}

// longList is from how many resources on a segment has an index.
const longList = 16

// NewSegment makes a segment. Of resources with the same type and name the first is taken.
func NewSegment(rs []*Resource) *Segment {
	s := &Segment{}
	for _, r := range rs {
		s.byType[r.Type] = append(s.byType[r.Type], r)
	}
	for t := range s.byType {
		slices.SortStableFunc(s.byType[t],
			func(a, b *Resource) int { return strings.Compare(a.Name, b.Name) })
		s.byType[t] = slices.Clip(slices.CompactFunc(s.byType[t],
			func(a, b *Resource) bool { return a.Name == b.Name }))
		if list := s.byType[t]; len(list) >= longList {
			s.byName[t] = make(map[string]*Resource, len(list))
			for _, r := range list {
				s.byName[t][r.Name] = r
			}
		}
	}
	return s
}

// Lookup finds a resource, or nil.
func (s *Segment) Lookup(t Type, name string) *Resource {
	if index := s.byName[t]; index != nil {
		return index[name]
	}
	rs := s.byType[t]
	i, ok := slices.BinarySearchFunc(rs, name,
		func(r *Resource, n string) int { return strings.Compare(r.Name, n) })
	if !ok {
		return nil
	}
	return rs[i]
}

// Len is the number of resources of all types.
func (s *Segment) Len() int {
	n := 0
	for _, rs := range s.byType {
		n += len(rs)
	}
	return n
}

// All are the resources of a type in the order of names.
func (s *Segment) All(t Type) iter.Seq[*Resource] { return slices.Values(s.byType[t]) }

// Table is what one proxy should have: a few segments, of which no two have a resource of the same
// type and name. It is immutable. A nil Table is empty.
type Table struct{ Segments []*Segment }

// has says that there is a resource of the type.
func (t *Table) has(typ Type) bool {
	return t != nil && slices.ContainsFunc(t.Segments,
		func(s *Segment) bool { return len(s.byType[typ]) > 0 })
}

// count is the number of resources of a type.
func (t *Table) count(typ Type) int {
	n := 0
	if t != nil {
		for _, s := range t.Segments {
			n += len(s.byType[typ])
		}
	}
	return n
}

// Lookup finds a resource, or nil.
func (t *Table) Lookup(typ Type, name string) *Resource {
	if t == nil {
		return nil
	}
	for _, s := range t.Segments {
		if r := s.Lookup(typ, name); r != nil {
			return r
		}
	}
	return nil
}

// All are the resources of a type, segment by segment, each in the order of names.
func (t *Table) All(typ Type) iter.Seq[*Resource] {
	return func(yield func(*Resource) bool) {
		if t == nil {
			return
		}
		for _, s := range t.Segments {
			for _, r := range s.byType[typ] {
				if !yield(r) {
					return
				}
			}
		}
	}
}
