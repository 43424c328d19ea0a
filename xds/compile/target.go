package compile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/destination"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// Target finds what a gRPC client means by the name that it calls: a hostname of a destination, or
// the name of one, in the order of the table of kinds; then,
// after a colon, a port by number or name. Without it the port is the only one, else the first that
// speaks gRPC, else HTTP/2, else HTTP. Of dp only mesh, zone and namespace count.
func Target(rd Reader, dp mesh.Key, name string, find Lookup) (Ref, bool) {
	host, port, given := strings.Cut(name, ":")
	d := byHostname(rd, dp, host, find)
	for i := 0; d == nil && i < len(destination.Kinds); i++ {
		ref := &meshv1.BackendRef{Kind: string(destination.Kinds[i].Kind), Name: host}
		if k, ok := policy.FindBackend(fromDataplane(dp, ref), Destinations{rd, find}); ok {
			d = find(k)
		}
	}
	if d == nil || len(d.Ports) == 0 {
		return Ref{}, false
	}
	if given {
		p, ok := d.Port(port)
		return Ref{Key: d.Key, Section: p.Name}, ok
	}
	return Ref{Key: d.Key, Section: callPort(d.Ports).Name}, true
}

func byHostname(rd Reader, dp mesh.Key, host string, find Lookup) *Destination {
	for _, k := range rd.Range(Index{
		Kind:  mesh.KindVirtualAddress,
		Mesh:  dp.Mesh,
		By:    ByHostname,
		Value: host,
	}) {
		if k.Zone != dp.Zone {
			continue // what it is called in another zone
		}
		if r := rd.Spec(k); r != nil {
			if d := find(mesh.KeyFromProto(mesh.Spec[*meshv1.VirtualAddress](r).GetDestination())); d != nil {
				return d
			}
		}
	}
	return nil
}

func callPort(ports []Port) Port {
	rank := func(p Port) int { return slices.Index([]ir.Protocol{ir.HTTP1, ir.HTTP2, ir.GRPC}, p.Protocol) }
	return slices.MaxFunc(ports, func(a, b Port) int { return cmp.Compare(rank(a), rank(b)) })
}
