package policy

import (
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

func TestResolvesTo(t *testing.T) {
	global := mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "p"}
	zone := func(z string) mesh.Key { k := global; k.Zone = z; return k }
	namespaced := func(ns string) mesh.Key { k := global; k.Namespace = ns; return k }
	dest := Destination{
		Key: mesh.Key{
			Kind:      mesh.KindMeshService,
			Mesh:      "default",
			Zone:      "east",
			Namespace: "shop",
			Name:      "backend",
		},
		Labels:  map[string]string{"team": "a"},
		Section: "main",
	}
	multi := Destination{
		Key:     mesh.Key{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: "backend"},
		Section: "80",
	}
	for _, tt := range []struct {
		name   string
		ref    *meshv1.TargetRef
		policy mesh.Key
		dest   Destination
		want   bool
	}{
		{"mesh", &meshv1.TargetRef{Kind: "Mesh"}, global, dest, true},
		{"other mesh", &meshv1.TargetRef{Kind: "Mesh"}, mesh.Key{Mesh: "other"}, dest, false},
		{"name from global", &meshv1.TargetRef{Kind: "MeshService", Name: "backend"}, global, dest, true},
		{"name from own zone", &meshv1.TargetRef{
			Kind: "MeshService",
			Name: "backend",
		}, zone("east"), dest, true},
		{"name from another zone", &meshv1.TargetRef{
			Kind: "MeshService",
			Name: "backend",
		}, zone("west"), dest, false},
		{"labels from another zone", &meshv1.TargetRef{
			Kind:   "MeshService",
			Labels: map[string]string{"team": "a"},
		}, zone("west"), dest, true},
		{"display name as label", &meshv1.TargetRef{
			Kind:   "MeshService",
			Labels: map[string]string{"kuma.io/display-name": "backend", "k8s.kuma.io/namespace": "shop"},
		}, global, dest, true},
		{"other display name", &meshv1.TargetRef{
			Kind:   "MeshService",
			Labels: map[string]string{"kuma.io/display-name": "b"},
		}, global, dest, false},
		{"namespace", &meshv1.TargetRef{
			Kind:      "MeshService",
			Name:      "backend",
			Namespace: "shop",
		}, global, dest, true},
		{"other namespace", &meshv1.TargetRef{
			Kind:      "MeshService",
			Name:      "backend",
			Namespace: "store",
		}, global, dest, false},
		{"namespace of the policy", &meshv1.TargetRef{
			Kind: "MeshService",
			Name: "backend",
		}, namespaced("store"), dest, false},
		{"system namespace of the policy", &meshv1.TargetRef{
			Kind: "MeshService",
			Name: "backend",
		}, namespaced("kuma-system"), dest, true},
		{"kind", &meshv1.TargetRef{Kind: "MeshMultiZoneService", Name: "backend"}, global, dest, false},
		{"section", &meshv1.TargetRef{
			Kind:        "MeshService",
			Name:        "backend",
			SectionName: "main",
		}, global, dest, true},
		{"other section", &meshv1.TargetRef{
			Kind:        "MeshService",
			Name:        "backend",
			SectionName: "side",
		}, global, dest, false},
		{"older name", &meshv1.TargetRef{Kind: "MeshService", Name: "backend_shop_svc"}, global, dest, true},
		{"older name with port", &meshv1.TargetRef{
			Kind: "MeshService",
			Name: "backend_shop_svc_main",
		}, global, dest, true},
		{"older name with another port", &meshv1.TargetRef{
			Kind: "MeshService",
			Name: "backend_shop_svc_81",
		}, global, dest, false},
		{"older name in another namespace", &meshv1.TargetRef{
			Kind: "MeshService",
			Name: "backend_store_svc",
		}, global, dest, false},
		{"multi-zone from a zone", &meshv1.TargetRef{
			Kind: "MeshMultiZoneService",
			Name: "backend",
		}, zone("west"), multi, true},
		{"multi-zone section", &meshv1.TargetRef{
			Kind:        "MeshMultiZoneService",
			Name:        "backend",
			SectionName: "80",
		}, global, multi, true},
		{"nothing said", &meshv1.TargetRef{Kind: "MeshService"}, global, dest, false},
	} {
		if got := ResolvesTo(tt.ref, tt.policy, tt.dest); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// candidateList looks at everything, which an index must agree with.
type candidateList []*mesh.Resource

func (l candidateList) keys(fits func(*mesh.Resource) bool) (out []mesh.Key) {
	for _, r := range l {
		if fits(r) {
			out = append(out, r.Key)
		}
	}
	return out
}

func (l candidateList) Named(kind mesh.Kind, meshName, name string) []mesh.Key {
	return l.keys(func(r *mesh.Resource) bool {
		return r.Key.Kind == kind && r.Key.Mesh == meshName && r.Key.Name == name
	})
}

func (l candidateList) Labelled(kind mesh.Kind, meshName string, _ map[string]string) []mesh.Key {
	return l.keys(func(r *mesh.Resource) bool { return r.Key.Kind == kind && r.Key.Mesh == meshName })
}

func (l candidateList) Resource(k mesh.Key) *mesh.Resource {
	for _, r := range l {
		if r.Key == k {
			return r
		}
	}
	return nil
}

func (l candidateList) Has(k mesh.Key) bool { return l.Resource(k) != nil }

func (l candidateList) Ports(k mesh.Key) []destination.Port { return destination.Ports(l.Resource(k)) }

func TestResolveBackend(t *testing.T) {
	service := func(zone, name string, age int, ports ...*meshv1.ServicePort) *mesh.Resource {
		return &mesh.Resource{
			Key:     mesh.Key{Kind: mesh.KindMeshService, Mesh: "default", Zone: zone, Name: name},
			Labels:  map[string]string{"app": "x"},
			Created: time.Unix(int64(1000-age), 0),
			Spec:    &meshv1.MeshService{Ports: ports},
		}
	}
	http, admin, nameless := &meshv1.ServicePort{
		Port: 80,
		Name: "http",
	}, &meshv1.ServicePort{
		Port: 9000,
		Name: "admin",
	}, &meshv1.ServicePort{Port: 3001}
	candidates := candidateList{
		service("west", "v1", 9, http), service("east", "v1", 1, http), service("west", "v2", 2, http, admin),
		service("north", "v2", 5, http, admin), service("north", "v3", 8, nameless),
		{
			Key:  mesh.Key{Kind: mesh.KindMeshMultiZoneService, Mesh: "default", Name: "all"},
			Spec: &meshv1.MeshMultiZoneService{Ports: []*meshv1.MeshMultiZoneService_Port{{Port: 80}}},
		},
		{Key: mesh.Key{Kind: mesh.KindMeshService, Mesh: "other", Name: "v1"}, Spec: &meshv1.MeshService{}},
	}
	port := func(n uint32) *uint32 { return &n }
	for _, tt := range []struct {
		name   string
		query  BackendQuery
		want   string // zone/name
		sect   string
		wantOK bool
	}{
		{"own zone first", BackendQuery{Ref: &meshv1.BackendRef{
			Kind: "MeshService",
			Name: "v1",
		}}, "east/v1", "http", true},
		{"else the oldest", BackendQuery{Ref: &meshv1.BackendRef{
			Kind: "MeshService",
			Name: "v2",
			Port: port(9000),
		}}, "north/v2", "admin", true},
		{"policy of a zone", BackendQuery{
			Ref:  &meshv1.BackendRef{Kind: "MeshService", Name: "v1"},
			From: mesh.Key{Zone: "west"},
		}, "west/v1", "http", true},
		{"labels: the oldest", BackendQuery{Ref: &meshv1.BackendRef{
			Kind:   "MeshService",
			Labels: map[string]string{"app": "x"},
		}}, "west/v1", "http", true},
		{"section", BackendQuery{Ref: &meshv1.BackendRef{
			Kind:        "MeshService",
			Name:        "v2",
			SectionName: "admin",
			Port:        port(80),
		}}, "north/v2", "admin", true},
		{"no such port", BackendQuery{Ref: &meshv1.BackendRef{
			Kind: "MeshService",
			Name: "v1",
			Port: port(81),
		}}, "east/v1", "", false},
		{"port number of a nameless port", BackendQuery{Ref: &meshv1.BackendRef{
			Kind:        "MeshService",
			Name:        "v3",
			SectionName: "3001",
		}}, "north/v3", "3001", true},
		{"port of the routed destination", BackendQuery{
			Ref:           &meshv1.BackendRef{Kind: "MeshService", Name: "v2"},
			RoutedPort:    9000,
			RoutedSection: "http",
		}, "north/v2", "admin", true},
		{"port name of the routed destination", BackendQuery{
			Ref:           &meshv1.BackendRef{Kind: "MeshService", Name: "v2"},
			RoutedPort:    1,
			RoutedSection: "http",
		}, "north/v2", "http", true},
		{"two ports and no hint", BackendQuery{Ref: &meshv1.BackendRef{
			Kind: "MeshService",
			Name: "v2",
		}}, "north/v2", "", false},
		{"multi-zone", BackendQuery{Ref: &meshv1.BackendRef{
			Kind: "MeshMultiZoneService",
			Name: "all",
			Port: port(80),
		}}, "/all", "80", true},
		{"subset without tags", BackendQuery{Ref: &meshv1.BackendRef{
			Kind: "MeshServiceSubset",
			Name: "v1",
		}}, "east/v1", "http", true},
		{"subset", BackendQuery{Ref: &meshv1.BackendRef{
			Kind: "MeshServiceSubset",
			Name: "v1",
			Tags: map[string]string{"a": "b"},
		}}, "", "", false},
		{"missing", BackendQuery{Ref: &meshv1.BackendRef{Kind: "MeshService", Name: "v9"}}, "", "", false},
		{"labels of none", BackendQuery{Ref: &meshv1.BackendRef{
			Kind:   "MeshService",
			Labels: map[string]string{"app": "y"},
		}}, "", "", false},
	} {
		tt.query.From.Mesh, tt.query.Zone = "default", "east"
		k, section, ok := ResolveBackend(tt.query, candidates)
		got := ""
		if k.Name != "" {
			got = k.Zone + "/" + k.Name
		}
		if got != tt.want || section != tt.sect || ok != tt.wantOK {
			t.Errorf("%s: %q %q %v, want %q %q %v", tt.name, got, section, ok, tt.want, tt.sect, tt.wantOK)
		}
	}
}
