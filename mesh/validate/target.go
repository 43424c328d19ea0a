package validate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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

// backendKinds are what a backendRef can name: MeshServiceSubset stands after what it narrows.
var backendKinds = slices.Insert(destination.Referable(), 1, "MeshServiceSubset")

// kindsOf are the kinds that a list of targets in the row of a kind stands for.
func kindsOf(list []string) []string {
	var out []string
	for _, k := range list {
		switch k {
		case mesh.AnyDestination:
			out = append(out, destination.Referable()...)
		case mesh.AnyProxied:
			out = append(out, proxied()...)
		default:
			out = append(out, k)
		}
	}
	return out
}

// proxied are the kinds of destinations whose endpoints are proxies of the mesh, by rank.
func proxied() []string {
	return slices.DeleteFunc(destination.Referable(), func(kind string) bool {
		info, ok := destination.Lookup(mesh.Kind(kind))
		return !ok || info.Source == destination.Given
	})
}

// policyTarget checks the policy's own targetRef.
func (c *check) policyTarget(info *mesh.PolicyInfo, spec proto.Message) {
	kinds := info.Top
	if !c.namespaced {
		kinds = slices.Concat(kinds, info.TopOfSystem)
	}
	inbound := len(entries(spec, "from"))+len(entries(spec, "rules")) > 0
	c.target("spec.targetRef", targetOf(spec), level{
		top:      true,
		sections: inbound || !info.HasTo(),
		kinds:    kinds,
	})
}

// entryTargets checks the targetRef of each entry of "to" and "from".
func (c *check) entryTargets(info *mesh.PolicyInfo, spec proto.Message) {
	to := info.To
	switch top := targetOf(spec).GetKind(); top {
	case "MeshGateway", "MeshHTTPRoute":
		if info.ToOfGateways != nil && slices.Contains(slices.Concat(info.Top, info.TopOfSystem), top) {
			to = info.ToOfGateways
		}
	}
	to = kindsOf(to)
	for i, e := range entries(spec, "to") {
		c.target(fmt.Sprintf("spec.to[%d].targetRef", i), targetOf(e), level{kinds: to})
	}
	for i, e := range entries(spec, "from") {
		path, t := fmt.Sprintf("spec.from[%d].targetRef", i), targetOf(e)
		c.target(path, t, level{kinds: info.From})
		if t.GetKind() == "MeshService" && t.GetName() == "" && slices.Contains(info.From, "MeshService") {
			c.add(path+".name", "is required: callers are distinguished by their tag %s", mesh.TagService)
		}
	}
}

// entries are the items of the list field of a policy, none if its kind has no such field.
func entries(spec proto.Message, field protoreflect.Name) []proto.Message {
	m := spec.ProtoReflect()
	fd := m.Descriptor().Fields().ByName(field)
	if fd == nil {
		return nil
	}
	list := m.Get(fd).List()
	out := make([]proto.Message, list.Len())
	for i := range out {
		out[i] = list.Get(i).Message().Interface()
	}
	return out
}

// targetOf is the targetRef of a policy or of one of its entries, nil if it has none.
func targetOf(m proto.Message) *meshv1.TargetRef {
	if t, ok := m.(interface{ GetTargetRef() *meshv1.TargetRef }); ok {
		return t.GetTargetRef()
	}
	return nil
}

func (c *check) unsupported(path string, t *meshv1.TargetRef, supported ...string) {
	c.add(path+".kind", "%s is not supported here: use one of %s", t.GetKind(), strings.Join(supported, ", "))
}

// target checks a targetRef. Nil is fine: it is for the caller to demand one.
func (c *check) target(path string, t *meshv1.TargetRef, at level) {
	if t == nil || t.GetKind() == "" {
		return // the schema says so
	}
	if !slices.Contains(at.kinds, t.GetKind()) {
		c.unsupported(path, t, at.kinds...)
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
	if types := t.GetProxyTypes(); len(types) > 0 && !slices.Contains(types, "Sidecar") {
		c.warn(
			path+".proxyTypes",
			"selects builtin gateways alone, of which there are none: use Dataplane, or add Sidecar",
		)
	}
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
