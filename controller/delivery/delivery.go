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

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
)

// maxProxies of a zone that are named for one reason.
const maxProxies = 10

// Problems is what was rejected because of a resource, by resource.
type Problems map[mesh.Key][]*meshv1.Rejection

// Add notes that a zone, or a proxy of it, rejected what came from a resource. Of r the cause and the
// parts that change with each try are left out, so that the same rejection is the same status.
func (p Problems) Add(cause mesh.Key, zone string, r *meshv1.Rejection) {
	next := &meshv1.Rejection{
		Stage:  r.GetStage(),
		Field:  r.GetField(),
		Reason: r.GetReason(),
		Zone:   zone,
		Proxy:  r.GetProxy(),
	}
	proxies := 0
	for _, have := range p[cause] {
		if proto.Equal(have, next) {
			return
		}
		if have.GetZone() == zone && have.GetStage() == r.GetStage() && have.GetReason() == r.GetReason() {
			proxies++
		}
	}
	if proxies < maxProxies {
		p[cause] = append(p[cause], next)
	}
}

// Config of a Writer. Store and Replica are required.
type Config struct {
	reconcile.Deps
	// Owns says whose status this control plane writes; nil is every resource.
	Owns func(mesh.Key) bool
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
		Deps:       cfg.Deps,
		Name:       "delivery",
		Author:     "system:delivery",
		Controller: &controller{writer: w},
		Wake:       func() <-chan struct{} { return w.wake },
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
			if len(mesh.Status[*meshv1.DeliveryStatus](r).GetRejections()) > 0 {
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
		status := &meshv1.DeliveryStatus{Conditions: old.GetConditions(), Rejections: sorted(problems[k])}
		if len(status.Rejections) > 0 {
			c.next[k] = true
		}
		if !proto.Equal(old, status) && (old != nil || len(status.Rejections) > 0) {
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
func sorted(list []*meshv1.Rejection) []*meshv1.Rejection {
	return slices.SortedFunc(slices.Values(list), func(a, b *meshv1.Rejection) int {
		return cmp.Or(
			cmp.Compare(a.GetZone(), b.GetZone()),
			cmp.Compare(a.GetStage(), b.GetStage()),
			cmp.Compare(a.GetReason(), b.GetReason()),
			mesh.KeyFromProto(a.GetProxy()).Compare(mesh.KeyFromProto(b.GetProxy())),
			cmp.Compare(a.GetField(), b.GetField()),
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
