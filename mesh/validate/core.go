package validate

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// mesh: core-resources 8.
func (c *check) mesh(s *meshv1.Mesh) {
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
	if s.GetRouting().GetZoneEgress() && s.GetMtls().GetEnabledBackend() == "" {
		c.add("routing.zoneEgress", "needs mtls.enabledBackend")
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
			c.warn(fmt.Sprintf("skipCreatingInitialPolicies[%d]", i), "%q is no kind of a policy", k)
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

// address is an IP or a DNS name, and not the address that means all.
func (c *check) address(path, a string) {
	ip, err := netip.ParseAddr(a)
	switch {
	case a == "":
	case err == nil && ip.IsUnspecified():
		c.add(path, "must be an address that others can dial, not %s", a)
	case err != nil && !mesh.IsDNSName(strings.ToLower(a)):
		c.add(path, "must be an IP address or a DNS name")
	}
}

func (c *check) ip(path, a string) {
	if _, err := netip.ParseAddr(a); a != "" && err != nil {
		c.add(path, "must be an IP address")
	}
}

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

// dataplane: core-resources 9.
func (c *check) dataplane(s *meshv1.Dataplane) {
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
		c.add(mesh.FieldKey(path+".tags", mesh.TagProtocol), "must be one of %s", strings.Join(protocols, ", "))
	}
	if in.GetAddress() != "" {
		address = in.GetAddress()
	}
	servicePort, serviceAddress := in.GetServicePort(), in.GetServiceAddress()
	if servicePort == 0 {
		servicePort = in.GetPort()
	}
	// Without serviceAddress the workload is told apart by redirection, so equal ports are fine.
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

// zoneIngress: core-resources 16.
func (c *check) zoneIngress(s *meshv1.ZoneIngress) {
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

// portNames finds names that two ports share; a port without a name is called by its number.
func (c *check) portNames(seen map[string]bool, path, name string, number uint32) {
	if name != "" && (len(name) > 63 || !dnsLabel.MatchString(name)) {
		c.add(path+".name", "must be lower-case letters, digits and \"-\", at most 63")
	}
	if name == "" {
		name = strconv.FormatUint(uint64(number), 10)
	}
	if seen[name] {
		c.add(path+".name", "%q is the name of another port too", name)
	}
	seen[name] = true
}

// meshService: core-resources 11.
func (c *check) meshService(s *meshv1.MeshService) {
	sel, given := s.GetSelector(), 0
	for _, b := range []bool{len(sel.GetDataplaneTags()) > 0, sel.GetDataplaneRef() != nil,
		sel.GetDataplaneLabels() != nil} {
		if b {
			given++
		}
	}
	switch {
	case given > 1:
		c.add("spec.selector", "must have at most one of dataplaneTags, dataplaneRef and dataplaneLabels")
	case given == 0:
		c.warn("spec.selector", "is empty: the service has no instances")
	}
	c.tags("spec.selector.dataplaneTags", sel.GetDataplaneTags(), false)
	c.labelSelector("spec.selector.dataplaneLabels.matchLabels", sel.GetDataplaneLabels().GetMatchLabels())
	if sel.GetDataplaneRef() != nil && sel.GetDataplaneRef().GetName() == "" {
		c.add("spec.selector.dataplaneRef.name", "is required")
	}
	names, keys := map[string]bool{}, map[string]bool{}
	for i, p := range s.GetPorts() {
		path := fmt.Sprintf("spec.ports[%d]", i)
		protocol := p.GetAppProtocol()
		if protocol == "" {
			protocol = "tcp"
		}
		key := fmt.Sprintf("%d/%s", p.GetPort(), protocol)
		if keys[key] {
			c.add(path+".port", "is given twice with protocol %s", protocol)
		}
		keys[key] = true
		c.portNames(names, path, p.GetName(), p.GetPort())
		c.targetPort(path+".targetPort", p.GetTargetPort())
	}
}

func (c *check) targetPort(path string, t *meshv1.IntOrString) {
	switch v := t.GetValue().(type) {
	case nil:
		c.warn(path, "is not given: the port has no instances")
	case *meshv1.IntOrString_IntValue:
		if v.IntValue < 1 || v.IntValue > 65535 {
			c.add(path, "must be a number from 1 to 65535 or the name of an inbound")
		}
	case *meshv1.IntOrString_StringValue:
		if v.StringValue == "" {
			c.add(path, "must be a number from 1 to 65535 or the name of an inbound")
		}
	}
}

// multiZoneService: core-resources 12.
func (c *check) multiZoneService(s *meshv1.MeshMultiZoneService) {
	c.labelSelector("spec.selector.meshService.matchLabels",
		s.GetSelector().GetMeshService().GetMatchLabels())
	names, numbers := map[string]bool{}, map[uint32]bool{}
	for i, p := range s.GetPorts() {
		path := fmt.Sprintf("spec.ports[%d]", i)
		if numbers[p.GetPort()] {
			c.add(path+".port", "is given twice")
		}
		numbers[p.GetPort()] = true
		c.portNames(names, path, p.GetName(), p.GetPort())
	}
}
