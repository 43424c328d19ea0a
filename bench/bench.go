package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/internal/gcpace"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// Config of a run.
type Config struct {
	Shape
	// Changes are the kinds to measure, of Kinds; none is all.
	Changes []string
	// Rounds of each kind of change.
	Rounds int
	// Idle is how long to look at the idle control plane; 0 does not.
	Idle time.Duration
	// Settle is how many changes are made before the memory is read a second time; 0 does not.
	Settle int
	// Churn endpoints that come or go in a second, for ChurnFor; 0 does not.
	Churn    int
	ChurnFor time.Duration
	// Restart ends the zone's process part and starts it again, with all sidecars connecting again.
	Restart bool
	// Untouched compares the cost of a change for ten sidecars with a mesh of a tenth of the others.
	Untouched bool
	// Heap, if set, is called when all sidecars are connected and the changes of Settle are made,
	// before anything else is: what is live then is the control plane's.
	Heap func() error
	// Command starts the process that runs [Sidecars].
	Command func(ctx context.Context) *exec.Cmd
}

// Kinds of change, in the order in which they are measured.
var Kinds = []string{"every", "one", "endpoint", "sidecar"}

var kindNames = map[string]string{"every": "every destination", "one": "one destination",
	"endpoint": "one endpoint", "sidecar": "one sidecar"}

// perProxy are the engine's queries that are computed for one proxy each.
var perProxy = []string{"membership", "match", "scope", "inbound", "secrets", "table"}

// Run measures.
func Run(ctx context.Context, c Config) (*Report, error) {
	// As the zone's process does.
	defer gcpace.Start(delta.GCPercent).Stop()
	out := &Report{Shape: c.Shape, Rounds: c.Rounds}
	err := c.with(ctx, c.Shape, func(b *bench) error { return b.run(ctx, out) })
	if err == nil && c.Untouched {
		err = c.untouched(ctx, out)
	}
	if err != nil {
		return nil, err
	}
	out.check()
	return out, nil
}

// with runs f with a populated control plane and the process of the sidecars.
func (c Config) with(ctx context.Context, s Shape, f func(*bench) error) error {
	debug.FreeOSMemory() // what a run before this one left is not this one's
	p, err := newPlane(ctx)
	if err != nil {
		return err
	}
	child, err := startChild(ctx, c.Command)
	if err != nil {
		return errors.Join(err, p.stop())
	}
	c.Shape = s
	b := &bench{
		Config:  c,
		plane:   p,
		child:   child,
		callers: s.callers(),
	}
	for i := range s.Sidecars {
		b.all = append(b.all, key(mesh.KindDataplane, sidecar(i)))
	}
	if err = s.populate(ctx, p); err == nil {
		err = f(b)
	}
	child.close()
	return errors.Join(err, p.stop())
}

type bench struct {
	Config
	plane   *plane
	child   *child
	all     []mesh.Key
	callers [][]mesh.Key
}

func (b *bench) run(ctx context.Context, out *Report) error {
	before, err := b.load()
	if err != nil {
		return err
	}
	if err := b.figures(ctx, out); err != nil {
		return err
	}
	after, err := b.load()
	if err != nil {
		return err
	}
	if all := after.all - before.all; all > 0 {
		out.Others = max(0, (after.busy-before.busy-(after.own-before.own))/all*100)
	}
	return nil
}

// load is CPU seconds since the machine started: of all its cores, of those what was not idle, and
// what this benchmark took.
type load struct{ all, busy, own float64 }

// load is zero where the system does not say.
func (b *bench) load() (load, error) {
	r, err := b.child.do(order{})
	if err != nil {
		return load{}, err
	}
	out := load{own: cpu() + r.CPU}
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return load{}, nil
	}
	line, _, _ := strings.Cut(string(data), "\n")
	const ticks = 100 // a second, on every Linux that Go runs on
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil || i > 8 { // the name of the line; guests are counted before
			continue
		}
		out.all += n / ticks
		if i != 4 && i != 5 { // idle, waiting for a disk
			out.busy += n / ticks
		}
	}
	return out, nil
}

// figures measures everything but the machine.
func (b *bench) figures(ctx context.Context, out *Report) error {
	if err := b.coldStart(ctx, out); err != nil {
		return err
	}
	b.rest(ctx)
	out.Memory = memory()
	for i := range b.Settle {
		if err := b.round(ctx, b.callers[0],
			func(int) store.Op { return put(timeout("one", meshRef(), serviceRef(0), i)) }, 0,
			nil); err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
	}
	if b.Settle > 0 {
		b.rest(ctx)
		out.MemoryAfter = memory()
	}
	if b.Heap != nil {
		if err := b.Heap(); err != nil {
			return err
		}
	}
	if err := b.startFloor(ctx, out); err != nil {
		return err
	}
	middle := b.Services / 2
	for _, kind := range Kinds {
		if len(b.Changes) > 0 && !slices.Contains(b.Changes, kind) {
			continue
		}
		concerned, change := b.all,
			func(i int) store.Op { return put(timeout("every", meshRef(), meshRef(), i)) }
		switch kind {
		case "one":
			concerned, change = b.callers[middle],
				func(i int) store.Op { return put(timeout("one", meshRef(), serviceRef(middle), i)) }
		case "endpoint":
			concerned, change = b.callers[0], func(i int) store.Op { return toggle(0, b.Shape, i%2 == 0) }
		case "sidecar":
			concerned = b.all[b.Sidecars/2 : b.Sidecars/2+1]
			change = func(i int) store.Op {
				return put(timeout("single", &meshv1.TargetRef{
					Kind: "Dataplane",
					Name: sidecar(b.Sidecars / 2),
				}, meshRef(), i))
			}
		}
		if len(concerned) == 0 {
			return fmt.Errorf("a change of kind %q concerns no sidecar of this shape", kind)
		}
		f, err := b.measure(ctx, kindNames[kind], concerned, change)
		if err != nil {
			return fmt.Errorf("%s: %w", kindNames[kind], err)
		}
		out.Figures = append(out.Figures, f)
		if kind == "sidecar" {
			out.UntouchedBytes = math.Round(f.BytesOthers * float64(b.Rounds))
			for _, q := range perProxy {
				// One computation per round and query is the touched sidecar's own.
				out.UntouchedComputes += max(0, math.Round(f.Computes[q]*float64(b.Rounds))-float64(b.Rounds))
			}
		}
	}
	if b.Churn > 0 {
		if err := b.churn(ctx, out); err != nil {
			return fmt.Errorf("churn: %w", err)
		}
	}
	if b.Restart {
		if err := b.restart(ctx, out); err != nil {
			return fmt.Errorf("restart: %w", err)
		}
	}
	if b.Idle > 0 {
		runtime.GC() // what the load left is not idling
		before := cpu()
		if err := backoff.Wait(ctx, b.Idle); err != nil {
			return err
		}
		out.IdleCPU = (cpu() - before) / b.Idle.Seconds() * 100
	}
	return nil
}

// coldStart connects all sidecars at once.
func (b *bench) coldStart(ctx context.Context, out *Report) error {
	revision, err := b.plane.store.Revision(ctx)
	if err != nil {
		return err
	}
	s := &startOrder{Address: b.plane.address, CA: b.plane.ca}
	for i := range b.Sidecars {
		s.Nodes = append(s.Nodes, benchMesh+"."+sidecar(i))
	}
	g := b.plane.answers.expect(revision, b.all)
	start, used := time.Now(), cpu()
	if _, err := b.child.do(order{Start: s}); err != nil {
		return err
	}
	if err := b.plane.answers.wait(ctx, g); err != nil {
		return fmt.Errorf("cold start: %w", err)
	}
	out.ColdStart, out.ColdStartCPU = milliseconds(g.last.Sub(start)), cpu()-used
	r, err := b.child.do(order{})
	if err != nil {
		return err
	}
	for _, n := range r.Bytes {
		out.ColdStartBytes = max(out.ColdStartBytes, float64(n))
	}
	return nil
}

// startFloor connects as many bare streams, each of which gets what a sidecar got at the start.
func (b *bench) startFloor(ctx context.Context, out *Report) error {
	start := time.Now()
	if _, err := b.child.do(order{Floor: b.plane.bare}); err != nil {
		return err
	}
	if err := b.plane.floor.start(ctx, b.Sidecars, int(out.ColdStartBytes)); err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	out.ColdStartFloor = milliseconds(time.Since(start))
	return nil
}

// round commits one change and waits for the concerned sidecars.
func (b *bench) round(ctx context.Context, concerned []mesh.Key, change func(int) store.Op, i int,
	took *time.Duration) error {
	start := time.Now()
	revision, err := b.plane.commit(ctx, change(i))
	if err != nil {
		return err
	}
	g := b.plane.answers.expect(revision, concerned)
	if err := b.plane.answers.wait(ctx, g); err != nil {
		return err
	}
	if took != nil {
		*took = g.last.Sub(start)
	}
	return nil
}

// measure makes one change per round, and in turn pushes the same bytes to as many bare streams, so
// that both see the same machine. The first round is not counted.
func (b *bench) measure(ctx context.Context, name string, concerned []mesh.Key,
	change func(round int) store.Op) (Figure, error) {
	f := Figure{Name: name, Concerned: len(concerned), Computes: map[string]float64{}}
	n := float64(b.Rounds)
	var times, floors []time.Duration
	got := make([]float64, b.Sidecars)
	for i := range b.Rounds + 1 {
		before, err := b.child.do(order{})
		if err != nil {
			return f, err
		}
		computes, err := b.plane.computes(ctx)
		if err != nil {
			return f, err
		}
		var was, is runtime.MemStats
		runtime.ReadMemStats(&was)
		used := cpu()
		var took time.Duration
		if err := b.round(ctx, concerned, change, i, &took); err != nil {
			return f, err
		}
		used = cpu() - used
		runtime.ReadMemStats(&is)
		after, err := b.child.do(order{})
		if err != nil {
			return f, err
		}
		now, err := b.plane.computes(ctx)
		if err != nil {
			return f, err
		}
		size := int64(0)
		for s := range after.Bytes {
			size = max(size, after.Bytes[s]-before.Bytes[s])
		}
		floor := cpu()
		d, err := b.plane.floor.round(ctx, len(concerned), int(size))
		if err != nil {
			return f, fmt.Errorf("floor: %w", err)
		}
		if i == 0 {
			continue
		}
		times, floors = append(times, took), append(floors, d)
		f.CPU += used / n
		f.FloorCPU += (cpu() - floor) / n
		f.SidecarsCPU += (after.CPU - before.CPU) / n
		f.Allocs += float64(is.Mallocs-was.Mallocs) / n
		f.AllocBytes += float64(is.TotalAlloc-was.TotalAlloc) / n
		for s := range got {
			got[s] += float64(after.Bytes[s]-before.Bytes[s]) / n
		}
		for q, v := range now {
			if d := v - computes[q]; d > 0 {
				f.Computes[q] += d
			}
		}
	}
	for q := range f.Computes {
		f.Computes[q] /= n
	}
	slices.Sort(got)
	for i, v := range got {
		if i < len(got)-len(concerned) {
			f.BytesOthers += v
		} else {
			f.BytesEach += v / float64(len(concerned))
		}
	}
	f.P50, f.P99 = quantile(times, 0.5), quantile(times, 0.99)
	f.FloorP50, f.FloorP99 = quantile(floors, 0.5), quantile(floors, 0.99)
	if f.FloorP50 > 0 {
		f.Ratio = f.P50 / f.FloorP50
	}
	return f, nil
}

// churn lets endpoints come and go at a steady rate, whether or not the sidecars keep up.
func (b *bench) churn(ctx context.Context, out *Report) error {
	type change struct {
		at time.Time
		g  *group
	}
	var changes []change
	there := map[int]bool{}
	r := rand.New(rand.NewPCG(1, 2))
	var called []int
	for svc, callers := range b.callers {
		if len(callers) > 0 {
			called = append(called, svc)
		}
	}
	start, used := time.Now(), cpu()
	for i := 0; time.Since(start) < b.ChurnFor; i++ {
		// Each change has its time, from which its lag counts; what is late is made at once, so
		// that the rate holds.
		at := start.Add(time.Duration(i) * time.Second / time.Duration(b.Churn))
		if early := time.Until(at); early > 0 {
			if err := backoff.Wait(ctx, early); err != nil {
				return err
			}
		}
		svc := called[r.IntN(len(called))]
		there[svc] = !there[svc]
		revision, err := b.plane.commit(ctx, toggle(svc, b.Shape, there[svc]))
		if err != nil {
			return err
		}
		changes = append(changes, change{at, b.plane.answers.expect(revision, b.callers[svc])})
	}
	took := time.Since(start)
	for _, c := range changes {
		if err := b.plane.answers.wait(ctx, c.g); err != nil {
			return err
		}
	}
	if len(changes) < 3 {
		return fmt.Errorf("only %d changes in %s: the rate or the time is too small", len(changes),
			b.ChurnFor)
	}
	var lags []time.Duration
	for _, c := range changes {
		lags = append(lags, c.g.last.Sub(c.at))
	}
	third := len(lags) / 3
	out.Churn = &Churn{
		Rate:     float64(len(changes)) / took.Seconds(),
		Seconds:  took.Seconds(),
		CPUShare: (cpu() - used) / took.Seconds() * 100,
		FirstP50: quantile(slices.Clone(lags[:third]), 0.5),
		LastP50:  quantile(slices.Clone(lags[len(lags)-third:]), 0.5),
		P99:      quantile(lags, 0.99),
	}
	return nil
}

// restart is what a zone's restart is to its sidecars: all streams end, and all come back with what
// they hold.
func (b *bench) restart(ctx context.Context, out *Report) error {
	before, err := b.child.do(order{})
	if err != nil {
		return err
	}
	revision, err := b.plane.store.Revision(ctx)
	if err != nil {
		return err
	}
	start, used := time.Now(), cpu()
	if err := b.plane.stopXDS(); err != nil {
		return err
	}
	if err := b.plane.startXDS(ctx); err != nil {
		return err
	}
	if err := b.plane.answers.wait(ctx, b.plane.answers.expect(revision, b.all)); err != nil {
		return err
	}
	out.Restart = &Restart{Time: milliseconds(time.Since(start)), CPU: cpu() - used}
	after, err := b.child.do(order{})
	if err != nil {
		return err
	}
	for i := range after.Bytes {
		out.Restart.Bytes += float64(after.Bytes[i] - before.Bytes[i])
	}
	return nil
}

// untouched measures the CPU of a change for ten sidecars among all and among a tenth.
func (c Config) untouched(ctx context.Context, out *Report) error {
	u := &Untouched{Few: max(c.Sidecars/10, groupSize), Many: c.Sidecars}
	for _, m := range []struct {
		sidecars int
		cpu      *float64
	}{{u.Few, &u.FewCPU}, {u.Many, &u.ManyCPU}} {
		s := c.Shape
		s.Sidecars = m.sidecars
		err := c.with(ctx, s, func(b *bench) error {
			if err := b.coldStart(ctx, &Report{}); err != nil {
				return err
			}
			change := func(i int) store.Op {
				return put(timeout("group", &meshv1.TargetRef{
					Kind:   "Dataplane",
					Labels: map[string]string{"group": "measured"},
				}, meshRef(), i))
			}
			rounds := 20 * c.Rounds
			used := 0.0
			for i := range rounds + 10 {
				if i == 10 {
					runtime.GC()
					used = cpu()
				}
				if err := b.round(ctx, b.all[:groupSize], change, i, nil); err != nil {
					return err
				}
			}
			*m.cpu = (cpu() - used) / float64(rounds)
			return nil
		})
		if err != nil {
			return fmt.Errorf("untouched sidecars: %w", err)
		}
	}
	out.Untouched = u
	return nil
}
