package inspect

import (
	"fmt"
	"testing"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/store/replica"
)

// BenchmarkDiff is what a question costs a zone of 1000 proxies that each call 100 services.
func BenchmarkDiff(b *testing.B) {
	var rs []*mesh.Resource
	add := func(text string) {
		docs, err := codec.Decode([]byte(text))
		if err != nil {
			b.Fatal(err)
		}
		for _, d := range docs {
			if k := d.Resource.Key.Kind; k == mesh.KindDataplane || k == mesh.KindMeshService {
				d.Resource.Key.Zone = zone
			}
			rs = append(rs, d.Resource)
		}
	}
	add("type: Mesh\nname: default\nmeshServices: {mode: Exclusive}\n")
	const services = 100
	outbounds := ""
	for i := range services {
		add(fmt.Sprintf("type: MeshService\nmesh: default\nname: s%d\nspec: {selector: {dataplaneTags: "+
			"{kuma.io/service: s%d}}, "+
			"ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}\n", i, i))
		outbounds += fmt.Sprintf("  - {port: %d, backendRef: {kind: MeshService, name: s%d, port: 80}}\n",
			10001+i, i)
	}
	for i := range 1000 {
		add(fmt.Sprintf("type: Dataplane\nmesh: default\nname: p%d\nnetworking:\n  address: 10.0.%d.%d\n"+
			"  inbound: [{name: http, port: 8080, tags: {kuma.io/service: s%d, kuma.io/protocol: http}}]\n  "+
			"outbound:\n%s", i, i/250, i%250, i%services, outbounds))
	}
	view := replica.NewView(1, rs...)
	for _, to := range []string{"{kind: Mesh}", "{kind: MeshService, name: s1}"} {
		docs, err := codec.Decode(fmt.Appendf(nil,
			"type: MeshTimeout\nmesh: default\nname: x\nspec: {targetRef: {kind: Mesh}, to: "+
				"[{targetRef: %s, "+
				"default: {http: {requestTimeout: 1s}}}]}", to))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(to, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Diff(
					view,
					zone,
					Change{Puts: []*mesh.Resource{docs[0].Resource}},
					0,
					false,
				); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
