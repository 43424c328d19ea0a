package codec

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/validate"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// violations of err as "field: reason" lines without line numbers.
func violations(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var v *mesh.ValidationError
	if !errors.As(err, &v) {
		t.Fatalf("error is not a ValidationError: %v", err)
	}
	var out []string
	for _, x := range v.Violations {
		out = append(out, x.Field+": "+x.Reason)
	}
	return out
}

func decodeOne(t *testing.T, text string) Document {
	t.Helper()
	docs, err := Decode([]byte(text))
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if len(docs) != 1 {
		t.Fatalf("got %d documents, want 1", len(docs))
	}
	return docs[0]
}

// fill sets fields of m at random, by descriptor, so that a new field is in the test without a change here.
func fill(rnd *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if rnd.IntN(3) == 0 ||
			fd.FullName() == "meridian.mesh.v1alpha1.MeshMultiZoneService.Port.target_port" {
			continue
		}
		if fd.ContainingOneof() != nil && !fd.HasOptionalKeyword() &&
			m.WhichOneof(fd.ContainingOneof()) != nil {
			continue
		}
		switch {
		case fd.IsList():
			for range rnd.IntN(3) {
				l := m.Mutable(fd).List()
				l.Append(scalar(rnd, fd, l.NewElement, depth))
			}
		case fd.IsMap():
			for range rnd.IntN(3) {
				values := m.Mutable(fd).Map()
				values.Set(protoreflect.ValueOfString(words[rnd.IntN(len(words))]).MapKey(),
					scalar(rnd, fd.MapValue(), values.NewValue, depth))
			}
		default:
			m.Set(fd, scalar(rnd, fd, func() protoreflect.Value { return m.NewField(fd) }, depth))
		}
	}
}

var words = []string{"a", "true", "5", "0x1f", "~", "1.5", "kuma.io/service", "x y: z", "- q", "é\n\t\"'",
	"2020-01-01", "<<", "null", "#c", ""}

func scalar(rnd *rand.Rand, fd protoreflect.FieldDescriptor, fresh func() protoreflect.Value,
	depth int) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		switch fd.Message().FullName() {
		case "google.protobuf.Duration":
			return protoreflect.ValueOfMessage(
				durationpb.New(time.Duration(rnd.Int64N(1e15) - 5e14)).ProtoReflect())
		case "google.protobuf.Timestamp":
			return protoreflect.ValueOfMessage(timestamppb.New(time.Unix(rnd.Int64N(1e9),
				rnd.Int64N(1e9))).ProtoReflect())
		case "meridian.mesh.v1alpha1.IntOrString":
			if rnd.IntN(2) == 0 {
				return protoreflect.ValueOfMessage(
					(&meshv1.IntOrString{
						Value: &meshv1.IntOrString_StringValue{
							StringValue: words[rnd.IntN(len(words))]}}).ProtoReflect())
			}
			return protoreflect.ValueOfMessage(
				(&meshv1.IntOrString{
					Value: &meshv1.IntOrString_IntValue{IntValue: rnd.Int64N(100)}}).ProtoReflect())
		}
		v := fresh()
		if depth < 8 {
			fill(rnd, v.Message(), depth+1)
		}
		return v
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(words[rnd.IntN(len(words))])
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rnd.IntN(2) == 0)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(words[rnd.IntN(len(words))]))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rnd.Uint32())
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rnd.Uint64() >> 1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rnd.Int64() - rnd.Int64())
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(rnd.IntN(values.Len())).Number())
	}
	panic("no value for " + fd.Kind().String())
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()

	forms := map[string]func(*mesh.Resource) ([]byte, error){"json": EncodeJSON, "yaml": EncodeYAML,
		"kubernetes": EncodeKubernetes}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, info := range mesh.Kinds {
		for name, encode := range forms {
			t.Run(string(info.Kind)+"/"+name, func(t *testing.T) {
				for range 40 {
					want := &mesh.Resource{
						Key:    mesh.Key{Kind: info.Kind, Name: "n"},
						Spec:   info.NewSpec(),
						Labels: map[string]string{"team": "true"},
					}
					if info.Scope == mesh.ScopeMesh {
						want.Key.Mesh = "prod"
					}
					if !info.Flat {
						want.Key.Namespace = "shop"
						want.Labels[mesh.LabelNamespace] = "shop"
					}
					if name == "kubernetes" && info.Scope == mesh.ScopeMesh && (!info.Flat || info.Secret()) {
						want.Labels[mesh.LabelMesh] = "prod"
					}
					fill(rnd, want.Spec.ProtoReflect(), 0)
					if s, ok := want.Spec.(*meshv1.MeshRateLimit); ok {
						sidecarsOnly(s) // what is stored has gone through this
					}
					with := want.Clone()
					if info.NewStatus != nil {
						with.Status = info.NewStatus()
						fill(rnd, with.Status.ProtoReflect(), 0)
					}
					with.Created, with.Modified = time.Unix(1700000000, 5), time.Unix(1800000000, 0)
					text, err := encode(with)
					if err != nil {
						t.Fatal(err)
					}
					docs, err := Decode(text)
					if err != nil || len(docs) != 1 {
						t.Fatalf("decode of\n%s\n%d documents, %v", text, len(docs), err)
					}
					if diff := cmp.Diff(want, docs[0].Resource, protocmp.Transform()); diff != "" {
						t.Fatalf("of\n%s\n(-want +got)\n%s", text, diff)
					}
					if !docs[0].MeshGiven && info.Scope == mesh.ScopeMesh {
						t.Error("MeshGiven is false")
					}
				}
			})
		}
	}
}

func TestEncodeOrder(t *testing.T) {
	t.Parallel()

	r := decodeOne(t, `
name: slow
type: MeshTimeout
spec:
  to:
  - default: {http: {requestTimeout: .5m, streamIdleTimeout: "0"}, connectionTimeout: 1h2m3.5s}
    targetRef: {kind: Mesh}
labels: {b: "2", a: "1"}
`).Resource
	r.Created = time.Date(2026, 5, 1, 2, 3, 4, 0, time.UTC)
	r.Modified = r.Created
	r.Status = &meshv1.DeliveryStatus{Rejections: []*meshv1.Rejection{{
		Stage: meshv1.Rejection_STAGE_STORE,
		Zone:  "east",
	}}}
	got, err := EncodeJSON(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"MeshTimeout","mesh":"default","name":"slow","creationTime":"2026-05-01T02:03:04Z",` +
		`"modificationTime":"2026-05-01T02:03:04Z",` +

		`"labels":{"a":"1","b":"2"},"kri":"kri_mt_default___slow_",` +
		`"spec":{"to":[{"targetRef":{"kind":"Mesh"},"default":` +

		`{"connectionTimeout":"1h2m3.5s","http":{"requestTimeout":"30s","streamIdleTimeout":"0s"}}}]},` +
		`"status":{"rejections":[{"stage":"Store","zone":"east"}]}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	flat := &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMesh, Name: "default"},
		Spec: &meshv1.Mesh{MeshServices: &meshv1.Mesh_MeshServices{Mode: "Exclusive"}},
	}
	if got, _ = EncodeJSON(flat); string(
		got) != `{"type":"Mesh","name":"default","kri":"kri_m____default_",`+
		`"meshServices":{"mode":"Exclusive"}}` {
		t.Errorf("flat: %s", got)
	}
	if got, _ = EncodeYAML(flat); string(got) != "type: Mesh\nname: default\nkri: "+
		"kri_m____default_\nmeshServices:\n  mode: Exclusive\n" {
		t.Errorf("yaml: %s", got)
	}
}

func TestDecodeDurations(t *testing.T) {
	t.Parallel()

	doc := func(v string) string {
		return "type: MeshTimeout\nname: a\nspec: {to: [{targetRef: {kind: Mesh}, default: {idleTimeout: " +
			v + "}}]}"
	}
	for in, want := range map[string]string{`1h2m3.5s`: "1h2m3.5s", `1500us`: "1.5ms", `"0"`: "0s",
		`.5m`: "30s", `-1s`: "-1s", `90s`: "1m30s"} {
		r := decodeOne(t, doc(in)).Resource
		if got := mesh.Spec[*meshv1.MeshTimeout](
			r).To[0].Default.IdleTimeout.AsDuration().String(); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{
		`5`:     `is a number without a unit: write a duration such as "5s"`,
		`1.5`:   `is a number without a unit: write a duration such as "1.5s"`,
		`"5"`:   `has no unit: write a duration such as "5s"`,
		`1d`:    `"1d" is not a duration: use numbers with the units ns, us, ms, s, m or h, such as "1h30m"`,
		`[1s]`:  `must be a duration such as "30s" or "1h30m", not a list`,
		`true`:  `must be a duration such as "30s" or "1h30m", not true`,
		`"1s "`: `"1s " is not a duration: use numbers with the units ns, us, ms, s, m or h, such as "1h30m"`,
	} {
		_, err := Decode([]byte(doc(in)))
		got := violations(t, err)
		if len(got) != 1 || got[0] != "spec.to[0].default.idleTimeout: "+want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()

	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown field", "type: MeshTimeout\nname: a\nspec: {to: [{targetRef: {kind: Mesh}, " +
			"default: {http: " +
			"{requestTimeuot: 1s}}}]}",
			[]string{"spec.to[0].default.http.requestTimeuot: unknown field: did you mean requestTimeout?"}},
		{"misplaced field", "type: MeshTimeout\nname: a\nto: []\nspec: {}",
			[]string{"to: belongs under spec"}},
		{"many at once", "type: MeshTimeout\nnaem: a\nspec:\n  to: {}\n  rules: [{default: " +
			"{idleTimeout: 5}}, 7]\n",
			[]string{"naem: unknown field: did you mean name?", "spec.to: must be a list, not a mapping",

				`spec.rules[0].default.idleTimeout: is a number without a unit: write a duration such ` +
					`as "5s"`,
				"spec.rules[1]: must be a mapping, not the number 7", "name: is required"}},
		{"unknown kind", "type: MeshTimeuot\nname: a\nspec: {}",
			[]string{`type: unknown kind "MeshTimeuot": did you mean MeshTimeout?`}},
		{"replaced kind", "type: Timeout\nname: a",
			[]string{"type: Timeout is of the older policy model and not supported here: use MeshTimeout"}},
		{"replaced by a kind to come", "type: TrafficLog\nname: a",
			[]string{"type: TrafficLog is of the older policy model: it is replaced by MeshAccessLog"}},
		{"kind to come", "type: MeshTrace\nname: a\nspec: {}",
			[]string{"type: MeshTrace is not supported yet"}},
		{"no kind", "name: a\nspec: {}",
			[]string{"type: is required: the kind of the resource, such as MeshTimeout"}},
		{"no name", "type: MeshTimeout\nspec: {}", []string{"name: is required"}},
		{"no spec", "type: MeshTimeout\nname: a", []string{"spec: is required"}},
		{"field of Kuma", "type: Dataplane\nname: a\nnetworking: {address: b}\nmetrics: {}",
			[]string{"metrics: is not a part of Dataplane here: remove it; MeshMetric, which " +
				"replaces it, is " +
				"not supported yet"}},
		{"flat with unknown", "type: Mesh\nname: a\nmtsl: {}",
			[]string{"mtsl: unknown field: did you mean mtls?"}},
		{"two forms", "type: MeshTimeout\nkind: MeshTimeout\nname: a\nspec: {}",
			[]string{"kind: give type (Universal) or apiVersion and kind (Kubernetes), not both"}},
		{"two meshes", "type: MeshTimeout\nname: a\nmesh: b\nlabels: {kuma.io/mesh: c}\nspec: {}",
			[]string{`mesh: differs from the label kuma.io/mesh, which is "c"`}},
		{"twice", "type: MeshTimeout\nname: a\nname: b\nspec: {}", []string{"name: is given twice"}},
		{"label no text", "type: MeshTimeout\nname: a\nlabels: {v: 1}\nspec: {}",
			[]string{`labels["v"]: must be text: put 1 in quotes`}},
		{"name no text", "type: MeshTimeout\nname: 12\nspec: {}",
			[]string{"name: must be text: put 12 in quotes", "name: is required"}},
		{"wrong api version", "apiVersion: kuma.io/v1\nkind: MeshTimeout\nmetadata: {name: a}\nspec: {}",
			[]string{"apiVersion: must be kuma.io/v1alpha1"}},
		{"metadata", "apiVersion: kuma.io/v1alpha1\nkind: MeshTimeout\nmetadata: {nmae: a, labels: {a: " +
			"{}}}\nspec: {}",
			[]string{"metadata.nmae: unknown field: did you mean name?",
				`metadata.labels["a"]: must be text, not a mapping`, "metadata.name: is required"}},
		{"port as text", "type: MeshService\nname: a\nspec: {ports: [{port: \"80\"}]}",
			[]string{"spec.ports[0].port: must be an integer: write 80 without quotes"}},
		{"port out of range", "type: MeshService\nname: a\nspec: {ports: [{port: -1}, {port: 5000000000}]}",
			[]string{"spec.ports[0].port: must be a decimal integer from 0 to 4294967295",
				"spec.ports[1].port: must be a decimal integer from 0 to 4294967295"}},
		{"target port as float", "type: MeshService\nname: a\nspec: {ports: [{port: 1, targetPort: 2.5}]}",
			[]string{"spec.ports[0].targetPort: must be an integer or text: put 2.5 in quotes"}},
		{"bool as text", "type: Zone\nname: a\nenabled: yes",
			[]string{`enabled: must be true or false, not "yes"`}},
		{"base64", "type: Secret\nname: a\ndata: '%%%'", []string{"data: must be base64 text"}},
		{"list item null", "type: MeshTimeout\nname: a\nspec: {to: [null]}",
			[]string{"spec.to[0]: must be a mapping, not nothing"}},
		{"no mapping", "- a\n- b",
			[]string{": a document must be a mapping with type (or apiVersion and kind), name and spec"}},
		{"snake case", "type: MeshTimeout\nname: a\nspec: {target_ref: {kind: Mesh}}",
			[]string{"spec.target_ref: unknown field: did you mean targetRef?"}},
		{"few known", "type: Zone\nname: a\nspec: {enable: true}",
			[]string{"spec.enable: unknown field: did you mean enabled?"}},
		{"flat with a list", "type: Zone\nname: a\nspec: []",
			[]string{"spec: Zone has its fields at the top of the document, beside type and name"}},
		{"secret type", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ntype: Opaque\ndata: {}",
			[]string{"type: must be system.kuma.io/secret or system.kuma.io/global-secret"}},
		{"unnamed non-policy", "kind: HostnameGenerator\nspec: {template: a}", []string{"name: is required"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := Decode([]byte(tt.text))
			if len(docs) != 0 {
				t.Errorf("decoded to %v", docs[0].Resource.Key)
			}
			if diff := cmp.Diff(tt.want, violations(t, err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecodeStream(t *testing.T) {
	t.Parallel()

	docs, err := Decode([]byte("---\n# nothing\n---\ntype: Zone\nname: east\n---\n---\ntype: Zone\nname: " +
		"west\nenabeld: false\n---\ntype: Zone\nname: north\n"))
	if len(docs) != 2 || docs[0].Resource.Key.Name != "east" || docs[1].Resource.Key.Name != "north" ||
		docs[1].Index != 2 {
		t.Errorf("documents %+v", docs)
	}
	var de *DocumentError
	if !errors.As(err, &de) || de.Index != 1 || de.Kind != "Zone" || de.Name != "west" {
		t.Fatalf("error %v", err)
	}
	if got := err.Error(); got != "document 2 (Zone west): enabeld: unknown field: did you mean "+
		"enabled? (line 10)" {
		t.Errorf("message %q", got)
	}
	docs, err = Decode([]byte("type: Zone\nname: east\n---\na: [b\n"))
	if len(docs) != 1 || !errors.As(err, &de) || de.Index != 1 ||
		!strings.Contains(err.Error(), "not valid YAML") {
		t.Errorf("%d documents, error %v", len(docs), err)
	}
	docs, err = Decode(
		[]byte(
			"{\"type\":\"Zone\",\"name\":\"a\"}\n\t{\"type\":\"Zone\",\n\t\"name\":\"\\ud83d\\ude00\"} null"))
	if err != nil || len(docs) != 2 || docs[1].Resource.Key.Name != "😀" {
		t.Errorf("JSON: %d documents, error %v", len(docs), err)
	}
	_, err = Decode([]byte("{\"type\":\"Zone\",\n\"name\":\"a\",\n\"enabled\":1,\"name\":\"b\"}"))
	if err == nil || err.Error() != "document 1 (Zone a): name: is given twice (line 3); enabled: "+
		"must be true "+
		"or false, not the number 1 (line 3)" {
		t.Errorf("JSON lines: %v", err)
	}
	if docs, err = Decode(nil); len(docs) != 0 || err != nil {
		t.Errorf("nothing: %v %v", docs, err)
	}
}

func TestDecodeForms(t *testing.T) {
	t.Parallel()

	k := decodeOne(t, `
apiVersion: kuma.io/v1alpha1
kind: MeshTimeout
metadata:
  name: slow
  namespace: shop
  uid: 1
  annotations: {note: x}
  labels: {kuma.io/mesh: prod, team: a}
spec: {to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]}
status: {anything: 1}
`)
	if want := (mesh.Key{
		Kind:      mesh.KindMeshTimeout,
		Mesh:      "prod",
		Namespace: "shop",
		Name:      "slow",
	}); k.Resource.Key != want || !k.MeshGiven {
		t.Errorf("key %v", k.Resource.Key)
	}
	s := decodeOne(t, "apiVersion: kuma.io/v1alpha1\nkind: MeshTimeout\nmetadata: {name: a, namespace: "+
		"kuma-system}\nspec: {}")
	if want := (mesh.Key{
		Kind: mesh.KindMeshTimeout,
		Mesh: "default",
		Name: "a",
	}); s.Resource.Key != want || s.MeshGiven {
		t.Errorf("key %v", s.Resource.Key)
	}
	dp := decodeOne(t, "apiVersion: kuma.io/v1alpha1\nkind: Dataplane\nmesh: prod\nmetadata: {name: a, "+
		"namespace: shop}\nspec: {networking: {address: 10.0.0.1}}")
	if dp.Resource.Key.Mesh != "prod" ||
		mesh.Spec[*meshv1.Dataplane](dp.Resource).Networking.Address != "10.0.0.1" {
		t.Errorf("flat: %v", dp.Resource)
	}
	sec := decodeOne(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: ca, labels: {kuma.io/mesh: "+
		"prod}}\ntype: system.kuma.io/secret\ndata: {value: aGk=}")
	if sec.Resource.Key != (mesh.Key{
		Kind: mesh.KindSecret,
		Mesh: "prod",
		Name: "ca",
	}) || string(mesh.Spec[*meshv1.Secret](sec.Resource).Data) != "hi" {
		t.Errorf("secret: %v", sec.Resource)
	}
	u := decodeOne(t, "type: Mesh\nname: default\ncreationTime: x\nkri: y\nnetworking: {outbound: "+
		"{passthrough: false}}\nmtls: null\n")
	if m := mesh.Spec[*meshv1.Mesh](u.Resource); m.Networking.Outbound.Passthrough == nil ||
		m.Networking.Outbound.GetPassthrough() || m.Mtls != nil {
		t.Errorf("mesh: %v", m)
	}
	a := decodeOne(t, "type: Dataplane\nname: a\nnetworking:\n  address: 10.0.0.1\n  inbound:\n  - "+
		"&in {port: "+
		"80, tags: &t {kuma.io/service: web}}\n  - {<<: *in, port: 81}\n  gateway: {tags: *t}\n")
	n := mesh.Spec[*meshv1.Dataplane](a.Resource).Networking
	if n.Inbound[1].Port != 81 || n.Inbound[1].Tags["kuma.io/service"] != "web" ||
		n.Gateway.Tags["kuma.io/service"] != "web" {
		t.Errorf("anchors: %v", n)
	}
}

func TestDecodeJSONBody(t *testing.T) {
	t.Parallel()

	info, _ := mesh.Lookup(mesh.KindMeshTimeout)
	if d, err := DecodeJSON(info,
		[]byte(`{"type":"MeshTimeout","mesh":"m","name":"a","spec":{}}`)); err != nil ||
		d.Resource.Key.Mesh != "m" {
		t.Errorf("%v %v", d, err)
	}
	for body, want := range map[string]string{
		``: ": must be one document, not 0",
		"type: Zone\nname: a": "type: must be MeshTimeout, as in the address of " +
			"the request",
		`{"name":"a","spec":{}}`: "type: is required: MeshTimeout",
		"{}\n---\n{}":            ": must be one document, not 2",
		`{"type":"MeshTimeout","spec":{"a":1}}`: "spec.a: unknown field: known are from, rules, " +
			"targetRef, to",
	} {
		_, err := DecodeJSON(info, []byte(body))
		if got := violations(t, err); len(got) == 0 || got[0] != want {
			t.Errorf("%q: got %q, want %q", body, got, want)
		}
	}
}

func TestDecodeGuides(t *testing.T) {
	t.Parallel()

	read := func(name string) Document {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		d := decodeOne(t, string(data))
		if _, err := validate.Resource(d.Resource); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return d
	}
	g := read("hostname-generator.yaml")
	if g.Resource.Key != (mesh.Key{
		Kind: mesh.KindHostnameGenerator,
		Name: "airline-dns",
	}) || len(g.Warnings) != 0 {
		t.Errorf("generator: %v %v", g.Resource.Key, g.Warnings)
	}
	m := read("multi-zone-service.yaml")
	if m.Resource.Key.Namespace != "airline" || len(m.Warnings) != 1 ||
		!strings.Contains(m.Warnings[0], "spec.ports[0].targetPort") {
		t.Errorf("multi-zone service: %v %v", m.Resource.Key, m.Warnings)
	}
	if mesh.Spec[*meshv1.MeshMultiZoneService](m.Resource).Ports[0].TargetPort != nil {
		t.Error("targetPort is kept")
	}
	c := read("canary.yaml")
	if c.Resource.Key != (mesh.Key{
		Kind: mesh.KindMeshHTTPRoute,
		Mesh: "default",
		Name: "booking-gateway-to-ticket-booking",
	}) || !c.DerivedName || c.MeshGiven || len(c.Warnings) != 1 {
		t.Errorf("canary: %+v", c)
	}
}

func TestDerivedNames(t *testing.T) {
	t.Parallel()

	for text, want := range map[string]string{
		"kind: MeshTimeout\nspec: {to: [{targetRef: {kind: Mesh}}]}": "mesh-to-mesh",

		"kind: MeshTimeout\nspec: {targetRef: {kind: Dataplane, labels: {b: Y, a: X_z}}, from: " +
			"[{targetRef: {kind: Mesh}}]}": "dataplane-x-z-y-from-mesh",

		"kind: MeshHTTPRoute\nspec: {to: [{targetRef: {kind: MeshService, name: a, sectionName: http}}, " +
			"{targetRef: {kind: MeshService, name: b}}]}": "mesh-to-a-http-b",
		"kind: MeshTimeout\nmesh: m\nname: given\nspec: {}": "given",
	} {
		d := decodeOne(t, text)
		if d.Resource.Key.Name != want || d.DerivedName == (want == "given") {
			t.Errorf("%s\ngives %q (derived %v), want %q", text, d.Resource.Key.Name, d.DerivedName, want)
		}
	}
}

// Input that expands is refused, not followed without limit.
func TestDecodeBombs(t *testing.T) {
	t.Parallel()

	var b strings.Builder
	b.WriteString("type: Dataplane\nname: a\nx0: &x0 {port: 1}\n")
	for i := 1; i < 40; i++ {
		prev := "*x" + string(rune('0'+(i-1)%10))
		b.WriteString("networking" + strings.Repeat("x", i) + ": &x" + string(rune('0'+i%10)) +
			" {inbound: [" + strings.Repeat(prev+",", 9) + prev + "]}\n")
	}
	if _, err := Decode([]byte(b.String())); err == nil {
		t.Error("accepted")
	}
	for _, text := range []string{
		"type: Dataplane\nname: a\nnetworking: &n\n  gateway: *n\n",
		"type: Dataplane\nname: a\nnetworking: &n\n  <<: *n\n",
		"&a [*a]", "a: &a {<<: [*a, *a]}\ntype: Zone\nname: x",
		strings.Repeat("{\"a\":", 5000), strings.Repeat("[", 20000),
	} {
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("%.60q accepted", text)
		}
	}
}
