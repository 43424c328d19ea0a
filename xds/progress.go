package xds

import (
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
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
	known := e.computeFailures
	e.computeFailures = nil
	for n := range e.g.Failed() {
		f := known[n]
		if f == nil {
			f = &computeFailure{}
			e.logFailure(n)
		}
		if reason := n.Err().Error(); f.since == 0 || f.reason != reason {
			f.since, f.reason = e.processed, reason
		}
		if e.computeFailures == nil {
			e.computeFailures = map[*graph.Node]*computeFailure{}
		}
		e.computeFailures[n] = f

		revision := e.processed
		var c conditionError
		if errors.As(n.Err(), &c) {
			revision = f.since
		}
		refusal := delta.Refusal{
			Resource: n.Query() + " " + n.Key().String(),
			Reason:   f.reason,
			Cause:    causes(n),
			Revision: revision,
		}
		for u := range n.Dependents() {
			// Tables alone are pinned.
			if c, ok := u.Key().(caller); ok && u.Pinned() {
				out = append(out, ProxyRefusal{
					Proxy:          c.proxy,
					ByControlPlane: true,
					Since:          f.since,
					Refusal:        refusal,
				})
			}
		}
	}
	return out
}

// computeFailure is what the engine knows of a value that cannot be computed.
type computeFailure struct {
	// since is the revision at which it was first seen with this reason; 0 before.
	since  uint64
	reason string
}

func (e *Engine) logFailure(n *graph.Node) {
	fields := []zap.Field{
		zap.String("query", n.Query()),
		zap.Stringer("key", n.Key()),
		zap.Error(n.Err()),
	}
	var p *graph.PanicError
	if errors.As(n.Err(), &p) {
		fields = append(fields, zap.ByteString("stack", p.Stack))
	}
	if _, ok := n.Err().(conditionError); ok {
		e.log.Warn("a proxy lacks what its mesh requires", fields...)
		return
	}
	e.log.Error("cannot compute a part of proxies' configuration; they keep the last good one", fields...)
}

// causes are the policies that a failed value was made from; if there are none, the destination that
// it is for.
func causes(n *graph.Node) []mesh.Key {
	var out []mesh.Key
	var destination mesh.Key
	if k, ok := n.Key().(source); ok {
		var policies keyList
		policies, destination = k.source()
		out = policiesIn(policies)
	}
	for d := range n.Reads() {
		if k, ok := d.Key().(mesh.Key); ok && d.IsInput() && isPolicy(k) {
			out = append(out, k)
		}
		if conf, ok := d.Value().(*compile.InboundConf); ok && conf != nil {
			out = append(out, conf.Causes...)
		}
	}
	if len(out) == 0 && destination != (mesh.Key{}) {
		return []mesh.Key{destination}
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
