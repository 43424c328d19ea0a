package delta

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// A cluster changes while its first version warms. Envoy answers for no cluster before the first
// one has its endpoints, so these may not wait for the second version, which itself waits for the
// answer.
func TestEndpointsOfAClusterThatChangesWhileItWarms(t *testing.T) {
	cluster := func(stat string) *Resource {
		body, err := proto.Marshal(&clusterv3.Cluster{Name: "a", AltStatName: stat,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}})
		if err != nil {
			t.Fatal(err)
		}
		return NewResource(TypeCluster, "a", body)
	}
	endpoints := NewResource(TypeEndpoint, "a", nil)
	now := time.Unix(0, 0)
	s := newState(limits{1 << 20, 32 << 20})
	s.request(TypeCluster, &discoveryv3.DeltaDiscoveryRequest{})
	s.update(Update{
		Table:    &Table{Segments: []*Segment{NewSegment([]*Resource{cluster("one"), endpoints})}},
		Revision: 1,
	})
	first := s.next(now)
	if first == nil || first.typ != TypeCluster {
		t.Fatalf("first response is %+v, want the cluster", first)
	}
	s.update(Update{
		Table:    &Table{Segments: []*Segment{NewSegment([]*Resource{cluster("two"), endpoints})}},
		Revision: 2,
	})
	s.request(TypeEndpoint, &discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"a"}})
	second := s.next(now)
	if second == nil || second.typ != TypeEndpoint {
		t.Fatalf("with the first version unanswered, next is %+v, want its endpoints", second)
	}
	// Both are answered; the second version goes out, and its endpoints once more after it.
	s.request(TypeEndpoint, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: second.nonce})
	s.request(TypeCluster, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: first.nonce})
	third := s.next(now)
	if third == nil || third.typ != TypeCluster {
		t.Fatalf("after the answers, next is %+v, want the second version", third)
	}
	if fourth := s.next(now); fourth == nil || fourth.typ != TypeEndpoint {
		t.Fatalf("after the second version, next is %+v, want its endpoints", fourth)
	}
}
