// Package trial says what Envoy would reject of a policy before the policy is stored.
//
// [Policy] makes, from each entry of a policy alone, what a proxy would get that the entry is about: a port
// of every protocol as a destination, and an inbound of every protocol. It checks each message as Envoy
// does when it reads it, with the rules that Envoy's protos carry. What proxies and services there are does
// not matter, so the answer is the same at every control plane and costs no view of the store.
//
// Rules that Envoy has in code alone, such as the syntax of expressions, are those of package
// mesh/validate.
package trial

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
	"github.com/meridian-mesh/meridian/xds/ir"
	"github.com/meridian-mesh/meridian/xds/translate"
)

// protocols of ports, as far as they have parts of policies of their own: HTTP/2 has those of HTTP.
var protocols = []ir.Protocol{ir.TCP, ir.HTTP1, ir.GRPC}

// plainConfigs are how a port of each protocol is called without a policy.
var plainConfigs = func() map[ir.Protocol]compile.OutboundConfig {
	out := map[ir.Protocol]compile.OutboundConfig{}
	for _, p := range protocols {
		out[p], _ = compile.NewOutboundConfig(nil, policy.Destination{}, compile.Port{Protocol: p})
	}
	return out
}()

// routed are the protocols of kinds that are about ports of one protocol alone.
var routed = map[mesh.Kind][]ir.Protocol{
	mesh.KindMeshHTTPRoute: {ir.HTTP1},
	mesh.KindMeshTCPRoute:  {ir.TCP},
}

// Policy gives what Envoy would reject of a policy, the first of each entry, with the path of the entry or
// of its rule. The policy is one that mesh/validate admits. Other kinds have nothing.
func Policy(r *mesh.Resource) []mesh.Violation {
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok || info.Policy == nil || r.Spec == nil {
		return nil
	}
	var out []mesh.Violation
	for _, list := range []protoreflect.Name{"to", "from", "rules"} {
		spec := r.Spec.ProtoReflect()
		fd := spec.Descriptor().Fields().ByName(list)
		if fd == nil || !fd.IsList() || fd.Message() == nil {
			continue
		}
		l := spec.Get(fd).List()
		for i := range l.Len() {
			path := fmt.Sprintf("spec.%s[%d]", list, i)
			if path, err := entry(r, fd, l.Get(i).Message(), path); err != nil {
				text := "Envoy would reject it: " + reason(err)
				out = append(out, mesh.Violation{Field: path, Reason: text})
			}
		}
	}
	return out
}

// entry tries one entry of a list, and if Envoy would reject it finds the rule of it that is the reason.
func entry(r *mesh.Resource, list protoreflect.FieldDescriptor, e protoreflect.Message,
	path string) (string, error) {
	err := try(alone(r, list, e))
	rules := e.Descriptor().Fields().ByName("rules")
	if err == nil || rules == nil || !rules.IsList() {
		return path, err
	}
	all := e.Get(rules).List()
	for i := range all.Len() {
		one := shallow(e)
		single := one.NewField(rules)
		single.List().Append(all.Get(i))
		one.Set(rules, single)
		if err := try(alone(r, list, one)); err != nil {
			return fmt.Sprintf("%s.rules[%d]", path, i), err
		}
	}
	return path, err
}

// shallow copies a message; what its fields hold is shared.
func shallow(m protoreflect.Message) protoreflect.Message {
	out := m.New()
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		out.Set(fd, v)
		return true
	})
	return out
}

// alone is a policy with one entry, which is about everything in the mesh.
func alone(r *mesh.Resource, list protoreflect.FieldDescriptor, e protoreflect.Message) *mesh.Resource {
	e = shallow(e)
	if fd := e.Descriptor().Fields().ByName("target_ref"); fd != nil {
		everything := &meshv1.TargetRef{Kind: string(mesh.KindMesh)}
		e.Set(fd, protoreflect.ValueOfMessage(everything.ProtoReflect()))
	}
	spec := r.Spec.ProtoReflect().New()
	entries := spec.NewField(list)
	entries.List().Append(protoreflect.ValueOfMessage(e))
	spec.Set(list, entries)
	return &mesh.Resource{Key: r.Key, Labels: r.Labels, Spec: spec.Interface()}
}

// try makes and checks all that a policy is about.
func try(r *mesh.Resource) error {
	list := []*mesh.Resource{r}
	var err error
	if len(policy.ToEntries(r)) > 0 {
		tried, ok := routed[r.Key.Kind]
		if !ok {
			tried = protocols
		}
		for _, p := range tried {
			err = errors.Join(err, outbound(list, p))
		}
	} else {
		err = inbounds(list)
	}
	return err
}

// outbound is a port of a destination and how it is called.
func outbound(list []*mesh.Resource, protocol ir.Protocol) error {
	d := &compile.Destination{
		Key:  mesh.Key{Kind: mesh.KindMeshService, Mesh: list[0].Key.Mesh, Name: "trial"},
		SANs: []string{"spiffe://trial/trial"},
	}
	p := compile.Port{Number: 80, Name: "main", Protocol: protocol, TargetNumber: 80}
	d.Ports = []compile.Port{p}
	ref := compile.Ref{Key: d.Key, Section: p.Name}
	about := policy.Destination{Key: d.Key, Section: p.Name}
	conf, _ := compile.NewOutboundConfig(list, about, p)
	// What the policy leaves as it is without one need not be tried: a write waits for this.
	plain := plainConfigs[protocol]
	var err error
	if conf.Cluster != plain.Cluster {
		var info compile.MeshInfo
		if protocol == ir.TCP {
			info.MTLS = "STRICT" // TLS is the same for all protocols
		}
		cluster := compile.Cluster(d, p, info, conf.Cluster, false)
		err = checked(translate.Cluster(cluster))
	}

	// A reference of a route finds a destination of its own, so that shares stay apart.
	backends := 0
	resolve := func(*meshv1.BackendRef, mesh.Key) (compile.Ref, bool) {
		backends++
		key := d.Key
		key.Name = fmt.Sprintf("backend-%d", backends)
		return compile.Ref{Key: key, Section: p.Name}, true
	}
	o := compile.Outbound{Name: "trial", Address: "127.0.0.1", Port: 80, Ref: ref}
	rule, routed := policy.TCPRoute(policy.OfKind(list, mesh.KindMeshTCPRoute), about)
	if routed || conf.Listener != plain.Listener {
		l := compile.OutboundListener(o, p, conf.Listener)
		if routed {
			shares, _ := compile.TCPBackends(ref, rule, resolve)
			l = compile.TCPListener(o, p, conf.Listener, shares)
		}
		err = errors.Join(err, checked(translate.Listener(l)))
	}
	rules := policy.HTTPRoutes(policy.OfKind(list, mesh.KindMeshHTTPRoute), about)
	if !protocol.IsHTTP() || len(rules) == 0 && conf.Route == plain.Route {
		return err
	}
	routes, _ := compile.Routes(compile.RouteInput{
		Ref:      ref,
		Port:     p,
		Rules:    rules,
		Policy:   conf.Route,
		ForRoute: func(mesh.Key) ir.RoutePolicy { return conf.Route },
		Resolve:  resolve,
	})
	return errors.Join(err, checked(translate.RouteConfig(routes)))
}

// inbounds are a port of each protocol as a workload serves it, with and without TLS.
func inbounds(list []*mesh.Resource) error {
	n := &meshv1.Dataplane_Networking{Address: "127.0.0.1"}
	for i, p := range protocols {
		n.Inbound = append(n.Inbound, &meshv1.Dataplane_Inbound{Port: uint32(80 + i), Protocol: string(p)})
	}
	dp := &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindDataplane, Mesh: list[0].Key.Mesh, Name: "trial"},
		Spec: &meshv1.Dataplane{Networking: n},
	}
	conf := compile.NewInboundConfig(list[0].Key.Mesh, list)
	listeners, clusters := compile.Inbounds(dp, compile.MeshInfo{MTLS: "PERMISSIVE"},
		func(string) *compile.InboundConfig { return conf })
	var err error
	for _, l := range listeners {
		err = errors.Join(err, checked(translate.Listener(l)))
	}
	for _, c := range clusters {
		err = errors.Join(err, checked(translate.Cluster(c)))
	}
	return err
}

// checked checks a message that may have failed to be made.
func checked[M proto.Message](m M, err error) error {
	if err != nil {
		return err
	}
	return translate.Check(m)
}

// reason is the innermost cause: which field of which message of Envoy breaks which rule.
func reason(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return reason(joined.Unwrap()[0])
	}
	type broken interface {
		error
		Field() string
		Reason() string
		Cause() error
		ErrorName() string
	}
	var b broken
	if !errors.As(err, &b) {
		return err.Error()
	}
	if cause := b.Cause(); cause != nil {
		return reason(cause)
	}
	name := b.ErrorName()
	const suffix = "ValidationError"
	if n := len(name) - len(suffix); n > 0 && name[n:] == suffix {
		name = name[:n]
	}
	return fmt.Sprintf("%s.%s: %s", name, b.Field(), b.Reason())
}
