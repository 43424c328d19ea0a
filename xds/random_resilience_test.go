package xds

import (
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// resilience is a MeshRetry, MeshCircuitBreaker or MeshHealthCheck about anything.
func (d *dice) resilience() *mesh.Resource {
	some := func() uint32 { return uint32(d.IntN(3)) + 1 }
	name := d.of("x1", "x2")
	switch d.IntN(3) {
	case 0:
		conf := &meshv1.MeshRetry_Conf{Http: &meshv1.MeshRetry_Http{
			NumRetries: proto.Uint32(some() - 1),
			RetryOn:    []string{d.of("5xx", "503")},
		}}
		switch d.IntN(3) {
		case 0:
			conf.Tcp = &meshv1.MeshRetry_Tcp{MaxConnectAttempt: proto.Uint32(some())}
		case 1:
			conf.Http.HostSelection = []*meshv1.MeshRetry_HostSelection{{
				Predicate: "OmitHostsWithTags",
				Tags:      map[string]string{mesh.TagService: d.service()},
			}}
		}
		target := d.to()
		if d.IntN(3) == 0 {
			target = &meshv1.TargetRef{Kind: "MeshHTTPRoute", Name: d.of("r1", "r2")}
		}
		return resource(mesh.KindMeshRetry, "", name, &meshv1.MeshRetry{
			TargetRef: d.top(),
			To:        []*meshv1.MeshRetry_To{{TargetRef: target, Default: conf}},
		})
	case 1:
		conf := &meshv1.MeshCircuitBreaker_Conf{
			ConnectionLimits: &meshv1.MeshCircuitBreaker_ConnectionLimits{MaxRequests: proto.Uint32(some())}}
		if d.half() {
			conf.OutlierDetection = &meshv1.MeshCircuitBreaker_OutlierDetection{
				Detectors: &meshv1.MeshCircuitBreaker_Detectors{
					TotalFailures: &meshv1.MeshCircuitBreaker_Consecutive{Consecutive: proto.Uint32(some())}}}
		}
		spec := &meshv1.MeshCircuitBreaker{TargetRef: d.top()}
		if d.half() {
			spec.To = []*meshv1.MeshCircuitBreaker_To{{TargetRef: d.to(), Default: conf}}
		} else {
			spec.Rules = []*meshv1.MeshCircuitBreaker_Rule{{Default: conf}}
		}
		r := resource(mesh.KindMeshCircuitBreaker, "", name, spec)
		if d.half() {
			r.Labels = map[string]string{mesh.LabelManagedBy: mesh.ManagedByDefaults}
		}
		return r
	}
	conf := &meshv1.MeshHealthCheck_Conf{
		Interval: d.duration(),
		Http:     &meshv1.MeshHealthCheck_Http{},
		Tcp:      &meshv1.MeshHealthCheck_Tcp{},
	}
	if d.half() {
		conf.Http.Disabled = proto.Bool(true)
	}
	return resource(mesh.KindMeshHealthCheck, "", name, &meshv1.MeshHealthCheck{
		TargetRef: d.top(),
		To:        []*meshv1.MeshHealthCheck_To{{TargetRef: d.to(), Default: conf}},
	})
}
