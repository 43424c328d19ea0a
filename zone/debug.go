package zone

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/inspect"
	"github.com/meridian-mesh/meridian/zone/universal"
)

// debugger answers the management API's questions about this zone's proxies.
type debugger struct{ z *Zone }

// Proxy implements api.Debugger.
func (d debugger) Proxy(key mesh.Key) *adminv1.DebugProxyResponse {
	out := &adminv1.DebugProxyResponse{Key: key.Proto()}
	view := d.z.Replica().View()
	for _, s := range d.z.ads.Describe(key) {
		st := &adminv1.DebugStream{
			Client:              "envoy",
			RemoteAddress:       s.Join.Peer,
			Since:               timestamppb.New(s.Since),
			WaitingForAdmission: s.Watch == nil,
		}
		if s.Join.Client.Kind == delta.ClientGRPC {
			st.Client = "grpc"
		}
		if s.Watch != nil {
			f, ok := d.z.engine.StreamState(s.Watch)
			if !ok {
				continue // it has just ended
			}
			st.Computed = f.Processed
			st.Answered = f.Acked
			st.Resources = compared(view, s.Resources, f.Desired)
			st.Rejections = f.Rejections
			if f.LastChange != nil {
				st.LastChange = d.change(*f.LastChange)
			}
		}
		out.Streams = append(out.Streams, st)
	}
	return out
}

// compared is what a stream says of each resource, beside the newest table, which it may not have read yet.
func compared(view replica.View, has []delta.ResourceView, should *delta.Table) []*adminv1.DebugResource {
	type id struct {
		typ  delta.Type
		name string
	}
	seen := make(map[id]bool, len(has))
	var out []*adminv1.DebugResource
	add := func(v delta.ResourceView, now *delta.Resource) {
		p := &adminv1.DebugResource{
			Type:   inspect.ResourceType(v.Type),
			Name:   v.Name,
			Acked:  v.Acked,
			Status: syncStatus[v.Status],
			Reason: v.Reason,
		}
		var was string
		if v.Desired != nil {
			was = v.Desired.Version
		}
		if now != nil {
			p.Desired = now.Version
			for _, k := range now.Cause {
				c := &adminv1.DebugCause{Key: k.Proto()}
				if at, ok := view.Get(k); ok {
					c.Revision = at.Revision
				}
				p.Causes = append(p.Causes, c)
			}
		}
		if was != p.Desired && v.Status != delta.NotSubscribed {
			p.Status, p.Reason = adminv1.SyncStatus_SYNC_STATUS_PENDING, ""
		}
		out = append(out, p)
	}
	for _, v := range has {
		seen[id{v.Type, v.Name}] = true
		add(v, should.Lookup(v.Type, v.Name))
	}
	for _, typ := range delta.Types {
		for r := range should.All(typ) {
			if !seen[id{typ, r.Name}] {
				add(delta.ResourceView{Type: typ, Name: r.Name, Status: delta.Pending}, r)
			}
		}
	}
	return out
}

// syncStatus is the wire form of a status.
var syncStatus = map[delta.SyncStatus]adminv1.SyncStatus{
	delta.InSync:        adminv1.SyncStatus_SYNC_STATUS_IN_SYNC,
	delta.Pending:       adminv1.SyncStatus_SYNC_STATUS_PENDING,
	delta.Sent:          adminv1.SyncStatus_SYNC_STATUS_SENT,
	delta.Rejected:      adminv1.SyncStatus_SYNC_STATUS_REJECTED,
	delta.NotSubscribed: adminv1.SyncStatus_SYNC_STATUS_NOT_SUBSCRIBED,
}

func keysProto(keys []mesh.Key) []*meshv1.Key {
	var out []*meshv1.Key
	for _, k := range keys {
		out = append(out, k.Proto())
	}
	return out
}

func (d debugger) change(c xds.Change) *adminv1.DebugChangeResponse {
	out := &adminv1.DebugChangeResponse{
		Zone:         d.z.cfg.Name,
		First:        c.First,
		Last:         c.Last,
		Inputs:       keysProto(c.Inputs),
		InputCount:   uint32(c.InputCount),
		Affected:     uint32(c.Affected),
		Answered:     uint32(c.Acked),
		Rejected:     uint32(c.Rejected),
		Disconnected: uint32(c.Disconnected),
		Notified:     keysProto(c.Notified),
		Pending:      keysProto(c.Pending),
		Rejections:   c.Rejections,
	}
	stamp := func(t time.Time) *timestamppb.Timestamp {
		if t.IsZero() {
			return nil
		}
		return timestamppb.New(t)
	}
	out.Committed, out.Done = stamp(c.Committed), stamp(c.Done)
	return out
}

// Change implements api.Debugger.
func (d debugger) Change(revision uint64) (*adminv1.DebugChangeResponse, store.RevisionState) {
	c, state := d.z.engine.Change(revision)
	if state != store.RevisionKnown {
		return nil, state
	}
	return d.change(c), state
}

// Local implements api.Debugger.
func (d debugger) Local(global uint64) (uint64, store.RevisionState) {
	if d.z.client == nil {
		return 0, store.RevisionAhead
	}
	return d.z.client.Local(global)
}

// Admin implements api.Debugger.
func (d debugger) Admin(ctx context.Context, key mesh.Key, what, filter string) ([]byte, error) {
	body, err := d.z.registry.Admin(ctx, key, what, filter)
	if errors.Is(err, universal.ErrNoLauncher) || errors.Is(err, universal.ErrCannotAnswer) {
		return nil, api.NotNow(err.Error())
	}
	return body, err
}
