package compile

import (
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/ir"
)

// TCPTakes says whether connections to a port are routed by a MeshTCPRoute: always where requests
// cannot be told apart; on a port of HTTP only if no MeshHTTPRoute is about it, and the port is then
// a TCP port.
func TCPTakes(p Port, tcp, http bool) bool { return tcp && (!http || !p.Protocol.IsHTTP()) }

// TCPBackends are the shares of a destination's connections, and the backends needed besides the
// destination itself, each once. resolve finds the backend of a reference of any protocol. As with
// requests, a reference that finds no backend keeps its share, and connections of that share are
// closed; with no share left the result is nil: all connections are closed.
func TCPBackends(ref Ref, rule policy.TCPRule,
	resolve func(*meshv1.BackendRef, mesh.Key) (Ref, bool)) ([]ir.Backend, []Ref) {
	if len(rule.BackendRefs) == 0 {
		return []ir.Backend{{Cluster: ref.KRI(), Weight: 1}}, nil
	}
	var out []ir.Backend
	var extra []Ref
	seen := map[Ref]bool{ref: true}
	alive := false
	for _, b := range rule.BackendRefs {
		weight := uint32(1)
		if b.Weight != nil {
			weight = b.GetWeight()
		}
		if weight == 0 {
			continue
		}
		backend := ir.Backend{Weight: weight}
		if found, ok := resolve(b, rule.Policy.Key); ok {
			backend.Cluster, alive = found.KRI(), true
			if !seen[found] {
				seen[found] = true
				extra = append(extra, found)
			}
		}
		out = append(out, backend)
	}
	if !alive {
		return nil, nil
	}
	return out, extra
}

// TCPListener listens for a destination and passes connections on to backends; without any it closes them.
func TCPListener(o Outbound, p Port, conf ir.ListenerPolicy, backends []ir.Backend) ir.Listener {
	if p.Protocol.IsHTTP() {
		p.Protocol = ir.TCP
	}
	l := OutboundListener(o, p, conf)
	c := &l.Chains[0]
	switch len(backends) {
	case 0:
		c.TCP = nil
	case 1:
		c.TCP.Cluster = backends[0].Cluster
	default:
		c.TCP.Cluster, c.TCP.Backends = "", backends
	}
	return l
}
