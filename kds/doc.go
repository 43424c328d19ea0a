// Package kds keeps two control planes' resources alike: a [Source] where resources are owned, a
// [Sink] where copies of them are kept. Config goes from global's Source to a zone's Sink, state
// from the zone's Source to global's Sink; it is the same code. The package is pure: no I/O, no
// goroutine, no clock. In go changes, frames and the time; out come frames to send and transactions
// to commit. Package kdsrpc is the host that binds it to gRPC.
//
// # What the other side may see
//
// [View] alone decides: kinds by their row in mesh.Kinds, whose zone a resource is of, labels,
// secrets that must stay, and the form in which a resource is shown. A staged rollout is a View
// that shows a former spec (View.Hold).
//
// # A stream
//
//	Source                                   Sink
//	  Reset, Items…, Bookmark{R}   ────▶      collects, applies all in one transaction, with cursor R
//	  Delta{from, R}               ────▶      applies it in one transaction, with cursor R
//	  Bookmark{R}                  ────▶      nothing here up to R; the cursor moves
//	                               ◀────      Nack{R, rejections} for what is invalid; the rest is applied
//	                               ◀────      Ack{R} once durable
//	  Digest{R, sum of all}        ────▶      compares, answers with its own: per kind if it differs
//	  Digest{R, per kind}          ────▶      likewise
//	                               ◀────      ResetKind if one kind differs
//	  Delta{complete_kinds}        ────▶
//
// A Sink resumes from the cursor it stored. A Source starts over (Reset) in these cases
// alone: no cursor yet, a cursor of another store, the log no longer reaches back, the agreed kinds
// or schemas changed, or one change is too large for a message.
//
// # Promises
//
// Ordered: revisions never go back within a store. Unique: no revision is applied twice. Atomic:
// what one commit of the owner changed is seen together. Resumable: a cut at any frame loses
// nothing and repeats nothing that is durable. Package kdstest checks them on every run of every
// script and of the simulation.
//
// # Bounds
//
// Rejections are of keys that were sent, and bounded, as all texts for people are. A Sink can have a
// limit for what it keeps that is not stored ([SinkConfig.MaxBytes]); a sender beyond it is in breach.
//
// The Source keeps a digest per key that the other side has, and pending changes merged by key; it sends
// while fewer than Window bytes are unacked. The Sink queues what the window allows. Frames are
// pulled one by one ([Source.Next]), so a slow connection holds back the Source and not a queue.
//
// # Sessions
//
// [Fence] admits one process per zone: the newest epoch. [Lease] says when to send a heartbeat and
// when silence is too long. [Agree] compares capabilities and schemas, and names the kinds that
// will not flow.
package kds
