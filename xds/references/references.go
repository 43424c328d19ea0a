// Package references says what xDS resources refer to: which names a client must ask for once it has a
// cluster or a listener, and to which clusters routes send. It is for programs that stand in for Envoy
// without moving traffic.
//
// An [Index] is safe for concurrent use; all else is a value.
package references

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

// Names are what a resource refers to. They are shared and must not be changed.
type Names struct {
	// Subscribe are the names by type URL that the client must ask for.
	Subscribe map[string][]string
	// Clusters are the clusters that routes and TCP proxies send to.
	Clusters []string
}

// Index remembers what resources refer to, so that many clients parse each content once. The zero
// value is ready.
type Index struct {
	mu    sync.Mutex
	known map[[3]string]*Names
}

// Of are the names in a resource: of body, or of what had its type, name and version before. It fails
// if body is not a message of that type.
func (x *Index) Of(typeURL, name, version string, body []byte) (*Names, error) {
	if typeURL != Cluster && typeURL != Listener && typeURL != Route {
		return &Names{}, nil
	}
	key := [3]string{typeURL, name, version}
	x.mu.Lock()
	defer x.mu.Unlock()
	if found, ok := x.known[key]; ok {
		return found, nil
	}
	m, err := (&anypb.Any{TypeUrl: typeURL, Value: body}).UnmarshalNew()
	if err != nil {
		return nil, err
	}
	out := &Names{Subscribe: map[string][]string{}}
	if c, ok := m.(*clusterv3.Cluster); ok && c.GetType() == clusterv3.Cluster_EDS {
		eds := c.GetEdsClusterConfig().GetServiceName()
		if eds == "" {
			eds = c.GetName()
		}
		out.Subscribe[Endpoint] = append(out.Subscribe[Endpoint], eds)
	}
	out.walk(m.ProtoReflect())
	if x.known == nil {
		x.known = map[[3]string]*Names{}
	}
	x.known[key] = out
	return out, nil
}

// walk looks for references in m and everything in it, packed messages too.
func (n *Names) walk(m protoreflect.Message) {
	switch v := m.Interface().(type) {
	case *anypb.Any:
		if inner, err := v.UnmarshalNew(); err == nil {
			n.walk(inner.ProtoReflect())
		}
		return
	case *hcmv3.Rds:
		n.Subscribe[Route] = append(n.Subscribe[Route], v.GetRouteConfigName())
	case *tlsv3.SdsSecretConfig:
		if v.GetSdsConfig() != nil {
			n.Subscribe[Secret] = append(n.Subscribe[Secret], v.GetName())
		}
	case *routev3.RouteAction:
		if v.GetCluster() != "" {
			n.Clusters = append(n.Clusters, v.GetCluster())
		}
	case *routev3.WeightedCluster_ClusterWeight:
		n.Clusters = append(n.Clusters, v.GetName())
	case *tcpv3.TcpProxy_WeightedCluster_ClusterWeight:
		n.Clusters = append(n.Clusters, v.GetName())
	case *tcpv3.TcpProxy:
		if v.GetCluster() != "" {
			n.Clusters = append(n.Clusters, v.GetCluster())
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					n.walk(e.Message())
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				n.walk(v.List().Get(i).Message())
			}
		default:
			n.walk(v.Message())
		}
		return true
	})
}

var _ proto.Message = (*listenerv3.Listener)(nil) // registers the type that UnmarshalNew finds
