package txn

import (
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/internal/intern"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// What many Dataplanes have alike is in memory once, as long as one of them has it. A mesh of 1,000
// proxies that each list 100 outbounds would otherwise hold 100,000 of these.
var (
	outbounds intern.Pool[string, meshv1.Dataplane_Outbound]
	inbounds  intern.Pool[string, meshv1.Dataplane_Inbound]
)

// share gives a spec the parts that others have too. It does not change the message that it is given,
// which others may be reading.
func share(spec proto.Message) proto.Message {
	d, ok := spec.(*meshv1.Dataplane)
	if !ok || len(d.GetNetworking().GetOutbound())+len(d.GetNetworking().GetInbound()) == 0 {
		return spec
	}
	n := shallow(d.GetNetworking())
	n.Outbound = shared(&outbounds, n.Outbound)
	n.Inbound = shared(&inbounds, n.Inbound)
	out := shallow(d)
	out.Networking = n
	return out
}

func shared[V any, P interface {
	*V
	proto.Message
}](pool *intern.Pool[string, V], list []P) []P {
	out := make([]P, 0, len(list))
	for _, m := range list {
		if b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(m); err == nil && m != nil {
			m = pool.Get(string(b), m)
		}
		out = append(out, m)
	}
	return out
}

// shallow is a message with the same fields.
func shallow[M proto.Message](m M) M {
	from := m.ProtoReflect()
	to := from.New()
	for field, value := range from.Range {
		to.Set(field, value)
	}
	to.SetUnknown(from.GetUnknown())
	return to.Interface().(M)
}
