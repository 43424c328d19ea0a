package policy

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Inbound is the merged configuration of one kind for one inbound.
type Inbound struct {
	// CatchAll is about every caller: rules without matches and "from" entries.
	CatchAll Effective
	// Conditioned are about some callers, most specific match first: the first that fits a caller
	// holds. Those of a MeshRateLimit include the CatchAll, others do not.
	Conditioned []Conditioned
}

// Conditioned is the configuration for callers that match.
type Conditioned struct {
	Match *meshv1.Match
	Effective
}

// ForInbound merges "from" and "rules" of one kind's policies for an inbound. The policies are those
// that select the inbound, ascending by [Compare]. If a policy has rules its "from" is not read.
// MeshFaultInjection is not merged: see [Faults].
func ForInbound(policies []*mesh.Resource) Inbound {
	type conditioned struct {
		match  *meshv1.Match
		conf   proto.Message
		origin Origin
	}
	var in Inbound
	var all, under []conditioned
	for _, p := range policies {
		rules := RuleEntries(p)
		below := p.Key.Kind == mesh.KindMeshRateLimit
		if len(rules) == 0 {
			for _, e := range FromEntries(p) {
				origin := Origin{Key: p.Key, Rule: e.Index}
				in.CatchAll.add(e.Conf, origin)
				if below {
					under = append(under, conditioned{conf: e.Conf, origin: origin})
				}
			}
			continue
		}
		for _, e := range rules {
			origin := Origin{Key: p.Key, Rule: e.Index}
			matches := matchesOf(e)
			if len(matches) == 0 {
				in.CatchAll.add(e.Conf, origin)
				if below {
					under = append(under, conditioned{conf: e.Conf, origin: origin})
				}
			}
			for _, m := range matches {
				all = append(all, conditioned{match: m, conf: e.Conf, origin: origin})
			}
		}
	}
	for _, c := range all {
		m := c.match
		if slices.ContainsFunc(in.Conditioned, func(o Conditioned) bool { return proto.Equal(o.Match, m) }) {
			continue
		}
		over := slices.Clone(all)
		over = slices.DeleteFunc(over, func(o conditioned) bool { return !subsumes(o.match, m) })
		slices.SortStableFunc(over, func(a, b conditioned) int { return -compareMatches(a.match, b.match) })
		out := Conditioned{Match: m}
		for _, u := range slices.Concat(under, over) {
			if n := len(out.Origins); n == 0 || out.Origins[n-1] != u.origin {
				out.add(u.conf, u.origin)
			}
		}
		in.Conditioned = append(in.Conditioned, out)
	}
	slices.SortStableFunc(in.Conditioned,
		func(a, b Conditioned) int { return compareMatches(a.Match, b.Match) })
	return in
}

func matchesOf(e Entry) []*meshv1.Match {
	if r, ok := e.message.Interface().(interface{ GetMatches() []*meshv1.Match }); ok {
		return r.GetMatches()
	}
	return nil
}

// matchRank orders matches from the most specific (0): spiffeID exact, prefix, none; in each with sni first.
func matchRank(m *meshv1.Match) int {
	rank := 4
	switch m.GetSpiffeId().GetType() {
	case "Exact":
		rank = 0
	case "Prefix":
		rank = 2
	}
	if m.GetSni() == nil {
		rank++
	}
	return rank
}

// compareMatches puts the more specific match first; of two prefixes the longer.
func compareMatches(a, b *meshv1.Match) int {
	return cmp.Or(cmp.Compare(matchRank(a), matchRank(b)),
		-cmp.Compare(len(a.GetSpiffeId().GetValue()), len(b.GetSpiffeId().GetValue())))
}

// subsumes says that every caller that fits b fits a.
func subsumes(a, b *meshv1.Match) bool {
	if a.GetSni() != nil && a.GetSni().GetValue() != b.GetSni().GetValue() {
		return false
	}
	as, bs := a.GetSpiffeId(), b.GetSpiffeId()
	switch {
	case as == nil:
		return true
	case bs == nil:
		return false
	case as.GetType() == "Exact":
		return bs.GetType() == "Exact" && as.GetValue() == bs.GetValue()
	}
	return PrefixCovers(as.GetValue(), bs.GetValue())
}

// PrefixCovers says that a SPIFFE ID or a longer prefix falls under a prefix. A prefix ends at a
// path segment: a trailing slash is the same as none, and spiffe://d/ns/a does not cover
// spiffe://d/ns/ab.
func PrefixCovers(prefix, id string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, ok := strings.CutPrefix(id, prefix)
	return ok && (rest == "" || rest[0] == '/')
}
