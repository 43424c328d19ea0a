package validate

import (
	"net/netip"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func zoneIngressRules(c *check, s *meshv1.ZoneIngress) {
	n := s.GetNetworking()
	if n == nil {
		return
	}
	if a, err := netip.ParseAddr(n.GetAddress()); err != nil || !a.IsUnspecified() {
		c.address("networking.address", n.GetAddress())
	}
	c.address("networking.advertisedAddress", n.GetAdvertisedAddress())
	if n.GetAdvertisedAddress() != "" && n.GetAdvertisedPort() == 0 {
		c.add("networking.advertisedPort", "is required with advertisedAddress")
	}
	if n.GetAdvertisedAddress() == "" && n.GetAdvertisedPort() != 0 {
		c.add("networking.advertisedAddress", "is required with advertisedPort")
	}
	if p := n.GetAdmin().GetPort(); p != 0 && p == n.GetPort() {
		c.add("networking.admin.port", "is the port of the ingress too")
	}
}
