package codec

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// normalise puts what public guides write in place of what the schema says, with a warning for each:
// the options of the fields in the protos say what that is. Nodes are shared by aliases and so never
// changed: a pair gets a new one. It also refuses the lists that may be left out and not be empty,
// which look the same once they are read.
func (d *decoder) normalise(md protoreflect.MessageDescriptor, pairs []pair, path string) []pair {
	fields := md.Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		options := mesh.DocumentOptions(fd)
		if options == nil {
			continue
		}
		name := fd.JSONName()
		if options.GetNotEmpty() {
			d.refuseEmpty(pairs, path, name)
		}
		d.rename(pairs, path, name, options.GetAliases())
		pairs = d.lift(pairs, path, name, options.GetLifts())
		d.spell(pairs, path, name, options.GetWords())
	}
	return pairs
}

func (d *decoder) refuseEmpty(pairs []pair, path, field string) {
	if n := lookup(pairs, field); n != nil && n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		d.add(n, mesh.JoinField(path, field), "must not be empty: leave it out or give at least one item")
	}
}

// warn notes what was read in spite of its form, as often as errors at most.
func (d *decoder) warn(field, reason string, args ...any) {
	if len(d.warnings) < maxViolations {
		d.warnings = append(d.warnings, field+": "+fmt.Sprintf(reason, args...))
	}
}

// leaveOut unsets a field that is read for the sake of guides alone.
func (d *decoder) leaveOut(m protoreflect.Message, fd protoreflect.FieldDescriptor, path string) {
	if why := mesh.DocumentOptions(fd).GetLeftOut(); why != "" && m.Has(fd) {
		m.Clear(fd)
		d.warn(path, "left out, %s", why)
	}
}

// rename gives the first pair with one of the aliases its real name, unless that is given too.
func (d *decoder) rename(pairs []pair, path, name string, aliases []string) {
	if lookup(pairs, name) != nil {
		return
	}
	for i, p := range pairs {
		if slices.Contains(aliases, p.key) {
			pairs[i].key = name
			d.warn(mesh.JoinField(path, p.key), "read as %s, which is the field's name", name)
			return
		}
	}
}

// lift moves fields out of a section to beside it, where they belong. What is given beside the
// section too holds there, and its copy is left out.
func (d *decoder) lift(pairs []pair, path, name string, lifts []string) []pair {
	at := slices.IndexFunc(pairs, func(p pair) bool { return p.key == name })
	if at < 0 || len(lifts) == 0 {
		return pairs
	}
	section := d.resolve(pairs[at].value)
	if section.Kind != yaml.MappingNode {
		return pairs
	}
	var lifted []pair
	rest := &yaml.Node{
		Kind:   yaml.MappingNode,
		Tag:    "!!map",
		Line:   section.Line,
		Column: section.Column,
	}
	below := mesh.JoinField(path, name)
	for _, p := range d.pairs(section, below) {
		if !slices.Contains(lifts, p.key) {
			rest.Content = append(rest.Content, p.node, p.value)
			continue
		}
		if lookup(pairs, p.key) != nil {
			d.warn(mesh.JoinField(below, p.key), "left out: %s beside %s holds", p.key, name)
			continue
		}
		lifted = append(lifted, p)
		d.warn(mesh.JoinField(below, p.key), "read as %s, which is where the field belongs",
			mesh.JoinField(path, p.key))
	}
	pairs[at].value = rest
	return append(pairs, lifted...)
}

func plainSpelling(s string) string {
	plain := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
	return strings.ReplaceAll(plain, "cancelled", "canceled") // gRPC's spelling is American
}

// spell corrects the items of a list of words: upper and lower case, "-" and "_", and status codes
// without quotes.
func (d *decoder) spell(pairs []pair, path, name string, known []string) {
	at := slices.IndexFunc(pairs, func(p pair) bool { return p.key == name })
	if at < 0 || len(known) == 0 {
		return
	}
	list := d.resolve(pairs[at].value)
	if list.Kind != yaml.SequenceNode {
		return
	}
	fixed := *list
	fixed.Anchor, fixed.Content = "", slices.Clone(list.Content)
	for i, item := range fixed.Content {
		n := *d.resolve(item)
		field := fmt.Sprintf("%s[%d]", mesh.JoinField(path, name), i)
		if n.Kind != yaml.ScalarNode {
			continue
		}
		switch {
		case n.Tag == "!!int" && mesh.IsStatusCode(n.Value):
			d.warn(field, "read as text: put %s in quotes", n.Value)
			n.Tag = "!!str"
		case n.Tag == "!!str" && !slices.Contains(known, n.Value):
			k := slices.IndexFunc(known,
				func(k string) bool { return plainSpelling(k) == plainSpelling(n.Value) })
			if k < 0 {
				continue
			}
			d.warn(field, "read as %s, which is how it is spelt", known[k])
			n.Value = known[k]
		default:
			continue
		}
		n.Anchor = ""
		fixed.Content[i] = &n
	}
	pairs[at].value = &fixed
}

// sidecarsOnly gives a policy with "from" alone that does not say which proxies it means the only ones
// that "from" can be about, where its kind says so; it says whether it had to.
func sidecarsOnly(spec proto.Message) bool {
	m := spec.ProtoReflect()
	fields := m.Descriptor().Fields()
	from, to, target := fields.ByName("from"), fields.ByName("to"), fields.ByName("target_ref")
	if from == nil || !mesh.DocumentOptions(from).GetSidecars() || !m.Has(from) || m.Has(to) {
		return false
	}
	t := m.Get(target).Message().Interface().(*meshv1.TargetRef)
	if len(t.GetProxyTypes()) > 0 || m.Has(target) && t.GetKind() != "Mesh" {
		return false
	}
	if !m.Has(target) {
		t = &meshv1.TargetRef{Kind: "Mesh"}
		m.Set(target, protoreflect.ValueOfMessage(t.ProtoReflect()))
	}
	t.ProxyTypes = []string{"Sidecar"}
	return true
}
