package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/mesh/selector"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Instance is a Dataplane as its callers see it. Compare two with [Instance.Equal].
type Instance struct {
	// Proxy is what selectors see. Its labels and tags are the effective ones.
	selector.Proxy
	Inbounds []InstanceInbound
}

// InstanceInbound is one inbound of an Instance.
type InstanceInbound struct {
	Section string
	Address string
	Port    uint32
	// Tags are the effective ones.
	Tags   map[string]string
	Health ir.Health
	// Ignored inbounds are not an endpoint of any service.
	Ignored bool
}

// Equal says that callers see no difference.
func (i *Instance) Equal(o *Instance) bool {
	if i == nil || o == nil {
		return i == o
	}
	return i.Key == o.Key && maps.Equal(i.Labels, o.Labels) &&
		slices.EqualFunc(i.Inbounds, o.Inbounds, func(a, b InstanceInbound) bool {
			return a.Section == b.Section && a.Address == b.Address && a.Port == b.Port &&
				a.Health == b.Health && a.Ignored == b.Ignored &&
				maps.Equal(a.Tags, b.Tags)
		})
}

// NewInstance reads a Dataplane and its insight, which may be nil: nothing is known against the proxy then.
func NewInstance(r, insight *mesh.Resource) *Instance {
	var seen *meshv1.ProxyInsight
	if insight != nil {
		seen = mesh.Spec[*meshv1.ProxyInsight](insight)
	}
	n := mesh.Spec[*meshv1.Dataplane](r).GetNetworking()
	out := &Instance{Proxy: selector.Proxy{Key: r.Key, Labels: selector.Labels(r)}}
	for _, in := range n.GetInbound() {
		i := InstanceInbound{
			Section: selector.Section(in),
			Port:    in.GetPort(),
			Tags:    selector.Tags(r.Key, in.GetTags()),
			Ignored: in.GetState() == "Ignored",
		}
		var ok bool
		if i.Address, ok = numeric(cmp.Or(n.GetAdvertisedAddress(), in.GetAddress(), n.GetAddress())); !ok {
			i.Ignored = true
		}
		switch {
		case seen.GetState() == "Draining":
			i.Health = ir.Draining
		case seen.GetState() == "Lost", seen.GetState() == "Joining", in.GetState() == "NotReady",
			in.GetHealth() != nil && !in.GetHealth().GetReady(),
			slices.Contains(seen.GetNotReady(), i.Section):
			i.Health = ir.Unhealthy
		}
		out.Inbounds = append(out.Inbounds, i)
		out.Tags = append(out.Tags, i.Tags)
	}
	return out
}

// numeric is an address as endpoints need it. A name is not ok: Envoy rejects all endpoints of a
// service because of one such address, so the client that registers an address resolves it first.
func numeric(address string) (string, bool) {
	if address == "localhost" {
		return "127.0.0.1", true
	}
	_, err := netip.ParseAddr(address)
	return address, err == nil
}

// Selected reports whether the selector of a MeshService of the instance's zone selects it; nil is
// an instance that is gone.
func (i *Instance) Selected(s *meshv1.MeshService_Selector) bool { return i != nil && i.SelectedBy(s) }

// Candidates are the Dataplanes among which a selector finds its members.
func Candidates(rd Reader, service mesh.Key, s *meshv1.MeshService_Selector) []mesh.Key {
	t, ok := selector.TermOf(s)
	if !ok {
		return nil
	}
	return rd.Range(termIndex(mesh.KindDataplane, service.Mesh, t))
}

// ServicesOf are this zone's destinations that select an instance, in order.
func ServicesOf(rd Reader, i *Instance) []*mesh.Resource {
	var out []*mesh.Resource
	for _, t := range i.Terms() {
		for info := range destination.From(destination.Selected) {
			for _, k := range rd.Range(Index{
				Kind:  info.Kind,
				Mesh:  i.Key.Mesh,
				By:    BySelector,
				Value: selectorValue(t),
			}) {
				if !info.Local(k, i.Key.Zone) {
					continue
				}
				if r := rd.Spec(k); r != nil && i.Selected(info.Selector(r)) {
					out = append(out, r)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b *mesh.Resource) int { return a.Key.Compare(b.Key) })
	return slices.CompactFunc(out, func(a, b *mesh.Resource) bool { return a.Key == b.Key })
}

// LocalEndpoints are those of one port of a MeshService of this zone: every matching inbound of
// every selected instance, with its place in l.
func LocalEndpoints(s *meshv1.MeshService_Selector, p Port, instances []*Instance, l Locality) []ir.Endpoint {
	var out []ir.Endpoint
	for _, i := range instances {
		if !i.Selected(s) {
			continue
		}
		for _, in := range i.Inbounds {
			if in.Ignored || p.TargetName != "" && in.Section != p.TargetName ||
				p.TargetName == "" && in.Port != p.TargetNumber {
				continue
			}
			e := ir.Endpoint{
				Address: in.Address,
				Port:    in.Port,
				Health:  in.Health,
				Weight:  1,
				Zone:    i.Key.Zone,
			}
			l.near(i, in, &e)
			out = append(out, e)
		}
	}
	return SortEndpoints(out)
}

// IngressEndpoint is how other zones reach the zone of r; false if it advertises nothing.
func IngressEndpoint(r, insight *mesh.Resource) (ir.Endpoint, bool) {
	n := mesh.Spec[*meshv1.ZoneIngress](r).GetNetworking()
	address, ok := numeric(n.GetAdvertisedAddress())
	if !ok || n.GetAdvertisedPort() == 0 {
		return ir.Endpoint{}, false
	}
	e := ir.Endpoint{
		Address:  address,
		Port:     n.GetAdvertisedPort(),
		Weight:   1,
		Zone:     zoneOf(r),
		Priority: 1,
	}
	if insight != nil {
		if s := mesh.Spec[*meshv1.ProxyInsight](insight).GetState(); s == "Lost" || s == "Draining" ||
			s == "Joining" {
			e.Health = ir.Unhealthy
		}
	}
	return e, true
}

// Remote is a zone that serves a destination, and with how many healthy instances.
type Remote struct {
	Zone      string
	Healthy   uint32
	Ingresses []ir.Endpoint
}

// Weigh turns remote zones into endpoints: a zone's ingress addresses share its weight, the number
// of its healthy instances. Lost ingresses stay as a last resort and take no part in
// the sharing.
func Weigh(remotes []Remote) []ir.Endpoint {
	out, _ := weigh(remotes)
	return out
}

// weigh also gives the weight of one instance.
func weigh(remotes []Remote) ([]ir.Endpoint, uint32) {
	// Weights are integers: all are scaled by the least common multiple of the numbers of addresses.
	scale := uint32(1)
	usable := make([]uint32, len(remotes))
	for i, r := range remotes {
		for _, e := range r.Ingresses {
			if e.Health == ir.Healthy {
				usable[i]++
			}
		}
		if usable[i] == 0 {
			usable[i] = uint32(len(r.Ingresses))
		}
		if usable[i] > 0 {
			scale = scale / gcd(scale, usable[i]) * usable[i]
		}
	}
	var out []ir.Endpoint
	for i, r := range remotes {
		if r.Healthy == 0 || usable[i] == 0 {
			continue
		}
		for _, e := range r.Ingresses {
			e.Weight = max(1, r.Healthy*(scale/usable[i]))
			e.Priority = 1
			e.Behind = r.Healthy
			out = append(out, e)
		}
	}
	return out, scale
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
