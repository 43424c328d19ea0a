package xdstest

import (
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// Type URLs of the resources that a client follows.
const (
	Cluster  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	Endpoint = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	Listener = "type.googleapis.com/envoy.config.listener.v3.Listener"
	Route    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	Secret   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// refs are the names that a resource refers to.
type refs struct {
	// subscribe are the names by type that the client must ask for.
	subscribe map[string][]string
	// clusters are the clusters that routes and TCP proxies send to.
	clusters []string
}

// References remembers what resources refer to, so that many clients parse each content once. The
// zero value is ready.
type References struct {
	mu    sync.Mutex
	known map[[3]string]*refs
}

// of parses a resource, or remembers it by type, name and version.
func (r *References) of(typeURL, name, version string, body []byte) (*refs, error) {
	if typeURL != Cluster && typeURL != Listener && typeURL != Route {
		return &refs{}, nil
	}
	key := [3]string{typeURL, name, version}
	r.mu.Lock()
	defer r.mu.Unlock()
	if found, ok := r.known[key]; ok {
		return found, nil
	}
	m, err := (&anypb.Any{TypeUrl: typeURL, Value: body}).UnmarshalNew()
	if err != nil {
		return nil, err
	}
	out := &refs{subscribe: map[string][]string{}}
	if c, ok := m.(*clusterv3.Cluster); ok && c.GetType() == clusterv3.Cluster_EDS {
		eds := c.GetEdsClusterConfig().GetServiceName()
		if eds == "" {
			eds = c.GetName()
		}
		out.subscribe[Endpoint] = append(out.subscribe[Endpoint], eds)
	}
	out.walk(m.ProtoReflect())
	if r.known == nil {
		r.known = map[[3]string]*refs{}
	}
	r.known[key] = out
	return out, nil
}

// walk looks for references in m and everything in it, packed messages too.
func (r *refs) walk(m protoreflect.Message) {
	switch v := m.Interface().(type) {
	case *anypb.Any:
		if inner, err := v.UnmarshalNew(); err == nil {
			r.walk(inner.ProtoReflect())
		}
		return
	case *hcmv3.Rds:
		r.subscribe[Route] = append(r.subscribe[Route], v.GetRouteConfigName())
	case *tlsv3.SdsSecretConfig:
		if v.GetSdsConfig() != nil {
			r.subscribe[Secret] = append(r.subscribe[Secret], v.GetName())
		}
	case *routev3.RouteAction:
		if v.GetCluster() != "" {
			r.clusters = append(r.clusters, v.GetCluster())
		}
	case *routev3.WeightedCluster_ClusterWeight:
		r.clusters = append(r.clusters, v.GetName())
	case *tcpv3.TcpProxy_WeightedCluster_ClusterWeight:
		r.clusters = append(r.clusters, v.GetName())
	case *tcpv3.TcpProxy:
		if v.GetCluster() != "" {
			r.clusters = append(r.clusters, v.GetCluster())
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					r.walk(e.Message())
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				r.walk(v.List().Get(i).Message())
			}
		default:
			r.walk(v.Message())
		}
		return true
	})
}

var _ proto.Message = (*listenerv3.Listener)(nil) // registers the type that UnmarshalNew finds

// Subscribes are the names, by type URL, that a client must ask for once it has the resource.
func (r *References) Subscribes(typeURL, name, version string, body []byte) (map[string][]string, error) {
	found, err := r.of(typeURL, name, version, body)
	if err != nil {
		return nil, err
	}
	return found.subscribe, nil
}
