package global

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// zoneStates are the sessions, and an Offline entry for every Zone that has none.
func (g *Global) zoneStates() []kdsrpc.ZoneState {
	view := g.Replica().View()
	// A zone that was deleted is not a zone because it was connected once.
	states := slices.DeleteFunc(g.kds.Zones(), func(s kdsrpc.ZoneState) bool {
		_, there := view.Get(mesh.Key{Kind: mesh.KindZone, Name: s.Name})
		return !there && s.State != kdsrpc.Online && s.State != kdsrpc.Degraded
	})
	seen := map[string]bool{}
	for _, s := range states {
		seen[s.Name] = true
	}
	for r := range view.List(mesh.KindZone, "") {
		if seen[r.Key.Name] {
			continue
		}
		known := mesh.Status[*meshv1.ZoneStatus](r)
		states = append(states, kdsrpc.ZoneState{
			Name:         r.Key.Name,
			State:        kdsrpc.Offline,
			Reason:       "it has not connected since this control plane started",
			DigestsEqual: true,
			Instance:     known.GetInstance(),
			Version:      known.GetVersion(),
			Epoch:        known.GetEpoch(),
		})
	}
	slices.SortFunc(states, func(a, b kdsrpc.ZoneState) int { return cmp.Compare(a.Name, b.Name) })
	return states
}

// storeTimeout bounds the look at the store in a status.
const storeTimeout = time.Second

// Status is the status of this control plane and its zones.
func (g *Global) Status(ctx context.Context) *adminv1.GetStatusResponse {
	cfg := g.Config()
	revision := g.Replica().View().Revision()
	out := &adminv1.GetStatusResponse{
		Role:     api.RoleGlobal,
		Instance: cfg.Instance,
		Version:  cfg.Version,
		Revision: revision,
		Store:    cfg.StoreStatus(),
	}
	look, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err := cfg.Store.Revision(look); err != nil {
		out.Store.Available, out.Store.Reason = false, err.Error()
	}
	for _, s := range g.zoneStates() {
		p := s.Progress
		peer := &adminv1.ZonePeer{
			Name:         s.Name,
			State:        zoneState[s.State],
			Instance:     s.Instance,
			DigestsEqual: s.DigestsEqual,
			Reason:       s.Reason,
			ConfigBytes:  s.ConfigBytes,
			Resumed:      s.Resumed,
			Version:      s.Version,
			StoreId:      s.StoreID,
			Kept:         uint32(s.Kept),
			Lag:          &adminv1.Lag{Revisions: s.LagRevisions, Seconds: s.LagSeconds},
			Proxies:      &adminv1.ProxyRollup{Total: p.GetProxiesTotal(), Online: p.GetProxiesOnline()},
		}
		switch {
		case s.Answered >= revision:
			peer.Proxies.AtRevision = p.GetProxiesOnline()
		case s.Applied >= revision:
			peer.Proxies.AtRevision = p.GetProxiesOnline() - min(p.GetPendingCount(), p.GetProxiesOnline())
		}
		out.Zones = append(out.Zones, peer)
		out.Rejections = append(out.Rejections, rejections(s)...)
	}
	return out
}

// zoneState is the wire form of a state.
var zoneState = map[kdsrpc.State]adminv1.ZoneState{
	kdsrpc.Online:   adminv1.ZoneState_ZONE_STATE_ONLINE,
	kdsrpc.Degraded: adminv1.ZoneState_ZONE_STATE_DEGRADED,
	kdsrpc.Stale:    adminv1.ZoneState_ZONE_STATE_STALE,
	kdsrpc.Offline:  adminv1.ZoneState_ZONE_STATE_OFFLINE,
}

// rejections are those that stand of a zone: of its proxies, then of its store.
func rejections(s kdsrpc.ZoneState) []*meshv1.Rejection {
	var out []*meshv1.Rejection
	for _, r := range slices.Concat(s.Progress.GetRejections(), s.Rejections) {
		r = proto.CloneOf(r)
		r.Zone = s.Name
		out = append(out, r)
	}
	return out
}

// returnTime is how long after a start a wait holds for zones that have not connected yet.
const returnTime = 5 * time.Second

// Wait returns when every online proxy of every zone has answered everything up to revision, or
// when ctx ends. Zones that are offline do not hold it up: they are reported as not complete.
func (g *Global) Wait(ctx context.Context, revision uint64) *adminv1.WaitRevisionResponse {
	timeout := time.NewTimer(time.Until(g.Started().Add(returnTime)))
	defer timeout.Stop()
	for {
		changed := g.kds.Changed()
		out, pending := g.delivered(revision)
		if !pending || ctx.Err() != nil {
			return out
		}
		select {
		case <-changed:
		case <-timeout.C:
		case <-ctx.Done():
		}
	}
}

// delivered says how far a revision is, and whether waiting can help.
func (g *Global) delivered(revision uint64) (out *adminv1.WaitRevisionResponse, pending bool) {
	out = &adminv1.WaitRevisionResponse{Complete: true}
	young := time.Since(g.Started()) < returnTime
	for _, s := range g.zoneStates() {
		if !g.enabled(s.Name) {
			continue
		}
		d := &adminv1.ZoneDelivery{Zone: s.Name}
		switch {
		case s.State == kdsrpc.Offline:
			d.Reason = "the zone is offline: " + cmp.Or(s.Reason, "not connected")
			pending = pending || (young && s.LastSeen.IsZero())
		case s.Progress == nil || s.Answered < revision:
			pending = true
			d.Pending, d.PendingCount = s.Progress.GetPending(), s.Progress.GetPendingCount()
			switch {
			case s.Applied < revision:
				d.Reason = fmt.Sprintf("the zone has applied revision %d of %d", s.Applied, revision)
			default:
				d.Reason = fmt.Sprintf("%d proxies have not answered", d.PendingCount)
			}
		default:
			d.Complete = true
		}
		addRejections(s, revision, d)
		out.Complete = out.Complete && d.Complete
		out.Zones = append(out.Zones, d)
	}
	return out, pending
}

// addRejections adds what the zone or its proxies rejected of revision or later.
func addRejections(s kdsrpc.ZoneState, revision uint64, d *adminv1.ZoneDelivery) {
	for _, r := range rejections(s) {
		unknown := r.GetRevision() == 0 && r.GetStage() != meshv1.Rejection_STAGE_STORE
		if unknown || r.GetRevision() >= revision {
			d.Rejections = append(d.Rejections, r)
		}
	}
	if len(d.Rejections) > 0 && d.Complete {
		d.Complete, d.Reason = false, "rejected: "+d.Rejections[0].GetReason()
	}
}

func (g *Global) enabled(zone string) bool {
	r, ok := g.Replica().View().Get(mesh.Key{Kind: mesh.KindZone, Name: zone})
	if !ok {
		return true
	}
	e := mesh.Spec[*meshv1.Zone](r).Enabled
	return e == nil || *e
}
