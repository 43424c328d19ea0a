package compile

import (
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/xds/ir"
)

// remoteConnection is how long callers keep a connection of a destination that other zones serve
// too, unless a MeshTimeout says otherwise. A zone's ingress passes connections, not requests, so
// an instance there is reached by new connections alone; an ingress deals them out in turn, and
// with two threads five of them meet each of three instances.
const remoteConnection = 200 * time.Millisecond

// Cluster is a port of a destination as proxies of the mesh dial it. plain says that a PERMISSIVE
// destination's members do not all have certificates yet.
func Cluster(d *Destination, p Port, m MeshInfo, conf ir.ClusterPolicy, plain bool) ir.Cluster {
	ref := Ref{Key: d.Key, Section: p.Name}
	c := ir.Cluster{
		Name:          ref.KRI(),
		Type:          ir.ClusterEDS,
		Upstream:      ir.HTTP2,
		Port:          p.Protocol,
		ClusterPolicy: conf,
		Keepalive:     true,
	}
	c.Renew = slices.ContainsFunc(d.Members, func(m Member) bool { return !m.Live })
	if c.Renew && conf.Timeouts.MaxConnection == 0 {
		c.Timeouts.MaxConnection = remoteConnection
	}
	if m.MTLS != "" && !plain {
		c.TLS = &ir.UpstreamTLS{Mesh: d.Key.Mesh, SNI: SNI(ref), SANs: d.SANs}
	}
	if !p.Protocol.IsHTTP() && c.TLS == nil {
		// Bytes pass as they are: HTTP options would mean nothing.
		c.Upstream = ir.TCP
	}
	return c
}

// IngressCluster is the cluster of a zone ingress for a port: bytes pass untouched to this zone's
// instances. Its name differs from the KRI, under which sidecars know all zones' endpoints.
func IngressCluster(name string) ir.Cluster {
	return ir.Cluster{
		Name:      name,
		Type:      ir.ClusterEDS,
		Upstream:  ir.TCP,
		Port:      ir.TCP,
		Keepalive: true,
		ClusterPolicy: ir.ClusterPolicy{
			Timeouts: ir.ClusterTimeouts{Connect: DefaultConnect},
			Limits:   defaultLimits,
			Outlier:  defaultOutlier,
			Panic:    defaultPanic,
		},
	}
}

// IngressName is the name of a zone ingress' cluster for a port.
func IngressName(r Ref) string { return "self_inbound_zi_" + r.KRI() }
