package bench

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// groupSize is how many sidecars carry the label of the group whose policy the others must not notice.
const groupSize = 10

// Shape is a mesh: Sidecars, Services of Endpoints instances each, and how many of the services a
// sidecar reaches (0: all).
type Shape struct {
	Sidecars, Services, Endpoints, Reachable int
}

func (s Shape) String() string {
	scope := "all"
	if s.Reachable > 0 {
		scope = fmt.Sprintf("%d", s.Reachable)
	}
	return fmt.Sprintf("%d sidecars that each see %s of %d services of %d endpoints", s.Sidecars, scope,
		s.Services, s.Endpoints)
}

// reaches lists the services of a sidecar. They overlap, so that every service has callers while it lasts.
func (s Shape) reaches(sidecar int) []int {
	n := s.Reachable
	if n == 0 || n > s.Services {
		n = s.Services
	}
	out := make([]int, n)
	for i := range out {
		out[i] = i
		if s.Reachable > 0 {
			out[i] = (sidecar*n + i) % s.Services
		}
	}
	return out
}

// callers are the sidecars that reach each service.
func (s Shape) callers() [][]mesh.Key {
	out := make([][]mesh.Key, s.Services)
	if s.Reachable == 0 {
		var all []mesh.Key
		for i := range s.Sidecars {
			all = append(all, key(mesh.KindDataplane, sidecar(i)))
		}
		for i := range out {
			out[i] = all
		}
		return out
	}
	for i := range s.Sidecars {
		for _, svc := range s.reaches(i) {
			out[svc] = append(out[svc], key(mesh.KindDataplane, sidecar(i)))
		}
	}
	return out
}

// batch bounds the resources of one commit.
const batch = 2000

// populate writes the mesh, the services with their endpoints and the sidecars.
func (s Shape) populate(ctx context.Context, p *plane) error {
	var ops []store.Op
	add := func(r *mesh.Resource) error {
		if ops = append(ops, put(r)); len(ops) < batch {
			return nil
		}
		_, err := p.commit(ctx, ops...)
		ops = nil
		return err
	}
	if err := add(&mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMesh, Name: benchMesh},
		Spec: &meshv1.Mesh{},
	}); err != nil {
		return err
	}
	for i := range s.Services {
		svc := &mesh.Resource{
			Key: key(mesh.KindMeshService, service(i)),
			Spec: &meshv1.MeshService{
				Selector: &meshv1.MeshService_Selector{
					DataplaneTags: map[string]string{mesh.TagService: service(i)}},
				Ports: []*meshv1.ServicePort{{
					Port:        80,
					Name:        "http",
					AppProtocol: "http",
					TargetPort:  &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: 8080}},
				}},
				Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: service(i)}},
				State:      "Available",
			},
		}
		if err := add(svc); err != nil {
			return err
		}
		if s.Reachable > 0 { // these are reached by virtual addresses
			if err := add(&mesh.Resource{
				Key:  mesh.VirtualAddressKey(benchZone, svc.Key),
				Spec: &meshv1.VirtualAddress{Ip: fmt.Sprintf("241.%d.%d.%d", i>>16, i>>8&255, i&255)},
			}); err != nil {
				return err
			}
		}
		for e := range s.Endpoints {
			if err := add(backend(i, e)); err != nil {
				return err
			}
		}
	}
	for i := range s.Sidecars {
		d := dataplane(sidecar(i), address(200, i), "client")
		if i < groupSize {
			d.Labels = map[string]string{"group": "measured"}
		}
		n := d.Spec.(*meshv1.Dataplane).Networking
		if s.Reachable > 0 {
			refs := []*meshv1.Dataplane_ReachableBackendRef{}
			for _, svc := range s.reaches(i) {
				refs = append(refs, &meshv1.Dataplane_ReachableBackendRef{
					Kind: "MeshService",
					Name: service(svc),
				})
			}
			n.TransparentProxying = &meshv1.Dataplane_TransparentProxying{
				RedirectPortInbound:  15006,
				RedirectPortOutbound: 15001,
				ReachableBackends:    &meshv1.Dataplane_ReachableBackends{Refs: refs},
			}
		} else {
			for _, svc := range s.reaches(i) {
				n.Outbound = append(n.Outbound, &meshv1.Dataplane_Outbound{
					Port: uint32(10000 + svc),
					BackendRef: &meshv1.Dataplane_OutboundBackendRef{
						Kind: "MeshService",
						Name: service(svc),
						Port: 80,
					},
				})
			}
		}
		if err := add(d); err != nil {
			return err
		}
	}
	_, err := p.commit(ctx, ops...)
	return err
}

func service(i int) string { return fmt.Sprintf("service-%05d", i) }
func sidecar(i int) string { return fmt.Sprintf("client-%05d", i) }

func address(net, i int) string { return fmt.Sprintf("10.%d.%d.%d", net, i/250, i%250+1) }

func key(kind mesh.Kind, name string) mesh.Key {
	return mesh.Key{
		Kind: kind,
		Mesh: benchMesh,
		Zone: benchZone,
		Name: name,
	}
}

func backend(s, e int) *mesh.Resource {
	return dataplane(fmt.Sprintf("%s-%d", service(s), e), address(100+e%100, s), service(s))
}

func dataplane(name, address, service string) *mesh.Resource {
	return &mesh.Resource{
		Key: key(mesh.KindDataplane, name),
		Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: address,
			Inbound: []*meshv1.Dataplane_Inbound{{
				Port:        8080,
				Name:        "http",
				ServicePort: 8081,
				Protocol:    "http",
				Tags:        map[string]string{mesh.TagService: service},
			}},
		}},
	}
}

func meshRef() *meshv1.TargetRef { return &meshv1.TargetRef{Kind: "Mesh"} }

func serviceRef(i int) *meshv1.TargetRef {
	return &meshv1.TargetRef{Kind: "MeshService", Name: service(i)}
}

// timeout is a policy whose content depends on the round, in clusters as well as in routes.
func timeout(name string, target, to *meshv1.TargetRef, round int) *mesh.Resource {
	d := durationpb.New(time.Duration(1000+round) * time.Millisecond)
	return &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: benchMesh, Name: name},
		Spec: &meshv1.MeshTimeout{
			TargetRef: target, To: []*meshv1.MeshTimeout_To{{TargetRef: to, Default: &meshv1.MeshTimeout_Conf{
				ConnectionTimeout: proto.CloneOf(d), Http: &meshv1.MeshTimeout_Http{RequestTimeout: d}}}}},
	}
}

// toggle brings and takes one more endpoint of a service.
func toggle(svc int, s Shape, there bool) store.Op {
	d := backend(svc, s.Endpoints)
	if there {
		return put(d)
	}
	return store.Delete{Key: d.Key}
}

func put(r *mesh.Resource) store.Op { return store.Put{Resource: r} }
