package compile

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Outbound is where a proxy listens for a destination. It is comparable.
type Outbound struct {
	Name    string
	Address string
	Port    uint32
	Unbound bool
	Ref     Ref
}

// Lookup gives destinations by key, nil if there is none.
type Lookup func(mesh.Key) *Destination

// Redirects says that the proxy gets its outbounds by virtual addresses.
func Redirects(dp *mesh.Resource) bool {
	return mesh.Spec[*meshv1.Dataplane](
		dp).GetNetworking().GetTransparentProxying().GetRedirectPortOutbound() != 0
}

// Listing is an outbound as a Dataplane lists it. It is comparable.
type Listing struct {
	Address string
	Port    uint32
	// Service is the tag of the older form; Kind is empty then.
	Service string
	// Kind, Name, Labels and BackendPort are the reference.
	Kind        mesh.Kind
	Name        string
	Labels      ir.Shared[map[string]string]
	BackendPort uint32
}

// Listings are the outbounds that a Dataplane lists, in its order.
func Listings(dp *mesh.Resource) []Listing {
	var out []Listing
	for _, o := range mesh.Spec[*meshv1.Dataplane](dp).GetNetworking().GetOutbound() {
		l := Listing{Address: o.GetAddress(), Port: o.GetPort()}
		if b := o.GetBackendRef(); b != nil {
			l.Kind, l.Name, l.BackendPort = mesh.Kind(b.GetKind()), b.GetName(), b.GetPort()
			if len(b.GetLabels()) > 0 {
				l.Labels = ir.Share(b.GetLabels())
			}
		} else {
			l.Service = o.GetTags()[mesh.TagService]
		}
		out = append(out, l)
	}
	return out
}

// Listed resolves the outbounds that Dataplanes list. A reference that finds nothing is left out. Of
// dp only mesh, zone and namespace count.
func Listed(rd Reader, dp mesh.Key, list []Listing, find Lookup) []Outbound {
	var out []Outbound
	names := map[string]bool{}
	taken := map[string]bool{}
	for _, o := range list {
		ref, ok := resolveOutbound(rd, dp, o, find)
		if !ok {
			continue
		}
		b := Outbound{Name: ref.KRI(), Port: o.Port, Ref: ref}
		b.Address, _ = numeric(cmp.Or(o.Address, "127.0.0.1"))
		at := b.Address + ":" + strconv.FormatUint(uint64(b.Port), 10)
		if taken[at] {
			continue
		}
		taken[at] = true
		if names[b.Name] {
			b.Name += "@" + at
		}
		names[b.Name] = true
		out = append(out, b)
	}
	return out
}

func resolveOutbound(rd Reader, dp mesh.Key, o Listing, find Lookup) (Ref, bool) {
	if o.Kind != "" {
		labels, _ := o.Labels.Get()
		b := &meshv1.BackendRef{Kind: string(o.Kind), Name: o.Name, Labels: labels}
		if o.BackendPort != 0 {
			b.Port = &o.BackendPort
		}
		k, section, ok := policy.ResolveBackend(fromDataplane(dp, b), Destinations{rd, find})
		return Ref{Key: k, Section: section}, ok
	}
	// The older form names a service by its tag: the MeshService of that name here, by its first port.
	d := find(mesh.Key{
		Kind: mesh.KindMeshService, // tags know no other kind
		Mesh: dp.Mesh,
		Zone: dp.Zone,
		Name: o.Service,
	})
	if d == nil || len(d.Ports) == 0 {
		return Ref{}, false
	}
	return Ref{Key: d.Key, Section: d.Ports[0].Name}, true
}

// fromDataplane asks for the destination of a reference that a Dataplane holds. A name there may mean a
// destination of any namespace, of the Dataplane's own first.
func fromDataplane(dp mesh.Key, ref *meshv1.BackendRef) policy.BackendQuery {
	return policy.BackendQuery{
		Ref:       ref,
		From:      mesh.Key{Mesh: dp.Mesh, Zone: dp.Zone},
		Zone:      dp.Zone,
		Namespace: dp.Namespace,
	}
}

// Destinations are those of a Reader, as [policy.ResolveBackend] looks them up.
type Destinations struct {
	Reader Reader
	Find   Lookup
}

// Named implements [policy.Candidates].
func (d Destinations) Named(kind mesh.Kind, meshName, name string) []mesh.Key {
	return d.Reader.Range(Index{
		Kind:  kind,
		Mesh:  meshName,
		By:    ByName,
		Value: name,
	})
}

// Labelled implements [policy.Candidates].
func (d Destinations) Labelled(kind mesh.Kind, meshName string, labels map[string]string) []mesh.Key {
	return d.Reader.Range(LabelIndex(kind, meshName, labels))
}

// Resource implements [policy.Candidates].
func (d Destinations) Resource(k mesh.Key) *mesh.Resource { return d.Reader.Spec(k) }

// Has implements [policy.Candidates].
func (d Destinations) Has(k mesh.Key) bool { return d.Find(k) != nil }

// Ports implements [policy.Candidates].
func (d Destinations) Ports(k mesh.Key) []destination.Port {
	found := d.Find(k).Ports
	out := make([]destination.Port, len(found))
	for i, p := range found {
		out[i] = destination.Port{
			Number:       p.Number,
			Name:         p.Name,
			Protocol:     string(p.Protocol),
			TargetNumber: p.TargetNumber,
			TargetName:   p.TargetName,
		}
	}
	return out
}

// AllOutbounds are the outbounds of all destinations of a mesh at their virtual addresses.
func AllOutbounds(rd Reader, meshName string, find Lookup, vip func(mesh.Key) string) []Outbound {
	var out []Outbound
	for _, info := range destination.Kinds {
		for _, k := range rd.Range(Index{Kind: info.Kind, Mesh: meshName}) {
			ip := vip(k)
			d := find(k)
			if ip == "" || d == nil {
				continue
			}
			for _, p := range d.Ports {
				ref := Ref{Key: k, Section: p.Name}
				out = append(out, Outbound{
					Name:    ref.KRI(),
					Address: ip,
					Port:    p.Number,
					Unbound: true,
					Ref:     ref,
				})
			}
		}
	}
	return out
}

// Directory is a list of outbounds that is searched by who is reached and by address, so that a
// Dataplane that reaches a few of many is not compared with all.
type Directory struct {
	All       []Outbound
	byName    map[[2]string][]int
	byAddress map[string][]int
}

// NewDirectory indexes a list of outbounds.
func NewDirectory(all []Outbound) *Directory {
	d := &Directory{All: all, byName: map[[2]string][]int{}, byAddress: map[string][]int{}}
	for i, o := range all {
		name := [2]string{string(o.Ref.Key.Kind), o.Ref.Key.Name}
		d.byName[name] = append(d.byName[name], i)
		d.byAddress[at(o.Address, o.Port)] = append(d.byAddress[at(o.Address, o.Port)], i)
	}
	return d
}

func at(address string, port uint32) string {
	return address + ":" + strconv.FormatUint(uint64(port), 10)
}

// Reachable are the outbounds of all that the Dataplane says it reaches: by reachableBackends, else
// by the backends it lists. limited is false if it says nothing, and then everything in the
// directory is meant.
func Reachable(dp *mesh.Resource, d *Directory, find Lookup) (out []Outbound, limited bool) {
	n := mesh.Spec[*meshv1.Dataplane](dp).GetNetworking()
	tp := n.GetTransparentProxying()
	refs := tp.GetReachableBackends().GetRefs()
	limited = tp.GetReachableBackends() != nil
	if !limited {
		for _, o := range n.GetOutbound() {
			if b := o.GetBackendRef(); b != nil {
				limited = true
				refs = append(refs[:len(refs):len(refs)], &meshv1.Dataplane_ReachableBackendRef{
					Kind:   b.GetKind(),
					Name:   b.GetName(),
					Labels: b.GetLabels(),
					Port:   b.GetPort(),
				})
			}
		}
		if !limited && len(tp.GetReachableServices()) > 0 {
			return nil, true
		}
	}
	own := map[int]bool{}
	for _, in := range n.GetInbound() {
		for _, i := range d.byAddress[at(cmp.Or(in.GetAddress(), n.GetAddress()), in.GetPort())] {
			own[i] = true
		}
	}
	var reached []int
	switch {
	case limited:
		for _, r := range refs {
			reached = append(reached, d.reached(r, dp.Key, find)...)
		}
		slices.Sort(reached)
		reached = slices.Compact(reached)
	case len(own) == 0:
		return nil, false
	default:
		for i := range d.All {
			reached = append(reached, i)
		}
	}
	for _, i := range reached {
		if !own[i] {
			out = append(out, d.All[i])
		}
	}
	return out, true
}

// reached are the places of what a reference means.
func (d *Directory) reached(r *meshv1.Dataplane_ReachableBackendRef, dp mesh.Key, find Lookup) []int {
	var out []int
	fits := func(i int) bool { return r.GetPort() == 0 || r.GetPort() == d.All[i].Port }
	ref := &meshv1.TargetRef{
		Kind:      r.GetKind(),
		Name:      r.GetName(),
		Namespace: r.GetNamespace(),
		Labels:    r.GetLabels(),
	}
	from := mesh.Key{Mesh: dp.Mesh, Zone: dp.Zone}
	if len(r.GetLabels()) > 0 {
		for i, o := range d.All {
			if string(o.Ref.Key.Kind) != r.GetKind() || !fits(i) {
				continue
			}
			if found := find(o.Ref.Key); found != nil && policy.Refers(ref, from, found.Key, found.Labels) {
				out = append(out, i)
			}
		}
		return out
	}
	for _, i := range d.byName[[2]string{r.GetKind(), r.GetName()}] {
		if fits(i) && policy.Refers(ref, from, d.All[i].Ref.Key, nil) {
			out = append(out, i)
		}
	}
	return out
}

// OutboundListener listens for a destination.
func OutboundListener(o Outbound, p Port, conf ir.ListenerPolicy) ir.Listener {
	kri := o.Ref.KRI()
	l := ir.Listener{
		Name:    o.Name,
		Address: o.Address,
		Port:    o.Port,
		Unbound: o.Unbound,
	}
	c := ir.Chain{ListenerPolicy: conf}
	if p.Protocol.IsHTTP() {
		c.HTTP = &ir.HTTP{
			StatPrefix: kri,
			RDS:        kri,
			GRPC:       p.Protocol == ir.GRPC,
		}
	} else {
		c.TCP = &ir.TCPProxy{StatPrefix: kri, Cluster: kri}
	}
	l.Chains = []ir.Chain{c}
	return l
}

// IngressChain passes the traffic of one server name to this zone's instances.
func IngressChain(ref Ref) ir.Chain {
	name := IngressName(ref)
	return ir.Chain{
		Transport:      "tls",
		ServerNames:    []string{SNI(ref)},
		ListenerPolicy: ingressListener,
		TCP:            &ir.TCPProxy{StatPrefix: name, Cluster: name},
	}
}

// IngressListener is a zone ingress' one listener.
func IngressListener(r *mesh.Resource, chains []ir.Chain) ir.Listener {
	n := mesh.Spec[*meshv1.ZoneIngress](r).GetNetworking()
	return ir.Listener{
		Name:         "self_inbound_zi_" + strconv.FormatUint(uint64(n.GetPort()), 10),
		Address:      cmp.Or(n.GetAddress(), "0.0.0.0"),
		Port:         n.GetPort(),
		Inbound:      true,
		TLSInspector: true,
		ReusePort:    true,
		Chains:       chains,
	}
}
