package api

import (
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// asHere is a resource as this zone's proxies know it. The status of another zone's MeshService has the
// addresses and hostnames by which the proxies of that zone reach it; each zone gives its own.
func (b *base) asHere(view replica.View, r *mesh.Resource) *mesh.Resource {
	if b.cfg.Zone == "" || r.Key.Zone == b.cfg.Zone || r.Key.Kind != mesh.KindMeshService {
		return r
	}
	status := proto.CloneOf(mesh.Status[*meshv1.MeshServiceStatus](r))
	if status == nil {
		status = &meshv1.MeshServiceStatus{}
	}
	status.Vips, status.Addresses, status.HostnameGenerators = nil, nil, nil
	if own, ok := view.Get(mesh.VirtualAddressKey(b.cfg.Zone, r.Key)); ok {
		spec := mesh.Spec[*meshv1.VirtualAddress](own)
		if spec.GetIp() != "" {
			status.Vips = []*meshv1.VIP{{Ip: spec.GetIp()}}
		}
		for _, host := range spec.GetHostnames() {
			status.Addresses = append(status.Addresses,
				&meshv1.HostnameAddress{Hostname: host, Origin: "HostnameGenerator"})
		}
	}
	c := *r
	c.Status = status
	return &c
}
