package xds

import (
	"errors"
	"slices"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/delta"
	"github.com/meridian-mesh/meridian/xds/graph"
)

// rejection is a meshv1.Rejection before its likeliest cause is known.
type rejection struct {
	stage meshv1.Rejection_Stage
	proxy mesh.Key
	// Resource names the computation at STAGE_TRANSLATION, and Type says nothing. Revision is then the
	// one that first led to it with this reason.
	delta.Rejection
	// hold is what the rejection led to, if proxies have a former content because of it.
	hold *hold
}

// maxReason is what a Rejection may say, in bytes.
const maxReason = 1 << 10

// rejections are a list in its public form, in the order of proxies; mu is held.
func (e *Engine) rejections(list []rejection) []*meshv1.Rejection {
	slices.SortStableFunc(list, func(a, b rejection) int { return a.proxy.Compare(b.proxy) })
	var out []*meshv1.Rejection
	for _, r := range list {
		p := &meshv1.Rejection{
			Stage:    r.stage,
			Reason:   r.Reason,
			Proxy:    r.proxy.Proto(),
			Resource: r.Resource,
			Revision: r.Revision,
		}
		if len(p.Reason) > maxReason {
			p.Reason = strings.ToValidUTF8(p.Reason[:maxReason], "")
		}
		if r.stage == meshv1.Rejection_STAGE_PROXY {
			p.TypeUrl = r.Type.URL()
		}
		cause := e.likeliest(r.Cause)
		if r.hold != nil {
			if r.hold.by == nil {
				cause = r.hold.key.policy
			}
			p.FormerSince, p.FormerProxies = timestamppb.New(r.hold.since), uint32(r.hold.proxies)
		}
		if cause != (mesh.Key{}) {
			p.Cause = cause.Proto()
		}
		for _, k := range r.Cause {
			if k != cause {
				p.OtherCauses = append(p.OtherCauses, k.Proto())
			}
		}
		out = append(out, p)
	}
	return out
}

// likeliest is, of what a rejected resource came from, the policy that was changed last; without
// policies, what was changed last; the zero Key if none of it is there any more. A resource that was
// accepted before and is rejected now was changed by something. mu is held.
func (e *Engine) likeliest(causes []mesh.Key) mesh.Key {
	var best mesh.Key
	var bestRevision uint64
	for _, k := range causes {
		r, ok := e.view.Get(k)
		if !ok {
			continue
		}
		better := isPolicy(k) && !isPolicy(best)
		if isPolicy(k) == isPolicy(best) {
			better = r.Revision > bestRevision
		}
		if better || best == (mesh.Key{}) {
			best, bestRevision = k, r.Revision
		}
	}
	return best
}

// failed are the values that could not be computed, for each proxy whose table needs them. It runs
// in Run's goroutine.
func (e *Engine) failed() []rejection {
	var out []rejection
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

		r := delta.Rejection{
			Resource: n.Query() + " " + n.Key().String(),
			Reason:   f.reason,
			Cause:    causes(n),
			Revision: f.since,
		}
		for u := range n.Dependents() {
			// Tables alone are pinned.
			if c, ok := u.Key().(caller); ok && u.Pinned() {
				out = append(out, rejection{
					stage:     meshv1.Rejection_STAGE_TRANSLATION,
					proxy:     c.proxy,
					Rejection: r,
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
		if conf, ok := d.Value().(*compile.InboundConfig); ok && conf != nil {
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
	return slices.DeleteFunc(slices.Clone(l.Slice()), func(k mesh.Key) bool { return !isPolicy(k) })
}

func isPolicy(k mesh.Key) bool {
	info, ok := mesh.Lookup(k.Kind)
	return ok && info.Policy != nil
}
