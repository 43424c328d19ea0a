package compile

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
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

// Destination is a MeshService or a MeshMultiZoneService as callers see it. Compare two with
// [Destination.Equal].
type Destination struct {
	Key    mesh.Key
	Labels map[string]string
	Ports  []Port
	// SANs that a member may present, sorted; empty means that nothing is known.
	SANs []string
	// Members of a MeshMultiZoneService; a MeshService has none.
	Members []Member
}

// Member is one MeshService of a MeshMultiZoneService.
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

// NewService reads a MeshService.
func NewService(r *mesh.Resource) *Destination {
	spec := mesh.Spec[*meshv1.MeshService](r)
	d := &Destination{Key: r.Key, Labels: selector.Labels(r)}
	for _, p := range spec.GetPorts() {
		d.Ports = append(d.Ports, newPort(p.GetPort(), p.GetName(), p.GetAppProtocol(), p.GetTargetPort()))
	}
	d.SANs = uris(r.Key.Mesh, nil, spec.GetIdentities())
	return d
}

func newPort(number uint32, name, protocol string, target *meshv1.IntOrString) Port {
	p := Port{
		Number:       number,
		Name:         cmp.Or(name, strconv.FormatUint(uint64(number), 10)),
		Protocol:     ir.Protocol(cmp.Or(protocol, string(ir.TCP))),
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

func uris(meshName string, have []string, ids []*meshv1.MeshService_Identity) []string {
	for _, id := range ids {
		u := id.GetValue()
		if id.GetType() == "ServiceTag" {
			u = "spiffe://" + meshName + "/" + u
		}
		have = append(have, u)
	}
	slices.Sort(have)
	return slices.Compact(have)
}

// NewMultiZone reads a MeshMultiZoneService. Members of other zones are those in status, which
// global computes; members of this zone are those that its selector finds now, and those that
// status names: an instance here must not wait for global. live are the candidates of this zone.
func NewMultiZone(r *mesh.Resource, status *meshv1.MeshMultiZoneServiceStatus, zone string,
	live []*Destination) *Destination {
	spec := mesh.Spec[*meshv1.MeshMultiZoneService](r)
	d := &Destination{Key: r.Key, Labels: selector.Labels(r)}
	for _, p := range spec.GetPorts() {
		d.Ports = append(d.Ports, newPort(p.GetPort(), p.GetName(), p.GetAppProtocol(), nil))
	}
	named := map[mesh.Key]bool{}
	for _, m := range status.GetMeshServices() {
		k := mesh.Key{
			Kind:      mesh.KindMeshService,
			Mesh:      r.Key.Mesh,
			Zone:      m.GetZone(),
			Namespace: m.GetNamespace(),
			Name:      m.GetName(),
		}
		if m.GetMesh() != "" && m.GetMesh() != r.Key.Mesh {
			continue
		}
		if k.Zone == zone {
			named[k] = true
			continue
		}
		d.SANs = uris(r.Key.Mesh, d.SANs, m.GetIdentities())
		d.Members = append(d.Members, Member{Key: k, Ports: m.GetPorts(), Healthy: m.GetHealthy()})
	}
	want := spec.GetSelector().GetMeshService().GetMatchLabels()
	for _, s := range live {
		if s == nil || !named[s.Key] && (len(want) == 0 || !selector.Subset(want, s.Labels)) {
			continue
		}
		m := Member{Key: s.Key, Live: true}
		for _, p := range s.Ports {
			m.Ports = append(m.Ports, p.Number)
		}
		d.SANs = append(d.SANs, s.SANs...)
		d.Members = append(d.Members, m)
	}
	slices.Sort(d.SANs)
	d.SANs = slices.Compact(d.SANs)
	slices.SortFunc(d.Members, func(a, b Member) int { return a.Key.Compare(b.Key) })
	return d
}

// LiveCandidates are the keys of this zone's MeshServices that a MeshMultiZoneService may have as members.
func LiveCandidates(rd Reader, r *mesh.Resource, status *meshv1.MeshMultiZoneServiceStatus,
	zone string) []mesh.Key {
	var out []mesh.Key
	if want := mesh.Spec[*meshv1.MeshMultiZoneService](
		r).GetSelector().GetMeshService().GetMatchLabels(); len(
		want) > 0 {
		for _, k := range rd.Range(LabelIndex(mesh.KindMeshService, r.Key.Mesh, want)) {
			if k.Zone == zone {
				out = append(out, k)
			}
		}
	}
	for _, m := range status.GetMeshServices() {
		if m.GetZone() == zone {
			out = append(out, mesh.Key{
				Kind:      mesh.KindMeshService,
				Mesh:      r.Key.Mesh,
				Zone:      zone,
				Namespace: m.GetNamespace(),
				Name:      m.GetName(),
			})
		}
	}
	slices.SortFunc(out, mesh.Key.Compare)
	return slices.Compact(out)
}

// SNI is the server name by which a zone ingress knows the port (KRI form).
func SNI(ref Ref) string {
	k := ref.Key
	parts := []string{"sni", "msvc", k.Mesh, k.Zone}
	if k.Kind == mesh.KindMeshMultiZoneService {
		parts = []string{"sni", "mzsvc", k.Mesh}
	}
	if k.Namespace != "" {
		parts = append(parts, k.Namespace)
	}
	return strings.Join(append(parts, k.Name, ref.Section), ".")
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
		info.MTLS, info.CA = "STRICT", CAKey(r.Key.Name, info.Backend)
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
