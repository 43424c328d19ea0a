package xds

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// The size of the benchmarks: proxies that each list all services.
const (
	benchProxies  = 300
	benchServices = 50
)

func benchWorld(b *testing.B) *world {
	w := newWorld(b)
	rs := []*mesh.Resource{testMesh("STRICT")}
	var calls []string
	for i := range benchServices {
		calls = append(calls, fmt.Sprintf("svc-%d", i))
		rs = append(rs, testService(testZone, calls[i], 8080))
	}
	for i := range benchProxies {
		rs = append(rs, testDataplane(fmt.Sprintf("dp-%d", i), fmt.Sprintf("10.0.%d.%d", i/200, i%200+1),
			calls[i%benchServices], 8080, calls...))
	}
	w.put(rs...)
	for _, r := range rs {
		if r.Key.Kind == mesh.KindDataplane {
			w.e.Open(delta.OpenRequest{Proxy: r.Key})
		}
	}
	w.e.processEvents()
	return w
}

func benchTimeout(service string, d time.Duration) *mesh.Resource {
	target := &meshv1.TargetRef{Kind: "Mesh"}
	if service != "" {
		target = &meshv1.TargetRef{Kind: "MeshService", Name: service}
	}
	return resource(mesh.KindMeshTimeout, "", "bench", &meshv1.MeshTimeout{To: []*meshv1.MeshTimeout_To{{
		TargetRef: target,
		Default: &meshv1.MeshTimeout_Conf{
			ConnectionTimeout: durationpb.New(d),
			Http:              &meshv1.MeshTimeout_Http{RequestTimeout: durationpb.New(d)},
		},
	}}})
}

// BenchmarkPolicyAll: a policy for every destination changes.
func BenchmarkPolicyAll(b *testing.B) {
	w := benchWorld(b)
	for i := 0; b.Loop(); i++ {
		w.put(benchTimeout("", time.Duration(i+1)*time.Millisecond))
	}
}

// BenchmarkPolicyOne: a policy for one destination changes.
func BenchmarkPolicyOne(b *testing.B) {
	w := benchWorld(b)
	for i := 0; b.Loop(); i++ {
		w.put(benchTimeout("svc-7", time.Duration(i+1)*time.Millisecond))
	}
}

// BenchmarkEndpoint: one instance comes and goes.
func BenchmarkEndpoint(b *testing.B) {
	w := benchWorld(b)
	dp := testDataplane("one-more", "10.9.9.9", "svc-7", 8080)
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			w.put(dp)
		} else {
			w.remove(dp.Key)
		}
	}
}

// BenchmarkIdentity: one proxy gets a new certificate.
func BenchmarkIdentity(b *testing.B) {
	w := benchWorld(b)
	key := mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: testZone, Name: "dp-7"}
	for i := 0; b.Loop(); i++ {
		id := *testIdentity
		id.Key = fmt.Appendf(nil, "%d", i)
		w.e.SetIdentity(key, &id)
		w.e.processEvents()
	}
}

// BenchmarkColdStart: an engine takes the mesh in and serves every proxy.
func BenchmarkColdStart(b *testing.B) {
	for b.Loop() {
		benchWorld(b)
	}
}
