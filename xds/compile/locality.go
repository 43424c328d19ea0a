package compile

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// Locality says how the endpoints of a destination are ranked for callers of one zone that have the
// same values of the tags that a policy names. The zero value is what holds without a policy: this
// zone first, then all others, weighted by healthy instances.
type Locality struct {
	// Spread puts other zones beside this one.
	Spread bool
	// Chosen says that a policy chooses which zones follow (Failover); one that is not chosen is left out.
	Chosen   bool
	Failover []Failover
	// Weighted localities: those of this zone by Affinity, others by healthy instances.
	Weighted bool
	Affinity []Affinity
	// Overprovisioning is as in [ir.Endpoints].
	Overprovisioning uint32
	// Shown are the tags that endpoints of this zone show, so that retries can tell them apart.
	Shown []string
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
	Except bool
	Zones  []string
}

// Share makes the locality comparable; that of the zero Locality is the zero value.
func (l Locality) Share() ir.Shared[Locality] {
	if !l.Spread && !l.Chosen && !l.Weighted && len(l.Shown) == 0 {
		return ir.Shared[Locality]{}
	}
	return ir.Share(l)
}

// NewLocality is what is said of locality for callers in a zone with these values of tags.
func NewLocality(a ir.Awareness, zone string, tags map[string]string) Locality {
	l := Locality{
		Spread:           a.Spread,
		Chosen:           a.Chosen,
		Weighted:         len(a.Affinity) > 0,
		Overprovisioning: a.Overprovisioning,
	}
	for _, t := range a.Affinity {
		if v, ok := tags[t.Tag]; ok {
			l.Affinity = append(l.Affinity, Affinity{Key: t.Tag, Value: v, Weight: t.Weight})
		}
	}
	for i, s := range a.Steps {
		if (s.Everywhere || slices.Contains(s.From, zone)) && (s.Except || len(s.Zones) > 0) {
			l.Failover = append(l.Failover, Failover{
				Priority: uint32(i) + 1,
				Except:   s.Except,
				Zones:    s.Zones,
			})
		}
	}
	return l
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
	if len(l.Shown) > 0 {
		shown := map[string]string{}
		for _, tag := range l.Shown {
			if v, ok := in.tag(i, tag); ok {
				shown[tag] = v
			}
		}
		if len(shown) > 0 {
			e.Tags = ir.Share(shown)
		}
	}
	if !l.Weighted {
		return
	}
	e.LocalityWeight = 1
	for _, a := range l.Affinity {
		if v, ok := in.tag(i, a.Key); ok && v == a.Value {
			e.SubZone, e.LocalityWeight = a.Key+"="+a.Value, a.Weight
			return
		}
	}
}

// tag is the inbound's value of a tag, else that of its Dataplane's label.
func (in InstanceInbound) tag(i *Instance, name string) (string, bool) {
	v, ok := in.Tags[name]
	if !ok {
		v, ok = i.Labels[name]
	}
	return v, ok
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

// Assemble are the endpoints of one port for callers with the locality: those of this zone, as
// [LocalEndpoints] gives them, and the ways into others. own is false for a MeshService of another
// zone: a reference to that service means that zone, so there is no choice of zones to make.
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
			e.LocalityWeight = max(1, e.Behind)
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
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Zone, b.Zone),
			cmp.Compare(a.Address, b.Address),
			cmp.Compare(a.Port, b.Port), cmp.Compare(a.Health, b.Health),
			cmp.Compare(b.LocalityWeight, a.LocalityWeight), cmp.Compare(a.SubZone, b.SubZone))
	})
	list = slices.CompactFunc(list,
		func(a, b ir.Endpoint) bool { return a.Address == b.Address && a.Port == b.Port && a.Zone == b.Zone })
	slices.SortStableFunc(list, func(a, b ir.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Zone, b.Zone),
			cmp.Compare(a.SubZone, b.SubZone))
	})
	return list
}
