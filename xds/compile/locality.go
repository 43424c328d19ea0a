package compile

import (
	"cmp"
	"encoding/json"
	"math"
	"math/bits"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Locality says how the endpoints of a destination are ranked for callers of one zone that have the same values of the
// tags that a policy names. The zero value is what holds without a policy: this zone first, then all others, weighted by
// healthy instances.
type Locality struct {
	// Spread puts other zones beside this one.
	Spread bool `json:",omitempty"`
	// Chosen says that a policy chooses which zones follow (Failover); one that is not chosen is left out.
	Chosen   bool       `json:",omitempty"`
	Failover []Failover `json:",omitempty"`
	// Weighted localities: those of this zone by Affinity, others by healthy instances.
	Weighted bool       `json:",omitempty"`
	Affinity []Affinity `json:",omitempty"`
	// Overprovisioning is as in [ir.Endpoints].
	Overprovisioning uint32 `json:",omitempty"`
}

// Affinity is the weight of the instances that share a tag with the caller.
type Affinity struct {
	Key, Value string
	Weight     uint32
}

// Failover is one step away from the caller's zone.
type Failover struct {
	// Priority of the zones that it accepts.
	Priority uint32
	// Except accepts all zones but those in Zones, else those alone are accepted.
	Except bool     `json:",omitempty"`
	Zones  []string `json:",omitempty"`
}

// Key is the locality as text: equal localities have equal keys, and that of the zero Locality is empty.
func (l Locality) Key() (string, error) {
	b, err := json.Marshal(l)
	if err != nil || string(b) == "{}" {
		return "", err
	}
	return string(b), nil
}

// ParseLocality reads what [Locality.Key] gives.
func ParseLocality(key string) (l Locality, err error) {
	if key != "" {
		err = json.Unmarshal([]byte(key), &l)
	}
	return l, err
}

// defaultOverprovisioning is that of a chosen order without a threshold: half of a priority's endpoints carry all of it.
const defaultOverprovisioning = 200

// NewLocality reads what is said of locality for callers in a zone. value gives a caller's value of a tag.
func NewLocality(c *meshv1.MeshLoadBalancingStrategy_LocalityAwareness, zone string, value func(tag string) (string, bool)) Locality {
	if c.GetLocalZone() == nil && c.GetCrossZone() == nil {
		return Locality{Spread: c.GetDisabled()}
	}
	l := Locality{Chosen: true, Overprovisioning: overprovisioning(c.GetCrossZone().GetFailoverThreshold().GetPercentage())}
	tags := c.GetLocalZone().GetAffinityTags()
	l.Weighted = len(tags) > 0
	for i, t := range tags {
		if v, ok := value(t.GetKey()); ok {
			l.Affinity = append(l.Affinity, Affinity{Key: t.GetKey(), Value: v, Weight: affinityWeight(t, i, len(tags))})
		}
	}
	for i, f := range c.GetCrossZone().GetFailover() {
		if from := f.GetFrom(); from != nil && !slices.Contains(from.GetZones(), zone) {
			continue
		}
		step := Failover{Priority: uint32(i) + 1}
		switch f.GetTo().GetType() {
		case "Any":
			step.Except = true
		case "AnyExcept":
			step.Except, step.Zones = true, f.GetTo().GetZones()
		case "Only":
			step.Zones = f.GetTo().GetZones()
		default:
			continue // None accepts nothing, and does not stop those that follow
		}
		l.Failover = append(l.Failover, step)
	}
	return l
}

// affinityWeight: if none are given, the first tag gets about nine tenths, the next about nine tenths of the rest, and so
// on. The last steps of a long list are equal, for weights end somewhere.
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

// overprovisioning: a priority carries all of its traffic while its healthy share times the factor is at least 1, so a
// threshold of t percent is a factor of 100/t (traffic-policies 12.15).
func overprovisioning(percentage *meshv1.IntOrString) uint32 {
	t, ok := decimal(percentage)
	if !ok || t <= 0 || t > 100 {
		return defaultOverprovisioning
	}
	return uint32(math.Round(min(100*100/t, 1_000_000)))
}

// AffinityTags are the tags of callers that MeshLoadBalancingStrategies name, sorted.
func AffinityTags(policies []*mesh.Resource) []string {
	var out []string
	for _, p := range policies {
		for _, e := range policy.ToEntries(p) {
			c, _ := e.Conf.(*meshv1.MeshLoadBalancingStrategy_Conf)
			for _, t := range c.GetLocalityAwareness().GetLocalZone().GetAffinityTags() {
				out = append(out, t.GetKey())
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Value is a caller's value of a tag: that of its first inbound that has it, else of its label.
func (i *Instance) Value(tag string) (string, bool) {
	if i == nil {
		return "", false
	}
	for _, in := range i.Inbounds {
		if v, ok := in.Tags[tag]; ok {
			return v, true
		}
	}
	v, ok := i.Labels[tag]
	return v, ok
}

// near gives an endpoint of this zone its place by the first tag that it shares with the caller.
func (l Locality) near(i *Instance, in InstanceInbound, e *ir.Endpoint) {
	if !l.Weighted {
		return
	}
	e.LocalityWeight = 1
	for _, a := range l.Affinity {
		v, ok := in.Tags[a.Key]
		if !ok {
			v, ok = i.Labels[a.Key]
		}
		if ok && v == a.Value {
			e.SubZone, e.LocalityWeight = a.Key+"="+a.Value, a.Weight
			return
		}
	}
}

// far is the priority of another zone; false if it gets no traffic.
func (l Locality) far(zone string) (uint32, bool) {
	if !l.Chosen {
		return boolPriority(!l.Spread), true
	}
	for _, f := range l.Failover {
		if slices.Contains(f.Zones, zone) != f.Except {
			return f.Priority, true
		}
	}
	return 0, false
}

func boolPriority(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// Assemble are the endpoints of one port for callers with the locality: those of this zone, as [LocalEndpoints] gives them,
// and the ways into others. own is false for a MeshService of another zone: whoever names that service means that zone, so
// there is no choice of zones to make.
func Assemble(local []ir.Endpoint, remotes []Remote, l Locality, own bool) []ir.Endpoint {
	list := slices.Clone(local)
	priority := map[string]uint32{}
	var chosen []Remote
	for _, r := range remotes {
		p, ok := l.far(r.Zone)
		if !own {
			p, ok = 1, true
		}
		if !ok {
			continue
		}
		priority[r.Zone] = p
		chosen = append(chosen, r)
	}
	far, scale := weigh(chosen)
	for _, e := range far {
		e.Priority = priority[e.Zone]
		if l.Weighted {
			i := slices.IndexFunc(chosen, func(r Remote) bool { return r.Zone == e.Zone })
			e.LocalityWeight = max(1, chosen[i].Healthy)
		}
		list = append(list, e)
	}
	if l.Spread && len(far) > 0 {
		// One instance here counts as much as one elsewhere.
		for i := range local {
			list[i].Weight *= scale
		}
	}
	list = SortEndpoints(list)
	fitWeights(list)
	return list
}

// fitWeights keeps the sum of the weights of one priority's localities in 32 bits, as a proxy demands.
func fitWeights(list []ir.Endpoint) {
	sums := map[uint32]uint64{}
	for i, e := range list {
		if i == 0 || !sameLocality(e, list[i-1]) {
			sums[e.Priority] += uint64(e.LocalityWeight)
		}
	}
	for i := range list {
		e := &list[i]
		if shift := bits.Len64(sums[e.Priority]) - 32; shift > 0 && e.LocalityWeight > 0 {
			e.LocalityWeight = max(1, e.LocalityWeight>>(shift+1))
		}
	}
}

func sameLocality(a, b ir.Endpoint) bool {
	return a.Priority == b.Priority && a.Zone == b.Zone && a.SubZone == b.SubZone
}

// SortEndpoints orders endpoints and keeps one of each address: the healthiest.
func SortEndpoints(list []ir.Endpoint) []ir.Endpoint {
	slices.SortFunc(list, func(a, b ir.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Address, b.Address),
			cmp.Compare(a.Port, b.Port), cmp.Compare(a.Health, b.Health), cmp.Compare(b.LocalityWeight, a.LocalityWeight), cmp.Compare(a.SubZone, b.SubZone))
	})
	list = slices.CompactFunc(list, func(a, b ir.Endpoint) bool { return a.Address == b.Address && a.Port == b.Port && a.Zone == b.Zone })
	slices.SortStableFunc(list, func(a, b ir.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.SubZone, b.SubZone))
	})
	return list
}
