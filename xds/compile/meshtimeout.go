package compile

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Timeouts when no policy says anything (traffic-policies 9.3).
const (
	DefaultConnect    = 5 * time.Second
	DefaultIdle       = time.Hour
	DefaultRequest    = 15 * time.Second
	DefaultStreamIdle = 30 * time.Minute
)

// Timeouts of one destination, or of one inbound. It is comparable.
type Timeouts struct {
	Cluster        ir.ClusterTimeouts
	Route          ir.RouteTimeouts
	RequestHeaders time.Duration
}

// NewTimeouts fills in the defaults, field by field.
func NewTimeouts(e policy.Effective) Timeouts {
	conf, _ := e.Conf.(*meshv1.MeshTimeout_Conf)
	return Timeouts{
		Cluster: ir.ClusterTimeouts{Connect: or(conf.GetConnectionTimeout(), DefaultConnect), Idle: or(conf.GetIdleTimeout(), DefaultIdle),
			MaxStream: or(conf.GetHttp().GetMaxStreamDuration(), 0), MaxConnection: or(conf.GetHttp().GetMaxConnectionDuration(), 0)},
		Route: ir.RouteTimeouts{Request: or(conf.GetHttp().GetRequestTimeout(), DefaultRequest),
			StreamIdle: or(conf.GetHttp().GetStreamIdleTimeout(), DefaultStreamIdle)},
		RequestHeaders: or(conf.GetHttp().GetRequestHeadersTimeout(), 0),
	}
}

func or(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return d.AsDuration()
}

// overlay is base with what a conditioned rule says: only what concerns a request (traffic-policies 9.1).
func overlay(base ir.RouteTimeouts, e policy.Effective) ir.RouteTimeouts {
	conf, _ := e.Conf.(*meshv1.MeshTimeout_Conf)
	base.Request = or(conf.GetHttp().GetRequestTimeout(), base.Request)
	base.StreamIdle = or(conf.GetHttp().GetStreamIdleTimeout(), base.StreamIdle)
	return base
}

// CallerTimeouts are the timeouts of requests by some callers.
type CallerTimeouts struct {
	Match ir.IdentityMatch
	Route ir.RouteTimeouts
}

// timeoutsByCaller are the conditioned rules. Rules without an identity are about zone proxies and do nothing here.
func timeoutsByCaller(base ir.RouteTimeouts, in policy.Inbound) []CallerTimeouts {
	var out []CallerTimeouts
	for _, c := range in.Conditioned {
		if c.Match.GetSpiffeId() != nil {
			out = append(out, CallerTimeouts{identityMatch(c.Match), overlay(base, c.Effective)})
		}
	}
	return out
}
