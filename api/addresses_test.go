package api_test

import (
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// TestServicesOfOtherZonesHaveOwnAddresses: a zone shows the address and hostnames that its own proxies use,
// so that no two services have one address.
func TestServicesOfOtherZonesHaveOwnAddresses(t *testing.T) {
	t.Parallel()

	p := withMesh(t, func(c *api.Config) { c.Zone = "east" })
	for zone, own := range map[string]string{"east": "241.0.0.1", "west": "241.0.0.2"} {
		key := mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone, Name: "web-" + zone}
		p.seed(
			&mesh.Resource{
				Key:  key,
				Spec: &meshv1.MeshService{},
				Status: &meshv1.MeshServiceStatus{
					Vips:      []*meshv1.VIP{{Ip: "241.0.0.1"}}, // each is the first of its zone
					Addresses: []*meshv1.HostnameAddress{{Hostname: "web-" + zone + ".of." + zone}},
					Tls:       &meshv1.MeshServiceStatus_TlsStatus{Status: "Ready"},
				},
			},
			&mesh.Resource{
				Key: mesh.VirtualAddressKey("east", key),
				Spec: &meshv1.VirtualAddress{
					Destination: key.Proto(),
					Ip:          own,
					Hostnames:   []string{"web-" + zone + ".of.east"},
				},
			})
	}
	p.caughtUp()
	const path = "/meshes/default/meshservices"
	p.want(p.do("GET", path+"/web-west?zone=west", ""), 200, "241.0.0.2", "web-west.of.east", "Ready")
	list := p.want(p.do("GET", path, ""), 200, "241.0.0.2", "web-west.of.east", "web-east.of.east")
	if strings.Contains(list.text, "of.west") || strings.Count(list.text, "241.0.0.1") != 1 {
		t.Errorf("the list is %s", list.text)
	}
}
