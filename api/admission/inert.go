package admission

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/internal/suggest"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
)

// Inert are the parts of a policy that can have no effect as the view stands, each as "field: reason": a
// reference to what is not there, a port that no destination has, rules of HTTP for ports of TCP, a caller's
// identity where none is given out. The policy is stored all the same: what is missing may come. Other kinds
// have none.
func Inert(view replica.View, r *mesh.Resource) []string {
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok || info.Policy == nil {
		return nil
	}
	head := policy.HeadOf(r)
	c := &inert{
		view: view,
		from: mesh.Key{Mesh: r.Key.Mesh, Zone: head.Zone, Namespace: head.Namespace},
		have: map[mesh.Kind][]*mesh.Resource{},
	}
	if c.from.Namespace == mesh.SystemNamespace {
		c.from.Namespace = ""
	}
	for _, e := range policy.ToEntries(r) {
		c.target(fmt.Sprintf("spec.to[%d].targetRef", e.Index), e.Target, r.Key.Kind)
	}
	c.identity = c.identities()
	c.walk("spec", r.Spec.ProtoReflect())
	return c.out
}

// inert collects what one policy names in vain.
type inert struct {
	view replica.View
	// from is where names are looked up: mesh, zone and namespace.
	from mesh.Key
	// have are the resources of the mesh by kind, read when they are first needed.
	have map[mesh.Kind][]*mesh.Resource
	// identity says why no caller can have a SPIFFE ID; empty if callers have them.
	identity string
	out      []string
}

func (c *inert) warn(field, reason string, args ...any) {
	c.out = append(c.out, field+": "+fmt.Sprintf(reason, args...))
}

func (c *inert) all(kind mesh.Kind) []*mesh.Resource {
	list, read := c.have[kind]
	if !read {
		list = slices.Collect(c.view.List(kind, c.from.Mesh))
		c.have[kind] = list
	}
	return list
}

// find are the resources that a reference means, whatever its section. If there is none it says so.
func (c *inert) find(path string, ref *meshv1.TargetRef, effect string) []*mesh.Resource {
	kind := mesh.Kind(ref.GetKind())
	var out []*mesh.Resource
	var names []string
	for _, r := range c.all(kind) {
		names = append(names, r.Key.Name)
		if policy.Refers(ref, c.from, r.Key, r.Labels) {
			out = append(out, r)
		}
	}
	switch {
	case len(out) > 0:
	case len(ref.GetLabels()) > 0:
		c.warn(path+".labels", "no %s has these labels%s", kind, effect)
	default:
		hint := suggest.Nearest(ref.GetName(), names)
		if hint != "" {
			hint = fmt.Sprintf("; did you mean %s?", hint)
		}
		c.warn(path+".name", "there is no %s %s%s%s", kind, ref.GetName(), effect, hint)
	}
	return out
}

// httpProtocols are the protocols of ports whose requests a proxy can tell apart.
var httpProtocols = []string{"http", "http2", "grpc"}

// target checks what an entry of "to" is about.
func (c *inert) target(path string, ref *meshv1.TargetRef, of mesh.Kind) {
	kind := mesh.Kind(ref.GetKind())
	const effect = " yet, so that the entry has no effect"
	if kind == mesh.KindMeshHTTPRoute {
		c.find(path, ref, effect)
		return
	}
	info, ok := destination.Lookup(kind)
	if !ok {
		if mesh.PlannedKind(string(kind)) {
			c.warn(path+".kind", "%s is not supported yet, so that the entry has no effect", kind)
		}
		return
	}
	found := c.find(path, ref, effect)
	if len(found) == 0 {
		return
	}
	ports := portsOf(info, found)
	if section := ref.GetSectionName(); section != "" {
		ports = slices.DeleteFunc(
			slices.Clone(ports),
			func(p destination.Port) bool { return p.Name != section },
		)
		if len(ports) == 0 {
			c.warn(
				path+".sectionName",
				"no port is called %s: there is %s",
				section,
				portNames(portsOf(info, found)),
			)
			return
		}
	}
	http := func(p destination.Port) bool { return slices.Contains(httpProtocols, p.Protocol) }
	if of == mesh.KindMeshHTTPRoute && len(ports) > 0 && !slices.ContainsFunc(ports, http) {
		c.warn(path, "has only ports that are not HTTP (%s), for which a MeshHTTPRoute has no effect: use a "+
			"MeshTCPRoute, or set appProtocol", portNames(ports))
	}
}

// backend checks where traffic is to go.
func (c *inert) backend(path string, ref *meshv1.BackendRef) {
	info, ok := destination.Lookup(mesh.Kind(ref.GetKind()))
	if !ok {
		if mesh.PlannedKind(ref.GetKind()) {
			c.warn(path+".kind", "%s is not supported yet: its share of the traffic fails", ref.GetKind())
		}
		return
	}
	found := c.find(path, &meshv1.TargetRef{
		Kind:      ref.GetKind(),
		Name:      ref.GetName(),
		Namespace: ref.GetNamespace(),
		Labels:    ref.GetLabels(),
	}, ": its share of the traffic fails until there is one")
	if len(found) == 0 {
		return
	}
	ports := portsOf(info, found)
	switch port, section := ref.GetPort(), ref.GetSectionName(); {
	case section != "":
		if !slices.ContainsFunc(ports, func(p destination.Port) bool { return p.Name == section }) {
			c.warn(path+".sectionName", "no port is called %s: there is %s", section, portNames(ports))
		}
	case ref.Port != nil:
		if !slices.ContainsFunc(ports, func(p destination.Port) bool { return p.Number == port }) {
			c.warn(path+".port", "there is no port %d: there is %s", port, portNames(ports))
		}
	}
}

func portsOf(info *destination.Info, list []*mesh.Resource) []destination.Port {
	var out []destination.Port
	for _, r := range list {
		out = append(out, info.Ports(r)...)
	}
	return out
}

// portNames are the ports for people, each once.
func portNames(ports []destination.Port) string {
	var out []string
	for _, p := range ports {
		name := fmt.Sprint(p.Number)
		if p.Name != name {
			name = fmt.Sprintf("%s (%d)", p.Name, p.Number)
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// identities says why callers of the mesh have no SPIFFE ID; empty if they have one.
func (c *inert) identities() string {
	m, ok := c.view.Get(mesh.Key{Kind: mesh.KindMesh, Name: c.from.Mesh})
	if ok && mesh.Spec[*meshv1.Mesh](m).GetMtls().GetEnabledBackend() == "" {
		return fmt.Sprintf("no caller has an identity: mesh %s has no mTLS", c.from.Mesh)
	}
	return ""
}

// match checks a condition on the caller.
func (c *inert) match(path string, m *meshv1.Match) {
	id := m.GetSpiffeId().GetValue()
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return
	}
	domain, _, _ := strings.Cut(rest, "/")
	switch {
	case c.identity != "":
		c.warn(path+".spiffeID", "%s", c.identity)
	case domain != "" && domain != c.from.Mesh:
		c.warn(path+".spiffeID.value", "no caller is of the trust domain %s: that of mesh %s is %s", domain,
			c.from.Mesh, c.from.Mesh)
	}
}

// walk finds the references and conditions in a message.
func (c *inert) walk(path string, m protoreflect.Message) {
	switch v := m.Interface().(type) {
	case *meshv1.BackendRef:
		c.backend(path, v)
		return
	case *meshv1.Match:
		c.match(path, v)
		return
	}
	var fields []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if fd.Message() != nil && !fd.IsMap() {
			fields = append(fields, fd)
		}
		return true
	})
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return a.Index() - b.Index() })
	for _, fd := range fields {
		at := mesh.JoinField(path, fd.JSONName())
		if !fd.IsList() {
			c.walk(at, m.Get(fd).Message())
			continue
		}
		list := m.Get(fd).List()
		for i := range list.Len() {
			c.walk(fmt.Sprintf("%s[%d]", at, i), list.Get(i).Message())
		}
	}
}
