package policy

import (
	"cmp"
	"slices"
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

// Refers says whether a reference means the destination with that key and those labels, whatever the
// section. from is the key of what holds the reference: a name means what global or from's zone has, and
// in from's namespace unless the reference gives another; from without a zone or namespace means any.
func Refers(ref *meshv1.TargetRef, from, key mesh.Key, labels map[string]string) bool {
	if ref.GetKind() != string(key.Kind) || from.Mesh != key.Mesh {
		return false
	}
	if len(ref.GetLabels()) > 0 {
		return selector.MatchLabels(ref.GetLabels(), key, labels)
	}
	if ref.GetName() == "" || !zoneFits(from.Zone, key) {
		return false
	}
	if ref.GetName() == key.Name {
		return namespaceFits(ref.GetNamespace(), from.Namespace, key.Namespace)
	}
	service, namespace, _, ok := legacyName(ref.GetName())
	return ok && service == key.Name && namespace == key.Namespace
}

// zoneFits: another zone's destination is referred to by its labels, unless its kind spans zones.
func zoneFits(from string, key mesh.Key) bool {
	if from == "" || key.Zone == "" || from == key.Zone {
		return true
	}
	info, ok := destination.Lookup(key.Kind)
	return ok && info.CrossZone
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
	if !Refers(ref, policy, dest.Key, dest.Labels) {
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
	// From is the key of what holds Ref: a route, or a Dataplane. Its zone and namespace, if it has
	// them, limit what a name can mean.
	From mesh.Key
	// Zone and Namespace of the proxy that sends the traffic: what is there comes first.
	Zone, Namespace string
	// RoutedPort and RoutedSection are port number and port name of the destination whose traffic
	// is routed; a ref without a port falls back on them.
	RoutedPort    uint32
	RoutedSection string
}

// Candidates are the destinations among which backendRefs are resolved.
type Candidates interface {
	// Named are the keys of a kind's destinations of that name, in whatever zone and namespace.
	Named(kind mesh.Kind, meshName, name string) []mesh.Key
	// Labelled are the keys of those that may have all the labels.
	Labelled(kind mesh.Kind, meshName string, labels map[string]string) []mesh.Key
	// Has reports whether there is a destination of that key.
	Has(k mesh.Key) bool
	// Ports of a destination that there is.
	Ports(k mesh.Key) []destination.Port
	// Resource is the destination, or nil. It is read where labels or ages decide.
	Resource(k mesh.Key) *mesh.Resource
}

// ResolveBackend finds the destination of a backendRef, and the name of its port, as section. It is not
// ok if there is none, or the port is not there or not known; that share of the traffic must then be
// answered 500.
func ResolveBackend(q BackendQuery, all Candidates) (k mesh.Key, section string, ok bool) {
	k, ok = FindBackend(q, all)
	if !ok {
		return mesh.Key{}, "", false
	}
	section, ok = backendSection(q, k, all.Ports(k))
	return k, section, ok
}

// FindBackend finds the destination of a backendRef, whatever its ports. By name: the zone's own, in the
// namespace first, else global's, else the oldest. By labels: the oldest.
func FindBackend(q BackendQuery, all Candidates) (mesh.Key, bool) {
	ref := &meshv1.TargetRef{
		Kind:      q.Ref.GetKind(),
		Name:      q.Ref.GetName(),
		Namespace: q.Ref.GetNamespace(),
		Labels:    q.Ref.GetLabels(),
	}
	if ref.Kind == targetServiceSubset && len(q.Ref.GetTags()) == 0 {
		ref.Kind = targetService
	}
	kind := mesh.Kind(ref.Kind)
	if !destination.Is(kind) {
		return mesh.Key{}, false
	}
	from := q.From
	if from.Namespace == mesh.SystemNamespace {
		from.Namespace = ""
	}
	if len(ref.Labels) > 0 {
		return oldest(all, all.Labelled(kind, from.Mesh, ref.Labels), func(r *mesh.Resource) bool {
			return Refers(ref, from, r.Key, r.Labels)
		})
	}

	var keys []mesh.Key
	names := []string{ref.Name}
	if service, _, _, ok := legacyName(ref.Name); ok {
		names = append(names, service)
	}
	for _, name := range names {
		for _, k := range all.Named(kind, from.Mesh, name) {
			if Refers(ref, from, k, nil) {
				keys = append(keys, k)
			}
		}
	}
	slices.SortFunc(keys, func(a, b mesh.Key) int {
		return cmp.Or(cmp.Compare(q.distance(a), q.distance(b)), a.Compare(b))
	})
	for len(keys) > 0 {
		n := 1
		for n < len(keys) && q.distance(keys[n]) == q.distance(keys[0]) {
			n++
		}
		if k, ok := nearest(all, keys[:n]); ok {
			return k, true
		}
		keys = keys[n:]
	}
	return mesh.Key{}, false
}

// distance orders where a name is looked up.
func (q BackendQuery) distance(k mesh.Key) int {
	switch {
	case k.Zone == q.Zone && k.Namespace == q.Namespace:
		return 0
	case k.Zone == q.Zone:
		return 1
	case k.Zone == "":
		return 2
	}
	return 3
}

// nearest is the oldest of destinations at one distance, which is nearly always one.
func nearest(all Candidates, keys []mesh.Key) (mesh.Key, bool) {
	if len(keys) == 1 {
		return keys[0], all.Has(keys[0])
	}
	return oldest(all, keys, func(*mesh.Resource) bool { return true })
}

// oldest of the destinations that fit; of those that are equally old the first by key.
func oldest(all Candidates, keys []mesh.Key, fits func(*mesh.Resource) bool) (mesh.Key, bool) {
	var first *mesh.Resource
	for _, k := range keys {
		r := all.Resource(k)
		if r == nil || !fits(r) {
			continue
		}
		if first == nil || cmp.Or(r.Created.Compare(first.Created), r.Key.Compare(first.Key)) < 0 {
			first = r
		}
	}
	if first == nil {
		return mesh.Key{}, false
	}
	return first.Key, true
}

func backendSection(q BackendQuery, k mesh.Key, ports []destination.Port) (string, bool) {
	find := func(fits func(destination.Port) bool) (string, bool) {
		for _, p := range ports {
			if fits(p) {
				return p.Name, true
			}
		}
		return "", false
	}
	section := q.Ref.GetSectionName()
	if section == "" && q.Ref.GetName() != k.Name {
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
