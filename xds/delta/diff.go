package delta

import (
	"slices"
	"strings"
	"weak"
)

// Step is the difference between two tables, or two segments.
type Step struct {
	// Changed are resources that are new or have other content. Removed are names that are gone.
	Changed [numTypes][]*Resource
	Removed [numTypes][]string
	// plan is nil if the step has none.
	plan *plan
}

// Empty says that nothing differs.
func (s *Step) Empty() bool {
	for t := range numTypes {
		if len(s.Changed[t]) > 0 || len(s.Removed[t]) > 0 {
			return false
		}
	}
	return true
}

// Diff is the step from old to t; either may be nil. The result is shared: do not change it.
func (t *Table) Diff(old *Table) *Step {
	var before, after []*Segment
	if old != nil {
		before = old.Segments
	}
	if t != nil {
		after = t.Segments
	}
	if i, ok := onlyOther(before, after); ok {
		return after[i].diff(before[i])
	}
	// Segments that both have do not matter, wherever they stand.
	gone := without(before, after)
	come := without(after, before)
	switch {
	case len(gone) == 0 && len(come) == 0:
		return &Step{}
	case len(gone) == 1 && len(come) == 1:
		return come[0].diff(gone[0])
	}
	// What was left pairs up in order: a table keeps its segments' places. A resource that moved
	// from one pair to another is removed by one and brought by the other: it is not gone.
	steps := make([]*Step, 0, max(len(gone), len(come)))
	for i := range max(len(gone), len(come)) {
		switch {
		case i >= len(gone):
			steps = append(steps, come[i].diff(nil))
		case i >= len(come):
			steps = append(steps, (&Segment{}).diff(gone[i]))
		default:
			steps = append(steps, come[i].diff(gone[i]))
		}
	}
	var out Step
	for typ := range numTypes {
		for _, s := range steps {
			for _, r := range s.Changed[typ] {
				if before := old.Lookup(typ, r.Name); before == nil || before.Version != r.Version {
					out.Changed[typ] = append(out.Changed[typ], r)
				}
			}
			for _, name := range s.Removed[typ] {
				if t.Lookup(typ, name) == nil {
					out.Removed[typ] = append(out.Removed[typ], name)
				}
			}
		}
	}
	return &out
}

// onlyOther is the place of the only segment that two tables do not share, which is the usual step:
// nothing can have moved between segments then.
func onlyOther(before, after []*Segment) (at int, ok bool) {
	if len(before) != len(after) {
		return 0, false
	}
	for i := range before {
		if before[i] == after[i] {
			continue
		}
		if ok {
			return 0, false
		}
		at, ok = i, true
	}
	return at, ok
}

func without(list, other []*Segment) []*Segment {
	var out []*Segment
	for _, s := range list {
		if !slices.Contains(other, s) {
			out = append(out, s)
		}
	}
	return out
}

// diff is the step from old, which may be nil, to s.
func (s *Segment) diff(old *Segment) *Step {
	if m := s.memo.Load(); m != nil && old != nil && m.from.Value() == old {
		return m.step
	}
	step := &Step{}
	replaces := old != nil
	for t := range numTypes {
		var prev []*Resource
		if old != nil {
			prev = old.byType[t]
		}
		next := s.byType[t]
		for len(prev) > 0 || len(next) > 0 {
			order := 0
			switch {
			case len(prev) == 0:
				order = 1
			case len(next) == 0:
				order = -1
			default:
				order = strings.Compare(prev[0].Name, next[0].Name)
			}
			switch {
			case order < 0:
				step.Removed[t] = append(step.Removed[t], prev[0].Name)
				replaces = false
				prev = prev[1:]
			case order > 0:
				step.Changed[t] = append(step.Changed[t], next[0])
				replaces = false
				next = next[1:]
			default:
				if prev[0] != next[0] && prev[0].Version != next[0].Version {
					step.Changed[t] = append(step.Changed[t], next[0])
				}
				prev, next = prev[1:], next[1:]
			}
		}
	}
	if replaces && !step.Empty() {
		step.plan = newPlan(s, step)
	}
	if old != nil {
		s.memo.Store(&segmentStep{from: weak.Make(old), step: step})
	}
	return step
}
