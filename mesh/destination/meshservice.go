package destination

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// meshService is the service of one zone: its endpoints are the proxies that it selects there.
var meshService = Info{
	Kind: mesh.KindMeshService,
	Ports: func(r *mesh.Resource) []Port {
		var out []Port
		for _, p := range mesh.Spec[*meshv1.MeshService](r).GetPorts() {
			out = append(out, newPort(p.GetPort(), p.GetName(), p.GetAppProtocol(), p.GetTargetPort()))
		}
		return out
	},
	SANs: func(r *mesh.Resource) []string {
		return uris(r.Key.Mesh, mesh.Spec[*meshv1.MeshService](r).GetIdentities())
	},
	Source: Selected,
	Selector: func(r *mesh.Resource) *meshv1.MeshService_Selector {
		return mesh.Spec[*meshv1.MeshService](r).GetSelector()
	},
	Proxies: func(r *mesh.Resource) *meshv1.ProxyCounts {
		return mesh.Status[*meshv1.MeshServiceStatus](r).GetDataplaneProxies()
	},
	Plaintext: func(r *mesh.Resource) bool {
		return mesh.Status[*meshv1.MeshServiceStatus](r).GetTls().GetStatus() != "Ready"
	},
	SNI: func(k mesh.Key, section string) string {
		parts := []string{"sni", "msvc", k.Mesh, k.Zone}
		if k.Namespace != "" {
			parts = append(parts, k.Namespace)
		}
		return strings.Join(append(parts, k.Name, section), ".")
	},
	Prefix: netip.MustParsePrefix("241.0.0.0/8"),
	GeneratorSelector: func(
		s *meshv1.HostnameGenerator_Selector) *meshv1.HostnameGenerator_LabelSelector {
		return s.GetMeshService()
	},
	TargetByName: true,
	Rank:         0,
	Columns:      []string{"HEALTHY", "VIP", "HOSTNAMES"},
	Values: func(r *mesh.Resource) []string {
		s := mesh.Status[*meshv1.MeshServiceStatus](r)
		p := s.GetDataplaneProxies()
		return []string{
			fmt.Sprintf("%d/%d", p.GetHealthy(), p.GetTotal()),
			vips(s.GetVips()),
			hostnames(s.GetAddresses()),
		}
	},
}
