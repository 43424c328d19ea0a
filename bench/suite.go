package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Sizes of the meshes of the plot.
var (
	plotSidecars = []int{100, 300, 1000, 3000}
	plotServices = []int{10, 100, 1000}
)

// Entry is one table of a suite.
type Entry struct {
	Title string
	// Seconds that the run took.
	Seconds float64
	Report  *Report
}

// Table writes the entry for people.
func (e Entry) Table(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "## %s\n\n", e.Title); err != nil {
		return err
	}
	if err := e.Report.Table(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "(%.0f s)\n\n", e.Seconds)
	return err
}

// Suite runs every table of docs/benchmarks.md, hands each to emit as it is done and, if plot is
// not empty, draws cost over mesh size into that file.
func Suite(ctx context.Context, command func(context.Context) *exec.Cmd, emit func(Entry) error,
	plot string) error {
	run := func(title string, c Config) (*Report, error) {
		c.Command = command
		start := time.Now()
		r, err := Run(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", title, err)
		}
		return r, emit(Entry{title, time.Since(start).Seconds(), r})
	}
	with := func(s Shape, endpoints int) Shape { s.Endpoints = endpoints; return s }
	for _, t := range []struct {
		title string
		c     Config
	}{
		{"1,000 sidecars, 100 services", Config{
			Shape:     with(headline, 2),
			Rounds:    20,
			Settle:    100,
			Idle:      time.Minute,
			Restart:   true,
			Untouched: true,
		}},
		{"100 sidecars, 20 services", Config{Shape: with(small, 2), Rounds: 100}},
		{"5,000 sidecars, each sees 20 of 1,000 services", Config{
			Shape:   with(many, 2),
			Rounds:  10,
			Settle:  100,
			Restart: true,
		}},
		{"5,000 sidecars that all see the same 20 services", Config{Shape: with(crowd, 2), Rounds: 10}},
		{"10,000 services, 30,000 endpoints, 300 sidecars, each sees 30 services", Config{
			Shape:    with(wide, 3),
			Rounds:   50,
			Churn:    200,
			ChurnFor: 30 * time.Second,
		}},
	} {
		if _, err := run(t.title, t.c); err != nil {
			return err
		}
	}
	var points []point
	for _, services := range plotServices {
		for _, sidecars := range plotSidecars {
			c := Config{
				Shape:   Shape{Sidecars: sidecars, Services: services, Endpoints: 2},
				Rounds:  10,
				Changes: []string{"every", "one", "sidecar"},
			}
			if sidecars*services > 300_000 {
				c.Rounds = 3
			}
			r, err := run(fmt.Sprintf("Plot: %d sidecars, %d services", sidecars, services), c)
			if err != nil {
				return err
			}
			points = append(points, point{services: services, sidecars: sidecars, report: r})
		}
	}
	if plot == "" {
		return nil
	}
	return os.WriteFile(plot, []byte(draw(points)), 0o644)
}

// Machine says what the figures were measured on.
func Machine() string {
	read := func(path, field string) string {
		data, _ := os.ReadFile(path) // not on every system; then it goes without saying
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == field {
				return strings.TrimSpace(value)
			}
		}
		return "unknown"
	}
	return fmt.Sprintf("%d cores of %s, memory %s, %s on %s/%s", runtime.NumCPU(),
		read("/proc/cpuinfo", "model name"), read("/proc/meminfo", "MemTotal"),
		runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

type point struct {
	services, sidecars int
	report             *Report
}

// Of the drawing, in pixels.
const (
	panelWidth, panelHeight, panelGap = 300, 220, 70
	left, top                         = 70, 40
)

// draw is CPU seconds per change over the number of sidecars, a line for each number of services, a
// panel for each kind of change, all logarithmic.
func draw(points []point) string {
	var b strings.Builder
	width := left + len(plotKinds)*(panelWidth+panelGap)
	fmt.Fprintf(&b,

		`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" `+
			`font-size="11">`+"\n", width, top+panelHeight+60)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	lowX, highX := math.Log10(float64(plotSidecars[0])),
		math.Log10(float64(plotSidecars[len(plotSidecars)-1]))
	lowY, highY := -4.0, 2.0 // 0.1 ms to 100 s
	for i, kind := range plotKinds {
		x0 := float64(left + i*(panelWidth+panelGap))
		px := func(n float64) float64 { return x0 + (math.Log10(n)-lowX)/(highX-lowX)*panelWidth }
		py := func(s float64) float64 {
			return top + panelHeight - (min(max(math.Log10(s), lowY), highY)-lowY)/(highY-lowY)*panelHeight
		}
		fmt.Fprintf(&b, `<text x="%.0f" y="%d" font-size="13">%s</text>`+"\n", x0, top-16,
			"CPU per change for "+kindNames[kind])
		for e := lowY; e <= highY; e++ {
			y := py(math.Pow(10, e))
			fmt.Fprintf(&b,

				`<line x1="%.0f" y1="%.1f" x2="%.0f" y2="%.1f" stroke="#ddd"/>`+
					`<text x="%.0f" y="%.1f" text-anchor="end">%s</text>`+"\n", x0, y, x0+panelWidth, y, x0-6,
				y+4, secondsText(e))
		}
		for _, n := range plotSidecars {
			fmt.Fprintf(&b,

				`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#ddd"/>`+
					`<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n",
				px(float64(n)), top, px(float64(n)), top+panelHeight,
				px(float64(n)), top+panelHeight+16, n)
		}
		fmt.Fprintf(&b, `<text x="%.0f" y="%d" text-anchor="middle">sidecars</text>`+"\n", x0+panelWidth/2,
			top+panelHeight+34)
		for s, services := range plotServices {
			color := []string{"#1b6ca8", "#c05621", "#2f855a"}[s%3]
			var path []string
			for _, p := range points {
				f := p.report.figure(kind)
				if p.services != services || f == nil {
					continue
				}
				x, y := px(float64(p.sidecars)), py(f.CPU)
				path = append(path, fmt.Sprintf("%.1f,%.1f", x, y))
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x, y, color)
			}
			fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n",
				strings.Join(path, " "), color)
			fmt.Fprintf(&b, `<text x="%.0f" y="%d" fill="%s">%d services</text>`+"\n", x0+8, top+14+14*s,
				color, services)
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

var plotKinds = []string{"every", "one", "sidecar"}

func secondsText(exponent float64) string {
	return map[float64]string{-4: "0.1 ms", -3: "1 ms", -2: "10 ms", -1: "0.1 s", 0: "1 s", 1: "10 s",
		2: "100 s"}[exponent]
}
