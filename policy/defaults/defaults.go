// Package defaults holds the policies that are created together with a Mesh, in the same transaction, so
// that a mesh without them is never seen.
//
// They are ordinary policies that users may change or delete; they are not created again. The label
// kuma.io/managed-by=meridian-defaults ranks them below everything that users write.
package defaults

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Policies returns the default policies of m, a Mesh that is being created: all but those of the kinds
// that its skipCreatingInitialPolicies names.
func Policies(m *mesh.Resource) []*mesh.Resource {
	skip := mesh.Spec[*meshv1.Mesh](m).GetSkipCreatingInitialPolicies()
	name := m.Key.Name
	var out []*mesh.Resource
	add := func(kind mesh.Kind, prefix string, spec proto.Message) {
		if !slices.Contains(skip, "*") && !slices.Contains(skip, string(kind)) {
			out = append(out, policy(kind, name, prefix+"-all-"+name, spec))
		}
	}

	add(mesh.KindMeshTimeout, "mesh-timeout", &meshv1.MeshTimeout{
		TargetRef: &meshv1.TargetRef{Kind: "Mesh", ProxyTypes: []string{"Sidecar"}},
		From: []*meshv1.MeshTimeout_From{{
			TargetRef: all(),
			Default: &meshv1.MeshTimeout_Conf{
				ConnectionTimeout: d(10 * time.Second),
				IdleTimeout:       d(2 * time.Hour),
				Http: &meshv1.MeshTimeout_Http{
					RequestTimeout:    d(0),
					StreamIdleTimeout: d(time.Hour),
					MaxStreamDuration: d(0),
				},
			},
		}},
		To: []*meshv1.MeshTimeout_To{{
			TargetRef: all(),
			Default: &meshv1.MeshTimeout_Conf{
				ConnectionTimeout: d(5 * time.Second),
				IdleTimeout:       d(time.Hour),
				Http: &meshv1.MeshTimeout_Http{
					RequestTimeout:    d(15 * time.Second),
					StreamIdleTimeout: d(30 * time.Minute),
				},
			},
		}},
	})
	add(mesh.KindMeshTimeout, "mesh-gateways-timeout", &meshv1.MeshTimeout{
		TargetRef: &meshv1.TargetRef{Kind: "Mesh", ProxyTypes: []string{"Gateway"}},
		From: []*meshv1.MeshTimeout_From{{
			TargetRef: all(),
			Default: &meshv1.MeshTimeout_Conf{
				IdleTimeout: d(5 * time.Minute),
				Http: &meshv1.MeshTimeout_Http{
					StreamIdleTimeout:     d(5 * time.Second),
					RequestHeadersTimeout: d(500 * time.Millisecond),
				},
			},
		}},
		To: []*meshv1.MeshTimeout_To{{
			TargetRef: all(),
			Default: &meshv1.MeshTimeout_Conf{
				IdleTimeout: d(time.Hour),
				Http:        &meshv1.MeshTimeout_Http{StreamIdleTimeout: d(5 * time.Second)},
			},
		}},
	})
	add(mesh.KindMeshCircuitBreaker, "mesh-circuit-breaker", &meshv1.MeshCircuitBreaker{
		TargetRef: all(), To: []*meshv1.MeshCircuitBreaker_To{{TargetRef: all(), Default: breaker()}}})
	add(mesh.KindMeshRetry, "mesh-retry", &meshv1.MeshRetry{
		TargetRef: all(), To: []*meshv1.MeshRetry_To{{TargetRef: all(), Default: retry()}}})
	return out
}

// breaker spells out what clusters do without any policy, so that users can read and replace it: an
// instance that cannot be reached, or that answers as a gateway without its server, is ejected after
// three failures in a row, however few instances there are. Retries are bounded per request, by [retry],
// not by Kuma's three at a time: under load the fourth request that meets a dead instance would fail
// although others live.
func breaker() *meshv1.MeshCircuitBreaker_Conf {
	three := func() *meshv1.MeshCircuitBreaker_Consecutive {
		return &meshv1.MeshCircuitBreaker_Consecutive{Consecutive: proto.Uint32(3)}
	}
	return &meshv1.MeshCircuitBreaker_Conf{
		ConnectionLimits: &meshv1.MeshCircuitBreaker_ConnectionLimits{
			MaxConnections:     proto.Uint32(1024),
			MaxPendingRequests: proto.Uint32(1024),
			MaxRequests:        proto.Uint32(1024),
			MaxRetries:         proto.Uint32(1024),
		},
		OutlierDetection: &meshv1.MeshCircuitBreaker_OutlierDetection{
			Interval:                    d(time.Second),
			BaseEjectionTime:            d(5 * time.Second),
			MaxEjectionPercent:          proto.Uint32(100),
			SplitExternalAndLocalErrors: proto.Bool(true),
			Detectors: &meshv1.MeshCircuitBreaker_Detectors{
				GatewayFailures:     three(),
				LocalOriginFailures: three(),
			},
		},
	}
}

// retry spells out what routes do without any policy: as in Kuma, and avoiding what has failed the
// request, first the host, then its priority. Kuma's perTryTimeout of 16s is left out: it is longer than
// the default requestTimeout, so it would act only where a MeshTimeout allows more, and there it would
// end long responses and streams that should go on.
func retry() *meshv1.MeshRetry_Conf {
	backOff := func() *meshv1.MeshRetry_BackOff {
		return &meshv1.MeshRetry_BackOff{
			BaseInterval: d(25 * time.Millisecond),
			MaxInterval:  d(250 * time.Millisecond),
		}
	}
	return &meshv1.MeshRetry_Conf{
		Tcp: &meshv1.MeshRetry_Tcp{MaxConnectAttempt: proto.Uint32(5)},
		Http: &meshv1.MeshRetry_Http{
			NumRetries: proto.Uint32(5),
			BackOff:    backOff(),
			HostSelection: []*meshv1.MeshRetry_HostSelection{{Predicate: "OmitPreviousHosts"},
				{Predicate: "OmitPreviousPriorities", UpdateFrequency: proto.Uint32(2)}},
			HostSelectionMaxAttempts: proto.Uint32(5),
		},
		Grpc: &meshv1.MeshRetry_Grpc{NumRetries: proto.Uint32(5), BackOff: backOff()},
	}
}

func all() *meshv1.TargetRef { return &meshv1.TargetRef{Kind: "Mesh"} }

func d(v time.Duration) *durationpb.Duration { return durationpb.New(v) }

// policy is one of the defaults, under the key that global would use, also at a standalone zone.
func policy(kind mesh.Kind, meshName, name string, spec proto.Message) *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.Key{Kind: kind, Mesh: meshName, Name: name},
		Labels: map[string]string{
			mesh.LabelMesh:      meshName,
			mesh.LabelOrigin:    mesh.OriginGlobal,
			mesh.LabelManagedBy: mesh.ManagedByDefaults,
		},
		Spec: spec,
	}
}
