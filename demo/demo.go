// Package demo shows Meridian at work with real parts: a global control plane, two zone
// control planes, a sidecar per workload and an ingress per zone (all Envoys), and small HTTP
// programs, each an operating-system process of its own on a loopback address of its own.
//
// # Shape
//
// A [Stack] owns the processes and knows the addresses; it can start, kill and restart each. A step
// is a function over the stack that does something an operator would do (apply a file, kill a
// process) and then checks what a user would see (answers, status). A [Report] prints each
// expectation with what was seen. The files that steps apply are in the folder yaml, as a user
// would write them.
//
// Conditions are awaited by asking again with a deadline: the demo stands outside, as a user does.
// Nothing in the product is waited for that way. Traffic runs in a [Load], which keeps every failed
// request with its time, so that "no failed request" is a count and not a sample.
//
// # Failure
//
// A check that misses is printed and counted, and the demo goes on, since later steps may show why.
// Every process writes to its own file below the stack's folder. All processes end with the demo,
// however it ends (parent-death signal).
//
// No example: it starts programs on fixed loopback addresses; meridian demo runs it.
package demo

import (
	"context"
	"embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed yaml
var documents embed.FS

// Config of a demo.
type Config struct {
	// Meridian and Launcher are the two programs.
	Meridian, Launcher string
	// Envoy's binary; empty lets the launcher find one.
	Envoy string
	// Dir holds data, documents and logs; it is recreated.
	Dir string
	// Store is "embedded" or "postgres": clusters of the demo's own.
	Store string
	// Network is the first two bytes of the loopback addresses, such as "127.0".
	Network string
	// Once ends the demo after the last step; otherwise it stays up until the context ends.
	Once bool
	// Scenario is the name of a scenario, one of [Scenarios]; empty is the first of them.
	Scenario string
	// Steps to run, by number; empty is all. The ones before are needed by most.
	Steps []int
	Out   io.Writer
}

type step struct {
	title string
	run   func(context.Context, *Stack, *Report) error
}

// The scenarios: an operator with Meridian, and a developer of services.
const (
	Operations = "operations"
	Resilience = "resilience"
)

// Scenarios are the names of all scenarios.
var Scenarios = []string{Operations, Resilience}

var operations = []step{
	{"join: a token is all it takes", stepJoin},
	{"zero trust: mTLS, and no client may call until a policy says so", stepTrust},
	{"canary: a route written at global steers traffic in the zone", stepCanary},
	{"failover: one service over two zones", stepFailover},
	{"timeout: a slow handler is cut, in both zones", stepTimeout},
	{"independence: control planes die, traffic does not", stepIndependence},
	{"a bad policy: refused, or seen, and harmless", stepBadPolicy},
}

// Run plays the scenario. It returns how many checks passed and failed, and an error if the stack did
// not come up.
func Run(ctx context.Context, cfg Config) (passed, failed int, err error) {
	r := &Report{out: cfg.Out}
	s, err := newStack(cfg)
	if err != nil {
		return 0, 0, err
	}
	defer s.Close()
	r.say("Starting global, us-east and eu-west on %s.*, store %s. Logs and data: %s", cfg.Network, cfg.Store,
		s.dir)
	if err := s.Up(ctx); err != nil {
		return 0, 0, err
	}
	steps := operations
	if cfg.Scenario == Resilience {
		steps = resilience
	}
	for i, st := range steps {
		if len(cfg.Steps) > 0 && !slices.Contains(cfg.Steps, i+1) {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		began := time.Now()
		r.say("\n%d. %s", i+1, strings.ToUpper(st.title[:1])+st.title[1:])
		r.delays = nil
		if err := st.run(ctx, s, r); err != nil {
			r.Check("the step comes to its end", false, "%v", err)
		}
		r.printDelays()
		r.say("   (%s)", time.Since(began).Round(10*time.Millisecond))
	}
	if len(r.allDelays) > 0 {
		r.say("\nOver all steps")
		m := median(r.allDelays)
		r.Check("median time from the API's answer at global to the last proxy's ACK under 100 ms",
			m < 100*time.Millisecond,
			"%s over %d changes, slowest %s", short(m), len(r.allDelays), short(slices.Max(r.allDelays)))
	}
	if !cfg.Once && ctx.Err() == nil {
		r.say("\n%s", s.play())
		<-ctx.Done()
	}
	return r.passed, r.failed, nil
}

// Report prints and counts.
type Report struct {
	out            io.Writer
	mu             sync.Mutex
	passed, failed int
	delays         []time.Duration
	allDelays      []time.Duration
}

func (r *Report) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.out, format+"\n", args...)
}

// Check prints one expectation and what was seen.
func (r *Report) Check(expect string, ok bool, seen string, args ...any) bool {
	mark := "✓"
	r.mu.Lock()
	if ok {
		r.passed++
	} else {
		mark = "✗"
		r.failed++
	}
	r.mu.Unlock()
	r.say("   %s expected: %s\n     seen:     %s", mark, expect, fmt.Sprintf(seen, args...))
	return ok
}

// delivered notes the time from the API's answer to the last proxy's ACK.
func (r *Report) delivered(what string, took time.Duration) {
	r.mu.Lock()
	r.delays = append(r.delays, took)
	r.allDelays = append(r.allDelays, took)
	n := len(r.delays)
	r.mu.Unlock()
	if n <= 5 {
		r.say("     %s: with the last proxy %s after the API's answer", what, short(took))
	}
}

func (r *Report) printDelays() {
	if len(r.delays) > 5 {
		r.say("     %d changes in this step: median %s to the last proxy's ACK, slowest %s", len(r.delays),
			short(median(r.delays)), short(slices.Max(r.delays)))
	}
}

func median(ds []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(ds))
	return sorted[len(sorted)/2]
}

func short(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// eventually asks until the condition holds or the time is up, and returns how long it took and
// what was seen last.
func eventually(ctx context.Context, limit time.Duration,
	condition func(context.Context) (bool, string)) (bool, string, time.Duration) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	seen := "nothing yet"
	for {
		ok, text := condition(ctx)
		if text != "" && (ctx.Err() == nil || ok) {
			seen = text
		}
		if ok {
			return true, seen, time.Since(began)
		}
		select {
		case <-ctx.Done():
			return false, seen, time.Since(began)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// await is eventually as a check.
func (r *Report) await(ctx context.Context, limit time.Duration, expect string,
	condition func(context.Context) (bool, string)) bool {
	ok, seen, took := eventually(ctx, limit, condition)
	return r.Check(expect, ok, "%s (%s)", seen, short(took))
}
