// Package translate turns xds/ir into Envoy's v3 messages. It is the one place that knows their
// shape, and the place to look up why a setting of Envoy has the value it has.
//
// # Requests must not fail because a host did
//
// A sidecar, its workload or a whole zone may die at any moment, and a mesh without policies must
// fail over all the same. Five settings together do that. They are what xds/compile sets where no
// policy does (meshretry.go, meshcircuitbreaker.go, meshhealthcheck.go), and what the default
// policies of a new Mesh spell out:
//
//   - Retries (routes): five, on gateway errors, refused connections and streams, and resets before
//     an answer began. Each avoids hosts that failed this request, and after two attempts its
//     priority too, so that one request can leave a dead zone before the control plane or outlier
//     detection has noticed that it is dead.
//   - Outlier ejection (clusters): three failures in a row take a host out, for five seconds at
//     first. All hosts may be out: then the next priority serves. Answers of 500 by the application
//     do not count as failures of the host.
//   - Health of the control plane (endpoints): what lost its stream or does not answer its probe is
//     marked and not removed. Panic mode stays on at one percent: hosts marked unhealthy are used
//     again when there is nothing else.
//   - Pings (clusters): HTTP/2 between sidecars asks each peer every 0.4 s, and closes the connection
//     when it does not answer for 0.4 s. A link that is down or a process that is stopped closes
//     nothing by itself, and its requests would wait for their timeouts. They are retried instead.
//   - Bounds (clusters): as Kuma's, except retries. Kuma allows three retries at a time per cluster;
//     under load the fourth concurrent request that meets a dead host would fail although others are
//     alive. Ours allows as many retries as requests; the number per request bounds the
//     amplification, and ejection ends it within milliseconds.
//
// # Few instances
//
// Policies do what their author meant with two instances too. An ejection takes at least one host,
// although ten percent of two is none (always_eject_one_host), unless the policy says 0 percent.
// Retries under a person's MeshRetry avoid what the request has met, unless the policy has a
// hostSelection. An active check keeps its interval before the first request (no_traffic_interval),
// where Envoy would wait a minute. An ejection grows to six times its base, at most to five
// minutes. Panic stays at one percent unless a policy says otherwise, where Envoy has fifty: of two
// instances of which one is out, the other serves alone.
//
// # gRPC clients
//
// Their messages (grpc.go) are made for the least of the libraries. A resource that one of them
// would refuse is a defect here: what cannot be taken is left out, and the table of docs/grpc.md
// says what that is.
//
// # Determinism
//
// [Encode] marshals deterministically: equal input is equal bytes, on which versions rest.
package translate
