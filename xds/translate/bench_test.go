package translate

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/policy"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// BenchmarkTranslate is what a changed policy costs for one destination: its cluster, its routes, and a
// listener of a workload, encoded.
func BenchmarkTranslate(b *testing.B) {
	conf, _ := compile.NewOutboundConfig(nil, policy.Destination{}, compile.Port{Protocol: ir.HTTP1})
	backend := []ir.Backend{{Cluster: "kri_msvc_default_east__backend_http", Weight: 1}}
	routes := ir.RouteConfig{Name: "routes", Common: conf.Route}
	for range 5 {
		routes.Routes = append(routes.Routes, ir.Route{
			Match:       ir.Match{Path: "/"},
			Backends:    backend,
			RoutePolicy: conf.Route,
		})
	}
	chain := ir.Chain{
		TLS:            "default",
		ListenerPolicy: ir.ListenerPolicy{RequestHeaders: time.Second},
		InboundPolicy: ir.InboundPolicy{RBAC: &ir.RBAC{
			ByRules: true,
			Rules:   []ir.Rule{{Match: ir.IdentityMatch{SpiffeID: "spiffe://default/web"}, Name: "web"}},
		}},
		HTTP: &ir.HTTP{StatPrefix: "in", Server: true, Routes: &routes},
	}
	listener := ir.Listener{
		Name:    "in",
		Address: "127.0.0.1",
		Port:    80,
		Inbound: true,
		Chains:  []ir.Chain{chain},
	}
	cluster := ir.Cluster{
		Name:          backend[0].Cluster,
		Upstream:      ir.HTTP2,
		Port:          ir.HTTP1,
		ClusterPolicy: conf.Cluster,
		TLS:           &ir.UpstreamTLS{Mesh: "default", SNI: "backend"},
	}

	b.ReportAllocs()
	for b.Loop() {
		c, err := Cluster(cluster)
		if err != nil {
			b.Fatal(err)
		}
		r, err := RouteConfig(routes)
		if err != nil {
			b.Fatal(err)
		}
		l, err := Listener(listener)
		if err != nil {
			b.Fatal(err)
		}
		encode(b, c, r, l)
	}
}

func encode(b *testing.B, list ...proto.Message) {
	for _, m := range list {
		if _, err := Encode(m); err != nil {
			b.Fatal(err)
		}
	}
}
