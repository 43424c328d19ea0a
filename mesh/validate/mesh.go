package validate

import (
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func meshRules(c *check, s *meshv1.Mesh) {
	names := map[string]bool{}
	for i, b := range s.GetMtls().GetBackends() {
		path := fmt.Sprintf("mtls.backends[%d]", i)
		if b.GetName() != "" && (len(b.GetName()) > 63 || !mesh.IsDNSName(b.GetName())) {
			c.add(path+".name", "must be lower-case letters, digits, \"-\" and \".\", at most 63")
		}
		if names[b.GetName()] {
			c.add(path+".name", "is given to two backends")
		}
		names[b.GetName()] = true
		c.caBackend(path, b)
	}
	if e := s.GetMtls().GetEnabledBackend(); e != "" && !names[e] {
		c.add("mtls.enabledBackend", "names no backend of mtls.backends")
	}
	// What promises security and cannot act is refused; what cannot act otherwise is warned of.
	if s.GetRouting().GetZoneEgress() {
		c.add(
			"routing.zoneEgress",
			"is not supported yet: traffic would leave the mesh without an egress; remove it",
		)
	}
	if s.GetRouting().GetDefaultForbidMeshExternalServiceAccess() {
		c.add("routing.defaultForbidMeshExternalServiceAccess",
			"is not supported yet: nothing would be forbidden; remove it")
	}
	if s.GetRouting().GetLocalityAwareLoadBalancing() {
		c.warn(
			"routing.localityAwareLoadBalancing",
			"has no effect: nearer instances are preferred in every mesh; "+
				"MeshLoadBalancingStrategy changes that",
		)
	}
	for _, l := range []struct {
		name  string
		rules []*meshv1.Mesh_TagRules
	}{{"requirements", s.GetConstraints().GetDataplaneProxy().GetRequirements()},
		{"restrictions", s.GetConstraints().GetDataplaneProxy().GetRestrictions()}} {
		for i, r := range l.rules {
			c.tags(fmt.Sprintf("constraints.dataplaneProxy.%s[%d].tags", l.name, i), r.GetTags(), true)
		}
	}
	for i, k := range s.GetSkipCreatingInitialPolicies() {
		if _, ok := mesh.Lookup(mesh.Kind(k)); !ok && k != "*" && !mesh.PlannedKind(k) {
			c.warn(fmt.Sprintf("skipCreatingInitialPolicies[%d]", i), "%q is not a kind of policy", k)
		}
	}
}

func (c *check) caBackend(path string, b *meshv1.Mesh_Backend) {
	if b.GetDpCert() != nil {
		at := path + ".dpCert.rotation.expiration"
		if v := b.GetDpCert().GetRotation().GetExpiration(); v == "" {
			c.add(at, "is required if dpCert is given, such as 24h")
		} else if _, err := mesh.ParseExpiration(v); err != nil {
			c.add(at, "%v", err)
		}
		c.notNegative(path+".dpCert.requestTimeout", b.GetDpCert().GetRequestTimeout())
	}
	c.notNegative(path+".rootChain.requestTimeout", b.GetRootChain().GetRequestTimeout())
	if b.GetRootChain() != nil {
		c.warn(path+".rootChain", "has no effect: no authority is asked over the network")
	}
	conf := b.GetConf()
	switch b.GetType() {
	case "builtin":
		if _, err := mesh.ParseExpiration(conf.GetCaCert().GetExpiration()); err != nil {
			c.add(path+".conf.caCert.expiration", "%v", err)
		}
		for name, given := range map[string]bool{"cert": conf.GetCert() != nil, "key": conf.GetKey() != nil} {
			if given {
				c.add(path+".conf."+name, "must not be given with type builtin")
			}
		}
	case "provided":
		if conf.GetCaCert() != nil {
			c.add(path+".conf.caCert", "must not be given with type provided")
		}
		c.dataSource(path+".conf.cert", conf.GetCert())
		c.dataSource(path+".conf.key", conf.GetKey())
	}
}

func (c *check) dataSource(path string, s *meshv1.DataSource) {
	if s == nil {
		c.add(path, "is required")
		return
	}
	n := 0
	for _, given := range []bool{s.GetSecret() != "", s.GetFile() != "", len(s.GetInline()) > 0,
		s.GetInlineString() != ""} {
		if given {
			n++
		}
	}
	if n != 1 {
		c.add(path, "needs exactly one of secret, inline, inlineString and file")
	}
	if s.GetFile() != "" {
		c.warn(path+".file", "is deprecated: use secret")
	}
}
