// Package universal admits proxies that are not Kubernetes Pods: it checks their tokens, writes
// their Dataplanes, and keeps their liveness.
//
// # Joining
//
// A proxy says who it is in the node of its xDS stream, and its launcher says the same in a session
// (package meridian.dataplane.v1), so that a launcher learns a permanent rejection before it starts
// Envoy. Both go through one check: the document parses and fits the node id, the mesh is there,
// the token is good and allows this Dataplane, the Mesh's constraints let it in. Rejections are gRPC
// status errors: InvalidArgument (document), NotFound (mesh or Dataplane), Unauthenticated and
// PermissionDenied (token), FailedPrecondition (constraints), Unavailable (try again: the
// store is unavailable, or this zone has never heard from global), AlreadyExists (another proxy of the
// name is connected). A stream that is let in puts the
// Dataplane and its insight in one transaction, which writes nothing if nothing changed.
//
// # Liveness
//
// A proxy that starts is Joining until its stream has answered everything it was given: callers
// that meet it before would meet a closed port. One that reconnects while it is Online stays so.
//
//	          stream lost            grace over             lease over
//	Online ───────────────▶ absent ───────────▶ Lost ─────────────────▶ deleted
//	   ▲                      │                  │
//	   └──────────────────────┴──────────────────┘ stream is back (nothing written if within the grace)
//
//	SIGTERM: report ─▶ Draining ─▶ session ends cleanly, stream gone ─▶ deleted after a short delay
//
// Lost is a state of the insight, from which callers make the endpoint unhealthy, yet keep it as a
// last resort. Only what a stream registered is deleted at the end of its lease. While a launcher's
// session lives nothing is deleted.
//
// When at least [Config.MassMinimum] proxies, and at least [Config.MassShare] of those that were
// there, are absent at once, it is this control plane that is cut off rather than they: nothing is
// marked and nothing deleted until the share falls below, because they return or others join. Those
// that said goodbye do not count. After a start every insight of the former instance is absent, and
// nothing is done before [Config.ReturnTime] is over.
//
// # Concurrency
//
// The registry's mutex guards what is known of each proxy. Each proxy has a second mutex held over
// its writes, inside of which the written state is computed: the last write is right whichever goroutine
// makes it. Timers have one owner, [Registry.Run].
//
// No example: admission and liveness need a running store and a replica of it.
package universal
