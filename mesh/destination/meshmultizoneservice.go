package destination

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

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
	Members:     multiZoneMembers,
	WithMembers: withMultiZoneMembers,
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
	Rank:         2,
	NeedsPort:    true,
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

// withMultiZoneMembers sorts them by name, namespace and zone.
func withMultiZoneMembers(r *mesh.Resource, members []*mesh.Resource) proto.Message {
	status := &meshv1.MeshMultiZoneServiceStatus{}
	if old := mesh.Status[*meshv1.MeshMultiZoneServiceStatus](r); old != nil {
		status = proto.CloneOf(old)
	}
	status.MeshServices = nil
	for _, m := range members {
		status.MeshServices = append(status.MeshServices, newMultiZoneMember(m))
	}
	slices.SortFunc(status.MeshServices, func(a, b *meshv1.MeshMultiZoneServiceStatus_Member) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetNamespace(), b.GetNamespace()),
			cmp.Compare(a.GetZone(), b.GetZone()))
	})

	matched := &meshv1.Condition{
		Type:    "MeshServicesMatched",
		Status:  "True",
		Reason:  "MatchesFound",
		Message: fmt.Sprintf("%d MeshServices match", len(members)),
	}
	if len(members) == 0 {
		matched.Status, matched.Reason = "False", "NoMatchesFound"
		matched.Message = "no MeshService matches the selector"
	}
	at := slices.IndexFunc(status.Conditions, func(c *meshv1.Condition) bool {
		return c.GetType() == matched.Type
	})
	if at < 0 {
		status.Conditions = append(status.Conditions, matched)
	} else {
		status.Conditions[at] = matched
	}
	return status
}

func newMultiZoneMember(r *mesh.Resource) *meshv1.MeshMultiZoneServiceStatus_Member {
	spec, counts := mesh.Spec[*meshv1.MeshService](r), meshService.Proxies(r)
	m := &meshv1.MeshMultiZoneServiceStatus_Member{
		Name:       r.DisplayName(),
		Namespace:  r.Key.Namespace,
		Zone:       r.Key.Zone,
		Mesh:       r.Key.Mesh,
		Identities: spec.GetIdentities(),
		Healthy:    counts.GetHealthy(),
		Total:      counts.GetTotal(),
		State:      cmp.Or(spec.GetState(), "Unavailable"),
	}
	for _, p := range spec.GetPorts() {
		m.Ports = append(m.Ports, p.GetPort())
	}
	return m
}
