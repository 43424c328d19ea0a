package compile

import (
	"cmp"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Stage is where a request meets an effect: effects come in the order of their stages, and within a
// stage in the order of kinds.
type Stage int

// Stages.
const (
	// StageRequest is about the request as a whole.
	StageRequest Stage = iota
	// StageChoice is about the choice of an instance.
	StageChoice
	StageConnection
	StageLimit
	// StageCheck is about what happens beside requests.
	StageCheck
)

// Effect is one thing that a kind of policy, or its default, does to requests.
type Effect struct {
	Stage Stage
	// Kind of the policies; the functions of this package that return effects set it.
	Kind mesh.Kind
	// Subject is what the effect is about, such as "timeout", and Text says what it is.
	Subject, Text string
	// Fields of the kind's "default": the policy that set the first of them that is set, or one below it,
	// is the origin of the effect.
	Fields []string
	// Policy is the KRI of the origin, of a kind of which every policy counts; Fields is empty then.
	Policy string
	// Fatal effects end every request.
	Fatal bool
}

// Request is the request that effects are about.
type Request struct {
	Method string
	// Fits says whether the request has what a match on its headers asks for.
	Fits func(ir.ValueMatch) bool
}

// InboundRequest is a request as it arrives at an inbound.
type InboundRequest struct {
	HTTP bool
	// Route is what holds for the caller.
	Route ir.RoutePolicy
	// Meets says whether a fault concerns the caller.
	Meets func(ir.Fault) bool
}

// RequestEffects are those of a route's part.
func RequestEffects(r *ir.RoutePolicy, q Request) []Effect {
	return effects(func(h *hooks) []Effect {
		if h.requestEffects == nil {
			return nil
		}
		return h.requestEffects(r, q)
	})
}

// ConnectionEffects are those of a listener's part, for connections that are not of HTTP.
func ConnectionEffects(l *ir.ListenerPolicy) []Effect {
	return effects(func(h *hooks) []Effect {
		if h.connectionEffects == nil {
			return nil
		}
		return h.connectionEffects(l)
	})
}

// ClusterEffects are those of a cluster's part.
func ClusterEffects(c *ir.ClusterPolicy) []Effect {
	return effects(func(h *hooks) []Effect {
		if h.clusterEffects == nil {
			return nil
		}
		return h.clusterEffects(c)
	})
}

// InboundEffects are those of an inbound for callers that may call it.
func InboundEffects(c *InboundConfig, q InboundRequest) []Effect {
	return effects(func(h *hooks) []Effect {
		if h.inboundEffects == nil {
			return nil
		}
		return h.inboundEffects(c, q)
	})
}

func effects(of func(*hooks) []Effect) []Effect {
	var out []Effect
	for i := range kinds {
		for _, e := range of(&kinds[i]) {
			e.Kind = kinds[i].kind
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b Effect) int { return cmp.Compare(a.Stage, b.Stage) })
	return out
}

// limitText is a duration that may be none.
func limitText(d time.Duration) string {
	if d == 0 {
		return "no limit"
	}
	return d.String()
}
