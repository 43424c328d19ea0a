package policy

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// CertificateURIs are the URI SANs by which a Dataplane is known to those it calls, sorted:
// spiffe://<mesh>/<service> for every service and kuma://<tag>/<value> for every tag. A Dataplane
// without service tags counts as its label kuma.io/workload.
func CertificateURIs(dp *mesh.Resource) []string {
	set := map[string]struct{}{}
	services := 0
	add := func(tags map[string]string) {
		for k, v := range tags {
			set[fmt.Sprintf("kuma://%s/%s", k, v)] = struct{}{}
			if k == mesh.TagService {
				set[fmt.Sprintf("spiffe://%s/%s", dp.Key.Mesh, v)] = struct{}{}
				services++
			}
		}
	}
	net := mesh.Spec[*meshv1.Dataplane](dp).GetNetworking()
	for _, in := range net.GetInbound() {
		add(in.GetTags())
	}
	add(net.GetGateway().GetTags())
	if w := dp.Labels[mesh.LabelWorkload]; services == 0 && w != "" {
		set[fmt.Sprintf("spiffe://%s/%s", dp.Key.Mesh, w)] = struct{}{}
	}
	return slices.Sorted(maps.Keys(set))
}
