// Package delivery keeps the delivery status of policies: in which zones something is wrong with
// one, and why.
//
// The caller says what is wrong now, whole, with [Writer.Set]; the Writer, a controller on
// store/reconcile, writes the difference to what the resources say. Only resources whose status is a
// DeliveryStatus are written. What has to be cleared is known from what the Writer wrote and, at a
// start, from one look at all resources, so that a rejection that ended while this process was down
// is cleared too.
//
// No example: a Writer needs a running store.
package delivery

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
	"github.com/meridian-mesh/meridian/store/replica"
)

// States of a zone's delivery.
const (
	// Refused: the zone rejected the resource and did not store it.
	Refused = "Refused"
	// Nacked: a proxy rejected the configuration that came from the resource.
	Nacked = "Nacked"
)

// maxProxies named in one entry.
const maxProxies = 10

// Problems is what is wrong, by resource.
type Problems map[mesh.Key][]*meshv1.ZoneDelivery

// Refuse notes that a zone did not store a resource.
func (p Problems) Refuse(key mesh.Key, zone, field, reason string) {
	p[key] = append(p[key], &meshv1.ZoneDelivery{
		Zone:   zone,
		State:  Refused,
		Field:  field,
		Reason: reason,
	})
}

// Nack notes that a proxy rejected what came from a resource. Proxies with one reason share an entry.
func (p Problems) Nack(key mesh.Key, zone, proxy, reason string) {
	for _, d := range p[key] {
		if d.GetZone() != zone || d.GetState() != Nacked || d.GetReason() != reason {
			continue
		}
		if len(d.Proxies) < maxProxies && !slices.Contains(d.Proxies, proxy) {
			d.Proxies = append(d.Proxies, proxy)
			slices.Sort(d.Proxies)
		}
		return
	}
	p[key] = append(p[key], &meshv1.ZoneDelivery{
		Zone:    zone,
		State:   Nacked,
		Reason:  reason,
		Proxies: []string{proxy},
	})
}

// Config of a Writer. Store and Replica are required.
type Config struct {
	Store   store.Store
	Replica *replica.Replica
	// Owns says whose status this control plane writes; nil is every resource.
	Owns func(mesh.Key) bool
	// Logger and Registerer may be nil.
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Writer writes delivery statuses; see the package comment.
type Writer struct {
	*reconcile.Loop

	cfg  Config
	wake chan struct{}

	mu       sync.Mutex
	problems Problems // guarded by mu; nil until the first Set
}

// New makes a Writer; its Run starts it.
func New(cfg Config) *Writer {
	w := &Writer{cfg: cfg, wake: make(chan struct{}, 1)}
	w.Loop = reconcile.New(reconcile.Config{
		Name:       "delivery",
		Actor:      "system:delivery",
		Store:      cfg.Store,
		Replica:    cfg.Replica,
		Controller: &controller{writer: w},
		Wake:       func() <-chan struct{} { return w.wake },
		Logger:     cfg.Logger,
		Registerer: cfg.Registerer,
	})
	return w
}

// Set replaces what is wrong. It does not block. The Writer keeps p.
func (w *Writer) Set(p Problems) {
	if p == nil {
		p = Problems{}
	}
	w.mu.Lock()
	w.problems = p
	w.mu.Unlock()

	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// controller plans the statuses. written are the resources whose status names zones; nil before the
// first plan. next is what written will be once the plan is durable.
type controller struct {
	writer        *Writer
	written, next map[mesh.Key]bool
}

// Plan implements [reconcile.Controller].
func (c *controller) Plan(_ context.Context, in reconcile.Input) reconcile.Plan {
	c.writer.mu.Lock()
	problems := c.writer.problems
	c.writer.mu.Unlock()
	c.next = c.written
	if problems == nil {
		return reconcile.Plan{}
	}

	dirty := map[mesh.Key]bool{}
	if c.written == nil {
		for r := range in.View.All() {
			if len(mesh.Status[*meshv1.DeliveryStatus](r).GetZones()) > 0 {
				dirty[r.Key] = true
			}
		}
	}
	maps.Copy(dirty, c.written)
	for k := range problems {
		dirty[k] = true
	}

	var plan reconcile.Plan
	c.next = map[mesh.Key]bool{}
	owns := c.writer.cfg.Owns
	for _, k := range slices.SortedFunc(maps.Keys(dirty), mesh.Key.Compare) {
		r, ok := in.View.Get(k)
		if !ok || !hasDelivery(k.Kind) || (owns != nil && !owns(k)) {
			continue
		}
		old := mesh.Status[*meshv1.DeliveryStatus](r)
		status := &meshv1.DeliveryStatus{Conditions: old.GetConditions(), Zones: sorted(problems[k])}
		if len(status.Zones) > 0 {
			c.next[k] = true
		}
		if !proto.Equal(old, status) && (old != nil || len(status.Zones) > 0) {
			plan.Ops = append(plan.Ops, store.PutStatus{Key: k, Status: status})
		}
	}
	return plan
}

// Done implements [reconcile.Controller].
func (c *controller) Done(err error) {
	if err == nil {
		c.written = c.next
	}
}

// sorted is a copy by zone, state, reason.
func sorted(zones []*meshv1.ZoneDelivery) []*meshv1.ZoneDelivery {
	return slices.SortedFunc(slices.Values(zones), func(a, b *meshv1.ZoneDelivery) int {
		return cmp.Or(
			cmp.Compare(a.GetZone(), b.GetZone()),
			cmp.Compare(a.GetState(), b.GetState()),
			cmp.Compare(a.GetReason(), b.GetReason()),
		)
	})
}

func hasDelivery(kind mesh.Kind) bool {
	info, ok := mesh.Lookup(kind)
	if !ok || info.NewStatus == nil {
		return false
	}
	_, ok = info.NewStatus().(*meshv1.DeliveryStatus)
	return ok
}
