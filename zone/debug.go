package zone

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/internal/adminapi"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/zone/universal"
)

// debugger answers adminapi's questions about this zone's proxies.
type debugger struct{ z *Zone }

// Proxy implements adminapi.Debugger.
func (d debugger) Proxy(key mesh.Key) *adminv1.DebugProxyResponse {
	out := &adminv1.DebugProxyResponse{Key: key.Proto()}
	view := d.z.replica.View()
	for _, s := range d.z.engine.Proxy(key) {
		st := &adminv1.DebugStream{Client: "envoy", Processed: s.Processed, Answered: s.Answered, Resources: compared(view, s), Refusals: refusalsProto(s.Refusals)}
		if s.GRPC {
			st.Client = "grpc"
		}
		if s.Woke != nil {
			st.Woke = d.change(*s.Woke)
		}
		out.Streams = append(out.Streams, st)
	}
	slices.SortFunc(out.Streams, func(a, b *adminv1.DebugStream) int { return strings.Compare(a.GetClient(), b.GetClient()) })
	return out
}

// compared are all resources of both tables, by type and name.
func compared(view replica.View, s xds.ProxyState) []*adminv1.DebugResource {
	var out []*adminv1.DebugResource
	for _, typ := range delta.Types {
		byName := map[string]*adminv1.DebugResource{}
		for r := range s.Has.All(typ) {
			byName[r.Name] = &adminv1.DebugResource{Type: typ.String(), Name: r.Name, Has: r.Version}
		}
		for r := range s.Should.All(typ) {
			p := byName[r.Name]
			if p == nil {
				p = &adminv1.DebugResource{Type: typ.String(), Name: r.Name}
				byName[r.Name] = p
			}
			p.Should = r.Version
			for _, k := range r.Cause {
				c := &adminv1.DebugCause{Key: k.Proto()}
				if at, ok := view.Get(k); ok {
					c.Revision = at.Revision
				}
				p.Causes = append(p.Causes, c)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			out = append(out, byName[name])
		}
	}
	return out
}

func refusalsProto(list []xds.ProxyRefusal) []*adminv1.DebugRefusal {
	var out []*adminv1.DebugRefusal
	for _, r := range list {
		out = append(out, &adminv1.DebugRefusal{Proxy: r.Proxy.Proto(), Resource: r.Resource, Reason: r.Reason, Causes: keysProto(r.Cause), Revision: r.Revision})
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
	out := &adminv1.DebugChangeResponse{Zone: d.z.cfg.Name, First: c.First, Last: c.Last, Inputs: keysProto(c.Inputs), InputCount: uint32(c.InputCount),
		Concerned: uint32(c.Concerned), Answered: uint32(c.Answered), Refused: uint32(c.Refused), Left: uint32(c.Left),
		Woken: keysProto(c.Woken), Pending: keysProto(c.Pending), Refusals: refusalsProto(c.Refusals)}
	stamp := func(t time.Time) *timestamppb.Timestamp {
		if t.IsZero() {
			return nil
		}
		return timestamppb.New(t)
	}
	out.Committed, out.Done = stamp(c.Committed), stamp(c.Done)
	return out
}

// Change implements adminapi.Debugger.
func (d debugger) Change(revision uint64) (*adminv1.DebugChangeResponse, adminapi.ChangeState) {
	c, state := d.z.engine.Change(revision)
	switch state {
	case xds.ChangeAhead:
		return nil, adminapi.ChangeAhead
	case xds.ChangeForgotten:
		return nil, adminapi.ChangeForgotten
	}
	return d.change(c), adminapi.ChangeKnown
}

// Admin implements adminapi.Debugger.
func (d debugger) Admin(ctx context.Context, key mesh.Key, what, filter string) ([]byte, error) {
	body, err := d.z.registry.Admin(ctx, key, what, filter)
	if errors.Is(err, universal.ErrNoLauncher) || errors.Is(err, universal.ErrCannotAnswer) {
		return nil, adminapi.NotNow(err.Error())
	}
	return body, err
}
