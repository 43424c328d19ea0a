package destination

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Source says where the endpoints of a destination are.
type Source int

// Sources.
const (
	// Selected endpoints are inbounds of proxies of the owner's zone that the spec selects. In other
	// zones they are reached through the ingresses of the owner's zone.
	Selected Source = iota
	// Combined endpoints are those of the destinations that Members and MemberSelector find.
	Combined
	// Given endpoints are addresses in the spec, the same for callers of every zone.
	Given
)

// Port of a destination.
type Port struct {
	Number uint32
	// Name is never empty: without a name in the spec it is the number as text.
	Name string
	// Protocol is never empty: without one in the spec it is "tcp".
	Protocol string
	// TargetNumber or, if it is not empty, TargetName is the inbound's.
	TargetNumber uint32
	TargetName   string
}

// Member is one of the destinations that a [Combined] one consists of, as its status names it.
type Member struct {
	Key mesh.Key
	// Ports are numbers; members join by number.
	Ports []uint32
	// Healthy of Total proxies can take traffic.
	Healthy, Total uint32
	// SANs that the member's proxies may present, sorted.
	SANs []string
}

// Info is the row of a kind of destination.
type Info struct {
	Kind mesh.Kind

	// Ports of the spec, in its order.
	Ports func(r *mesh.Resource) []Port
	// SANs are the URIs that endpoints may present, sorted; none if nothing is known. Those of a
	// Combined destination are its members'.
	SANs func(r *mesh.Resource) []string

	Source Source

	// Selector is what a Selected destination's proxies have; nil unless Source is Selected.
	Selector func(r *mesh.Resource) *meshv1.MeshService_Selector
	// Proxies are the counts in status, as the owner's zone knows them; nil unless Source is Selected.
	Proxies func(r *mesh.Resource) *meshv1.ProxyCounts
	// Plaintext says that not all endpoints have certificates yet, so that callers in a mesh that
	// permits it must not use TLS; nil unless Source is Selected.
	Plaintext func(r *mesh.Resource) bool

	// MemberKind is the kind of the members of a Combined destination, empty for others.
	MemberKind mesh.Kind
	// MemberSelector are the labels that members have; nil unless Source is Combined. A destination
	// whose selector is empty has no members.
	MemberSelector func(r *mesh.Resource) map[string]string
	// Members are those in status; nil unless Source is Combined. r is the resource with its status.
	Members func(r *mesh.Resource) []Member
	// WithMembers is r's status with those members and no others, all else as it is; nil unless Source
	// is Combined.
	WithMembers func(r *mesh.Resource, members []*mesh.Resource) proto.Message

	// SNI is the server name by which zone ingresses know a port of the destination.
	SNI func(k mesh.Key, section string) string

	// Prefix is the default range of virtual IPs.
	Prefix netip.Prefix
	// GeneratorSelector is what a HostnameGenerator says of the kind; nil if it is not about it.
	GeneratorSelector func(s *meshv1.HostnameGenerator_Selector) *meshv1.HostnameGenerator_LabelSelector

	// CrossZone says that a name finds the destination in every zone. Without it, a name finds only
	// the zone's own, and another zone's is referred to by labels.
	CrossZone bool
	// TargetByName says that policies and routes may name it in targetRef and backendRefs.
	TargetByName bool
	// Rank among the kinds of destinations that an entry of a policy can be about: of entries that
	// differ in nothing else, the one of the higher rank is merged last. Ranks begin at 0.
	Rank int
	// NeedsPort says that a backendRef must say which port, even where there is one alone.
	NeedsPort bool

	// Columns are what people look for first, and Values the cells beneath them.
	Columns []string
	Values  func(r *mesh.Resource) []string
}

// Kinds is the table of destinations, in the order in which a name is looked up and destinations are
// listed.
var Kinds = []*Info{&meshService, &meshMultiZoneService}

// Lookup finds the row of a kind; ok is false if the kind is not a destination.
func Lookup(k mesh.Kind) (info *Info, ok bool) {
	for _, info := range Kinds {
		if info.Kind == k {
			return info, true
		}
	}
	return nil, false
}

// Is reports whether resources of the kind are destinations.
func Is(k mesh.Kind) bool {
	_, ok := Lookup(k)
	return ok
}

// reserved are the ranks of kinds that references may name although there is no such kind of resource
// yet: they find nothing.
var reserved = map[mesh.Kind]int{"MeshExternalService": 1}

// Rank of a kind that targetRefs and backendRefs can name. It is not ok for all other kinds.
func Rank(k mesh.Kind) (rank int, ok bool) {
	if info, ok := Lookup(k); ok {
		return info.Rank, info.TargetByName
	}
	rank, ok = reserved[k]
	return rank, ok
}

// Referable are the kinds that targetRefs and backendRefs can name, by rank.
func Referable() []string {
	var out []mesh.Kind
	for _, info := range Kinds {
		if info.TargetByName {
			out = append(out, info.Kind)
		}
	}
	out = slices.AppendSeq(out, maps.Keys(reserved))
	slices.SortFunc(out, func(a, b mesh.Kind) int {
		x, _ := Rank(a)
		y, _ := Rank(b)
		return cmp.Compare(x, y)
	})
	names := make([]string, len(out))
	for i, k := range out {
		names[i] = string(k)
	}
	return names
}

// From are the rows of a source, in the order of the table.
func From(s Source) iter.Seq[*Info] {
	return func(yield func(*Info) bool) {
		for _, info := range Kinds {
			if info.Source == s && !yield(info) {
				return
			}
		}
	}
}

// SelectorOf is the selector of a destination whose endpoints are selected; nil for all others, which
// select no proxy.
func SelectorOf(r *mesh.Resource) *meshv1.MeshService_Selector {
	info, ok := Lookup(r.Key.Kind)
	if !ok || info.Selector == nil {
		return nil
	}
	return info.Selector(r)
}

// Ports of a destination, in the order of its spec; nil for other kinds.
func Ports(r *mesh.Resource) []Port {
	info, ok := Lookup(r.Key.Kind)
	if !ok {
		return nil
	}
	return info.Ports(r)
}

// Local reports whether the endpoints of a destination are proxies that zone knows one by one.
func (i *Info) Local(k mesh.Key, zone string) bool {
	return i.Source == Selected && k.Zone == zone
}

// Remote reports whether all endpoints of a destination are behind the ingresses of another zone.
func (i *Info) Remote(k mesh.Key, zone string) bool {
	return i.Source == Selected && k.Zone != zone
}

func newPort(number uint32, name, protocol string, target *meshv1.IntOrString) Port {
	p := Port{
		Number:       number,
		Name:         cmp.Or(name, strconv.FormatUint(uint64(number), 10)),
		Protocol:     cmp.Or(protocol, "tcp"),
		TargetNumber: number,
	}
	switch v := target.GetValue().(type) {
	case *meshv1.IntOrString_IntValue:
		p.TargetNumber = uint32(v.IntValue)
	case *meshv1.IntOrString_StringValue:
		p.TargetName = v.StringValue
	}
	return p
}

// uris are the URI SANs that show identities in a mesh, sorted, each once.
func uris(meshName string, ids []*meshv1.MeshService_Identity) []string {
	var out []string
	for _, id := range ids {
		u := id.GetValue()
		if id.GetType() == "ServiceTag" {
			u = "spiffe://" + meshName + "/" + u
		}
		out = append(out, u)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func cell(parts []string) string {
	if len(parts) == 0 {
		return "-"
	}
	out := parts[0]
	for _, p := range parts[1:] {
		out += "," + p
	}
	return out
}

func vips(list []*meshv1.VIP) string {
	var out []string
	for _, v := range list {
		out = append(out, v.GetIp())
	}
	return cell(out)
}

func hostnames(list []*meshv1.HostnameAddress) string {
	var out []string
	for _, a := range list {
		out = append(out, a.GetHostname())
	}
	return cell(out)
}
