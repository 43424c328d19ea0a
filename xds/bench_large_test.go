package xds

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// The size of the large mesh: services with instances each, and proxies that each reach a few of
// the services.
const (
	largeServices  = 10_000
	largeInstances = 3
	largeProxies   = 300
	largeReach     = 30
)

// largeWorld is the large mesh with every proxy followed.
func largeWorld(tb testing.TB) (w *world, watches []delta.Watch) {
	w = newWorld(tb)
	rs := []*mesh.Resource{testMesh("STRICT"), benchTimeout("", time.Second)}
	for i := range largeServices {
		name := fmt.Sprintf("svc-%d", i)
		s := testService(testZone, name, 8080)
		rs = append(rs, s, &mesh.Resource{
			Key:  mesh.VirtualAddressKey(testZone, s.Key),
			Spec: &meshv1.VirtualAddress{Ip: fmt.Sprintf("241.%d.%d.%d", i>>16, i>>8&255, i&255)},
		})
		for j := range largeInstances {
			rs = append(rs, testDataplane(fmt.Sprintf("%s-%d", name, j),
				fmt.Sprintf("10.%d.%d.%d", j, i>>8&255, i&255), name, 8080))
		}
	}
	var proxies []mesh.Key
	for i := range largeProxies {
		dp := testDataplane(fmt.Sprintf("dp-%d", i), fmt.Sprintf("10.100.%d.%d", i/200, i%200+1), "client",
			8080)
		var refs []*meshv1.Dataplane_ReachableBackendRef
		for j := range largeReach {
			refs = append(refs, &meshv1.Dataplane_ReachableBackendRef{
				Kind: "MeshService",
				Name: fmt.Sprintf("svc-%d", (i*largeReach+j)%largeServices),
			})
		}
		dp.Spec.(*meshv1.Dataplane).Networking.TransparentProxying = &meshv1.Dataplane_TransparentProxying{
			RedirectPortInbound:  15006,
			RedirectPortOutbound: 15001,
			ReachableBackends:    &meshv1.Dataplane_ReachableBackends{Refs: refs},
		}
		proxies = append(proxies, dp.Key)
		rs = append(rs, dp)
	}
	w.put(rs...)
	for _, k := range proxies {
		watches = append(watches, w.e.Open(delta.OpenRequest{Proxy: k}))
	}
	w.e.processEvents()
	w.answerAll(watches)
	return w, watches
}

// answerAll takes what watches have and says how many had something.
func (w *world) answerAll(watches []delta.Watch) int {
	n := 0
	for _, f := range watches {
		if u, ok, err := f.Next(); err != nil {
			w.t.Fatal(err)
		} else if ok {
			f.Ack(u.Revision, nil)
			n++
		}
	}
	return n
}

// BenchmarkLarge: changes that concern one proxy in a mesh of 10,000 services with 30,000 instances.
func BenchmarkLarge(b *testing.B) {
	var before, after runtime.MemStats
	w, watches := largeWorld(b)
	edges, nodes := w.e.g.Size()
	runtime.GC()
	runtime.ReadMemStats(&after)
	for _, f := range watches {
		f.Close()
	}
	w.e.processEvents()
	runtime.GC()
	runtime.ReadMemStats(&before)
	heap := float64(after.HeapAlloc-before.HeapAlloc) / largeProxies
	for i, f := range watches {
		watches[i] = w.e.Open(delta.OpenRequest{Proxy: f.(*watch).key})
	}
	w.e.processEvents()
	w.answerAll(watches)
	report := func(b *testing.B, took []time.Duration) {
		if len(took) == 0 {
			return
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		b.ReportMetric(float64(edges)/largeProxies, "reads/proxy")
		b.ReportMetric(float64(nodes)/largeProxies, "values/proxy")
		b.ReportMetric(heap, "heap-B/proxy")
	}
	extra := testDataplane("one-more", "10.9.9.9", "svc-700", 8080)
	for _, tc := range []struct {
		name     string
		change   func(i int)
		notified int
	}{
		{"endpoint", func(i int) {
			if i%2 == 0 {
				w.put(extra)
			} else {
				w.remove(extra.Key)
			}
		}, 1},
		{"health", func(i int) {
			w.put(resource(mesh.KindDataplaneInsight, testZone, "svc-700-1",
				&meshv1.ProxyInsight{State: []string{"Online", "Lost"}[i%2]}))
		}, 1},
		{"policy for one", func(i int) {
			r := benchTimeout("svc-700", time.Duration(i+1)*time.Millisecond)
			r.Key.Name = "one"
			w.put(r)
		}, 1},
		{"policy for every", func(i int) { w.put(benchTimeout("", time.Duration(i+1)*time.Millisecond)) },
			largeProxies},
		{"service", func(i int) {
			s := testService(testZone, "svc-700", 8080)
			s.Spec.(*meshv1.MeshService).Identities[0].Value = fmt.Sprint("id-", i)
			w.put(s)
		}, 1},
		{"new service", func(i int) {
			s := testService(testZone, "svc-new", 8080)
			if i%2 == 0 {
				w.put(s)
			} else {
				w.remove(s.Key)
			}
		}, 0},
		{"route", func(i int) {
			port := uint32(8080)
			w.put(resource(mesh.KindMeshHTTPRoute, "", "r",
				&meshv1.MeshHTTPRoute{To: []*meshv1.MeshHTTPRoute_To{{
					TargetRef: &meshv1.TargetRef{Kind: "MeshService", Name: "svc-700"},
					Rules: []*meshv1.MeshHTTPRoute_Rule{{
						Matches: []*meshv1.MeshHTTPRoute_RouteMatch{{Path: &meshv1.MeshHTTPRoute_PathMatch{
							Type:  "PathPrefix",
							Value: fmt.Sprint("/v", i),
						}}},
						Default: &meshv1.MeshHTTPRoute_Conf{BackendRefs: []*meshv1.BackendRef{
							{Kind: "MeshService", Name: fmt.Sprint("svc-", 700+i%2), Port: &port}}},
					}},
				}}}))
		}, 1},
		{"client comes", func(i int) {
			dp := testDataplane("dp-7", fmt.Sprintf("10.200.0.%d", i%200), "client", 8080)
			networking := dp.Spec.(*meshv1.Dataplane).Networking
			networking.TransparentProxying = &meshv1.Dataplane_TransparentProxying{
				RedirectPortInbound:  15006,
				RedirectPortOutbound: 15001,
				ReachableBackends: &meshv1.Dataplane_ReachableBackends{
					Refs: []*meshv1.Dataplane_ReachableBackendRef{{
						Kind: "MeshService",
						Name: fmt.Sprint("svc-", i%100),
					}},
				},
			}
			w.put(dp)
		}, 1},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			var took []time.Duration
			var first time.Duration
			for i := 0; b.Loop(); i++ {
				start := time.Now()
				tc.change(i)
				n := w.answerAll(watches)
				if i == 0 {
					first = time.Since(start)
				} else {
					took = append(took, time.Since(start))
				}
				if i > 0 && n != tc.notified {
					b.Fatalf("%d proxies were notified, want %d", n, tc.notified)
				}
			}
			// The first one makes what the others change: a new policy is in the set of every proxy
			// that it selects.
			b.ReportMetric(float64(first.Microseconds()), "first-µs")
			report(b, took)
		})
	}
}
