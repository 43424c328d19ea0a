package compile

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/secrets"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Ref is one port of a destination. It is comparable and the name of most things: its KRI is the
// name of the cluster, its endpoints, its listener and its routes.
type Ref struct {
	Key mesh.Key
	// Section is the port's name.
	Section string
}

// KRI is the name in xDS.
func (r Ref) KRI() string { return r.Key.KRI(r.Section) }

// Port of a destination.
type Port struct {
	Number   uint32
	Name     string
	Protocol ir.Protocol
	// TargetNumber or, if it is not empty, TargetName is the inbound's.
	TargetNumber uint32
	TargetName   string
}

// Destination is a destination of any kind (package mesh/destination) as callers see it. Compare two with
// [Destination.Equal].
type Destination struct {
	Key    mesh.Key
	Labels map[string]string
	Ports  []Port
	// SANs that a member may present, sorted; empty means that nothing is known.
	SANs []string
	// Members of a destination that combines others; nil for all others.
	Members []Member
}

// Member is one of the destinations that another combines.
type Member struct {
	Key     mesh.Key
	Ports   []uint32
	Healthy uint32
	// Live members are this zone's own: their endpoints are known one by one.
	Live bool
}

// Port finds a port by name, else by number as text.
func (d *Destination) Port(section string) (Port, bool) {
	if d == nil {
		return Port{}, false
	}
	for _, p := range d.Ports {
		if p.Name == section {
			return p, true
		}
	}
	for _, p := range d.Ports {
		if strconv.FormatUint(uint64(p.Number), 10) == section {
			return p, true
		}
	}
	return Port{}, false
}

// PortNumber finds a port by number.
func (d *Destination) PortNumber(n uint32) (Port, bool) {
	if d == nil {
		return Port{}, false
	}
	i := slices.IndexFunc(d.Ports, func(p Port) bool { return p.Number == n })
	if i < 0 {
		return Port{}, false
	}
	return d.Ports[i], true
}

// Equal says that callers see no difference.
func (d *Destination) Equal(o *Destination) bool {
	if d == nil || o == nil {
		return d == o
	}
	return d.Key == o.Key && maps.Equal(d.Labels, o.Labels) && slices.Equal(d.Ports, o.Ports) &&
		slices.Equal(d.SANs, o.SANs) &&
		slices.EqualFunc(d.Members, o.Members, func(a, b Member) bool {
			return a.Key == b.Key && a.Healthy == b.Healthy && a.Live == b.Live &&
				slices.Equal(a.Ports, b.Ports)
		})
}

// NewDestination reads a destination; nil if r is not one. status is r with its status, or nil. Members
// of other zones are those in status, which global computes; members of this zone are those that the
// selector finds now, and those that status names: an instance here must not wait for global. live
// gives the candidates of this zone.
func NewDestination(rd Reader, r, status *mesh.Resource, zone string, live Lookup) *Destination {
	info, ok := destination.Lookup(r.Key.Kind)
	if !ok {
		return nil
	}
	d := &Destination{Key: r.Key, Labels: selector.Labels(r)}
	for _, p := range info.Ports(r) {
		d.Ports = append(d.Ports, Port{
			Number:       p.Number,
			Name:         p.Name,
			Protocol:     ir.Protocol(p.Protocol),
			TargetNumber: p.TargetNumber,
			TargetName:   p.TargetName,
		})
	}
	if info.Source != destination.Combined {
		d.SANs = info.SANs(r)
		return d
	}
	var members []destination.Member
	if status != nil {
		members = info.Members(status)
	}
	d.addMembers(members, zone)
	d.addLive(liveCandidates(rd, info, r, members, zone), info.MemberSelector(r), members, live)
	slices.Sort(d.SANs)
	d.SANs = slices.Compact(d.SANs)
	slices.SortFunc(d.Members, func(a, b Member) int { return a.Key.Compare(b.Key) })
	return d
}

// addMembers adds those of other zones.
func (d *Destination) addMembers(members []destination.Member, zone string) {
	for _, m := range members {
		if m.Key.Zone == zone {
			continue
		}
		d.SANs = append(d.SANs, m.SANs...)
		d.Members = append(d.Members, Member{Key: m.Key, Ports: m.Ports, Healthy: m.Healthy})
	}
}

// addLive adds those of this zone: the candidates that the selector finds or status names.
func (d *Destination) addLive(candidates []mesh.Key, want map[string]string,
	members []destination.Member, live Lookup) {
	for _, k := range candidates {
		s := live(k)
		if s == nil {
			continue
		}
		named := slices.ContainsFunc(members, func(m destination.Member) bool { return m.Key == k })
		if !named && (len(want) == 0 || !selector.Subset(want, s.Labels)) {
			continue
		}
		m := Member{Key: k, Live: true}
		for _, p := range s.Ports {
			m.Ports = append(m.Ports, p.Number)
		}
		d.SANs = append(d.SANs, s.SANs...)
		d.Members = append(d.Members, m)
	}
}

// liveCandidates are the keys of this zone's destinations that may be members.
func liveCandidates(rd Reader, info *destination.Info, r *mesh.Resource, members []destination.Member,
	zone string) []mesh.Key {
	var out []mesh.Key
	if want := info.MemberSelector(r); len(want) > 0 {
		for _, k := range rd.Range(LabelIndex(info.MemberKind, r.Key.Mesh, want)) {
			if k.Zone == zone {
				out = append(out, k)
			}
		}
	}
	for _, m := range members {
		if m.Key.Zone == zone {
			out = append(out, m.Key)
		}
	}
	slices.SortFunc(out, mesh.Key.Compare)
	return slices.Compact(out)
}

// SNI is the server name by which a zone ingress knows the port; empty if ref is not a destination.
func SNI(ref Ref) string {
	info, ok := destination.Lookup(ref.Key.Kind)
	if !ok {
		return ""
	}
	return info.SNI(ref.Key, ref.Section)
}

// MeshInfo is what proxies take from their Mesh. It is comparable.
type MeshInfo struct {
	Exists bool
	// MTLS is empty (off), "STRICT" or "PERMISSIVE".
	MTLS string
	// Passthrough of destinations that the mesh does not know.
	Passthrough bool
	// Backend is the name of the certificate authority in use.
	Backend string
	// CA is the Secret with the bundle to trust; with a zero key CAText is the bundle itself.
	CA     mesh.Key
	CAText string
}

// NewMeshInfo reads a Mesh; nil gives the zero MeshInfo.
func NewMeshInfo(r *mesh.Resource) MeshInfo {
	if r == nil {
		return MeshInfo{}
	}
	spec := mesh.Spec[*meshv1.Mesh](r)
	info := MeshInfo{Exists: true, Passthrough: true, Backend: spec.GetMtls().GetEnabledBackend()}
	if o := spec.GetNetworking().GetOutbound(); o != nil && o.Passthrough != nil {
		info.Passthrough = o.GetPassthrough()
	}
	if info.Backend != "" {
		info.MTLS, info.CA = "STRICT", secrets.RootCert(r.Key.Name, info.Backend)
		for _, b := range spec.GetMtls().GetBackends() {
			if b.GetName() != info.Backend {
				continue
			}
			info.MTLS = cmp.Or(b.GetMode(), info.MTLS)
			if b.GetType() == "provided" {
				info.CA = mesh.Key{}
				switch c := b.GetConf().GetCert(); {
				case c.GetSecret() != "":
					info.CA = mesh.Key{Kind: mesh.KindSecret, Mesh: r.Key.Name, Name: c.GetSecret()}
				case len(c.GetInline()) > 0:
					info.CAText = string(c.GetInline())
				default:
					info.CAText = c.GetInlineString()
				}
			}
		}
	}
	return info
}
