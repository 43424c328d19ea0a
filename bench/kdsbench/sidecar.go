package kdsbench

import (
	"context"
	"crypto/tls"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/xds/references"
)

// sidecar is a stand-in for an Envoy: it asks for what its clusters and listeners refer to, takes
// everything and moves no traffic. One goroutine uses it.
type sidecar struct {
	address, token, node, document string
	index                          *references.Index
	// configured is closed when the first listener has arrived.
	configured chan struct{}

	ready bool
	asked map[string]map[string]bool // by type and name, on the present stream
}

// run keeps one stream until it ends, and returns why.
func (s *sidecar) run(ctx context.Context) error {
	// The stand-in is not what is measured: it trusts the zone on its own machine.
	creds := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec
	conn, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", s.token)
	st, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}

	s.asked = map[string]map[string]bool{}
	node := &corev3.Node{
		Id:            s.node,
		UserAgentName: "meridian-bench",
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"dataplane.resource": structpb.NewStringValue(s.document),
		}},
	}
	for _, typeURL := range []string{references.Cluster, references.Listener} {
		if err := st.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: typeURL}); err != nil {
			break // Recv says why
		}
		node = nil
	}
	for {
		resp, err := st.Recv()
		if err != nil {
			return err
		}
		if err := s.take(st, resp); err != nil {
			return err
		}
	}
}

// take asks for what is new in a response, and then acknowledges it.
func (s *sidecar) take(st grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest,
	discoveryv3.DeltaDiscoveryResponse], resp *discoveryv3.DeltaDiscoveryResponse) error {
	fresh := map[string][]string{}
	for _, r := range resp.GetResources() {
		names, err := s.index.Of(resp.GetTypeUrl(), r.GetName(), r.GetVersion(), r.GetResource().GetValue())
		if err != nil {
			return err
		}
		for typeURL, list := range names.Subscribe {
			if s.asked[typeURL] == nil {
				s.asked[typeURL] = map[string]bool{}
			}
			for _, name := range list {
				if !s.asked[typeURL][name] {
					s.asked[typeURL][name] = true
					fresh[typeURL] = append(fresh[typeURL], name)
				}
			}
		}
	}
	for typeURL, names := range fresh {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names}
		if err := st.Send(req); err != nil {
			return nil // Recv says why
		}
	}
	if resp.GetTypeUrl() == references.Listener && len(resp.GetResources()) > 0 && !s.ready {
		s.ready = true
		close(s.configured)
	}
	_ = st.Send(&discoveryv3.DeltaDiscoveryRequest{ // Recv says why it fails
		TypeUrl:       resp.GetTypeUrl(),
		ResponseNonce: resp.GetNonce(),
	})
	return nil
}
