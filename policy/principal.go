package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Tag is a tag of a caller, as its certificate shows it. Value "*" is any value.
type Tag struct{ Key, Value string }

// URI is the URI SAN that shows the tag, and whether it is only a prefix of it (value "*").
func (t Tag) URI(meshName string) (uri string, prefix bool) {
	value := t.Value
	if value == "*" {
		value, prefix = "", true
	}
	if t.Key == mesh.TagService {
		return "spiffe://" + meshName + "/" + value, prefix
	}
	return "kuma://" + t.Key + "/" + value, prefix
}

// Principal fits a caller that has all tags of All and, of each element of Not, lacks at least one
// tag. Empty All is every caller; an empty element of Not would exclude every caller and
// does not occur.
type Principal struct {
	All []Tag
	Not [][]Tag
	// Origin is the entry that allows it.
	Origin Origin
}

// Fits evaluates the principal for a caller's tags.
func (p Principal) Fits(caller []Tag) bool {
	return hasTags(caller, p.All) &&
		!slices.ContainsFunc(p.Not, func(not []Tag) bool { return hasTags(caller, not) })
}

func hasTags(caller, want []Tag) bool {
	for _, w := range want {
		if !slices.ContainsFunc(caller,
			func(t Tag) bool { return t.Key == w.Key && (t.Value == w.Value || w.Value == "*") }) {
			return false
		}
	}
	return true
}

// callerTags are the tags that a "from" target asks for, sorted; none for the whole mesh.
func callerTags(t *meshv1.TargetRef) (tags []Tag, ok bool) {
	want := maps.Clone(t.GetTags())
	if want == nil {
		want = map[string]string{}
	}
	switch t.GetKind() {
	case targetMesh:
		return nil, true
	case targetSubset:
	case targetService, targetServiceSubset:
		if t.GetName() == "" {
			return nil, false
		}
		want[mesh.TagService] = t.GetName()
	default:
		return nil, false
	}
	for k, v := range want {
		tags = append(tags, Tag{Key: k, Value: v})
	}
	slices.SortFunc(tags, func(a, b Tag) int { return strings.Compare(a.Key, b.Key) })
	return tags, true
}

// subset says that b requires every tag of a, so that a caller that fits b fits a.
func subset(a, b []Tag) bool {
	return !slices.ContainsFunc(a, func(t Tag) bool { return !hasTags(b, []Tag{t}) })
}
