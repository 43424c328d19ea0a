package compile

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/xds/ir"
)

func exactly(id string) ir.IdentityMatch { return ir.IdentityMatch{SpiffeID: id} }
func below(id string) ir.IdentityMatch   { return ir.IdentityMatch{SpiffeID: id, Prefix: true} }

// TestCallersCross: whatever a caller presents, the first row that it fits says what the first
// fitting condition of each list says.
func TestCallersCross(t *testing.T) {
	ids := []string{"spiffe://d/a", "spiffe://d/a/b", "spiffe://d/a/b/c", "spiffe://d/x"}
	var conditions []ir.IdentityMatch
	for _, id := range ids {
		conditions = append(conditions, exactly(id))
	}
	for _, id := range []string{"spiffe://d/a/b", "spiffe://d/a", "spiffe://d"} {
		conditions = append(conditions, ir.IdentityMatch{SpiffeID: id, Prefix: true, SNI: "n"}, below(id))
	}
	// Conditions in order of rank, as policy.ForInbound gives them; each list is a subset of them.
	subset := func(bits int) (list []ir.IdentityMatch) {
		for i, c := range conditions {
			if bits&(1<<i) != 0 {
				list = append(list, c)
			}
		}
		return list
	}
	type caller struct {
		uris []string
		sni  string
	}
	var people []caller
	for i, a := range append(ids, "spiffe://other") {
		for _, b := range append(ids[:i:i], a) {
			people = append(people, caller{[]string{a, b}, ""}, caller{[]string{a, b}, "n"},
				caller{[]string{a, b}, "m"})
		}
	}
	presents := func(c caller, m ir.IdentityMatch) bool {
		return slices.ContainsFunc(c.uris, func(u string) bool {
			return fits(m, ir.IdentityMatch{
				SpiffeID: u,
				SNI:      c.sni,
			})
		})
	}
	// A fixed walk over pairs of subsets: enough to meet every relation between two conditions.
	for a := 0; a < 1<<len(conditions); a += 3 {
		b := (a*2654435761 + 12345) % (1 << len(conditions))
		var timeouts []callerTimeout
		var limits []callerLimit
		for i, m := range subset(a) {
			timeouts = append(timeouts, callerTimeout{m, ir.RouteTimeouts{Request: time.Duration(i + 1)}})
		}
		for i, m := range subset(b) {
			limits = append(limits, callerLimit{m, uint32(i + 1)})
		}
		rows := cross(timeouts, limits)
		for _, c := range people {
			var wantTimeout time.Duration
			var wantLimit uint32
			if i := slices.IndexFunc(timeouts,
				func(x callerTimeout) bool { return presents(c, x.match) }); i >= 0 {
				wantTimeout = time.Duration(i + 1)
			}
			if i := slices.IndexFunc(limits,
				func(x callerLimit) bool { return presents(c, x.match) }); i >= 0 {
				wantLimit = uint32(i + 1)
			}
			gotTimeout, gotLimit := firstFor(rows, func(m ir.IdentityMatch) bool { return presents(c, m) })
			if gotTimeout != wantTimeout || gotLimit != wantLimit {
				t.Fatalf("lists %v and %v: %v meets timeout %d and limit %d, want %d and %d\n%+v", subset(a),
					subset(b), c, gotTimeout, gotLimit, wantTimeout, wantLimit, rows)
			}
		}
	}
}

// Conditions that contain one another need no more routes than there are conditions.
func TestCallersAreFew(t *testing.T) {
	rows := cross([]callerTimeout{{exactly("spiffe://d/a"), ir.RouteTimeouts{Request: 1}},
		{below("spiffe://d"), ir.RouteTimeouts{Request: 2}}},
		[]callerLimit{{exactly("spiffe://d/a"), 1}, {below("spiffe://d"), 2}})
	var got []string
	for _, r := range rows {
		var all []string
		for _, m := range r.Matches {
			all = append(all, m.SpiffeID)
		}
		got = append(got, strings.Join(all, " and "))
	}
	if diff := cmp.Diff([]string{"spiffe://d/a", "spiffe://d", ""}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

type callerTimeout struct {
	match ir.IdentityMatch
	route ir.RouteTimeouts
}

type callerLimit struct {
	match ir.IdentityMatch
	num   uint32
}

func cross(timeouts []callerTimeout, limits []callerLimit) []Caller {
	var first, second []callerRule
	for _, l := range limits {
		first = append(first,
			callerRule{l.match,
				func(r *ir.RoutePolicy) { r.Limit = ir.Share(ir.RequestLimit{Rate: ir.Rate{Num: l.num}}) }})
	}
	for _, t := range timeouts {
		second = append(second, callerRule{t.match, func(r *ir.RoutePolicy) { r.Timeouts = t.route }})
	}
	return crossCallers(crossCallers([]Caller{{}}, first), second)
}

// firstFor is what the first row says of which all conditions hold.
func firstFor(rows []Caller, holds func(ir.IdentityMatch) bool) (time.Duration, uint32) {
	for _, r := range rows {
		if !slices.ContainsFunc(r.Matches, func(m ir.IdentityMatch) bool { return !holds(m) }) {
			l, _ := r.Route.Limit.Get()
			return r.Route.Timeouts.Request, l.Num
		}
	}
	return -1, 0
}
