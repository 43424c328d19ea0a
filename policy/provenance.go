package policy

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
)

// Setting is one leaf of a merged configuration: who set it, and who wanted it otherwise.
type Setting struct {
	// Path is the YAML path below "default", such as "http.requestTimeout".
	Path   string
	Origin Origin
	// Overruled said something about the same leaf, highest rank first.
	Overruled []Overruled
}

// Overruled is an entry that lost a leaf to another.
type Overruled struct {
	Origin Origin
	// Conf is the whole entry, in which the leaf's other value is.
	Conf proto.Message
	// Reason is the rule that decided, for people.
	Reason string
}

// DestinationSettings says of each leaf of [ForDestination], in the order of paths, how it came about.
func DestinationSettings(policies []*mesh.Resource, d Destination) []Setting {
	list := entriesFor(policies, d)
	return settings(list, mergeEntries(list))
}

// InboundSettings says of each leaf of the CatchAll of [ForInbound] how it came about.
func InboundSettings(policies []*mesh.Resource) []Setting {
	var list []ranked
	for _, p := range policies {
		head := HeadOf(p)
		entries := RuleEntries(p)
		if len(entries) == 0 {
			entries = FromEntries(p)
		}
		for _, e := range entries {
			if len(matchesOf(e)) == 0 {
				list = append(list, ranked{Entry: e, policy: p, head: head})
			}
		}
	}
	return settings(list, ForInbound(policies).CatchAll)
}

// settings compares the merged e with the entries that it was merged from, ascending.
func settings(list []ranked, e Effective) []Setting {
	said := make([]map[string]bool, len(list))
	for i, r := range list {
		said[i] = map[string]bool{}
		if r.Conf != nil {
			merge(r.Conf.ProtoReflect().New(), r.Conf.ProtoReflect(), "",
				func(path string) { said[i][path] = true })
		}
	}
	var out []Setting
	for _, path := range slices.Sorted(maps.Keys(e.Fields)) {
		s := Setting{Path: path, Origin: e.Fields[path]}
		winner := slices.IndexFunc(list,
			func(r ranked) bool { return r.policy.Key == s.Origin.Key && r.Index == s.Origin.Rule })
		for i, r := range slices.Backward(list) {
			if i < winner && said[i][path] {
				s.Overruled = append(s.Overruled, Overruled{
					Origin: Origin{Key: r.policy.Key, Rule: r.Index},
					Conf:   r.Conf,
					Reason: decided(r, list[winner]),
				})
			}
		}
		out = append(out, s)
	}
	return out
}

// decided names the first of the rules of priority in which two entries
// differ, winner above loser.
func decided(loser, winner ranked) string {
	l, w := loser.head, winner.head
	target := func(h Head) string { return cmp.Or(h.Target.GetKind(), targetMesh) }
	switch {
	case l.Default != w.Default:
		return "a default of the system ranks below what a person wrote"
	case target(l) != target(w):
		return "a policy for a " + target(w) + " ranks above one for a " + target(l)
	case target(l) == targetDataplane && dataplaneRank(l.Target) != dataplaneRank(w.Target):
		if (l.Target.GetSectionName() == "") != (w.Target.GetSectionName() == "") {
			return "a policy for one inbound ranks above one for the whole Dataplane"
		}
		return "a policy for a Dataplane by name ranks above one by labels"
	case l.Origin != w.Origin:
		return "a policy of the zone ranks above one of global"
	case roleRank(l.Role) != roleRank(w.Role):
		return "the role " + w.Role + " ranks above " + l.Role
	case toRank(loser.Entry) != toRank(winner.Entry):
		if loser.Target.GetKind() == winner.Target.GetKind() {
			return "an entry about one port ranks above one about the service"
		}
		return "an entry about a " + winner.Target.GetKind() + " ranks above one about a " +
			loser.Target.GetKind()
	case l.Key == w.Key:
		return "a later entry of one policy overrides an earlier one"
	case l.DisplayName != w.DisplayName:
		return "of two equal policies the one with the smaller name wins"
	}
	return "of two equal policies the one with the smaller key wins"
}
