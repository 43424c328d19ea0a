package xds

import (
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// ProxyRefusal is something that a proxy refused, or that the control plane could not make for it:
// Type and Resource are then of no meaning and Resource names the computation.
type ProxyRefusal struct {
	Proxy mesh.Key
	// ByControlPlane says that the proxy was never asked.
	ByControlPlane bool
	// Since is, for what the control plane could not make, the revision that first led to it with
	// this reason.
	Since uint64
	delta.Refusal
}

// Progress is how far the proxies are.
type Progress struct {
	// Revision of the replica that is fully processed.
	Revision uint64
	// Answered: every open feed has acknowledged or refused all of it up to here.
	Answered uint64
	// Online is the number of open feeds.
	Online int
	// Pending are proxies that owe an answer, at most maxPending of PendingCount.
	Pending      []mesh.Key
	PendingCount int
	Refusals     []ProxyRefusal
}

const maxPending = 20

// Progress is the state at the moment; its cost follows the number of proxies that owe an answer or
// refuse something.
func (e *Engine) Progress() Progress {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := Progress{Revision: e.processed, Answered: e.processed, Online: len(e.feeds)}
	seen := map[mesh.Key]bool{}
	for f := range e.outstanding {
		p.Answered = min(p.Answered, f.answered())
		if !seen[f.key] {
			seen[f.key] = true
			p.PendingCount++
			p.Pending = append(p.Pending, f.key)
		}
	}
	slices.SortFunc(p.Pending, mesh.Key.Compare)
	p.Pending = p.Pending[:min(len(p.Pending), maxPending)]
	for f := range e.refusing {
		for _, r := range f.refused {
			p.Refusals = append(p.Refusals, ProxyRefusal{Proxy: f.key, Refusal: r})
		}
	}
	p.Refusals = append(p.Refusals, e.failures...)
	slices.SortStableFunc(p.Refusals, func(a, b ProxyRefusal) int { return a.Proxy.Compare(b.Proxy) })
	return p
}

// ProgressChanged is closed at the next change of [Engine.Progress]; take it before reading that.
func (e *Engine) ProgressChanged() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watched = true
	return e.progress
}

// changed tells whoever watches; mu is held.
func (e *Engine) changed() {
	if e.watched {
		close(e.progress)
		e.progress, e.watched = make(chan struct{}), false
	}
}

// failed are the values that could not be computed, for each proxy whose table needs them. It runs
// in Run's goroutine.
func (e *Engine) failed() []ProxyRefusal {
	var out []ProxyRefusal
	for n := range e.g.failed {
		if errors.Is(n.failure, errGone) {
			continue
		}
		if !n.told {
			n.told = true
			fields := []zap.Field{zap.String("query", n.kind.name), zap.String("key", describe(n.key())),
				zap.Error(n.failure)}
			var p *PanicError
			if errors.As(n.failure, &p) {
				fields = append(fields, zap.ByteString("stack", p.Stack))
			}
			if _, ok := n.failure.(conditionError); ok {
				e.log.Warn("a proxy lacks what its mesh demands", fields...)
			} else {
				e.log.Error("cannot compute a part of proxies' configuration; they keep the last good one",
					fields...)
			}
		}
		if reason := n.failure.Error(); n.since == 0 || n.reason != reason {
			n.since, n.reason = e.processed, reason
		}
		revision := e.processed
		var c conditionError
		if errors.As(n.failure, &c) {
			revision = n.since
		}
		seen := map[*node]bool{}
		for todo := []*node{n}; len(todo) > 0; {
			u := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if seen[u] {
				continue
			}
			seen[u] = true
			for w := range u.users {
				todo = append(todo, w)
			}
			if u.kind != e.q.table.kind && u.kind != e.q.callTable.kind || u.pins == 0 {
				continue
			}
			out = append(out, ProxyRefusal{
				Proxy:          u.proxy,
				ByControlPlane: true,
				Since:          n.since,
				Refusal: delta.Refusal{
					Resource: n.kind.name + " " + describe(n.key()),
					Reason:   n.failure.Error(),
					Cause:    e.causes(n),
					Revision: revision,
				},
			})
		}
	}
	return out
}

// causes are the policies that a failed value was made from; if there are none, the service that it is for.
func (e *Engine) causes(n *node) []mesh.Key {
	list, service := blamed(n.key())
	out := policiesIn(list)
	for _, d := range n.deps {
		if k, ok := d.input.(mesh.Key); ok && isPolicy(k) {
			out = append(out, k)
		}
		if d.kind == e.q.policed.kind {
			if conf := e.q.policed.nodes[d.key().(inboundKey)].value; conf != nil {
				out = append(out, conf.Causes...)
			}
		}
	}
	if len(out) == 0 && service != (mesh.Key{}) {
		return []mesh.Key{service}
	}
	slices.SortFunc(out, mesh.Key.Compare)
	return slices.Compact(out)
}

func policiesIn(l keyList) []mesh.Key {
	keys, err := computeSet(nil, l)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(keys, func(k mesh.Key) bool { return !isPolicy(k) })
}

func isPolicy(k mesh.Key) bool {
	info, ok := mesh.Lookup(k.Kind)
	return ok && info.Policy != nil
}

// blamed are the policies that a query's key carries the words of, and the service that it is for.
func blamed(k any) (policies keyList, service mesh.Key) {
	switch k := k.(type) {
	case clusterKey:
		return k.causes, k.ref.Key
	case endpointsKey:
		return k.causes, k.ref.Key
	case routesKey:
		return k.causes, k.ref.Key
	case listenerKey:
		return k.causes, k.outbound.Ref.Key
	case inSet:
		return noKeys, k.ref.Key
	case serviceRange:
		return noKeys, k.service
	case compile.Ref:
		return noKeys, k.Key
	}
	return noKeys, mesh.Key{}
}
