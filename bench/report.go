package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Report is what a run found. Times are milliseconds.
type Report struct {
	Shape
	Rounds int
	// ColdStart of all sidecars at once, to the last acknowledgement; the same with bare streams
	// that get as many bytes.
	ColdStart, ColdStartCPU, ColdStartFloor float64
	// ColdStartBytes is what a sidecar got.
	ColdStartBytes float64
	Figures        []Figure
	// UntouchedBytes and UntouchedComputes are what changes of one sidecar cost the others, over all rounds.
	UntouchedBytes, UntouchedComputes float64
	// Memory after the cold start, and after the changes of Config.Settle. Floor and stand-ins are not in it.
	Memory, MemoryAfter Memory
	// IdleCPU in percent of one core; 0 if it was not looked at.
	IdleCPU   float64
	Churn     *Churn     `json:",omitempty"`
	Restart   *Restart   `json:",omitempty"`
	Untouched *Untouched `json:",omitempty"`
	// Others is what programs besides this benchmark took of the machine meanwhile, in percent of
	// all its cores. Times of a run with much of it say little; CPU seconds and ratios hold.
	Others float64
	// Missed are the budgets that were not met.
	Missed []string
}

// Figure is what one kind of change cost, per change.
type Figure struct {
	Name string
	// Concerned sidecars.
	Concerned int
	// From the write to the last acknowledgement.
	P50, P99 float64
	// The same bytes to as many bare gRPC streams in the same run; Ratio is P50 to FloorP50.
	FloorP50, FloorP99, Ratio float64
	// Bytes that a concerned sidecar got, and all others together.
	BytesEach, BytesOthers float64
	// CPU seconds of the control plane, and of the same process for the floor; of the sidecars' process.
	CPU, FloorCPU, SidecarsCPU float64
	// Allocs and AllocBytes of the control plane.
	Allocs, AllocBytes float64
	// Computes of the engine, by query.
	Computes map[string]float64
}

// Memory in MB.
type Memory struct{ Resident, Live float64 }

// Churn is endpoints that come and go at a steady rate: the time from a write to the last
// acknowledgement at the beginning and at the end.
type Churn struct {
	// Rate in changes a second, CPUShare in percent of one core.
	Rate, Seconds, CPUShare float64
	FirstP50, LastP50, P99  float64
}

// Restart of the zone: until all sidecars are back, and what all together were sent.
type Restart struct{ Time, CPU, Bytes float64 }

// Untouched is the CPU seconds of a change for ten sidecars in a mesh of few and of many.
type Untouched struct {
	Few, Many       int
	FewCPU, ManyCPU float64
}

// figure finds a kind of change; nil if it was not measured.
func (r *Report) figure(kind string) *Figure {
	for i := range r.Figures {
		if r.Figures[i].Name == kindNames[kind] {
			return &r.Figures[i]
		}
	}
	return nil
}

// Ratios to the floor that the design allows.
var maxRatio = map[string]float64{"every": 3, "one": 3, "endpoint": 2}

const (
	maxColdRatio = 4.0
	maxIdleCPU   = 0.5
	maxUntouched = 1.1
)

// check compares with the budgets: each is for a shape, the ratios for those in which all sidecars
// see the same services. (Where hardly two share one, the floor is a few bytes, and a ratio to it
// says nothing.)
func (r *Report) check() {
	miss := func(bad bool, format string, args ...any) {
		if bad {
			r.Missed = append(r.Missed, fmt.Sprintf(format, args...))
		}
	}
	for _, kind := range Kinds {
		f, limit := r.figure(kind), maxRatio[kind]
		if f != nil && limit > 0 && f.Concerned > 1 && r.Reachable == 0 {
			miss(f.Ratio > limit, "%s takes %.1f times the floor, must be at most %.0f",
				f.Name, f.Ratio, limit)
		}
	}
	miss(r.Reachable == 0 && r.ColdStart > maxColdRatio*r.ColdStartFloor,
		"the cold start takes %.1f times the floor, must be at most %.0f", r.ColdStart/r.ColdStartFloor,
		maxColdRatio)
	miss(r.UntouchedBytes != 0, "untouched sidecars got %.0f bytes, must be 0", r.UntouchedBytes)
	miss(r.UntouchedComputes != 0, "untouched sidecars cost %.0f computations, must be 0",
		r.UntouchedComputes)
	miss(r.IdleCPU > maxIdleCPU, "idle takes %.2f %% of a core, must be at most %.1f", r.IdleCPU, maxIdleCPU)
	if u := r.Untouched; u != nil {
		miss(u.ManyCPU > maxUntouched*u.FewCPU,
			"a change for %d sidecars costs %.2f times the CPU if ten times as many others are there, "+
				"must be "+
				"at most %.1f",
			groupSize, u.ManyCPU/u.FewCPU, maxUntouched)
	}
	if c := r.Churn; c != nil {
		miss(c.LastP50 > 2*c.FirstP50+5, "the lag grows under churn, from %.1f ms to %.1f ms", c.FirstP50,
			c.LastP50)
	}
	for _, b := range budgets {
		if b.shape == (Shape{r.Sidecars, r.Services, 0, r.Reachable}) {
			if got := b.of(r); got > b.limit {
				miss(true, "%s is %.4g, must be at most %.4g", b.name, got, b.limit)
			}
		}
	}
}

// budget is a figure that is promised for one shape; endpoints do not count.
type budget struct {
	shape Shape
	name  string
	limit float64
	of    func(*Report) float64
}

func of(kind string, f func(*Figure) float64) func(*Report) float64 {
	return func(r *Report) float64 {
		if fig := r.figure(kind); fig != nil {
			return f(fig)
		}
		return 0
	}
}

var (
	p50 = func(f *Figure) float64 { return f.P50 }
	p99 = func(f *Figure) float64 { return f.P99 }
	sec = func(f *Figure) float64 { return f.CPU }

	ratio = func(f *Figure) float64 { return f.Ratio }
)

// The shapes that have budgets, and the budgets.
var (
	headline = Shape{Sidecars: 1000, Services: 100}
	small    = Shape{Sidecars: 100, Services: 20}
	many     = Shape{Sidecars: 5000, Services: 1000, Reachable: 20}
	crowd    = Shape{Sidecars: 5000, Services: 20}
	wide     = Shape{Sidecars: 300, Services: 10000, Reachable: 30}
	budgets  = []budget{
		{headline, "every destination, p50 in ms", 800, of("every", p50)},
		{headline, "one destination, p50 in ms", 80, of("one", p50)},
		{headline, "one endpoint, p50 in ms", 60, of("endpoint", p50)},
		{headline, "cold start in ms", 5000, func(r *Report) float64 { return r.ColdStart }},
		{headline, "CPU seconds for every destination", 0.8, of("every", sec)},
		{headline, "CPU seconds for one destination", 0.08, of("one", sec)},
		{headline, "every destination, times the floor", 2, of("every", ratio)},
		{headline, "resident memory in MB", 150, func(r *Report) float64 { return r.Memory.Resident }},
		{headline, "resident memory after the changes in MB", 200,
			func(r *Report) float64 { return r.MemoryAfter.Resident }},
		{small, "every destination, p99 in ms", 40, of("every", p99)},
		{many, "one destination, p50 in ms", 200, of("one", p50)},
		{many, "resident memory in MB", 1200,
			func(r *Report) float64 { return max(r.Memory.Resident, r.MemoryAfter.Resident) }},
		{crowd, "one destination, p50 in ms", 200, of("one", p50)},
		{crowd, "resident memory in MB", 1200,
			func(r *Report) float64 { return max(r.Memory.Resident, r.MemoryAfter.Resident) }},
		{wide, "one destination, p99 in ms", 50, of("one", p99)},
		{wide, "one endpoint, p99 in ms", 50, of("endpoint", p99)},
	}
)

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d rounds; one process for all sidecars\n\n", r.Shape, r.Rounds)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "write to last ACK\tsidecars\tp50 ms\tp99 ms\tfloor ms\tratio\tbytes each\tbytes "+
		"others\tcpu-s\tfloor cpu-s\tsidecars cpu-s\tallocs\tMB allocated\tcomputes\t")
	for _, f := range r.Figures {
		sum := 0.0
		for _, n := range f.Computes {
			sum += n
		}
		fmt.Fprintf(t, "%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t%.4f\t%.4f\t%.4f\t%.0f\t%.2f\t%.1f\t\n",
			f.Name, f.Concerned, f.P50, f.P99, f.FloorP50, f.Ratio,
			f.BytesEach, f.BytesOthers, f.CPU, f.FloorCPU, f.SidecarsCPU, f.Allocs, f.AllocBytes/1e6, sum)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\ncold start of all sidecars: %.0f ms, %.2f cpu-s, %.0f bytes each; floor %.0f ms, "+
		"ratio %.2f\n", r.ColdStart, r.ColdStartCPU, r.ColdStartBytes,
		r.ColdStartFloor, r.ColdStart/r.ColdStartFloor)
	fmt.Fprintf(&b, "memory: %.0f MB resident, %.0f MB live", r.Memory.Resident, r.Memory.Live)
	if r.MemoryAfter.Resident > 0 {
		fmt.Fprintf(&b, "; after changes %.0f MB resident, %.0f MB live", r.MemoryAfter.Resident,
			r.MemoryAfter.Live)
	}
	fmt.Fprintf(&b, "\nothers during changes for one sidecar: %.0f bytes, %.0f computations\n",
		r.UntouchedBytes, r.UntouchedComputes)
	if u := r.Untouched; u != nil {
		fmt.Fprintf(&b, "a change for %d sidecars: %.2f cpu-ms among %d, %.2f cpu-ms among %d, ratio %.2f\n",
			groupSize, u.FewCPU*1e3, u.Few, u.ManyCPU*1e3, u.Many, u.ManyCPU/u.FewCPU)
	}
	if c := r.Churn; c != nil {
		fmt.Fprintf(&b, "churn of %.0f endpoints a second for %.0f s: p50 %.1f ms in the first "+
			"third, %.1f ms "+
			"in the last, p99 %.1f ms, %.0f %% of a core\n", c.Rate, c.Seconds,
			c.FirstP50, c.LastP50, c.P99, c.CPUShare)
	}
	if s := r.Restart; s != nil {
		fmt.Fprintf(&b, "restart, all sidecars back: %.0f ms, %.2f cpu-s, %.0f bytes to all together\n",
			s.Time, s.CPU, s.Bytes)
	}
	if r.IdleCPU > 0 {
		fmt.Fprintf(&b, "idle: %.2f %% of a core\n", r.IdleCPU)
	}
	fmt.Fprintf(&b, "other programs took %.0f %% of the machine\n", r.Others)
	for _, m := range r.Missed {
		fmt.Fprintf(&b, "MISSED: %s\n", m)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
