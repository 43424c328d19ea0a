package destination

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// meshMultiZoneService combines MeshServices of several zones. Global writes its members into status.
var meshMultiZoneService = Info{
	Kind: mesh.KindMeshMultiZoneService,
	Ports: func(r *mesh.Resource) []Port {
		var out []Port
		// Target ports are those of the members.
		for _, p := range mesh.Spec[*meshv1.MeshMultiZoneService](r).GetPorts() {
			out = append(out, newPort(p.GetPort(), p.GetName(), p.GetAppProtocol(), nil))
		}
		return out
	},
	SANs: func(r *mesh.Resource) []string {
		var out []string
		for _, m := range multiZoneMembers(r) {
			out = append(out, m.SANs...)
		}
		slices.Sort(out)
		return slices.Compact(out)
	},
	Source:     Combined,
	MemberKind: mesh.KindMeshService,
	MemberSelector: func(r *mesh.Resource) map[string]string {
		return mesh.Spec[*meshv1.MeshMultiZoneService](r).GetSelector().GetMeshService().GetMatchLabels()
	},
	Members: multiZoneMembers,
	SNI: func(k mesh.Key, section string) string {
		parts := []string{"sni", "mzsvc", k.Mesh}
		if k.Namespace != "" {
			parts = append(parts, k.Namespace)
		}
		return strings.Join(append(parts, k.Name, section), ".")
	},
	Prefix: netip.MustParsePrefix("243.0.0.0/8"),
	GeneratorSelector: func(
		s *meshv1.HostnameGenerator_Selector) *meshv1.HostnameGenerator_LabelSelector {
		return s.GetMeshMultiZoneService()
	},
	CrossZone:    true,
	TargetByName: true,
	Columns:      []string{"MEMBERS", "VIP", "HOSTNAMES"},
	Values: func(r *mesh.Resource) []string {
		s := mesh.Status[*meshv1.MeshMultiZoneServiceStatus](r)
		var members []string
		for _, m := range s.GetMeshServices() {
			members = append(members, fmt.Sprintf("%s(%d/%d)", m.GetZone(), m.GetHealthy(), m.GetTotal()))
		}
		return []string{cell(members), vips(s.GetVips()), hostnames(s.GetAddresses())}
	},
}

// multiZoneMembers leaves out members of other meshes.
func multiZoneMembers(r *mesh.Resource) []Member {
	var out []Member
	for _, m := range mesh.Status[*meshv1.MeshMultiZoneServiceStatus](r).GetMeshServices() {
		if m.GetMesh() != "" && m.GetMesh() != r.Key.Mesh {
			continue
		}
		out = append(out, Member{
			Key: mesh.Key{
				Kind:      mesh.KindMeshService,
				Mesh:      r.Key.Mesh,
				Zone:      m.GetZone(),
				Namespace: m.GetNamespace(),
				Name:      m.GetName(),
			},
			Ports:   m.GetPorts(),
			Healthy: m.GetHealthy(),
			Total:   m.GetTotal(),
			SANs:    uris(r.Key.Mesh, m.GetIdentities()),
		})
	}
	return out
}
