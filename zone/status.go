package zone

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/controller/delivery"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds"
)

// rejections are those that stand. What the control plane could not compute is tried again all the
// time, so its revision is that of the cause.
func (z *Zone) rejections(p xds.Progress) []*meshv1.Rejection {
	view := z.Replica().View()
	out := make([]*meshv1.Rejection, 0, len(p.Rejections))
	for _, r := range p.Rejections {
		if r.GetStage() == meshv1.Rejection_STAGE_TRANSLATION && r.GetCause() != nil {
			if cause, ok := view.Get(mesh.KeyFromProto(r.GetCause())); ok {
				r = proto.CloneOf(r)
				r.Revision = cause.Revision
			}
		}
		out = append(out, r)
	}
	return out
}

func names(keys []mesh.Key) []string {
	out := make([]string, 0, len(keys))
	for _, k := range keys {
		if k.Mesh == "" {
			out = append(out, k.Name)
			continue
		}
		out = append(out, k.Mesh+"/"+k.Name)
	}
	return out
}

// localProgress is what this zone reports to global.
func (z *Zone) localProgress() kdsrpc.LocalProgress {
	p := z.progress.now()
	total, _, _ := z.registry.Counts()
	return kdsrpc.LocalProgress{
		Answered:     p.Acked,
		Total:        max(total, p.Online),
		Online:       p.Online,
		Pending:      names(p.Pending),
		PendingCount: p.PendingCount,
		Rejections:   z.rejected.global(z.rejections(p), z.client.Applied()),
	}
}

// rejectionLog remembers which of global's revisions this zone had applied when it first saw a
// rejection. Proxies reject what they got after it was applied, so it is at least the revision that
// led to the rejection.
type rejectionLog struct {
	mu   sync.Mutex
	seen map[rejectionID]uint64
}

type rejectionID struct {
	proxy, cause     mesh.Key
	resource, reason string
	revision         uint64
}

// global returns the rejections with global's revisions in place of the zone's own.
func (l *rejectionLog) global(rejections []*meshv1.Rejection, applied uint64) []*meshv1.Rejection {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := make(map[rejectionID]uint64, len(rejections))
	out := make([]*meshv1.Rejection, 0, len(rejections))
	for _, r := range rejections {
		id := rejectionID{
			proxy:    mesh.KeyFromProto(r.GetProxy()),
			cause:    mesh.KeyFromProto(r.GetCause()),
			resource: r.GetResource(),
			reason:   r.GetReason(),
			revision: r.GetRevision(),
		}
		at, ok := l.seen[id]
		if !ok {
			at = applied
		}
		seen[id] = at
		r = proto.CloneOf(r)
		r.Revision = at
		out = append(out, r)
	}
	l.seen = seen
	return out
}

// delivered waits until every proxy has answered revision.
func (z *Zone) delivered(ctx context.Context, revision uint64) error {
	for {
		p, changed := z.progress.read()
		if p.Acked >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Wait returns when every online proxy has answered everything up to revision of this zone's store,
// or when ctx ends.
func (z *Zone) Wait(ctx context.Context, revision uint64) *adminv1.WaitRevisionResponse {
	err := z.delivered(ctx, revision)
	p := z.progress.now()
	d := &adminv1.ZoneDelivery{Zone: z.cfg.Name, Complete: err == nil}
	if err != nil {
		d.Pending, d.PendingCount = names(p.Pending), uint32(p.PendingCount)
		d.Reason = fmt.Sprintf("%d proxies have not answered", p.PendingCount)
	}
	for _, r := range z.rejections(p) {
		if r.GetRevision() == 0 || r.GetRevision() >= revision {
			d.Rejections = append(d.Rejections, r)
		}
	}
	if len(d.Rejections) > 0 && d.Complete {
		d.Complete, d.Reason = false, "rejected: "+d.Rejections[0].GetReason()
	}
	return &adminv1.WaitRevisionResponse{
		Complete: d.Complete,
		Zones:    []*adminv1.ZoneDelivery{d},
	}
}

// storeTimeout bounds the look at the store in a status.
const storeTimeout = time.Second

// Status is the status of this zone.
func (z *Zone) Status(ctx context.Context) *adminv1.GetStatusResponse {
	p := z.progress.now()
	total, _, withheld := z.registry.Counts()
	revision := z.Replica().View().Revision()
	out := &adminv1.GetStatusResponse{
		Role:     api.RoleZone,
		Zone:     z.cfg.Name,
		Instance: z.cfg.Instance,
		Version:  z.cfg.Version,
		Revision: revision,
		Store:    z.cfg.StoreStatus(),
		Proxies: &adminv1.ProxyRollup{
			Total:    uint32(max(total, p.Online)),
			Online:   uint32(p.Online),
			Withheld: uint32(withheld),
		},
		Rejections: z.rejections(p),
	}
	for _, d := range z.registry.Duplicates() {
		out.Duplicates = append(out.Duplicates, &adminv1.DuplicateProxy{
			Proxy:     d.Proxy.Proto(),
			Connected: d.Connected,
			Refused:   d.Refused,
		})
	}
	if p.Acked >= revision {
		out.Proxies.AtRevision = out.Proxies.Online
	} else if p.Revision >= revision {
		out.Proxies.AtRevision = uint32(max(0, p.Online-p.PendingCount))
	}
	look, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err := z.cfg.Store.Revision(look); err != nil {
		out.Store.Available, out.Store.Reason = false, err.Error()
	}
	if z.client == nil {
		return out
	}
	s := z.client.State()
	out.GlobalRevision = s.Revision
	peer := &adminv1.GlobalPeer{
		State:       adminv1.ConnectionState_CONNECTION_STATE_ONLINE,
		Reason:      s.Reason,
		Address:     z.cfg.GlobalURL,
		Resumed:     s.Resumed,
		ConfigBytes: s.ConfigBytes,
	}
	switch {
	case s.Permanent:
		peer.State = adminv1.ConnectionState_CONNECTION_STATE_REFUSED
	case s.State == kdsrpc.Offline || s.State == kdsrpc.Stale:
		peer.State = adminv1.ConnectionState_CONNECTION_STATE_OFFLINE
		if _, err := z.pins(); err != nil && z.cfg.CAFile == "" && !z.cfg.TLSSkipVerify {
			peer.State = adminv1.ConnectionState_CONNECTION_STATE_REFUSED
			peer.Reason = err.Error()
		}
	}
	since := s.Connected
	if peer.State != adminv1.ConnectionState_CONNECTION_STATE_ONLINE {
		since = s.LastSeen
	}
	if !since.IsZero() {
		peer.Since = timestamppb.New(since)
	}
	out.Global = peer
	return out
}

// reportRefusals keeps the delivery status of this zone's policies.
func (z *Zone) reportRefusals(ctx context.Context) error {
	select {
	case <-z.engine.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		p, changed := z.progress.read()
		problems := delivery.Problems{}
		for _, r := range p.Rejections {
			var causes []mesh.Key
			if r.GetCause() != nil {
				causes = append(causes, mesh.KeyFromProto(r.GetCause()))
			}
			// Of what the control plane cannot compute, every policy that it read is suspect.
			if r.GetStage() == meshv1.Rejection_STAGE_TRANSLATION || len(causes) == 0 {
				for _, k := range r.GetOtherCauses() {
					causes = append(causes, mesh.KeyFromProto(k))
				}
			}
			for _, cause := range causes {
				problems.Add(cause, z.cfg.Name, r)
			}
		}
		z.Delivery().Set(problems)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
