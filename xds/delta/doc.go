// Package delta is the ADS server of a zone, incremental and state-of-the-world: it brings to each
// proxy what the engine says it should have, in an order that never breaks traffic, and tells the
// engine what the proxy answered.
//
// # Data
//
// A [Resource] is one Envoy message, encoded once and shared by pointer by every proxy that has it.
// A [Segment] is an immutable set of them, shared by a group of proxies. A [Table], a few segments,
// is what one proxy should have. A new table is compared with the last by segment pointers; the
// difference of a pair of segments is computed once and kept with the newer one, so that a thousand
// proxies of a group that take the same step pay for one comparison. A response is put together
// from bytes that are already encoded: what a stream costs is the copy into its connection.
//
// A step between two segments that replaces resources, and neither adds nor removes names, has a plan
// (plan.go): whole responses, encoded once but for the nonce. A stream that holds all of the table
// before it follows the plan with a word for each response, and an answer moves it to the table after it
// by one pointer. What the plan does not foresee, such as a rejection, another update or another
// subscription, first turns the plan into what the stream would otherwise have noted name by name.
//
// # One stream
//
// A goroutine that has something for a stream takes its lock and does all that follows: the one that
// receives its requests, or a worker that has an update of the engine. There is no goroutine
// between them, for handing over costs more than most responses do: before, a change went through
// four goroutines of a stream, which was a quarter of its cost. None that holds the lock waits for
// the client. What it has not answered is counted; as long as that fits into gRPC's write quota a
// send only queues, and beyond it a goroutine of its own sends, and updates merge into what is
// pending, which is bounded by the number of resources. Nonces cannot be guessed, so that no client
// answers what it has not read. A client that does not read costs its own stream and nothing else.
//
// Streams that the engine has something for stand in one queue, in the order in which they were
// touched, for a bounded number of workers (queue.go). Changes for few proxies go past changes for
// many.
//
// Kept per type: the subscription, what the client was sent, the responses that it has not answered
// yet, and what it rejected. What it was sent is nearly always what its table says; so a stream keeps
// the table, which others share, and the names for which it does not hold (record.go). "Sent" and
// "acknowledged" are never mixed up: the engine hears that a revision is answered
// when nothing of it is unsent or unanswered.
//
// # Order
//
// Additions and changes go out as clusters, then endpoints, listeners, routes; each waits for the
// answer to the one before, so that nothing refers to what the proxy does not have yet. Secrets go
// at once. The endpoints of a cluster that the proxy has just subscribed to go at once too, for the
// cluster warms until it has them. Removals go in the reverse order after everything else was
// answered: listeners and routes first, clusters and endpoints after the answer. A change of
// endpoints alone waits for nothing.
//
// # Rejections
//
// A NACK is charged to the resources of the response it answers, narrowed to those whose names its
// text mentions. The proxy keeps the last good ones; a rejected resource is not sent again until its
// content changes. Later steps do not wait for what was rejected: one bad resource does not delay
// the rest.
//
// # Sizes
//
// A response is divided so that it stays far below what clients take. A single resource that is
// larger than a message may be is suppressed: it counts as rejected, with the reason, and everything
// else goes. A state-of-the-world response of clusters or listeners cannot be divided: the stream
// ends and says so.
//
// # State-of-the-world
//
// A state-of-the-world stream has the same state; only the two ends differ (sotw.go). A request,
// which names all that the client wants, becomes the change of its subscription. A response of
// clusters or listeners holds all that the client has then: what it rejected in its last good
// content, or not at all. Removals of other types cannot be said and are owed no answer. The
// version of a response is a hash over the names and versions of all that the client has of the
// type. The bytes of resources are the ones that incremental streams share.
//
// # Many at once
//
// After a restart of the control plane all proxies return in the same second. Every stream is
// admitted at once, so that the zone knows who is there; but only [Config.MaxJoining] are getting
// their first configuration at a time, the others wait, first come first served (limiter.go). A place
// is free again when the proxy has answered, when its stream ends, or after
// [Config.FirstConfigTimeout], so that clients that never answer keep no other out.
//
// With [Config.MaxAge] connections end in their time, each a little before or after the others.
// gRPC stops taking new streams on the connection first; then the stream ends with [ErrAged], which
// the zone does not take for a loss, and the proxy comes back with the versions that it holds,
// perhaps to another instance.
//
// # gRPC clients
//
// They ask for listeners by names that the engine has to look up ([Watch.Subscribe]). Such a request
// takes part in the state only when an update reflects it: a client that reconnects would otherwise
// hear that its listeners are gone.
package delta
