package validate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// level is where a targetRef stands, and what may be there.
type level struct {
	kinds []string
	// sections: sectionName is allowed for a Dataplane.
	sections bool
	// top is the targetRef of the policy.
	top bool
}

// topKinds are the kinds of the top-level targetRef of each policy:
// everywhere, and only in policies of the system, which are those without a namespace.
var topKinds = map[mesh.Kind]struct{ anywhere, system []string }{
	mesh.KindMeshHTTPRoute:             {anyProxies, gateways},
	mesh.KindMeshTCPRoute:              {anyProxies, gateways},
	mesh.KindMeshLoadBalancingStrategy: {slices.Concat(anyProxies, gateways), nil},
	mesh.KindMeshRateLimit:             {anyProxies, gatewaysAndRoutes},
	mesh.KindMeshHealthCheck:           {slices.Concat(anyProxies, gateways), nil},
	mesh.KindMeshCircuitBreaker:        {slices.Concat(anyProxies, gateways), nil},
	mesh.KindMeshRetry:                 {anyProxies, gatewaysAndRoutes},
	mesh.KindMeshTimeout:               {anyProxies, gatewaysAndRoutes},
	mesh.KindMeshFaultInjection:        {anyProxies, gateways},
	mesh.KindMeshTrafficPermission:     {anyProxies, nil},
}

var (
	anyProxies = []string{"Mesh", "Dataplane", "MeshSubset", "MeshService", "MeshServiceSubset"}
	// backendKinds are what a backendRef can name: MeshServiceSubset stands after what it narrows.
	backendKinds      = slices.Insert(destination.Referable(), 1, "MeshServiceSubset")
	gateways          = []string{"MeshGateway"}
	gatewaysAndRoutes = []string{"MeshGateway", "MeshHTTPRoute"}
)

// top checks the top-level targetRef; sections says that it may select one inbound.
func (c *check) top(kind mesh.Kind, t *meshv1.TargetRef, sections bool) {
	kinds := topKinds[kind].anywhere
	if !c.namespaced {
		kinds = slices.Concat(kinds, topKinds[kind].system)
	}
	c.target("spec.targetRef", t, level{top: true, sections: sections, kinds: kinds})
}

// callerTarget checks a targetRef that tells callers by their tags.
func (c *check) callerTarget(path string, t *meshv1.TargetRef) {
	c.target(path, t, level{kinds: []string{"Mesh", "MeshSubset", "MeshService", "MeshServiceSubset"}})
	if t.GetKind() == "MeshService" && t.GetName() == "" {
		c.add(path+".name", "is required: callers are distinguished by their tag %s", mesh.TagService)
	}
}

// target checks a targetRef. Nil is fine: it is for the caller to demand one.
func (c *check) target(path string, t *meshv1.TargetRef, at level) {
	if t == nil || t.GetKind() == "" {
		return // the schema says so
	}
	if !slices.Contains(at.kinds, t.GetKind()) {
		c.add(path+".kind", "%s is not supported here: use one of %s", t.GetKind(),
			strings.Join(at.kinds, ", "))
		return
	}
	if t.GetMesh() != "" {
		c.add(path+".mesh", "must not be given: a policy is about its own mesh")
	}
	forbid := func(given bool, field string) {
		if given {
			c.add(path+"."+field, "must not be given with kind %s", t.GetKind())
		}
	}
	_, isDestination := destination.Rank(mesh.Kind(t.GetKind()))
	switch kind := t.GetKind(); {
	case kind == "Mesh" || kind == "MeshSubset":
		forbid(t.GetName() != "", "name")
		forbid(t.GetNamespace() != "", "namespace")
		forbid(len(t.GetLabels()) > 0, "labels")
		forbid(t.GetSectionName() != "", "sectionName")
		forbid(t.GetKind() == "Mesh" && len(t.GetTags()) > 0, "tags")
		c.tags(path+".tags", t.GetTags(), false)
	case kind == "Dataplane":
		forbid(len(t.GetTags()) > 0, "tags")
		forbid(len(t.GetProxyTypes()) > 0, "proxyTypes")
		if t.GetSectionName() != "" && !at.sections {
			c.add(path+".sectionName",
				"must not be given: it selects one inbound, and the policy has neither from nor rules")
		}
		c.nameOrLabels(path, t, false)
	case isDestination || kind == "MeshHTTPRoute":
		forbid(len(t.GetTags()) > 0, "tags")
		forbid(len(t.GetProxyTypes()) > 0, "proxyTypes")
		forbid(t.GetKind() == "MeshHTTPRoute" && t.GetSectionName() != "", "sectionName")
		c.nameOrLabels(path, t, true)
	case kind == "MeshServiceSubset" || kind == "MeshGateway":
		if t.GetName() == "" {
			c.add(path+".name", "is required")
		}
		forbid(t.GetNamespace() != "", "namespace")
		forbid(len(t.GetLabels()) > 0, "labels")
		forbid(t.GetSectionName() != "", "sectionName")
		forbid(len(t.GetProxyTypes()) > 0, "proxyTypes")
		c.tags(path+".tags", t.GetTags(), true)
	}
	if t.GetName() != "" && !targetName.MatchString(t.GetName()) {
		c.add(path+".name", "must be lower-case letters, digits, \"-\", \".\" and \"_\"")
	}
	if at.top {
		c.topWarnings(path, t)
	}
}

func (c *check) topWarnings(path string, t *meshv1.TargetRef) {
	switch t.GetKind() {
	case "MeshService", "MeshServiceSubset", "MeshSubset":
		c.warn(path+".kind", "%s is deprecated here: use Dataplane with labels", t.GetKind())
	case "MeshHTTPRoute":
		c.warn(path+".kind", "MeshHTTPRoute has no effect here: use it in to[].targetRef")
	case "MeshGateway":
		c.warn(path+".kind", "MeshGateway has no effect: there are no builtin gateways")
	}
}

func (c *check) nameOrLabels(path string, t *meshv1.TargetRef, required bool) {
	if len(t.GetLabels()) > 0 && (t.GetName() != "" || t.GetNamespace() != "") {
		c.add(path+".labels", "cannot be combined with name or namespace")
	}
	if required && t.GetName() == "" && len(t.GetLabels()) == 0 {
		c.add(path, "needs a name or labels")
	}
	c.labelSelector(path+".labels", t.GetLabels())
}

// backend checks a backendRef.
func (c *check) backend(path string, b *meshv1.BackendRef) {
	kind := b.GetKind()
	if b == nil || kind == "" {
		return
	}
	c.target(path, &meshv1.TargetRef{
		Kind:        kind,
		Name:        b.GetName(),
		Namespace:   b.GetNamespace(),
		Labels:      b.GetLabels(),
		SectionName: b.GetSectionName(),
		Tags:        b.GetTags(),
	},
		level{kinds: backendKinds})
	if b.GetWeight() > maxWeight {
		c.add(path+".weight", "must be at most 1000000")
	}
	info, ok := destination.Lookup(mesh.Kind(kind))
	if ok && info.NeedsPort && b.Port == nil && b.GetSectionName() == "" {
		c.add(path+".port", "is required for a %s, or sectionName", kind)
	}
	if kind == "MeshServiceSubset" {
		if len(b.GetTags()) > 0 {
			c.warn(path+".kind",
				"MeshServiceSubset with tags finds no instances: define a MeshService over the subset "+
					"and name that")
		} else {
			c.warn(path+".kind", "MeshServiceSubset is deprecated: use MeshService")
		}
	}
}

// maxWeight is that of the Gateway API. Envoy adds the weights of a route up in 32 bits.
const maxWeight = 1_000_000

// match checks a condition on the caller.
func (c *check) match(path string, m *meshv1.Match) {
	if m.GetSpiffeId() == nil && m.GetSni() == nil {
		c.add(path, "needs spiffeID or sni")
	}
	if id := m.GetSpiffeId(); id.GetValue() != "" {
		value := id.GetValue()
		if id.GetType() == "Prefix" && value != "spiffe://" {
			value = strings.TrimSuffix(value, "/")
		}
		if reason := spiffeReason(value); reason != "" {
			c.add(path+".spiffeID.value", "%s", reason)
		}
	}
	if v := m.GetSni().GetValue(); v != "" && !mesh.IsDNSName(v) {
		c.add(path+".sni.value", "must be a DNS name")
	}
}

func spiffeReason(id string) string {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, path, hasPath := strings.Cut(rest, "/")
	switch {
	case !ok:
		return "must begin with spiffe://"
	case domain == "" || strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "":
		return "must have a trust domain of lower-case letters, digits, \".\", \"-\" and \"_\" " +
			"after spiffe://"
	case !hasPath:
		return ""
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "must not end with a slash nor have an empty or relative path segment"
		}
		for _, r := range segment {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
				strings.ContainsRune(".-_", r)) {
				return fmt.Sprintf("has a character that no SPIFFE ID may have: %q", r)
			}
		}
	}
	return ""
}

// preciseHostname is a DNS name that is not an address.
func (c *check) preciseHostname(path, host string) {
	if host == "" {
		return
	}
	if _, err := netip.ParseAddr(host); err == nil {
		c.add(path, "must be a DNS name, not an address")
	} else if !mesh.IsDNSName(host) {
		c.add(path, "must be a DNS name in lower case")
	}
}
