package delta

import (
	"fmt"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// BenchmarkStreamChange is what a change of clusters and routes costs in the protocol of one stream that
// has 100 services: three responses and their answers, without the wire.
func BenchmarkStreamChange(b *testing.B) {
	for _, changed := range []int{100, 1} {
		b.Run(fmt.Sprintf("changed=%d", changed), func(b *testing.B) {
			var tables []*Table
			for round := range 8 {
				tables = append(tables, benchTable(b, changed, round))
			}
			var streams []*state
			for range 50 {
				streams = append(streams, benchStream(tables[0]))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				s := streams[i%len(streams)]
				s.update(Update{Table: tables[(i/len(streams)+1)%len(tables)], Revision: uint64(i + 2)})
				ackAll(s)
			}
		})
	}
}

func benchName(i int) string { return fmt.Sprintf("kri_msvc_default_east__service-%d_http", i) }

// benchTable has 100 services, of which the first ones differ from round to round.
func benchTable(b *testing.B, changed, round int) *Table {
	var list []*Resource
	for i := range 100 {
		version := "0"
		if i < changed {
			version = fmt.Sprint(round)
		}
		body, err := proto.Marshal(&clusterv3.Cluster{
			Name:                 benchName(i),
			AltStatName:          version,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		})
		if err != nil {
			b.Fatal(err)
		}
		list = append(list,
			NewResource(TypeCluster, benchName(i), body),
			NewResource(TypeEndpoint, benchName(i), nil),
			NewResource(TypeListener, benchName(i), nil),
			NewResource(TypeRoute, benchName(i), []byte(version)))
	}
	return &Table{Segments: []*Segment{NewSegment(list)}}
}

// benchStream is a stream that has all of a table.
func benchStream(t *Table) *state {
	s := newState(limits{2 << 20, 32 << 20})
	var names []string
	for i := range 100 {
		names = append(names, benchName(i))
	}
	s.update(Update{Table: t, Revision: 1})
	for _, typ := range []Type{TypeCluster, TypeEndpoint, TypeListener, TypeRoute} {
		req := &discoveryv3.DeltaDiscoveryRequest{}
		if typ == TypeEndpoint || typ == TypeRoute {
			req.ResourceNamesSubscribe = names
		}
		s.request(typ, req)
		ackAll(s)
	}
	return s
}

func ackAll(s *state) {
	for r := s.next(time.Unix(0, 0)); r != nil; r = s.next(time.Unix(0, 0)) {
		_ = r.encode()
		s.request(r.typ, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.nonce})
		s.answered()
	}
}
