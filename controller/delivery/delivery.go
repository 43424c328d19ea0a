// Package delivery keeps the delivery status of policies: in which zones something is wrong with
// one, and why.
//
// The caller says what is wrong now, whole, with [Writer.Set]; [Writer.Run] writes the difference
// to what the resources say. Only resources whose status is a DeliveryStatus are written. What was
// never written is found by the writer's own memory and, at a start, by one look at all resources,
// so that a refusal that ended while nobody watched is cleared.
package delivery

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// States of a zone's delivery.
const (
	// Refused: the zone did not store the resource.
	Refused = "Refused"
	// Nacked: a proxy refused what the resource led to.
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

// Nack notes that a proxy refused what a resource led to. Proxies that refuse with one reason share an entry.
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
	// Logger may be nil.
	Logger *zap.Logger
}

// Writer writes delivery statuses; see the package comment.
type Writer struct {
	cfg  Config
	log  *zap.Logger
	wake chan struct{}

	mu       sync.Mutex
	problems Problems
	written  map[mesh.Key]bool
}

// New makes a Writer; [Writer.Run] starts it.
func New(cfg Config) *Writer {
	w := &Writer{
		cfg:     cfg,
		log:     cfg.Logger,
		wake:    make(chan struct{}, 1),
		written: map[mesh.Key]bool{},
	}
	if w.log == nil {
		w.log = zap.NewNop()
	}
	return w
}

// Set replaces what is wrong. It does not block.
func (w *Writer) Set(p Problems) {
	w.mu.Lock()
	w.problems = p
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Bounds of the delay after a failed write.
const (
	minRetry = 50 * time.Millisecond
	maxRetry = 5 * time.Second
)

// Run writes until ctx ends, and returns its error, or that of a store that was closed.
func (w *Writer) Run(ctx context.Context) error {
	select {
	case <-w.cfg.Replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	for r := range w.cfg.Replica.View().All() {
		if len(mesh.Status[*meshv1.DeliveryStatus](r).GetZones()) > 0 {
			w.written[r.Key] = true
		}
	}
	var retry time.Duration
	var timer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		case <-timer:
		}
		timer = nil
		err := w.write(ctx)
		switch {
		case err == nil:
			retry = 0
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrClosed):
			return err
		default:
			retry = min(max(retry*2, minRetry), maxRetry)
			timer = time.After(retry)
			w.log.Warn("delivery statuses were not written, will try again", zap.Error(err),
				zap.Duration("in", retry))
		}
	}
}

func (w *Writer) write(ctx context.Context) error {
	w.mu.Lock()
	problems := w.problems
	w.mu.Unlock()
	view := w.cfg.Replica.View()
	touched := map[mesh.Key]bool{}
	for k := range w.written {
		touched[k] = true
	}
	for k := range problems {
		touched[k] = true
	}
	var ops []store.Op
	after := map[mesh.Key]bool{}
	for k := range touched {
		r, ok := view.Get(k)
		if !ok || (w.cfg.Owns != nil && !w.cfg.Owns(k)) || !hasDelivery(k.Kind) {
			continue
		}
		old := mesh.Status[*meshv1.DeliveryStatus](r)
		next := &meshv1.DeliveryStatus{Conditions: old.GetConditions(), Zones: problems[k]}
		slices.SortFunc(next.Zones, func(a, b *meshv1.ZoneDelivery) int {
			return cmp.Or(cmp.Compare(a.GetZone(), b.GetZone()), cmp.Compare(a.GetState(), b.GetState()),
				cmp.Compare(a.GetReason(), b.GetReason()))
		})
		if len(next.Zones) > 0 {
			after[k] = true
		}
		if !proto.Equal(old, next) && (old != nil || len(next.Zones) > 0) {
			ops = append(ops, store.PutStatus{Key: k, Status: next})
		}
	}
	if len(ops) > 0 {
		res, err := w.cfg.Store.Commit(ctx, store.Txn{Actor: "system:delivery", Ops: ops})
		if err != nil {
			return err
		}
		if _, err := w.cfg.Replica.Wait(ctx, res.Revision); err != nil {
			return err
		}
	}
	w.written = after
	return nil
}

func hasDelivery(kind mesh.Kind) bool {
	info, ok := mesh.Lookup(kind)
	if !ok || info.NewStatus == nil {
		return false
	}
	_, ok = info.NewStatus().(*meshv1.DeliveryStatus)
	return ok
}
