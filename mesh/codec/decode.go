package codec

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Bounds of one document, against input that expands: aliases are followed, so few bytes can mean many nodes.
const (
	maxNodes      = 1 << 20
	maxDepth      = 64
	maxViolations = 100
)

// decoder walks the nodes of one document beside the descriptor of its message and notes every violation.
type decoder struct {
	err mesh.ValidationError
	// warnings name what was read although it is written otherwise.
	warnings []string
	// budget is how many more nodes may be read, shared by all documents of a call.
	budget *int
}

// pair is one entry of a mapping. node is the key's, for its line.
type pair struct {
	key         string
	node, value *yaml.Node
}

func (d *decoder) add(n *yaml.Node, field, reason string, args ...any) {
	if len(d.err.Violations) >= maxViolations {
		return
	}
	d.err.Add(field, reason, args...)
	if n != nil {
		d.err.Violations[len(d.err.Violations)-1].Line = n.Line
	}
}

// resolve follows aliases.
func (d *decoder) resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && n.Alias != nil && i < maxDepth; i++ {
		n = n.Alias
	}
	*d.budget--
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func lookup(pairs []pair, key string) *yaml.Node {
	for _, p := range pairs {
		if p.key == key {
			return p.value
		}
	}
	return nil
}

// pairs of a mapping, in order, with "<<" merged in; keys of the mapping itself win. n must be a mapping.
func (d *decoder) pairs(n *yaml.Node, path string) []pair {
	return d.collect(n, path, map[string]bool{}, 0)
}

func (d *decoder) collect(n *yaml.Node, path string, seen map[string]bool, depth int) []pair {
	var out []pair
	var merged []*yaml.Node
	own := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := d.resolve(n.Content[i]), d.resolve(n.Content[i+1])
		switch {
		case k.Tag == "!!merge":
			merged = append(merged, v)
		case k.Kind != yaml.ScalarNode:
			d.add(k, path, "has a key that is not text")
		case own[k.Value]:
			d.add(k, mesh.JoinField(path, k.Value), "is given twice")
		default:
			own[k.Value] = true
			if !seen[k.Value] {
				out = append(out, pair{key: k.Value, node: k, value: v})
			}
		}
	}
	for k := range own {
		seen[k] = true
	}
	for _, m := range merged {
		from := []*yaml.Node{m}
		if m.Kind == yaml.SequenceNode {
			from = m.Content
		}
		for _, f := range from {
			if f = d.resolve(f); f.Kind != yaml.MappingNode || depth > maxDepth || *d.budget < 0 {
				d.add(m, mesh.JoinField(path, "<<"), "must be an alias of a mapping, or a list of them")
				continue
			}
			out = append(out, d.collect(f, path, seen, depth+1)...)
		}
	}
	return out
}

// describe names what a node is, for a message that says what it should be.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + mesh.Clip(n.Value)
	case "!!bool":
		return mesh.Clip(n.Value)
	}
	return strconv.Quote(mesh.Clip(n.Value))
}

// text reads a scalar that must be text.
func (d *decoder) text(n *yaml.Node, path string) string {
	n = d.resolve(n)
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
		d.add(n, path, "must be text, not %s", describe(n))
	case n.Tag == "!!int" || n.Tag == "!!float" || n.Tag == "!!bool":
		d.add(n, path, "must be text: put %s in quotes", mesh.Clip(n.Value))
	case n.Tag != "!!str" && n.Tag != "!!timestamp":
		d.add(n, path, "must be text without the tag %s", mesh.Clip(n.Tag))
	default:
		return n.Value
	}
	return ""
}

func (d *decoder) textMap(n *yaml.Node, path string) map[string]string {
	n = d.resolve(n)
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		d.add(n, path, "must be a mapping from text to text")
		return nil
	}
	out := make(map[string]string)
	for _, p := range d.pairs(n, path) {
		out[p.key] = d.text(p.value, mesh.FieldKey(path, p.key))
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func fieldByName(md protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	return md.Fields().ByJSONName(name)
}

func fieldNames(md protoreflect.MessageDescriptor) []string {
	out := make([]string, md.Fields().Len())
	for i := range out {
		out[i] = md.Fields().Get(i).JSONName()
	}
	return out
}

// message fills m from a mapping.
func (d *decoder) message(n *yaml.Node, m protoreflect.Message, path string, depth int) {
	n = d.resolve(n)
	if n.Kind != yaml.MappingNode {
		d.add(n, path, "must be a mapping, not %s", describe(n))
		return
	}
	if depth > maxDepth || *d.budget < 0 {
		d.add(n, path, "is nested too deep, or the document is too large")
		return
	}
	md := m.Descriptor()
	for _, p := range d.normalise(md, d.pairs(n, path), path) {
		fd := fieldByName(md, p.key)
		if fd == nil && strings.HasPrefix(p.key, "_") {
			d.warn(
				mesh.JoinField(path, p.key),
				"left out, it is a note of the page that the document is from",
			)
			continue
		}
		if fd == nil {
			d.add(p.node, mesh.JoinField(path, p.key), "%s", unknownField(p.key, fieldNames(md)))
			continue
		}
		d.field(p, m, fd, mesh.JoinField(path, p.key), depth)
		d.leaveOut(m, fd, mesh.JoinField(path, p.key))
	}
}

// field sets one field of m. Null leaves it unset.
func (d *decoder) field(p pair, m protoreflect.Message, fd protoreflect.FieldDescriptor, path string,
	depth int) {
	n := d.resolve(p.value)
	switch {
	case isNull(n):
	case fd.IsList():
		if n.Kind != yaml.SequenceNode {
			d.add(n, path, "must be a list, not %s", describe(n))
			return
		}
		list := m.Mutable(fd).List()
		for i, item := range n.Content {
			if *d.budget < 0 {
				d.add(item, path, "the document is too large")
				return
			}
			if v, ok := d.value(item, fd, list.NewElement, fmt.Sprintf("%s[%d]", path, i), depth); ok {
				list.Append(v)
			}
		}
	case fd.IsMap():
		if n.Kind != yaml.MappingNode {
			d.add(n, path, "must be a mapping, not %s", describe(n))
			return
		}
		values := m.Mutable(fd).Map()
		for _, e := range d.pairs(n, path) {
			if v, ok := d.value(e.value, fd.MapValue(), values.NewValue, mesh.FieldKey(path, e.key),
				depth); ok {
				values.Set(protoreflect.ValueOfString(e.key).MapKey(), v)
			}
		}
	default:
		if v, ok := d.value(n, fd, func() protoreflect.Value { return m.NewField(fd) }, path, depth); ok {
			m.Set(fd, v)
		}
	}
}

// value reads one value of fd's type, fresh making an empty message.
func (d *decoder) value(n *yaml.Node, fd protoreflect.FieldDescriptor, fresh func() protoreflect.Value,
	path string, depth int) (protoreflect.Value, bool) {
	n = d.resolve(n)
	none := protoreflect.Value{}
	switch fd.Kind() {
	case protoreflect.MessageKind:
		switch fd.Message().FullName() {
		case "google.protobuf.Duration":
			return d.duration(n, path)
		case "google.protobuf.Timestamp":
			return d.timestamp(n, path)
		case "meridian.mesh.v1alpha1.IntOrString":
			return d.intOrString(n, path)
		}
		v := fresh()
		before := len(d.err.Violations)
		d.message(n, v.Message(), path, depth+1)
		return v, len(d.err.Violations) == before
	case protoreflect.StringKind:
		before := len(d.err.Violations)
		s := d.text(n, path)
		return protoreflect.ValueOfString(s), len(d.err.Violations) == before
	case protoreflect.BoolKind:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.add(n, path, "must be true or false, not %s", describe(n))
			return none, false
		}
		return protoreflect.ValueOfBool(strings.EqualFold(n.Value, "true")), true
	case protoreflect.BytesKind:
		return d.bytes(n, path)
	case protoreflect.Uint32Kind:
		i, ok := d.integer(n, path, 0, math.MaxUint32)
		return protoreflect.ValueOfUint32(uint32(i)), ok
	case protoreflect.Uint64Kind:
		i, ok := d.integer(n, path, 0, math.MaxInt64)
		return protoreflect.ValueOfUint64(uint64(i)), ok
	case protoreflect.Int32Kind:
		i, ok := d.integer(n, path, math.MinInt32, math.MaxInt32)
		return protoreflect.ValueOfInt32(int32(i)), ok
	case protoreflect.Int64Kind:
		i, ok := d.integer(n, path, math.MinInt64, math.MaxInt64)
		return protoreflect.ValueOfInt64(i), ok
	}
	d.add(n, path, "cannot be given in a document")
	return none, false
}

func (d *decoder) integer(n *yaml.Node, path string, low, high int64) (int64, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" {
		if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
			if _, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
				d.add(n, path, "must be an integer: write %s without quotes", mesh.Clip(n.Value))
				return 0, false
			}
		}
		d.add(n, path, "must be an integer, not %s", describe(n))
		return 0, false
	}
	if digits := strings.TrimLeft(n.Value, "+-"); len(digits) > 1 && digits[0] == '0' {
		// YAML 1.1 reads octal where YAML 1.2 reads decimal.
		d.add(n, path, "must be a decimal integer without leading zeros, not %s", mesh.Clip(n.Value))
		return 0, false
	}
	i, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || i < low || i > high {
		d.add(n, path, "must be a decimal integer from %d to %d", low, high)
		return 0, false
	}
	return i, true
}

func (d *decoder) duration(n *yaml.Node, path string) (protoreflect.Value, bool) {
	switch {
	case n.Kind == yaml.ScalarNode && (n.Tag == "!!int" || n.Tag == "!!float"):
		d.add(n, path, "is a number without a unit: write a duration such as %q", mesh.Clip(n.Value)+"s")
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
		d.add(n, path, "must be a duration such as \"30s\" or \"1h30m\", not %s", describe(n))
	default:
		v, err := time.ParseDuration(n.Value)
		if err == nil {
			return protoreflect.ValueOfMessage(durationpb.New(v).ProtoReflect()), true
		}
		if _, err := strconv.ParseFloat(n.Value, 64); err == nil {
			d.add(n, path, "has no unit: write a duration such as %q", mesh.Clip(n.Value)+"s")
		} else {
			d.add(n, path, "%q is not a duration: use numbers with the units ns, us, ms, s, m or h, such "+
				"as \"1h30m\"", mesh.Clip(n.Value))
		}
	}
	return protoreflect.Value{}, false
}

func (d *decoder) timestamp(n *yaml.Node, path string) (protoreflect.Value, bool) {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!str" || n.Tag == "!!timestamp") {
		if t, err := time.Parse(time.RFC3339, n.Value); err == nil {
			return protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()), true
		}
	}
	d.add(n, path, "must be a time such as 2006-01-02T15:04:05Z")
	return protoreflect.Value{}, false
}

func (d *decoder) intOrString(n *yaml.Node, path string) (protoreflect.Value, bool) {
	v := &meshv1.IntOrString{}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!int":
		i, ok := d.integer(n, path, math.MinInt32, math.MaxInt32)
		if !ok {
			return protoreflect.Value{}, false
		}
		v.Value = &meshv1.IntOrString_IntValue{IntValue: i}
	case n.Kind == yaml.ScalarNode && n.Tag == "!!float":
		d.add(n, path, "must be an integer or text: put %s in quotes", mesh.Clip(n.Value))
		return protoreflect.Value{}, false
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		v.Value = &meshv1.IntOrString_StringValue{StringValue: n.Value}
	default:
		d.add(n, path, "must be an integer or text, not %s", describe(n))
		return protoreflect.Value{}, false
	}
	return protoreflect.ValueOfMessage(v.ProtoReflect()), true
}

func (d *decoder) bytes(n *yaml.Node, path string) (protoreflect.Value, bool) {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!str" || n.Tag == "!!binary") {
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(n.Value), ""))
		if err == nil {
			return protoreflect.ValueOfBytes(b), true
		}
	}
	d.add(n, path, "must be base64 text") // the value may be a secret: never repeat it
	return protoreflect.Value{}, false
}
