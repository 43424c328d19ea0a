// Package relay stands between an Envoy and its zone: it carries the Envoy's ADS stream, remembers what
// Envoy acknowledged, and serves an Envoy that starts from that while the zone cannot be reached.
//
// # Carrying
//
// Envoy speaks to a UNIX socket of mode 0600 in a folder of mode 0700, the relay to the zone over the
// launcher's connection, with the token as it is at that moment. Messages pass byte by byte; each
// direction has one goroutine, which receives the next message when the last one was taken, so that
// nothing queues. A message is forwarded first and looked at afterwards: what the relay does is not on the
// way of a change. It reads types, names, versions and nonces, and nothing inside a resource. A stream of
// Envoy is one stream to the zone, and they end together: what the zone knows of Envoy it knows through the
// relay as it would without.
//
// # Remembering
//
// A response becomes part of the [Cache] when Envoy acknowledges it; one that Envoy rejects, or did not
// answer, leaves it as it is. What the zone removes and what Envoy unsubscribes from goes. When an Envoy
// that started with nothing is live, what it was not given goes too ([Relay.SetLive]): the zone removed it
// while no Envoy was there. So the cache is what the running Envoy holds, and is bounded by it, and by
// [MaxBytes]. Should Envoy hold what is not in it, for a stream ended before the acknowledgement came, the
// relay says to the zone that Envoy holds another version, and the zone sends it again.
//
// # Serving
//
// If the zone cannot be reached, or ended the last stream before it answered, or leaves an Envoy that is not
// live without a first answer for longer than [silence], Envoy's next stream is answered from the cache:
// with what it subscribes to and does not hold yet, in the versions that the zone gave. What it subscribes
// to and the cache has not is said not to exist to an Envoy that is not live, so that no start waits for it.
// When Envoy is live and the zone is there again this stream ends, Envoy opens the next one with the
// versions that it holds, and the zone sends only what differs. A zone that refuses this proxy by its token
// or its document is obeyed: no cache overrules it.
//
// # On disk
//
// Resources are in memory only until they are written; then the index alone is. The file is a log of
// frames, each sealed (AES-256-GCM) for its place in this file and for this proxy, so that none can be moved
// or taken over by another. Private keys of workloads are in it as everything else is: sealed. The key is
// the launcher's: of a launcher whose folder ends with it the key is in memory only and the file is of no
// use after it; else it is a file ([github.com/meridian-mesh/meridian/internal/seal]). A batch counts when
// its last frame is there. A file that is cut short, altered, of another proxy or sealed with another key
// is used as far as it can be read. When more than half of it is no longer current it is written again, so
// it has at most twice the bytes of its resources and 1 MiB. If it cannot be written, resources stay in
// memory until it can.
//
// No example: it needs a zone and an Envoy; the launcher is its only user.
package relay
