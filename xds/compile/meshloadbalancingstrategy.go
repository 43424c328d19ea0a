package compile

import (
	"math"
	"math/big"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Balancing is what MeshLoadBalancingStrategies say of a destination: how its cluster chooses, and how its endpoints are
// ranked. The zero value is what holds without a policy. What is hashed belongs to routes: see [HashPolicies].
type Balancing struct {
	LB ir.LoadBalancer
	// Weighted says that the cluster weights localities.
	Weighted bool
	// Awareness is nil if nothing is said of it.
	Awareness *meshv1.MeshLoadBalancingStrategy_LocalityAwareness
}

// Equal says that neither cluster nor endpoints differ.
func (b Balancing) Equal(o Balancing) bool {
	return b.LB == o.LB && b.Weighted == o.Weighted && proto.Equal(b.Awareness, o.Awareness)
}

// NewBalancing reads the effective configuration of a destination.
func NewBalancing(e policy.Effective) Balancing {
	conf, _ := e.Conf.(*meshv1.MeshLoadBalancingStrategy_Conf)
	return Balancing{LB: balancer(conf.GetLoadBalancer()), Awareness: conf.GetLocalityAwareness(),
		Weighted: len(conf.GetLocalityAwareness().GetLocalZone().GetAffinityTags()) > 0}
}

// Bounds of Envoy on rings and tables.
const (
	defaultMinRing = 1024
	maxRing        = 8_000_000
	defaultTable   = 65_537
	maxTable       = 5_000_011
)

// balancer reads the body that the type names; others are inert. Policies are merged field by field, so bounds that each
// made sense alone may not do so together: what a proxy would refuse is put right, for a refused cluster would be no
// cluster.
func balancer(c *meshv1.MeshLoadBalancingStrategy_LoadBalancer) ir.LoadBalancer {
	switch c.GetType() {
	case "LeastRequest":
		lb := ir.LoadBalancer{Algorithm: ir.LeastRequest}
		if n := c.GetLeastRequest().GetChoiceCount(); n > 0 {
			lb.Choices = max(n, 2)
		}
		if b := c.GetLeastRequest().GetActiveRequestBias(); b != nil {
			if f, ok := decimal(b); ok && f >= 0 {
				lb.Bias, lb.HasBias = f, true
			}
		}
		return lb
	case "Random":
		return ir.LoadBalancer{Algorithm: ir.Random}
	case "RingHash":
		r := c.GetRingHash()
		lb := ir.LoadBalancer{Algorithm: ir.RingHash, Murmur: r.GetHashFunction() == "MurmurHash2",
			MinRing: uint64(min(r.GetMinRingSize(), maxRing)), MaxRing: uint64(min(r.GetMaxRingSize(), maxRing))}
		least := lb.MinRing
		if least == 0 {
			least = defaultMinRing
		}
		if lb.MaxRing > 0 && lb.MaxRing < least {
			lb.MinRing = lb.MaxRing
		}
		return lb
	case "Maglev":
		lb := ir.LoadBalancer{Algorithm: ir.Maglev}
		if n := c.GetMaglev().GetTableSize(); n > 0 {
			lb.Table = nextPrime(uint64(min(n, maxTable)))
		}
		return lb
	}
	return ir.LoadBalancer{}
}

// nextPrime is n or the next larger prime: Envoy refuses tables of other sizes. The largest size allowed is one.
func nextPrime(n uint64) uint64 {
	for p := max(n, 2); ; p++ {
		if new(big.Int).SetUint64(p).ProbablyPrime(0) {
			return p
		}
	}
}

// decimal reads an integer, or a decimal as text.
func decimal(v *meshv1.IntOrString) (float64, bool) {
	switch v := v.GetValue().(type) {
	case *meshv1.IntOrString_IntValue:
		return float64(v.IntValue), true
	case *meshv1.IntOrString_StringValue:
		f, err := strconv.ParseFloat(v.StringValue, 64)
		return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
	}
	return 0, false
}

// HashPolicies are what is hashed of requests to a destination, or by a route if the effective configuration is that of a
// route. The list beside the load balancer wins over the deprecated one in it.
func HashPolicies(e policy.Effective) []ir.HashPolicy {
	conf, _ := e.Conf.(*meshv1.MeshLoadBalancingStrategy_Conf)
	list := conf.GetHashPolicies()
	if lb := conf.GetLoadBalancer(); len(list) == 0 {
		switch lb.GetType() {
		case "RingHash":
			list = lb.GetRingHash().GetHashPolicies()
		case "Maglev":
			list = lb.GetMaglev().GetHashPolicies()
		}
	}
	var out []ir.HashPolicy
	for _, p := range list {
		h := ir.HashPolicy{Terminal: p.GetTerminal()}
		switch p.GetType() {
		case "Header":
			h.Name = p.GetHeader().GetName()
		case "Cookie":
			h.Source, h.Name, h.Path = ir.HashCookie, p.GetCookie().GetName(), p.GetCookie().GetPath()
			if ttl := p.GetCookie().GetTtl(); ttl != nil {
				h.TTL, h.HasTTL = max(ttl.AsDuration(), 0), true
			}
		case "QueryParameter":
			h.Source, h.Name = ir.HashQuery, p.GetQueryParameter().GetName()
		case "FilterState":
			h.Source, h.Name = ir.HashFilterState, p.GetFilterState().GetKey()
		case "SourceIP":
			// The peer emits a policy without a content, which a proxy refuses (traffic-policies 12.14).
			h.Source = ir.HashSourceIP
		case "Connection":
			if !p.GetConnection().GetSourceIp() {
				continue // nothing of the connection is hashed
			}
			h.Source = ir.HashSourceIP
		default:
			continue
		}
		if h.Name == "" && h.Source != ir.HashSourceIP || strings.ContainsAny(h.Name+h.Path, "\x00\r\n") {
			continue // a proxy would refuse the routes
		}
		out = append(out, h)
	}
	return out
}
