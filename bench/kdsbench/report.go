package kdsbench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Report is what was measured.
type Report struct {
	Zones    int      `json:"zones"`
	Sidecars int      `json:"sidecars"`
	Figures  []Figure `json:"figures"`
	// Missed names the figures that are over their budget.
	Missed []string `json:"missed,omitempty"`
}

// Figure is one of them; its name says the unit.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	// Budget is what it may be at most; 0 for none.
	Budget float64 `json:"budget,omitempty"`
}

func (r *Report) add(name string, value, budget float64) {
	r.Figures = append(r.Figures, Figure{name, value, budget})
	if budget > 0 && value > budget {
		r.Missed = append(r.Missed, name)
	}
}

// print writes the report as "table" or "json".
func (r *Report) print(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "sync of global with %d zones, %d sidecars in %d of them\tvalue\tat most\n", r.Zones,
		r.Sidecars, wired)
	for _, f := range r.Figures {
		budget := ""
		if f.Budget > 0 {
			budget = number(f.Budget)
			if f.Value > f.Budget {
				budget += "  MISSED"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Name, number(f.Value), budget)
	}
	return t.Flush()
}

// number has three digits that mean something, or all before the point.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
