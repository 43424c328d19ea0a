package kdsrpc

import (
	"time"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// State of a peer, by its lease and lag.
type State string

// States.
const (
	// Online: heard from within the lease, and up to date or nearly so.
	Online State = "Online"
	// Degraded: heard from, but behind for longer than ServerConfig.DegradedAfter, or some kinds do not flow.
	Degraded State = "Degraded"
	// Stale: the connection went or fell silent less than a lease ago.
	Stale State = "Stale"
	// Offline: silent for longer than the lease, or never seen.
	Offline State = "Offline"
)

// ZoneState is what global knows of a zone's session.
type ZoneState struct {
	Name  string
	State State
	// Reason says why the state is not Online.
	Reason string
	// Instance and Epoch of the zone's process; Version of its program.
	Instance string
	Epoch    uint64
	Version  string
	CAPins   []string
	// Connected is when the present or last session began; LastSeen when the zone was last heard from.
	Connected time.Time
	LastSeen  time.Time

	// Revision of global up to which changes have been read for this zone.
	Revision uint64
	// Applied and Answered are global's revisions: durable in the zone, and answered by all its
	// online proxies.
	Applied  uint64
	Answered uint64
	// LagRevisions is Revision - Applied; LagSeconds is the age of the oldest change that the zone
	// has not acked.
	LagRevisions uint64
	LagSeconds   float64
	// Kept counts resources that the zone owned in a store that it no longer has; see [kds.Sink.Kept].
	Kept int
	// StoreID is the id of the zone's store; empty if it does not say.
	StoreID string
	// StateRevision is the zone's own store revision that global has applied.
	StateRevision uint64
	// DigestsEqual is the outcome of the last comparison; true before the first.
	DigestsEqual bool
	// Progress is the last report; nil before the first.
	Progress *kdsv1.Progress
	// Rejections of resources by the zone that still stand.
	Rejections []*meshv1.Rejection
	// Degraded kinds that do not flow.
	Degraded []*kdsv1.DegradedKind

	// ConfigBytes sent on the present or last Config stream; Resumed says that it began from the
	// zone's cursor.
	ConfigBytes uint64
	Resumed     bool
	// ResetReason is why not, if not.
	ResetReason kdsv1.Reset_Reason
}

// GlobalState is what a zone knows of global.
type GlobalState struct {
	State State
	// Reason says why the state is not Online: the last error or rejection.
	Reason string
	// Permanent says that the reason will not go away by itself.
	Permanent bool
	// Instance of global's process.
	Instance string
	// Revision of global that the zone has applied.
	Revision uint64
	// StateAcked is the zone's own store revision that global has acked.
	StateAcked   uint64
	DigestsEqual bool
	LastSeen     time.Time
	Connected    time.Time
	Resumed      bool
	// ConfigBytes received on the present or last Config stream, heartbeats left out.
	ConfigBytes uint64
	Rejections  []*meshv1.Rejection
	Degraded    []*kdsv1.DegradedKind
}

// LocalProgress is how far the zone's own proxies are, in revisions of the zone's store.
type LocalProgress struct {
	// Answered: every online proxy has answered everything up to here.
	Answered uint64
	// Total and Online count proxies.
	Total, Online int
	// Pending names at most 20 proxies whose answer is outstanding; PendingCount counts all.
	Pending      []string
	PendingCount int
	Rejections   []*meshv1.Rejection
}
