package validate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// sections finds names that two inbounds or listeners share.
type sections map[string]string

func (s sections) add(c *check, path, name string) {
	if name == "" {
		return
	}
	if !tagValue.MatchString(name) {
		c.add(path, "must be letters, digits and . - _ :")
	}
	if other, ok := s[name]; ok {
		c.add(path, "is the name of %s too", other)
		return
	}
	s[name] = strings.TrimSuffix(path, ".name")
}

func dataplaneRules(c *check, s *meshv1.Dataplane) {
	n := s.GetNetworking()
	if n == nil {
		return // the schema says so
	}
	c.address("networking.address", n.GetAddress())
	c.address("networking.advertisedAddress", n.GetAdvertisedAddress())
	if g := n.GetGateway(); g != nil {
		c.gateway(s, g)
	}
	names := sections{}
	for i, in := range n.GetInbound() {
		path := fmt.Sprintf("networking.inbound[%d]", i)
		names.add(c, path+".name", in.GetName())
		c.inbound(path, n.GetAddress(), in)
		if p := n.GetAdmin().GetPort(); p != 0 && p == in.GetPort() {
			c.add("networking.admin.port", "is the port of %s too", path)
		}
	}
	if len(n.GetListeners()) > 0 {
		c.warn("networking.listeners", "has no effect: zone proxies of one mesh are not supported yet; "+
			"a ZoneIngress serves every mesh")
	}
	taken := map[string]bool{}
	for i, l := range n.GetListeners() {
		path := fmt.Sprintf("networking.listeners[%d]", i)
		names.add(c, path+".name", l.GetName())
		c.ip(path+".address", l.GetAddress())
		at := fmt.Sprintf("%s:%d", l.GetAddress(), l.GetPort())
		if taken[at] {
			c.add(path+".port", "is listened at twice")
		}
		taken[at] = true
	}
	for i, o := range n.GetOutbound() {
		path := fmt.Sprintf("networking.outbound[%d]", i)
		c.outbound(path, o)
		if p := n.GetAdmin().GetPort(); p != 0 && p == o.GetPort() {
			c.add("networking.admin.port", "is the port of %s too", path)
		}
	}
	for i, r := range n.GetTransparentProxying().GetReachableBackends().GetRefs() {
		path := fmt.Sprintf("networking.transparentProxying.reachableBackends.refs[%d]", i)
		switch {
		case r.GetName() == "" && len(r.GetLabels()) == 0:
			c.add(path, "needs a name or labels")
		case len(r.GetLabels()) > 0 && (r.GetName() != "" || r.GetNamespace() != ""):
			c.add(path+".labels", "cannot be combined with name or namespace")
		}
		c.labelSelector(path+".labels", r.GetLabels())
	}
	if s.GetProbes() != nil {
		c.warn("probes", "is deprecated")
	}
}

func (c *check) gateway(s *meshv1.Dataplane, g *meshv1.Dataplane_Gateway) {
	n := s.GetNetworking()
	c.tags("networking.gateway.tags", g.GetTags(), false)
	if g.GetTags()[mesh.TagService] == "" {
		c.add(mesh.FieldKey("networking.gateway.tags", mesh.TagService), "is required")
	}
	if p := g.GetTags()[mesh.TagProtocol]; p != "" && p != "tcp" {
		c.add(mesh.FieldKey("networking.gateway.tags", mesh.TagProtocol), "must be tcp")
	}
	forbid := func(given bool, field string) {
		if given {
			c.add(field, "must not be given for a gateway")
		}
	}
	forbid(len(n.GetInbound()) > 0, "networking.inbound")
	forbid(len(n.GetListeners()) > 0, "networking.listeners")
	if g.GetType() == "BUILTIN" {
		forbid(len(n.GetOutbound()) > 0, "networking.outbound")
		forbid(s.GetProbes() != nil, "probes")
		c.warn("networking.gateway.type", "builtin gateways are not supported: the proxy gets no listeners")
	}
}

var protocols = []string{"tcp", "http", "http2", "grpc", "kafka"}

func (c *check) inbound(path, address string, in *meshv1.Dataplane_Inbound) {
	c.ip(path+".address", in.GetAddress())
	c.ip(path+".serviceAddress", in.GetServiceAddress())
	c.tags(path+".tags", in.GetTags(), false)
	if len(in.GetTags()) > 0 && in.GetTags()[mesh.TagService] == "" {
		c.add(mesh.FieldKey(path+".tags", mesh.TagService), "is required if there are tags")
	}
	if p, ok := in.GetTags()[mesh.TagProtocol]; ok &&
		!slices.Contains(append([]string{"tls", "mysql"}, protocols...), p) {
		c.add(mesh.FieldKey(path+".tags", mesh.TagProtocol), "must be one of %s",
			strings.Join(protocols, ", "))
	}
	if in.GetAddress() != "" {
		address = in.GetAddress()
	}
	servicePort, serviceAddress := in.GetServicePort(), in.GetServiceAddress()
	if servicePort == 0 {
		servicePort = in.GetPort()
	}
	// Without serviceAddress the workload is distinguished by redirection, so equal ports are fine.
	if serviceAddress != "" && serviceAddress == address && servicePort == in.GetPort() {
		c.add(path+".serviceAddress",
			"with servicePort is the inbound's own address and port: traffic would come back to the proxy")
	}
	if p := in.GetServiceProbe(); p != nil {
		c.positive(path+".serviceProbe.interval", p.GetInterval())
		c.positive(path+".serviceProbe.timeout", p.GetTimeout())
	}
	if in.GetHealth() != nil {
		c.warn(path+".health", "is deprecated: use state")
	}
}

func (c *check) outbound(path string, o *meshv1.Dataplane_Outbound) {
	c.ip(path+".address", o.GetAddress())
	ref := o.GetBackendRef()
	switch {
	case ref == nil && len(o.GetTags()) == 0:
		c.add(path, "needs backendRef or tags")
	case ref != nil && len(o.GetTags()) > 0:
		c.add(path+".tags", "cannot be combined with backendRef")
	case ref == nil:
		c.tags(path+".tags", o.GetTags(), false)
		if o.GetTags()[mesh.TagService] == "" {
			c.add(mesh.FieldKey(path+".tags", mesh.TagService), "is required")
		}
	default:
		path += ".backendRef"
		if kind := ref.GetKind(); mesh.PlannedKind(kind) {
			c.warn(path+".kind", "%s is not supported yet: calls to it fail", kind)
		}
		switch {
		case ref.GetName() == "" && len(ref.GetLabels()) == 0:
			c.add(path, "needs a name or labels")
		case ref.GetName() != "" && len(ref.GetLabels()) > 0:
			c.add(path+".labels", "cannot be combined with name")
		}
		c.labelSelector(path+".labels", ref.GetLabels())
		if ref.GetPort() == 0 && ref.GetKind() != "MeshExternalService" {
			c.add(path+".port", "is required")
		}
	}
}
