package universal

import (
	"fmt"
	"maps"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// document reads the resource that a proxy brings, and completes it as this zone owns it. It must
// be what key says.
func (r *Registry) document(key mesh.Key, text string) (*mesh.Resource, error) {
	docs, err := codec.Decode([]byte(text))
	if err != nil {
		return nil, bad("dataplane.resource: %v", err)
	}
	if len(docs) != 1 {
		return nil, bad("dataplane.resource holds %d documents, but must hold one", len(docs))
	}
	doc := docs[0]
	res := doc.Resource.Clone()
	switch {
	case res.Key.Kind != key.Kind:
		return nil, bad("dataplane.resource is a %s, but a proxy of this type brings a %s", res.Key.Kind,
			key.Kind)
	case key.Mesh != "" && doc.MeshGiven && res.Key.Mesh != key.Mesh:
		return nil, bad("the node id says mesh %q, dataplane.resource says %q", key.Mesh, res.Key.Mesh)
	case !doc.DerivedName && res.Key.Name != "" && res.Key.Name != key.Name:
		return nil, bad("the node id says name %q, dataplane.resource says %q", key.Name, res.Key.Name)
	}
	res.Key = key
	if res.Labels == nil {
		res.Labels = map[string]string{}
	}
	delete(res.Labels, mesh.LabelNamespace)
	proxyType := "sidecar"
	switch spec := res.Spec.(type) {
	case *meshv1.Dataplane:
		for _, in := range spec.GetNetworking().GetInbound() {
			if len(in.GetTags()) > 0 {
				in.Tags[mesh.TagZone] = r.cfg.Zone
			}
		}
		if gateway := spec.GetNetworking().GetGateway(); gateway != nil {
			proxyType = "gateway"
			if len(gateway.GetTags()) > 0 {
				gateway.Tags[mesh.TagZone] = r.cfg.Zone
			}
		}
		res.Labels[mesh.LabelMesh] = key.Mesh
	case *meshv1.ZoneIngress:
		spec.Zone = r.cfg.Zone
		proxyType = "zoneingress"
	}
	if _, err := validate.Resource(res); err != nil {
		return nil, bad("dataplane.resource: %v", err)
	}
	maps.Copy(res.Labels, map[string]string{
		mesh.LabelOrigin: mesh.OriginZone, mesh.LabelZone: r.cfg.Zone, mesh.LabelEnv: "universal",
		mesh.LabelProxyType: proxyType, LabelRegistered: registeredByStream,
	})
	return res, nil
}

func bad(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
}
