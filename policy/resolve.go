package policy

import (
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Destination is what an entry of "to" may be about: a port of a service, a whole service, or a
// MeshHTTPRoute.
type Destination struct {
	Key    mesh.Key
	Labels map[string]string
	// Section is the port's name (its number as text if it has none); empty for the destination as a whole.
	Section string
}

// namespaceFits: the reference's namespace, else the policy's; if both are empty every namespace is meant.
func namespaceFits(ref, policy, have string) bool {
	if ref == "" {
		ref = policy
	}
	if ref == mesh.SystemNamespace {
		return have == "" || have == mesh.SystemNamespace
	}
	return ref == "" || ref == have
}

// legacyName reads the older form <service>_<namespace>_svc[_<port>] of a name.
func legacyName(name string) (service, namespace, port string, ok bool) {
	if !strings.Contains(name, "_svc") {
		return "", "", "", false
	}
	p := strings.Split(name, "_")
	if len(p) < 3 || len(p) > 4 || p[2] != "svc" {
		return "", "", "", false
	}
	if len(p) == 4 {
		port = p[3]
	}
	return p[0], p[1], port, true
}

// resolves compares kind, and name or labels; not the section. policy's zone and namespace are
// those of the policy.
func resolves(ref *meshv1.TargetRef, policy, key mesh.Key, labels map[string]string) bool {
	if ref.GetKind() != string(key.Kind) || policy.Mesh != key.Mesh {
		return false
	}
	if len(ref.GetLabels()) > 0 {
		return selector.MatchLabels(ref.GetLabels(), key, labels)
	}
	if ref.GetName() == "" || policy.Zone != "" && key.Zone != "" && policy.Zone != key.Zone {
		return false
	}
	if ref.GetName() == key.Name {
		return namespaceFits(ref.GetNamespace(), policy.Namespace, key.Namespace)
	}
	service, namespace, _, ok := legacyName(ref.GetName())
	return ok && service == key.Name && namespace == key.Namespace
}

// ResolvesTo says whether a reference in a policy means the destination. A reference of kind Mesh means every
// destination. With a section name it means that port alone, so it never means a destination as a whole.
func ResolvesTo(ref *meshv1.TargetRef, policy mesh.Key, dest Destination) bool {
	if ref.GetKind() == "" || ref.GetKind() == targetMesh {
		return policy.Mesh == dest.Key.Mesh
	}
	if policy.Namespace == mesh.SystemNamespace {
		policy.Namespace = ""
	}
	if !resolves(ref, policy, dest.Key, dest.Labels) {
		return false
	}
	section := ref.GetSectionName()
	if section == "" && ref.GetName() != dest.Key.Name {
		if _, _, port, ok := legacyName(ref.GetName()); ok {
			section = port
		}
	}
	return section == "" || section == dest.Section
}

// BackendQuery asks for the destination of a backendRef.
type BackendQuery struct {
	Ref *meshv1.BackendRef
	// Policy is the key of the route that holds Ref.
	Policy mesh.Key
	// OwnZone is the zone of the control plane that asks.
	OwnZone string
	// RoutedPort and RoutedSection are port number and port name of the destination whose traffic
	// is routed; a ref without a port falls back on them.
	RoutedPort    uint32
	RoutedSection string
}

// ResolveBackend finds the destination of a backendRef among candidates (resources of any kind;
// those of another kind or mesh are passed over). By name: the policy's own zone's or global's, the
// asking zone's first, else the oldest. By labels: the oldest. section is the name of the port. It
// is not ok if nothing fits, or the port is not there or not known; that share of the traffic must
// then be answered 500.
func ResolveBackend(q BackendQuery, candidates []*mesh.Resource) (r *mesh.Resource, section string, ok bool) {
	ref := &meshv1.TargetRef{
		Kind:      q.Ref.GetKind(),
		Name:      q.Ref.GetName(),
		Namespace: q.Ref.GetNamespace(),
		Labels:    q.Ref.GetLabels(),
	}
	if ref.Kind == targetServiceSubset && len(q.Ref.GetTags()) == 0 {
		ref.Kind = targetService
	}
	policy := q.Policy
	if policy.Namespace == mesh.SystemNamespace {
		policy.Namespace = ""
	}
	byName := len(ref.Labels) == 0
	for _, c := range candidates {
		if resolves(ref, policy, c.Key, c.Labels) && (r == nil || better(c, r, q.OwnZone, byName)) {
			r = c
		}
	}
	if r == nil {
		return nil, "", false
	}
	section, ok = backendSection(q, r)
	return r, section, ok
}

func better(a, b *mesh.Resource, ownZone string, byName bool) bool {
	if own := a.Key.Zone == ownZone; byName && own != (b.Key.Zone == ownZone) {
		return own
	}
	if !a.Created.Equal(b.Created) {
		return a.Created.Before(b.Created)
	}
	return a.Key.Compare(b.Key) < 0
}

func backendSection(q BackendQuery, r *mesh.Resource) (string, bool) {
	ports := destination.Ports(r)
	find := func(fits func(destination.Port) bool) (string, bool) {
		for _, p := range ports {
			if fits(p) {
				return p.Name, true
			}
		}
		return "", false
	}
	section := q.Ref.GetSectionName()
	if section == "" && q.Ref.GetName() != r.Key.Name {
		_, _, section, _ = legacyName(q.Ref.GetName())
	}
	switch {
	case q.Ref.GetSectionName() != "":
		return find(func(p destination.Port) bool { return p.Name == section })
	case q.Ref.Port != nil:
		return find(func(p destination.Port) bool { return p.Number == q.Ref.GetPort() })
	case section != "": // the port of a name of the older form: a number
		return find(func(p destination.Port) bool {
			return strconv.FormatUint(uint64(p.Number), 10) == section || p.Name == section
		})
	case len(ports) == 1:
		return ports[0].Name, true
	}
	if name, ok := find(func(p destination.Port) bool {
		return q.RoutedPort != 0 && p.Number == q.RoutedPort
	}); ok {
		return name, true
	}
	return find(func(p destination.Port) bool { return q.RoutedSection != "" && p.Name == q.RoutedSection })
}
