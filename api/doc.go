// Package api is the management service of both roles: what can be read, written, watched and asked
// of a control plane, and its gRPC form, meridian.admin.v1. Around it are the packages below this
// folder, which know it, or which it stands on:
//
//	server     one port: authenticates, hands on to gRPC and REST
//	rest       HTTP: paths, documents and errors that clients of Kuma speak
//	authn      who calls
//	authz      who may call what: a table
//	admission  what must be true of a write, and what goes with it
//	fanout     asking zones
//	problem    a failure as its caller sees it, in both protocols
//	client     the typed client
//
// # Model
//
//	REST ──┐                       ┌─▶ replica.View               reads
//	gRPC ──┼─▶ authz ─▶ Service ───┼─▶ admission ─▶ store.Commit  writes
//	tunnel ┘                       └─▶ fanout ─▶ a zone           Dataplanes at global
//
// A write is answered once this process reads it back, so that its author's next read shows it.
//
// Dataplanes are not stored at global: reads there ask the zones through the tunnel and name the
// zones that could not be asked. What policies come to is computed where the proxies are, by
// package inspect over a view of its own; global asks the zones.
//
// # Who may
//
// Every operation authorizes its caller itself, by its row in package authz, whichever protocol it
// came by; gRPC checks the row also before the handler. Every write and every token, done or
// rejected, is a line of the audit log.
//
// # Failure
//
// Failures are a [*problem.Problem], made where they arise. While the store is unavailable writes
// fail with 503 and Retry-After, and reads go on from the replica. A panic in a handler is a 500
// for its caller and a line in the log.
//
// # Concurrency
//
// A [Service] is safe for concurrent use and starts nothing that outlives a call. Watches hold a
// subscription each, whose memory is bounded by the number of keys; a slow reader gets merged
// changes.
//
// No example: a Service needs a running store; package client has examples of its use.
package api
