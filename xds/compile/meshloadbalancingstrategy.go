package compile

import (
	"fmt"
	"math"
	"math/big"
	"strings"

	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// meshLoadBalancingStrategyTo writes how a cluster chooses, how its endpoints are ranked, and what of
// requests is hashed.
func meshLoadBalancingStrategyTo(e policy.Effective, p Port, out *OutboundConfig) {
	conf, _ := e.Conf.(*meshv1.MeshLoadBalancingStrategy_Conf)
	a := awareness(conf.GetLocalityAwareness())
	out.Cluster.Balancer, out.Cluster.LocalityWeighted = balancer(conf.GetLoadBalancer()), len(a.Affinity) > 0
	out.Endpoints.Awareness = ir.Shared[ir.Awareness]{}
	if a.Spread || a.Chosen {
		out.Endpoints.Awareness = ir.Share(a)
	}
	out.Route.Hash = ir.Shared[[]ir.HashPolicy]{}
	if list := hashPolicies(conf); len(list) > 0 && p.Protocol.IsHTTP() {
		out.Route.Hash = ir.Share(list)
	}
}

// Bounds of Envoy on rings and tables, and one on choices.
const (
	defaultMinRing = 1024
	maxRing        = 8_000_000
	maxTable       = 5_000_011
	// maxChoices is ours: a proxy draws that often for each request, and more draws find no other endpoint.
	maxChoices = 100
	// maxBias keeps the weight of a busy endpoint above 0.
	maxBias = 100
)

// balancer reads the body that the type names; others are inert. Policies are merged field by
// field, so bounds that each made sense alone may not do so together: what a proxy would refuse is
// put right, for a refused cluster would be no cluster.
func balancer(c *meshv1.MeshLoadBalancingStrategy_LoadBalancer) ir.LoadBalancer {
	switch c.GetType() {
	case "LeastRequest":
		lb := ir.LoadBalancer{Algorithm: ir.LeastRequest}
		if n := c.GetLeastRequest().GetChoiceCount(); n > 0 {
			lb.Choices = min(max(n, 2), maxChoices)
		}
		if f := decimal(c.GetLeastRequest().GetActiveRequestBias(), -1); f >= 0 && !math.IsNaN(f) {
			lb.Bias, lb.HasBias = min(f, maxBias), true
		}
		return lb
	case "Random":
		return ir.LoadBalancer{Algorithm: ir.Random}
	case "RingHash":
		r := c.GetRingHash()
		lb := ir.LoadBalancer{
			Algorithm: ir.RingHash,
			Murmur:    r.GetHashFunction() == "MurmurHash2",
			MinRing:   uint64(min(r.GetMinRingSize(), maxRing)),
			MaxRing:   uint64(min(r.GetMaxRingSize(), maxRing)),
		}
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

// nextPrime is n or the next larger prime: Envoy refuses tables of other sizes. The largest size
// allowed is one.
func nextPrime(n uint64) uint64 {
	for p := max(n, 2); ; p++ {
		if new(big.Int).SetUint64(p).ProbablyPrime(0) {
			return p
		}
	}
}

// hashPolicies are what is hashed of requests. The list beside the load balancer wins over the
// deprecated one in it.
func hashPolicies(conf *meshv1.MeshLoadBalancingStrategy_Conf) []ir.HashPolicy {
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
			// Kuma emits a hash policy without a specifier here, which Envoy rejects.
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

// awareness is what is said of localities, of which only zone and tags of the caller are missing.
func awareness(c *meshv1.MeshLoadBalancingStrategy_LocalityAwareness) ir.Awareness {
	if c.GetLocalZone() == nil && c.GetCrossZone() == nil {
		return ir.Awareness{Spread: c.GetDisabled()}
	}
	a := ir.Awareness{
		Chosen:           true,
		Overprovisioning: overprovisioning(c.GetCrossZone().GetFailoverThreshold().GetPercentage()),
	}
	tags := c.GetLocalZone().GetAffinityTags()
	for i, t := range tags {
		a.Affinity = append(a.Affinity, ir.AffinityTag{
			Tag:    t.GetKey(),
			Weight: affinityWeight(t, i, len(tags)),
		})
	}
	for _, f := range c.GetCrossZone().GetFailover() {
		step := ir.FailoverStep{Everywhere: f.GetFrom() == nil, From: f.GetFrom().GetZones()}
		switch f.GetTo().GetType() {
		case "Any":
			step.Except = true
		case "AnyExcept":
			step.Except, step.Zones = true, f.GetTo().GetZones()
		case "Only":
			step.Zones = f.GetTo().GetZones()
		default: // None accepts nothing, and does not stop the steps that follow
		}
		a.Steps = append(a.Steps, step)
	}
	return a
}

// defaultOverprovisioning is that of a chosen order without a threshold: half of a priority's
// endpoints carry all of it.
const defaultOverprovisioning = 200

// affinityWeight: if none are given, the first tag gets about nine tenths, the next about nine
// tenths of the rest, and so on. The last steps of a long list are equal, for weights end
// somewhere.
func affinityWeight(t *meshv1.MeshLoadBalancingStrategy_AffinityTag, i, n int) uint32 {
	if t.GetWeight() > 0 {
		return t.GetWeight()
	}
	w := uint32(9)
	for range min(n-1-i, 7) {
		w *= 10
	}
	return w
}

// overprovisioning: a priority carries all of its traffic while its healthy share times the factor
// is at least 1, so a threshold of t percent is a factor of 100/t.
func overprovisioning(percentage *meshv1.IntOrString) uint32 {
	if t := decimal(percentage, 0); t > 0 && t <= 100 {
		return uint32(math.Round(min(100*100/t, 1_000_000)))
	}
	return defaultOverprovisioning
}

// meshLoadBalancingStrategyCallerTags are those by which instances near the caller get weights.
func meshLoadBalancingStrategyCallerTags(e policy.Entry) []string {
	conf, _ := e.Conf.(*meshv1.MeshLoadBalancingStrategy_Conf)
	var out []string
	for _, t := range conf.GetLocalityAwareness().GetLocalZone().GetAffinityTags() {
		out = append(out, t.GetKey())
	}
	return out
}

func meshLoadBalancingStrategyRequestEffects(r *ir.RoutePolicy, _ Request) []Effect {
	hash, ok := r.Hash.Get()
	if !ok || len(hash) == 0 {
		return nil
	}
	return []Effect{{
		Stage:   StageChoice,
		Subject: "balancing",
		Fields:  []string{"loadBalancer", "hashPolicies"},
		Text:    "the instance is chosen by " + hashText(hash),
	}}
}

func hashText(list []ir.HashPolicy) string {
	var parts []string
	for _, h := range list {
		switch h.Source {
		case ir.HashHeader:
			parts = append(parts, "header "+h.Name)
		case ir.HashCookie:
			parts = append(parts, "cookie "+h.Name)
		case ir.HashSourceIP:
			parts = append(parts, "the caller's address")
		case ir.HashQuery:
			parts = append(parts, "query parameter "+h.Name)
		case ir.HashFilterState:
			parts = append(parts, "filter state "+h.Name)
		}
	}
	return "the hash of " + strings.Join(parts, ", ")
}

var algorithmTexts = map[ir.Algorithm]string{
	ir.RoundRobin:   "in turn",
	ir.LeastRequest: "by the fewest requests in flight",
	ir.Random:       "at random",
	ir.RingHash:     "by a hash ring",
	ir.Maglev:       "by a Maglev table",
}

func meshLoadBalancingStrategyClusterEffects(c *ir.ClusterPolicy) []Effect {
	return []Effect{{
		Stage:   StageChoice,
		Subject: "balancing",
		Fields:  []string{"loadBalancer"},
		Text:    fmt.Sprintf("instances are chosen %s", algorithmTexts[c.Balancer.Algorithm]),
	}}
}
