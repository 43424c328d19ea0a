package kdsrpc

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// MaxMessage is the largest gRPC message either side takes, in bytes; servers and connections must
// be made with it.
const MaxMessage = 64 << 20

// Flow control windows of HTTP/2, in bytes: a stream takes a whole kds.DefaultWindow, a connection
// several streams.
const (
	streamWindow = 2 << 20
	connWindow   = 8 << 20
)

// DefaultLease is how long silence may last before a peer counts as gone.
const DefaultLease = 6 * time.Second

// ServerConfig configures a [Server].
type ServerConfig struct {
	Store   store.Store
	Replica *replica.Replica
	// Authenticate names the zone that a call's credentials prove; its error is sent as
	// Unauthenticated unless it is a gRPC status already.
	Authenticate func(ctx context.Context) (zone string, err error)
	// Instance of this process, for people.
	Instance string
	// Sign signs a zone's intermediate authority for a mesh; nil refuses.
	Sign func(ctx context.Context, zone, mesh string, csr []byte) (*kdsv1.IssueIntermediateResponse, error)
	// OnHello is called for every new session, before anything flows; nil is allowed.
	OnHello func(zone string, hello *kdsv1.Hello)
	// Hold shows a zone another form of a resource than the present one, or none (nil), while a
	// staged rollout has not reached it; see kds.View. Nil shows all as it is.
	Hold func(zone string, r *mesh.Resource) *mesh.Resource
	// Lease for zones; 0 means [DefaultLease].
	Lease time.Duration
	// DegradedAfter is how old the oldest unacked change of a zone may get while it is still
	// Online; 0 means 5 s.
	DegradedAfter time.Duration
	// Snapshots sent at once; 0 means 4. Others wait and are kept alive.
	Snapshots int
	// Window of unacked bytes per stream; 0 means kds.DefaultWindow.
	Window int
	// MaxZoneBytes bounds what a zone can make global keep that is not stored, in bytes; 0 means
	// kds.DefaultMaxBytes. A zone that is over it loses its stream.
	MaxZoneBytes int

	// Validate rejects resources of the other side one by one, best with *mesh.ValidationError; nil
	// accepts all.
	Validate func(*mesh.Resource) error

	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// ClientConfig configures a [Client].
type ClientConfig struct {
	Zone     string
	Instance string
	// Version of the program, for people.
	Version string
	// Address of global, host:port.
	Address string
	// TLS must not be nil.
	TLS *tls.Config
	// Token is read for every connection attempt; nil sends none (a client certificate proves the zone).
	Token   func() (string, error)
	Store   store.Store
	Replica *replica.Replica
	// Progress reads how far the proxies are; nil reports all as answered once applied.
	Progress func() LocalProgress
	// ProgressChanged is closed at the next change of Progress; take it before Progress.
	ProgressChanged func() <-chan struct{}
	// Admin serves global's calls; nil answers Unimplemented.
	Admin func(ctx context.Context, method string, request []byte) ([]byte, error)
	// CAPins of the zone's own certificate authorities, hex SHA-256.
	CAPins []string
	// Window of unacked bytes upward; 0 means kds.DefaultWindow.
	Window int

	// Validate rejects resources of the other side one by one, best with *mesh.ValidationError; nil
	// accepts all.
	Validate func(*mesh.Resource) error

	Logger     *zap.Logger
	Registerer prometheus.Registerer
}
