package xdstest

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	schema "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Author writes random policies of any kind: it walks descriptors, takes values from pools that
// hold what is hard as well as what is usual, and keeps each step that validate.Resource accepts. A new
// kind or field needs nothing here; a value that only a new field takes goes into a pool.
//
// The policies speak of the mesh "default" with services http, http2, grpc and tcp, a service of
// all zones multi, a MeshHTTPRoute route and a Dataplane p (label app: p): a world for them has
// these.
type Author struct {
	*rand.Rand
	// fields are those that an accepted policy had, by full name.
	fields map[protoreflect.FullName]bool
}

// NewAuthor makes an author whose policies follow from r alone.
func NewAuthor(r *rand.Rand) *Author {
	return &Author{Rand: r, fields: map[protoreflect.FullName]bool{}}
}

func pick[T any](a *Author, list []T) T { return list[a.IntN(len(list))] }

// Values that a field can have, whatever the field. What it must not have is refused, and another is taken.
var (
	someTexts = []string{"", "a", "x-a", "x-b", "http", "/", "/v1", "/v1/", "//", "/v 1", "/v1?x=y", "/v1#f",
		".*", "^/(a|b)[0-9]{2,}$", "(", "[[:alpha:]]+", `\d+\.`,
		"100%", "%REQ(x)%", "%", "%%", "a,b", `"`, `\`, "ü", " ", "web.example", "*.example",
		"*", "10.0.0.1",
		"::1",
		"spiffe://default/a", "spiffe://default/a/b", "spiffe://default", "spiffe://default/a.b+c",
		"50 kbps", "1Mbps", "999999999Gbps", "5xx", "503", "GatewayError", "Reset", "HttpMethodGet",
		"Retriable4xx", "RefusedStream", "ConnectFailure",
		"Canceled", "Internal", "Unavailable", "cGluZw==", "AAECAwQ=", "west", "east", "zone", "kuma.io/zone",
		"version", "team",
		"host", ":path", ":method", ":authority", "content-length", "connection", "te", "transfer-encoding",
		"upgrade", "Host", "x-kuma-tags", "x-envoy-retry-on",
		"x-" + strings.Repeat("a", 250), strings.Repeat("v", 3000)}
	someNumbers = []uint64{0, 1, 2, 3, 5, 10, 50, 99, 100, 101, 199, 200, 204, 300, 301, 400, 418, 423, 429,
		500, 503, 599, 600, 1000, 1021, 1024, 5000011, 8080,
		8388608, 8388609, 65535, 65536, 1<<31 - 1, 1 << 31, 1<<32 - 1}
	someDurations = []time.Duration{
		-time.Second,
		0,
		1,
		time.Microsecond,
		time.Millisecond,
		10 * time.Millisecond,
		51 * time.Millisecond,
		100 * time.Millisecond,
		time.Second,
		1500 * time.Millisecond,
		2 * time.Second,
		5 * time.Second,
		15 * time.Second,
		time.Minute,
		time.Hour,
		1000 * time.Hour,
		87600 * time.Hour,
		1<<63 - 1,
	}
	somePercents = []string{"0", "0.0001", "0.00001", "1.9", "12.5", "50", "99.9999", "100", "101", "1e1"}
	someTargets  = []*meshv1.TargetRef{{Kind: "Mesh"}, {
		Kind:       "Mesh",
		ProxyTypes: []string{"Sidecar"},
	}, {Kind: "Dataplane"}, {
		Kind:   "Dataplane",
		Labels: map[string]string{"app": "p"},
	},
		{
			Kind: "Dataplane",
			Name: "p",
		}, {
			Kind:        "Dataplane",
			SectionName: "http",
		}, {
			Kind:        "Dataplane",
			Name:        "p",
			SectionName: "grpc",
		}, {
			Kind: "MeshService",
			Name: "http",
		},
		{
			Kind:        "MeshService",
			Name:        "grpc",
			SectionName: "main",
		}, {
			Kind: "MeshService",
			Name: "tcp",
		}, {
			Kind: "MeshService",
			Name: "http2",
		}, {
			Kind:        "MeshService",
			Name:        "http",
			SectionName: "main",
		},
		{
			Kind:   "MeshService",
			Labels: map[string]string{mesh.LabelDisplayName: "http"},
		}, {
			Kind: "MeshMultiZoneService",
			Name: "multi",
		}, {
			Kind: "MeshHTTPRoute",
			Name: "route",
		},
		{
			Kind: "MeshExternalService",
			Name: "ext",
		}, {
			Kind: "MeshSubset",
			Tags: map[string]string{"version": "v1"},
		}, {
			Kind:       "MeshSubset",
			ProxyTypes: []string{"Sidecar"},
		},
		{
			Kind: "MeshServiceSubset",
			Name: "http",
			Tags: map[string]string{"version": "v1"},
		}, {
			Kind: "MeshGateway",
			Name: "gw",
		}}
	someBackends = []*meshv1.BackendRef{{
		Kind: "MeshService",
		Name: "http",
		Port: proto.Uint32(8080),
	}, {
		Kind: "MeshService",
		Name: "tcp",
		Port: proto.Uint32(8080),
	},
		{
			Kind:        "MeshService",
			Name:        "grpc",
			SectionName: "main",
		}, {
			Kind: "MeshService",
			Name: "http",
		}, {
			Kind: "MeshService",
			Name: "missing",
			Port: proto.Uint32(1),
		},
		{
			Kind:   "MeshService",
			Labels: map[string]string{"none": "here"},
		}, {
			Kind: "MeshMultiZoneService",
			Name: "multi",
			Port: proto.Uint32(8080),
		},
		{
			Kind: "MeshExternalService",
			Name: "ext",
		}, {
			Kind: "MeshServiceSubset",
			Name: "http",
			Tags: map[string]string{"version": "v1"},
		}}
)

// Policy is a valid policy of the kind, of no zone, in mesh "default".
func (a *Author) Policy(info *mesh.KindInfo, name string) *mesh.Resource {
	r := &mesh.Resource{Key: mesh.Key{Kind: info.Kind, Mesh: mesh.DefaultMesh, Name: name}}
	valid := func(spec proto.Message) bool {
		_, err := validate.Resource(&mesh.Resource{Key: r.Key, Spec: spec})
		return err == nil
	}
	for {
		spec := info.NewSpec()
		a.fill(spec.ProtoReflect(), 0)
		if valid(spec) {
			r.Spec = spec
			break
		}
	}
	for range 60 {
		next := proto.Clone(r.Spec)
		nodes := nodesOf(next.ProtoReflect(), nil)
		// The deeper half as often as the rest, so that what is below lists is reached.
		m := nodes[max(a.IntN(len(nodes)), a.IntN(len(nodes)))]
		fields := m.Descriptor().Fields()
		if fields.Len() == 0 {
			continue
		}
		fd := fields.Get(a.IntN(fields.Len()))
		if m.Has(fd) && a.IntN(4) == 0 {
			m.Clear(fd)
		} else {
			a.set(m, fd, 2)
		}
		if valid(next) {
			r.Spec = next
		}
	}
	for _, m := range nodesOf(r.Spec.ProtoReflect(), nil) {
		m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			a.fields[fd.FullName()] = true
			return true
		})
	}
	return r
}

// whole says that a message is made as a whole.
func whole(d protoreflect.MessageDescriptor) bool {
	switch d.FullName() {
	case "google.protobuf.Duration", "meridian.mesh.v1alpha1.IntOrString", "meridian.mesh.v1alpha1.TargetRef",
		"meridian.mesh.v1alpha1.BackendRef":
		return true
	}
	return false
}

// nodesOf are m and the messages below it that are not made as a whole.
func nodesOf(m protoreflect.Message, out []protoreflect.Message) []protoreflect.Message {
	out = append(out, m)
	fields := m.Descriptor().Fields() // in order, so that a run replays
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case !m.Has(fd) || fd.Message() == nil || fd.IsMap() || whole(fd.Message()):
		case fd.IsList():
			for i := range m.Get(fd).List().Len() {
				out = nodesOf(m.Get(fd).List().Get(i).Message(), out)
			}
		default:
			out = nodesOf(m.Get(fd).Message(), out)
		}
	}
	return out
}

func rulesOf(fd protoreflect.FieldDescriptor) *schema.FieldRules {
	rules, _ := proto.GetExtension(fd.Options(), schema.E_Field).(*schema.FieldRules)
	return rules
}

// fill sets some fields, and all that are required.
func (a *Author) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if r := rulesOf(fd); r.GetRequired() || r.GetRepeated().GetMinItems() > 0 ||
			len(r.GetString().GetIn()) > 0 || r.GetString().GetMinLen() > 0 || a.IntN(2+depth) == 0 {
			a.set(m, fd, depth+1)
		}
	}
}

// set gives a field a random value; of a list it adds one, changes one or starts again.
func (a *Author) set(m protoreflect.Message, fd protoreflect.FieldDescriptor, depth int) {
	rules := rulesOf(fd)
	switch {
	case fd.IsMap():
		mp := m.Mutable(fd).Map()
		mp.Set(a.scalar(fd.MapKey(), nil).MapKey(), a.scalar(fd.MapValue(), nil))
	case fd.IsList():
		l := m.Mutable(fd).List()
		if a.IntN(6) == 0 {
			l.Truncate(0)
		}
		value := func() protoreflect.Value {
			if fd.Message() != nil {
				return a.message(l.NewElement().Message(), depth)
			}
			return a.scalar(fd, rules.GetRepeated().GetItems())
		}
		if n := l.Len(); n > 0 && a.IntN(3) == 0 {
			l.Set(a.IntN(n), value())
			return
		}
		l.Append(value())
	case fd.Message() != nil:
		m.Set(fd, a.message(m.NewField(fd).Message(), depth))
	default:
		m.Set(fd, a.scalar(fd, rules))
	}
}

func (a *Author) message(m protoreflect.Message, depth int) protoreflect.Value {
	switch m.Descriptor().FullName() {
	case "google.protobuf.Duration":
		return protoreflect.ValueOfMessage(durationpb.New(pick(a, someDurations)).ProtoReflect())
	case "meridian.mesh.v1alpha1.TargetRef":
		return protoreflect.ValueOfMessage(proto.Clone(pick(a, someTargets)).ProtoReflect())
	case "meridian.mesh.v1alpha1.BackendRef":
		ref := proto.Clone(pick(a, someBackends)).(*meshv1.BackendRef)
		if a.IntN(2) == 0 {
			ref.Weight = proto.Uint32(uint32(pick(a, someNumbers)))
		}
		return protoreflect.ValueOfMessage(ref.ProtoReflect())
	case "meridian.mesh.v1alpha1.IntOrString":
		v := &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: int64(pick(a, someNumbers))}}
		if a.IntN(2) == 0 {
			v.Value = &meshv1.IntOrString_StringValue{StringValue: pick(a, somePercents)}
		}
		return protoreflect.ValueOfMessage(v.ProtoReflect())
	}
	a.fill(m, depth)
	return protoreflect.ValueOfMessage(m)
}

func (a *Author) scalar(fd protoreflect.FieldDescriptor, rules *schema.FieldRules) protoreflect.Value {
	n := pick(a, someNumbers)
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(a.IntN(2) == 0)
	case protoreflect.StringKind:
		if in := rules.GetString().GetIn(); len(in) > 0 {
			return protoreflect.ValueOfString(pick(a, in))
		}
		if fd.Name() == "event_log_path" {
			return protoreflect.ValueOfString(
				"/dev/null") // Envoy opens it: what is there is for who writes the policy to know
		}
		return protoreflect.ValueOfString(pick(a, someTexts))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(pick(a, someTexts)))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) / 7)
	case protoreflect.Uint32Kind:
		if in := rules.GetUint32().GetIn(); len(in) > 0 {
			return protoreflect.ValueOfUint32(pick(a, in))
		}
		return protoreflect.ValueOfUint32(uint32(n))
	}
	panic("a field of a kind that no policy had before: " + string(fd.FullName()))
}

// Unreached are the fields of the kinds that no policy had so far, sorted.
func (a *Author) Unreached(kinds []*mesh.KindInfo) []string {
	var out []string
	for _, k := range kinds {
		out = append(out, unreached(k.NewSpec().ProtoReflect().Descriptor(), a.fields,
			map[protoreflect.FullName]bool{})...)
	}
	slices.Sort(out)
	return out
}

// Aimed are policies of the kind, of one name, that together have every form of reference that the
// kind takes, at the top and in "to" and "from": one for each. tried counts the forms that were
// tried, by how they read, and how many were taken.
func (a *Author) Aimed(info *mesh.KindInfo, name string, tried map[string]int) []*mesh.Resource {
	var bases []*mesh.Resource
	for range 8 {
		bases = append(bases, a.Policy(info, name))
	}
	var out []*mesh.Resource
	for _, ref := range someTargets {
		form := prototext.MarshalOptions{}.Format(ref)
		tried[form] += 0
		for _, place := range []protoreflect.Name{"target_ref", "to", "from"} {
			for _, base := range bases {
				r := base.Clone()
				m := r.Spec.ProtoReflect()
				fd := m.Descriptor().Fields().ByName(place)
				if fd != nil && fd.IsList() {
					if m.Get(fd).List().Len() == 0 {
						continue
					}
					m = m.Get(fd).List().Get(0).Message()
					fd = m.Descriptor().Fields().ByName("target_ref")
				}
				if fd == nil {
					break
				}
				m.Set(fd, protoreflect.ValueOfMessage(proto.Clone(ref).ProtoReflect()))
				if _, err := validate.Resource(r); err == nil {
					tried[form]++
					out = append(out, r)
					break
				}
			}
		}
	}
	return out
}

// unreached are the fields below a message that no policy had.
func unreached(d protoreflect.MessageDescriptor, had map[protoreflect.FullName]bool,
	seen map[protoreflect.FullName]bool) []string {
	if seen[d.FullName()] || whole(d) {
		return nil
	}
	seen[d.FullName()] = true
	var out []string
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		if !had[fd.FullName()] {
			out = append(out, strings.TrimPrefix(string(fd.FullName()), "meridian.mesh.v1alpha1."))
		}
		if fd.Message() != nil && !fd.IsMap() {
			out = append(out, unreached(fd.Message(), had, seen)...)
		}
	}
	return out
}
