package codec

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// normalise puts what public guides write in place of what the schema says,
// with a warning for each. Nodes are shared by aliases and so never changed: a pair gets a new one.
// It also refuses the lists that may be left out and not be empty, which look the same once they
// are read.
func (d *decoder) normalise(message protoreflect.FullName, pairs []pair, path string) []pair {
	switch message {
	case "meridian.mesh.v1alpha1.TargetRef":
		d.refuseEmpty(pairs, path, "proxyTypes")
	case "meridian.mesh.v1alpha1.MeshTCPRoute":
		d.refuseEmpty(pairs, path, "to")
	case "meridian.mesh.v1alpha1.MeshRateLimit.Rate":
		d.rename(pairs, path, "num", "numRequests", "requests")
	case "meridian.mesh.v1alpha1.MeshHealthCheck.Conf":
		pairs = d.hoistTiming(pairs, path)
	case "meridian.mesh.v1alpha1.MeshRetry.Http":
		d.spellings(pairs, path, mesh.HTTPRetryOn)
	case "meridian.mesh.v1alpha1.MeshRetry.Grpc":
		d.spellings(pairs, path, mesh.GRPCRetryOn)
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

// rename gives the first pair with one of the aliases its real name, unless that is given too.
func (d *decoder) rename(pairs []pair, path, name string, aliases ...string) {
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

// timing are the fields that guides write into the http section of a health check, and that belong beside it.
var timing = []string{"interval", "timeout", "unhealthyThreshold", "healthyThreshold"}

// hoistTiming moves timing out of "http". What is given beside "http" too holds there, and its copy
// is left out.
func (d *decoder) hoistTiming(pairs []pair, path string) []pair {
	at := slices.IndexFunc(pairs, func(p pair) bool { return p.key == "http" })
	if at < 0 {
		return pairs
	}
	section := d.resolve(pairs[at].value)
	if section.Kind != yaml.MappingNode {
		return pairs
	}
	var hoisted []pair
	rest := &yaml.Node{
		Kind:   yaml.MappingNode,
		Tag:    "!!map",
		Line:   section.Line,
		Column: section.Column,
	}
	inner := d.pairs(section, mesh.JoinField(path, "http"))
	for _, p := range inner {
		if !slices.Contains(timing, p.key) {
			rest.Content = append(rest.Content, p.node, p.value)
			continue
		}
		if lookup(pairs, p.key) != nil {
			d.warn(mesh.JoinField(path, "http."+p.key), "left out: %s beside http holds", p.key)
			continue
		}
		hoisted = append(hoisted, p)
		d.warn(mesh.JoinField(path, "http."+p.key), "read as %s, which is where the field belongs",
			mesh.JoinField(path, p.key))
	}
	pairs[at].value = rest
	return append(pairs, hoisted...)
}

func plainSpelling(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// spellings corrects the items of "retryOn": upper and lower case, "-" and "_", and status codes
// without quotes.
func (d *decoder) spellings(pairs []pair, path string, known []string) {
	at := slices.IndexFunc(pairs, func(p pair) bool { return p.key == "retryOn" })
	if at < 0 {
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
		field := fmt.Sprintf("%s[%d]", mesh.JoinField(path, "retryOn"), i)
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

// sidecarsOnly gives a rate limit with "from" that does not say which proxies it means the only
// ones that "from" can be about; it says whether it had to.
func sidecarsOnly(s *meshv1.MeshRateLimit) bool {
	t := s.GetTargetRef()
	if len(s.GetFrom()) == 0 || len(s.GetTo()) > 0 || len(t.GetProxyTypes()) > 0 ||
		t != nil && t.GetKind() != "Mesh" {
		return false
	}
	if t == nil {
		s.TargetRef = &meshv1.TargetRef{Kind: "Mesh"}
	}
	s.TargetRef.ProxyTypes = []string{"Sidecar"}
	return true
}
