// Package kdsrpc binds package kds to gRPC: [Server] at global, [Client] in a zone.
//
// # Connection
//
// The zone dials and holds one TLS connection with three streams: Config (resources down), State
// (resources and progress up) and Admin (global's unary calls to the zone). They are apart so that
// none starves or ends another. The zone token is in the header "authorization" of every stream;
// the zone it names must be the one in Hello.
//
// The heartbeat is that of the connection: the zone sends one on Config, two in a lease, and global
// answers it. Nothing else repeats: progress is sent when it differs, one digest of everything half
// a minute after changes, bookmarks half a second (down) or five minutes (up) after commits that
// have nothing for the other side. Global counts such commits as applied by itself.
//
// A zone reports progress once Config has begun on the same connection: before that its revisions
// may be those of another store of global.
//
// # Goroutines
//
// hostSource and hostSink run a Source and a Sink on a stream; all four streams of resources stand
// on them. One goroutine owns a stream's state and hands events in: a reader of frames, a watcher of
// the local store, a committer, a sender, in a zone one that reports progress. They only pass values
// to the owner and end with the stream. There is no queue without bound: the reader stops where the
// sender at the other side stopped, the watcher merges by key, the sender takes one frame at a time.
//
// # Sessions at global
//
// kds.Fence admits one process per zone, the newest epoch. A stream of the process that comes again
// takes the place of its former one, after that has ended. Silence moves a zone from Online to
// Stale to Offline; it withdraws nothing.
//
// # Reconnection
//
// The Client dials again after 50 ms, then longer, never longer than half a second plus jitter
// while global is merely unavailable, so that a policy arrives within a second of global's return. A
// rejection that only a person can cure is kept in [GlobalState] and tried again slowly.
//
// No example: a Server and a Client need stores, certificates and a network listener.
package kdsrpc
