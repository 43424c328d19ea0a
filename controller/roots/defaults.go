package roots

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// Defaults are the default policies of a new Mesh (traffic-policies 1.13), of the kinds that there are.
// A standalone zone owns its meshes and their defaults, under the keys that global would use.
func Defaults(m *mesh.Resource) []store.Op {
	skip := mesh.Spec[*meshv1.Mesh](m).GetSkipCreatingInitialPolicies()
	name := m.Key.Name
	var ops []store.Op
	add := func(kind mesh.Kind, prefix string, spec proto.Message) {
		if !slices.Contains(skip, "*") && !slices.Contains(skip, string(kind)) {
			ops = append(ops, defaultPolicy(kind, name, prefix+"-all-"+name, spec))
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
		To: []*meshv1.MeshTimeout_To{{TargetRef: all(), Default: &meshv1.MeshTimeout_Conf{
			IdleTimeout: d(time.Hour), Http: &meshv1.MeshTimeout_Http{StreamIdleTimeout: d(5 * time.Second)},
		}}},
	})
	add(mesh.KindMeshCircuitBreaker, "mesh-circuit-breaker", &meshv1.MeshCircuitBreaker{
		TargetRef: all(), To: []*meshv1.MeshCircuitBreaker_To{{TargetRef: all(), Default: breaker()}}})
	add(mesh.KindMeshRetry, "mesh-retry", &meshv1.MeshRetry{
		TargetRef: all(), To: []*meshv1.MeshRetry_To{{TargetRef: all(), Default: retry()}}})
	return ops
}

// breaker says what clusters do without any policy, so that a person can read and replace it: an
// instance that cannot be reached or answers as a gateway that lost its server is out after three
// failures in a row, however few there are (design 9.9). Retries are bounded per request, by
// [retry], and not to the peer's three at a time: under load the fourth request that meets a dead
// instance would fail although others live.
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

// retry says what routes do without any policy: as the peer's, and avoiding what has failed the
// request, first the host, then its priority. The peer's perTryTimeout of 16s is left out: it is
// longer than the default requestTimeout, so it would act only where a MeshTimeout allows more, and
// there end long answers and streams that nobody asked to end.
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

func defaultPolicy(kind mesh.Kind, meshName, name string, spec proto.Message) store.Op {
	return store.Put{Resource: &mesh.Resource{
		Key: mesh.Key{Kind: kind, Mesh: meshName, Name: name},
		Labels: map[string]string{mesh.LabelMesh: meshName, mesh.LabelOrigin: mesh.OriginGlobal,
			mesh.LabelManagedBy: mesh.ManagedByDefaults},
		Spec: spec,
	}}
}

// EnsureDefaultMesh is the transaction that creates the mesh "default" in a store that has no such
// mesh; extra are operations that come with it, such as its token key.
func EnsureDefaultMesh(extra ...store.Op) store.Txn {
	m := &mesh.Resource{
		// No origin label: a Mesh that a person writes has none either, and an update may not drop one.
		Key:  mesh.Key{Kind: mesh.KindMesh, Name: mesh.DefaultMesh},
		Spec: &meshv1.Mesh{},
	}
	return store.Txn{
		Actor:  "system:defaults",
		Checks: []store.Check{store.KeyAt{Key: m.Key}},
		Ops:    append(append([]store.Op{store.Put{Resource: m}}, Defaults(m)...), extra...),
	}
}
