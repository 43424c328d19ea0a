package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestDrawShowsEveryPoint: the plot is well-formed XML with a circle per point and panel, and
// higher cost stands higher.
func TestDrawShowsEveryPoint(t *testing.T) {
	at := func(sidecars int, seconds float64) point {
		r := &Report{}
		for _, kind := range plotKinds {
			r.Figures = append(r.Figures, Figure{Name: kindNames[kind], CPU: seconds})
		}
		return point{services: plotServices[0], sidecars: sidecars, report: r}
	}
	text := draw([]point{at(100, 0.001), at(1000, 0.1)})
	circles := 0
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	if want := 2 * len(plotKinds); circles != want {
		t.Errorf("%d circles, want %d", circles, want)
	}
	// 1 ms is a sixth of the way from 0.1 ms to 100 s, 0.1 s a half.
	for _, want := range []string{`cx="70.0" cy="223.3"`, `cx="273.1" cy="150.0"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no point at %s", want)
		}
	}
}

// TestBudgetsAreChecked: a figure above the budget of its shape is named, one of another shape is not.
func TestBudgetsAreChecked(t *testing.T) {
	slow := func(s Shape) *Report {
		r := &Report{
			Shape:          s,
			ColdStartFloor: 1,
			Figures:        []Figure{{Name: kindNames["one"], P50: 500, Concerned: 1000, Ratio: 2}},
		}
		r.check()
		return r
	}
	if r := slow(headline); len(r.Missed) != 1 || !strings.Contains(r.Missed[0], "one destination, p50") {
		t.Errorf("missed: %q", r.Missed)
	}
	if r := slow(Shape{Sidecars: 7, Services: 100}); len(r.Missed) != 0 {
		t.Errorf("a shape without budgets missed %q", r.Missed)
	}
	grows := &Report{Shape: wide, ColdStartFloor: 1, Churn: &Churn{FirstP50: 2, LastP50: 40}}
	if grows.check(); len(grows.Missed) != 1 || !strings.Contains(grows.Missed[0], "lag grows") {
		t.Errorf("missed: %q", grows.Missed)
	}
}
