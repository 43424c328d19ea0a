package zone

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
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
			Client:       "envoy",
			Peer:         s.Join.Peer,
			Since:        timestamppb.New(s.Since),
			WaitsItsTurn: s.Watch == nil,
		}
		if s.Join.Client.Kind == delta.ClientGRPC {
			st.Client = "grpc"
		}
		if s.Watch != nil {
			f, ok := d.z.engine.StreamState(s.Watch)
			if !ok {
				continue // it has just ended
			}
			st.Processed, st.Answered, st.Resources, st.Refusals = f.Processed, f.Acked,
				compared(view, s.Resources, f.Desired), refusalsProto(f.Rejections)
			if f.LastChange != nil {
				st.Woke = d.change(*f.LastChange)
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
			Type:   v.Type.String(),
			Name:   v.Name,
			Has:    v.Acked,
			State:  v.Status.String(),
			Reason: v.Reason,
		}
		var was string
		if v.Desired != nil {
			was = v.Desired.Version
		}
		if now != nil {
			p.Should = now.Version
			for _, k := range now.Cause {
				c := &adminv1.DebugCause{Key: k.Proto()}
				if at, ok := view.Get(k); ok {
					c.Revision = at.Revision
				}
				p.Causes = append(p.Causes, c)
			}
		}
		if was != p.Should && v.Status != delta.NotSubscribed {
			p.State, p.Reason = delta.Pending.String(), ""
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

func refusalsProto(list []*meshv1.Rejection) []*adminv1.DebugRefusal {
	var out []*adminv1.DebugRefusal
	for _, r := range list {
		d := &adminv1.DebugRefusal{
			Proxy:          r.GetProxy(),
			Resource:       r.GetResource(),
			Reason:         r.GetReason(),
			Causes:         r.GetOtherCauses(),
			Revision:       r.GetRevision(),
			ByControlPlane: r.GetStage() == meshv1.Rejection_STAGE_TRANSLATION,
		}
		if r.GetCause() != nil {
			d.Causes = append([]*meshv1.Key{r.GetCause()}, d.Causes...)
		}
		out = append(out, d)
	}
	return out
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
		Zone:       d.z.cfg.Name,
		First:      c.First,
		Last:       c.Last,
		Inputs:     keysProto(c.Inputs),
		InputCount: uint32(c.InputCount),
		Concerned:  uint32(c.Affected),
		Answered:   uint32(c.Acked),
		Refused:    uint32(c.Rejected),
		Left:       uint32(c.Disconnected),
		Woken:      keysProto(c.Notified),
		Pending:    keysProto(c.Pending),
		Refusals:   refusalsProto(c.Rejections),
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
func (d debugger) Change(revision uint64) (*adminv1.DebugChangeResponse, api.ChangeState) {
	c, state := d.z.engine.Change(revision)
	switch state {
	case xds.ChangeAhead:
		return nil, api.ChangeAhead
	case xds.ChangeForgotten:
		return nil, api.ChangeForgotten
	}
	return d.change(c), api.ChangeKnown
}

// Local implements api.Debugger.
func (d debugger) Local(global uint64) (uint64, api.ChangeState) {
	if d.z.client == nil {
		return 0, api.ChangeAhead
	}
	local, origin := d.z.client.Local(global)
	switch origin {
	case kdsrpc.OriginAhead:
		return 0, api.ChangeAhead
	case kdsrpc.OriginForgotten:
		return 0, api.ChangeForgotten
	case kdsrpc.OriginNothing:
		return 0, api.ChangeElsewhere
	}
	return local, api.ChangeKnown
}

// Admin implements api.Debugger.
func (d debugger) Admin(ctx context.Context, key mesh.Key, what, filter string) ([]byte, error) {
	body, err := d.z.registry.Admin(ctx, key, what, filter)
	if errors.Is(err, universal.ErrNoLauncher) || errors.Is(err, universal.ErrCannotAnswer) {
		return nil, api.NotNow(err.Error())
	}
	return body, err
}
