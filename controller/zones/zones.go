// Package zones turns what the zones report into state at global: a Zone resource with its status
// for every zone that ever connected, and the delivery status of policies from the refusals of
// zones and their proxies.
//
// Members of MeshMultiZoneServices are computed by internal/members, which a standalone zone shares.
//
// One goroutine, [Zones.Run], follows the sessions: at each change it compares what it would write
// with what the replica has, and writes the difference. Fields that change all the time (lag,
// bytes) are not written; status calls read them from the session. A zone that was online before
// global restarted and does not come back is written as Offline after [Config.ReturnTime].
package zones

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/controller/delivery"
	"github.com/meridian-mesh/meridian/kds/kdsrpc"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// DefaultReturnTime is how long zones have to come back after a start before they count as offline.
const DefaultReturnTime = 15 * time.Second

// Sessions is what the zones' connections say; [kdsrpc.Server] is one.
type Sessions interface {
	Zones() []kdsrpc.ZoneState
	Changed() <-chan struct{}
}

// Config of Zones. Store, Replica, Sessions and Delivery are required.
type Config struct {
	Store    store.Store
	Replica  *replica.Replica
	Sessions Sessions
	// Delivery is told of refusals.
	Delivery *delivery.Writer
	// ReturnTime: see the package comment; 0 means the default.
	ReturnTime time.Duration
	// Logger may be nil.
	Logger *zap.Logger
}

// Zones keeps Zone resources; see the package comment.
type Zones struct {
	cfg Config
	log *zap.Logger
}

// NewZones makes Zones; [Zones.Run] starts it.
func NewZones(cfg Config) *Zones {
	if cfg.ReturnTime == 0 {
		cfg.ReturnTime = DefaultReturnTime
	}
	z := &Zones{cfg: cfg, log: cfg.Logger}
	if z.log == nil {
		z.log = zap.NewNop()
	}
	return z
}

// Bounds of the delay after a failed write.
const (
	minRetry = 50 * time.Millisecond
	maxRetry = 5 * time.Second
)

// Run follows the sessions until ctx ends and returns its error, or that of a store that was closed.
func (z *Zones) Run(ctx context.Context) error {
	select {
	case <-z.cfg.Replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	started := z.cfg.Replica.View().Revision()
	orphans := time.NewTimer(z.cfg.ReturnTime)
	defer orphans.Stop()
	returned := false
	var retry time.Duration
	for {
		changed := z.cfg.Sessions.Changed()
		states := z.cfg.Sessions.Zones()
		z.cfg.Delivery.Set(Problems(states))
		err := z.write(ctx, states, started, returned)
		var again <-chan time.Time
		switch {
		case err == nil:
			retry = 0
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrClosed):
			return err
		default:
			retry = min(max(retry*2, minRetry), maxRetry)
			again = time.After(retry)
			z.log.Warn("the state of zones was not written, will try again", zap.Error(err),
				zap.Duration("in", retry))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-again:
		case <-orphans.C:
			returned = true
		}
	}
}

func zoneKey(name string) mesh.Key { return mesh.Key{Kind: mesh.KindZone, Name: name} }

func (z *Zones) write(ctx context.Context, states []kdsrpc.ZoneState, started uint64, returned bool) error {
	view := z.cfg.Replica.View()
	var txn store.Txn
	txn.Actor = "system:zones"
	seen := map[string]bool{}
	for _, s := range states {
		seen[s.Name] = true
		key := zoneKey(s.Name)
		r, ok := view.Get(key)
		if !ok {
			txn.Checks = append(txn.Checks, store.KeyAt{Key: key})
			txn.Ops = append(txn.Ops, store.Put{Resource: &mesh.Resource{
				Key:    key,
				Labels: map[string]string{mesh.LabelOrigin: mesh.OriginGlobal},
				Spec:   &meshv1.Zone{},
			}})
			z.log.Info("a new zone connected", zap.String("zone", s.Name))
		}
		next := &meshv1.ZoneStatus{
			State:    string(s.State),
			Instance: s.Instance,
			Epoch:    s.Epoch,
			CaPins:   s.CAPins,
			Version:  s.Version,
		}
		if r == nil || !proto.Equal(r.Status, next) {
			txn.Ops = append(txn.Ops, store.PutStatus{Key: key, Status: next})
		}
	}
	if returned {
		for r := range view.List(mesh.KindZone, "") {
			old := mesh.Status[*meshv1.ZoneStatus](r)
			if seen[r.Key.Name] || old == nil || old.GetState() == string(kdsrpc.Offline) ||
				r.StatusRevision > started {
				continue
			}
			next := proto.Clone(old).(*meshv1.ZoneStatus)
			next.State = string(kdsrpc.Offline)
			txn.Ops = append(txn.Ops, store.PutStatus{Key: r.Key, Status: next})
		}
	}
	if len(txn.Ops) == 0 {
		return nil
	}
	res, err := z.cfg.Store.Commit(ctx, txn)
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		// Somebody made the Zone meanwhile; look again once it is in the view.
		_, err = z.cfg.Replica.Wait(ctx, conflict.Revision)
		if err == nil {
			return conflict
		}
		return err
	}
	if err != nil {
		return err
	}
	_, err = z.cfg.Replica.Wait(ctx, res.Revision)
	return err
}

// Problems is what zones and their proxies refuse, by the resource of global at fault.
func Problems(states []kdsrpc.ZoneState) delivery.Problems {
	out := delivery.Problems{}
	for _, s := range states {
		for _, r := range s.Rejections {
			out.Refuse(mesh.KeyFromProto(r.GetCause()), s.Name, r.GetField(), r.GetReason())
		}
		for _, r := range s.Progress.GetRejections() {
			if r.GetCause() != nil {
				out.Nack(mesh.KeyFromProto(r.GetCause()), s.Name, mesh.KeyFromProto(r.GetProxy()).String(), r.GetReason())
			}
		}
	}
	return out
}
