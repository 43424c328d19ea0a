package translate

import (
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// hooks are what a kind of policy writes into Envoy's messages, each in the file of the kind; the table
// kinds is generated from them. A hook writes what the kind's fields of the part say, which is what
// holds without a policy too, over a message that is complete otherwise. Hooks change nothing of the
// part, and are called in the order of the table.
type hooks struct {
	kind mesh.Kind
	// cluster is about the proxy's side of a destination, or of the local workload.
	cluster func(out *clusterMessage, c *ir.Cluster) error
	// endpoints is about the load assignment of a destination.
	endpoints func(out *endpointv3.ClusterLoadAssignment, e *ir.Endpoints)
	// virtualHost is about all routes of a destination together.
	virtualHost func(out *routev3.VirtualHost, c *ir.RouteConfig) error
	// route is about one of the routes of c; out has its action already.
	route func(out *routev3.Route, r *ir.Route, c *ir.RouteConfig) error
	// network is about the filters for connections of a chain, before the one that ends the list.
	network func(out *chainMessage, l *ir.Listener, c *ir.Chain) error
	// requests is about the connection manager of a chain of HTTP, before its router is added.
	requests func(out *managerMessage, c *ir.Chain) error
	// connections is about the proxy of a chain of TCP.
	connections func(out *tcpv3.TcpProxy, c *ir.Chain)
	// callHost and call are virtualHost and route for gRPC clients.
	callHost func(out *routev3.VirtualHost, c *ir.RouteConfig)
	call     func(out *routev3.RouteAction, r *ir.Route)
}

// clusterMessage is a cluster while it is made.
type clusterMessage struct {
	clusterv3.Cluster
	// http are the options of HTTP common to its versions; nil if the cluster's port is not HTTP.
	http *corev3.HttpProtocolOptions
}

// common are the settings of load balancing common to all algorithms.
func (c *clusterMessage) common() *clusterv3.Cluster_CommonLbConfig {
	if c.CommonLbConfig == nil {
		c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
	}
	return c.CommonLbConfig
}

// chainMessage is a filter chain while it is made.
type chainMessage struct{ listenerv3.FilterChain }

// add appends a filter.
func (c *chainMessage) add(name string, m proto.Message) error {
	f, err := filter(name, m)
	if err == nil {
		c.Filters = append(c.Filters, f)
	}
	return err
}

// first puts a filter before all others.
func (c *chainMessage) first(name string, m proto.Message) error {
	f, err := filter(name, m)
	if err == nil {
		c.Filters = slices.Insert(c.Filters, 0, f)
	}
	return err
}

// managerMessage is a connection manager while it is made.
type managerMessage struct{ hcmv3.HttpConnectionManager }

// add appends a filter.
func (m *managerMessage) add(name string, cfg proto.Message) error {
	f, err := httpFilter(name, cfg)
	if err == nil {
		m.HttpFilters = append(m.HttpFilters, f)
	}
	return err
}

// first puts filters of one name before all others.
func (m *managerMessage) first(name string, list []proto.Message) error {
	for i, cfg := range list {
		f, err := httpFilter(name, cfg)
		if err != nil {
			return err
		}
		m.HttpFilters = slices.Insert(m.HttpFilters, i, f)
	}
	return nil
}

func httpFilter(name string, m proto.Message) (*hcmv3.HttpFilter, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}}, nil
}

func filter(name string, m proto.Message) (*listenerv3.Filter, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}, nil
}

// of says which kind's hook failed.
func of(kind mesh.Kind, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", kind, err)
}
