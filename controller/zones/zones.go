// Package zones turns what the zones report into state at global: a Zone resource with its status
// for every zone that ever connected, and the delivery status of policies from the rejections of
// zones and the NACKs of their proxies.
//
// Members of MeshMultiZoneServices are computed by controller/members, which a standalone zone
// shares.
//
// A controller on store/reconcile follows the sessions: at each change it compares what it would
// write with what the replica has, and writes the difference. Fields that change all the time (lag,
// bytes) are not written; status calls read them from the session. A zone that was online before
// global restarted and does not come back is written as Offline after [Config.ReturnTime].
//
// No example: Zones need a running store and connections of zones.
package zones

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/controller/delivery"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
)

// DefaultReturnTime is how long zones have to come back after a start before they count as offline.
const DefaultReturnTime = 15 * time.Second

// Sessions is the state of the zones' connections; [kdsrpc.Server] is one. Changed is closed at the
// next change.
type Sessions interface {
	Zones() []kdsrpc.ZoneState
	Changed() <-chan struct{}
}

// Config of Zones. Store, Replica, Sessions and Delivery are required.
type Config struct {
	reconcile.Deps
	Sessions Sessions
	// Delivery receives what zones and proxies reject.
	Delivery *delivery.Writer
	// ReturnTime: see the package comment; 0 means the default.
	ReturnTime time.Duration
}

// Zones keeps Zone resources; see the package comment.
type Zones struct {
	*reconcile.Loop
}

// New makes Zones; its Run starts it.
func New(cfg Config) *Zones {
	if cfg.ReturnTime == 0 {
		cfg.ReturnTime = DefaultReturnTime
	}
	cfg.Deps = cfg.Deps.WithDefaults()
	return &Zones{Loop: reconcile.New(reconcile.Config{
		Deps:       cfg.Deps,
		Name:       "zones",
		Author:     "system:zones",
		Controller: &controller{cfg: cfg},
		Wake:       cfg.Sessions.Changed,
	})}
}

// controller plans Zone resources.
type controller struct {
	cfg Config
	// started is the revision of the first plan; from returned on, a zone that is not connected is
	// offline.
	started  uint64
	returned time.Time
	// created are the zones of the plan that had no Zone.
	created []string
}

func zoneKey(name string) mesh.Key { return mesh.Key{Kind: mesh.KindZone, Name: name} }

// Plan implements [reconcile.Controller].
func (c *controller) Plan(_ context.Context, in reconcile.Input) reconcile.Plan {
	if c.returned.IsZero() {
		c.started, c.returned = in.View.Revision(), in.Now.Add(c.cfg.ReturnTime)
	}
	states := c.cfg.Sessions.Zones()
	c.cfg.Delivery.Set(Problems(states))

	var plan reconcile.Plan
	c.created = nil
	connected := map[string]bool{}
	for _, s := range states {
		connected[s.Name] = true
		key := zoneKey(s.Name)
		r, ok := in.View.Get(key)
		if !ok {
			plan.Checks = append(plan.Checks, store.KeyAt{Key: key})
			plan.Ops = append(plan.Ops, store.Put{Resource: &mesh.Resource{
				Key:    key,
				Labels: map[string]string{mesh.LabelOrigin: mesh.OriginGlobal},
				Spec:   &meshv1.Zone{},
			}})
			c.created = append(c.created, s.Name)
		}
		next := &meshv1.ZoneStatus{
			State:    string(s.State),
			Instance: s.Instance,
			Epoch:    s.Epoch,
			CaPins:   s.CAPins,
			Version:  s.Version,
		}
		if r == nil || !proto.Equal(r.Status, next) {
			plan.Ops = append(plan.Ops, store.PutStatus{Key: key, Status: next})
		}
	}

	if in.Now.Before(c.returned) {
		plan.Next = c.returned
		return plan
	}
	for r := range in.View.List(mesh.KindZone, "") {
		old := mesh.Status[*meshv1.ZoneStatus](r)
		if connected[r.Key.Name] || old == nil || old.GetState() == string(kdsrpc.Offline) ||
			r.StatusRevision > c.started {
			continue
		}
		next := proto.Clone(old).(*meshv1.ZoneStatus)
		next.State = string(kdsrpc.Offline)
		plan.Ops = append(plan.Ops, store.PutStatus{Key: r.Key, Status: next})
	}
	return plan
}

// Done implements [reconcile.Controller].
func (c *controller) Done(err error) {
	if err != nil {
		return
	}
	for _, name := range c.created {
		c.cfg.Logger.Info("a new zone connected", zap.String("zone", name))
	}
}

// Problems is what zones and their proxies reject, by the resource of global at fault.
func Problems(states []kdsrpc.ZoneState) delivery.Problems {
	out := delivery.Problems{}
	for _, s := range states {
		for _, r := range s.Rejections {
			out.Add(mesh.KeyFromProto(r.GetCause()), s.Name, r)
		}
		for _, r := range s.Progress.GetRejections() {
			if r.GetCause() != nil {
				out.Add(mesh.KeyFromProto(r.GetCause()), s.Name, r)
			}
		}
	}
	return out
}
