package delta

import (
	"context"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
)

// Update is what a proxy should have from now on.
type Update struct {
	// Table replaces the last one whole; never nil.
	Table *Table
	// Revision of the store that it reflects.
	Revision uint64
	// Committed is the time of the oldest commit that this update brings; zero for a first one.
	Committed time.Time
	// Subscribed is how many calls of [Watch.Subscribe] the table reflects.
	Subscribed uint64
}

// ClientKind says what a client can take.
type ClientKind uint8

// Kinds of clients.
const (
	// ClientEnvoy has listeners of its own and takes all of Envoy's API.
	ClientEnvoy ClientKind = iota
	// ClientGRPC is a gRPC program without a proxy. It asks for listeners by the names that it calls.
	ClientGRPC
)

// Client is what a stream's client is, as far as that decides what it gets. It is comparable.
type Client struct {
	Kind ClientKind
	// CertificateProvider is, for ClientGRPC, the certificate provider instance of the client's
	// bootstrap that has the mesh's certificate, key and roots; empty if it has none.
	CertificateProvider string
}

// OpenRequest says what a stream wants to follow.
type OpenRequest struct {
	Proxy mesh.Key
	// MinRevision is what the first update reflects at least.
	MinRevision uint64
	Client      Client
	// Wake is called when [Watch.Next] has something new to say. It does not block and does not call
	// the watch, so it may be called under any lock. urgent says that the change concerns few
	// proxies.
	Wake func(urgent bool)
}

// Source is the engine as the server sees it.
type Source interface {
	// Open starts to follow a proxy. It never blocks.
	Open(OpenRequest) Watch
}

// Watch is what one stream follows. Its methods are not called concurrently, and none of them blocks.
type Watch interface {
	// Next gives what the proxy should have now, if that differs from what was taken last; ok is
	// false if not. A watch holds one pending update; what comes later replaces it. It fails when
	// the engine has ended.
	Next() (u Update, ok bool, err error)
	// Ack says that the stream has acknowledged or rejected everything up to revision (of an
	// Update), and which rejections stand now. It is called when either changes.
	Ack(revision uint64, rejections []Rejection)
	// Subscribe gives the names of all listeners that a ClientGRPC asks for now. An update follows that
	// counts the call in Subscribed, even if nothing else changed.
	Subscribe(names []string)
	// Close ends the watch; it is idempotent.
	Close()
}

// Rejection is a resource that the proxy rejected and for which no newer content was accepted since.
type Rejection struct {
	Type     Type
	Resource string
	// Cause is the resource's.
	Cause []mesh.Key
	// Reason is the proxy's text, or says why the control plane does not send the resource.
	Reason string
	// Revision of the update that brought it.
	Revision uint64
	// Content is what was rejected; Held is what the proxy goes on with, nil if it has nothing of it or
	// what it has is not known.
	Content, Held *Resource
}

// Admission is the zone: it authenticates and registers proxies, and hears when they leave.
type Admission interface {
	// Join admits a stream, or fails with a gRPC status error that says why; the stream ends with it.
	Join(ctx context.Context, j Join) (Member, error)
}

// Join is what a stream says about itself.
type Join struct {
	// NodeID is node.id, "<mesh>.<name>" by convention.
	NodeID string
	// ProxyType is node metadata dataplane.proxyType; empty if it is not given.
	ProxyType string
	// Token is the bare token, from the header authorization or node metadata dataplane.token;
	// empty if there is none.
	Token string
	// Resource is node metadata dataplane.resource: a document, JSON or YAML; empty if there is none.
	Resource string
	// Peer is the address that the stream comes from; UserAgent is node.user_agent_name with its version.
	Peer, UserAgent string
	// Delta says that the stream is incremental.
	Delta bool
	// Client is what the node says it is. A ClientGRPC has a stream for each of its channels: they
	// do not replace each other.
	Client Client
}

// Member is an admitted stream.
type Member interface {
	// Proxy is the key of the proxy, and the revision at which its registration is in the store.
	Proxy() (key mesh.Key, minRevision uint64)
	// Superseded is closed when a newer stream of the proxy took over; the server then ends this
	// one with codes.Aborted.
	Superseded() <-chan struct{}
	// Configured is called once, when the client has answered everything of a table it was given:
	// from then on it serves. It does not block.
	Configured()
	// Leave is called once when the stream has ended; cause is nil if the client closed it.
	Leave(cause error)
}
