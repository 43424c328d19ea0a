package codec

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/mesh"
)

// Documents of the older policy model that are translated: they are
// read as documents of the kind that replaced theirs, and stored as such. A permission of the older
// model hides every less specific one for its destinations, so its translation denies all others
// there before it allows its sources. What the newer kind cannot say is refused: a policy that
// holds for more proxies than its author wrote would be worse than none.
var legacyKinds = map[string]func(*legacy) []*yaml.Node{
	"TrafficPermission": (*legacy).permission,
	"Retry":             (*legacy).retry,
}

// legacy is one document of the older model while it is translated.
type legacy struct {
	*decoder
	root                  *yaml.Node
	sources, destinations []selector
	conf                  *yaml.Node
	// at is the path of what has sources, destinations and conf.
	at string
}

// selector is the match of a source or destination: tags, without those that match anything.
type selector []pair

// expand gives the documents that a root node stands for: itself, or the translation of an older
// kind with a warning for the user. The error is a [*ValidationError].
func expand(root *yaml.Node, budget *int) (out []*yaml.Node, warnings []string, err error) {
	kind, name := peek(root)
	translate := legacyKinds[kind]
	if translate == nil || root.Kind != yaml.MappingNode {
		return []*yaml.Node{root}, nil, nil
	}
	l := &legacy{decoder: &decoder{budget: budget}, root: root}
	out = l.read().translated(translate)
	if err := l.err.Err(); err != nil {
		return nil, nil, err
	}
	what := fmt.Sprintf("%s is of the older policy model: it is stored as %s %s", kind, replacedBy(kind),
		name)
	for i := 1; i < len(out); i++ {
		what += ", " + numbered(name, i)
	}
	return out, append([]string{what}, l.warnings...), nil
}

func replacedBy(kind string) string {
	by, _ := mesh.TranslatedKind(kind)
	return string(by)
}

func numbered(name string, i int) string { return fmt.Sprintf("%s-%d", name, i+1) }

// read takes in the parts that both kinds have, from the top of the document or from its spec.
func (l *legacy) read() *legacy {
	body, at := l.root, ""
	if spec := lookup(l.pairs(l.root, ""), "spec"); spec != nil {
		body, at = l.resolve(spec), "spec"
		if body.Kind != yaml.MappingNode {
			l.add(body, at, "must be a mapping, not %s", describe(body))
			return l
		}
	}
	l.at = at
	known := []string{"sources", "destinations", "conf"}
	for _, p := range l.pairs(body, at) {
		switch path := mesh.JoinField(at, p.key); {
		case p.key == "sources":
			l.sources = l.selectors(p.value, path, true)
		case p.key == "destinations":
			l.destinations = l.selectors(p.value, path, false)
		case p.key == "conf":
			l.conf = l.resolve(p.value)
		case at == "" && (slices.Contains(universalFields, p.key) ||
			slices.Contains(kubernetesFields, p.key)):
		default:
			l.add(p.node, path, "%s", unknownField(p.key, known))
		}
	}
	for i, list := range [][]selector{l.sources, l.destinations} {
		if list == nil {
			l.add(body, mesh.JoinField(at, known[i]),
				"is required: a list of {match: {kuma.io/service: NAME}}")
		}
	}
	return l
}

// selectors reads a list of matches. A tag of a source that may have any value says nothing, as
// with Kuma; one of a destination narrows it to those that have the tag, which no newer
// reference can.
func (l *legacy) selectors(n *yaml.Node, path string, sources bool) []selector {
	n = l.resolve(n)
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		l.add(n, path, "must be a list with at least one match")
		return []selector{}
	}
	out := []selector{}
	for i, item := range n.Content {
		item, at := l.resolve(item), fmt.Sprintf("%s[%d].match", path, i)
		var match *yaml.Node
		if item.Kind == yaml.MappingNode {
			for _, p := range l.pairs(item, at) {
				if p.key != "match" {
					l.add(p.node, fmt.Sprintf("%s[%d].%s", path, i, p.key), "%s",
						unknownField(p.key, []string{"match"}))
				}
			}
			match = lookup(l.pairs(item, at), "match")
		}
		if match == nil || l.resolve(match).Kind != yaml.MappingNode || len(l.resolve(match).Content) == 0 {
			l.add(item, at, "must be a mapping of at least one tag to its value, such as "+
				"{kuma.io/service: NAME}")
			continue
		}
		s := selector{}
		for _, p := range l.pairs(l.resolve(match), at) {
			switch value := l.text(p.value, mesh.FieldKey(at, p.key)); {
			case value != "*":
				s = append(s, p)
			case !sources && p.key != mesh.TagService:
				l.add(p.node, mesh.FieldKey(at, p.key),
					"cannot be any value in a destination here: name the value, or leave the tag out "+
						"to mean all")
			}
		}
		out = append(out, s)
	}
	return out
}

// translated adds what surrounds the specs.
func (l *legacy) translated(translate func(*legacy) []*yaml.Node) []*yaml.Node {
	if l.err.Err() != nil {
		return nil
	}
	kind, name := peek(l.root)
	var out []*yaml.Node
	for i, spec := range translate(l) {
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: l.root.Line}
		for _, p := range l.pairs(l.root, "") {
			switch {
			case p.key == "type" || p.key == "kind":
				p.value = text(replacedBy(kind))
			case slices.Contains([]string{"sources", "destinations", "conf", "spec"}, p.key):
				continue
			case i > 0 && p.key == "name":
				p.value = text(numbered(name, i))
			case i > 0 && p.key == "metadata":
				meta := *l.resolve(p.value)
				meta.Content, meta.Anchor = slices.Clone(meta.Content), ""
				for k := 0; k+1 < len(meta.Content); k += 2 {
					if meta.Content[k].Value == "name" {
						meta.Content[k+1] = text(numbered(name, i))
					}
				}
				p.value = &meta
			}
			n.Content = append(n.Content, p.node, p.value)
		}
		out = append(out, put(n, "spec", spec))
	}
	return out
}

// permission is a MeshTrafficPermission for each destination.
func (l *legacy) permission() []*yaml.Node {
	if l.conf != nil {
		l.add(l.conf, mesh.JoinField(l.at, "conf"), "a permission has none: remove it")
	}
	var out []*yaml.Node
	for _, d := range l.destinations {
		from := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		allow := func(target *yaml.Node, action string) {
			from.Content = append(from.Content,
				mapping("targetRef", target, "default", mapping("action", text(action))))
		}
		if len(d) > 0 || !slices.ContainsFunc(l.sources, func(s selector) bool { return len(s) == 0 }) {
			allow(mapping("kind", text("Mesh")), "Deny")
		}
		for _, s := range l.sources {
			allow(subset(s), "Allow")
		}
		out = append(out, mapping("targetRef", subset(d), "from", from))
	}
	return out
}

// retry is a MeshRetry for each source.
func (l *legacy) retry() []*yaml.Node {
	if l.conf == nil || l.conf.Kind != yaml.MappingNode || len(l.conf.Content) == 0 {
		l.add(l.root, mesh.JoinField(l.at, "conf"), "is required: one of http, grpc and tcp")
		return nil
	}
	conf := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: l.conf.Line}
	at := mesh.JoinField(l.at, "conf")
	for _, p := range l.pairs(l.conf, at) {
		path := mesh.JoinField(at, p.key)
		section := l.resolve(p.value)
		switch {
		case !slices.Contains([]string{"http", "grpc", "tcp"}, p.key):
			l.add(p.node, path, "%s", unknownField(p.key, []string{"http", "grpc", "tcp"}))
		case section.Kind != yaml.MappingNode:
			l.add(section, path, "must be a mapping, not %s", describe(section))
		default:
			put(conf, p.key, l.section(section, path))
		}
	}
	to := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i, d := range l.destinations {
		target := mapping("kind", text("Mesh"))
		for _, p := range d {
			if p.key != mesh.TagService {
				l.add(p.node, fmt.Sprintf("%s[%d].match[%q]", mesh.JoinField(l.at, "destinations"), i, p.key),
					"a destination of retries is a service: only kuma.io/service can be given")
				continue
			}
			target = mapping("kind", text(string(mesh.KindMeshService)), "name", p.value)
		}
		to.Content = append(to.Content, mapping("targetRef", target, "default", conf))
	}
	var out []*yaml.Node
	for _, s := range l.sources {
		out = append(out, mapping("targetRef", subset(s), "to", to))
	}
	return out
}

// section gives the settings of one protocol their present names.
func (l *legacy) section(n *yaml.Node, path string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line}
	pairs := l.pairs(n, path)
	l.rename(pairs, path, "perTryTimeout", []string{"timeout"})
	retryOn := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: n.Line}
	for _, p := range pairs {
		list := l.resolve(p.value)
		switch p.key {
		case "retryOn", "retriableStatusCodes", "retriableMethods":
			if list.Kind != yaml.SequenceNode {
				l.add(list, mesh.JoinField(path, p.key), "must be a list, not %s", describe(list))
				continue
			}
			for _, item := range list.Content {
				item := *l.resolve(item)
				switch {
				case p.key == "retriableMethods":
					item.Value = "HttpMethod" + upperFirst(item.Value)
				case p.key == "retriableStatusCodes":
					item.Tag, item.Style = "!!str", yaml.DoubleQuotedStyle
				case item.Value == "all_5xx":
					item.Value = "5xx"
				case item.Value == "cancelled":
					item.Value = "Canceled"
				case item.Value == "retriable_status_codes" || item.Value == "retriable_headers":
					continue // the codes say it themselves; headers could not be given
				default:
					item.Value = fromSnake(item.Value)
				}
				item.Anchor = ""
				retryOn.Content = append(retryOn.Content, &item)
			}
		case "maxConnectAttempts":
			put(out, "maxConnectAttempt", p.value)
		default:
			key := text(p.key) // rename may have changed it
			key.Line = p.node.Line
			out.Content = append(out.Content, key, p.value)
		}
	}
	if len(retryOn.Content) > 0 {
		put(out, "retryOn", retryOn)
	}
	return out
}

// fromSnake turns connect_failure into ConnectFailure.
func fromSnake(s string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(s, "_") {
		b.WriteString(upperFirst(word))
	}
	return b.String()
}

func upperFirst(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + strings.ToLower(s[1:])
}

// subset is a reference to the proxies with some tags.
func subset(s selector) *yaml.Node {
	if len(s) == 0 {
		return mapping("kind", text("Mesh"))
	}
	tags := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, p := range s {
		tags.Content = append(tags.Content, p.node, p.value)
	}
	return mapping("kind", text("MeshSubset"), "tags", tags)
}

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// mapping takes keys and values in turn.
func mapping(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i+1 < len(pairs); i += 2 {
		put(n, pairs[i].(string), pairs[i+1].(*yaml.Node))
	}
	return n
}

func put(n *yaml.Node, key string, value *yaml.Node) *yaml.Node {
	n.Content = append(n.Content, text(key), value)
	return n
}
