// Package gcpace sets how often the garbage of a control plane is collected.
//
// A control plane holds a heap that lives long, and makes garbage in bursts: a join wave, a flood
// of writes, a policy for every proxy. A low GOGC keeps the memory of a large heap within its
// budget, and makes a small heap collect many times a second while a burst lasts, for a gain of few
// megabytes. So collections have two paces. Those that follow each other slowly keep the percentage
// that they are given. As soon as they follow each other within [Busy], the heap may grow by at
// least [Headroom] between two of them. The first slow collection, at the latest the one that the
// runtime forces every two minutes, ends that.
//
// It imports nothing of this module.
package gcpace

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// Headroom is what the heap may grow by between two collections while they follow each other
	// quickly, in bytes.
	Headroom = 40 << 20
	// Busy is the time between two collections below which they follow each other quickly.
	Busy = 500 * time.Millisecond
	// maxPercent bounds the percentage of a heap that is nearly empty.
	maxPercent = 800
)

// Pace sets the percentage after each collection.
type Pace struct {
	base int
	// former is the percentage before the pace began.
	former int
	// set, live and now are the runtime's; tests have their own.
	set  func(percent int) int
	live func() uint64
	now  func() time.Time

	mu      sync.Mutex
	last    time.Time // of the last collection
	percent int
	stopped bool
}

// Start gives the process the percentage of a slow pace, as GOGC means it, and adapts it from then
// on, until Stop. Where GOGC is set in the environment, that counts and nothing is done. There is
// one garbage collector: only one Pace of a process may run at a time.
func Start(percent int) *Pace {
	if os.Getenv("GOGC") != "" {
		return &Pace{stopped: true}
	}
	p := &Pace{
		base: percent,
		set:  debug.SetGCPercent,
		live: liveHeap,
		now:  time.Now,
	}
	p.former, p.percent = p.set(percent), percent
	p.watch()
	return p
}

// Stop gives the process the percentage that it had before.
func (p *Pace) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.stopped = true
		p.set(p.former)
	}
}

// sentinel is garbage as soon as it is made: what is run when it goes runs after each collection.
type sentinel struct{ _ [16]byte }

func (p *Pace) watch() {
	runtime.AddCleanup(&sentinel{}, func(p *Pace) {
		if p.collected() {
			p.watch()
		}
	}, p)
}

// collected follows each collection; it is false once the pace has stopped.
func (p *Pace) collected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	now := p.now()
	busy := !p.last.IsZero() && now.Sub(p.last) < Busy
	p.last = now
	want := p.base
	if busy {
		live := max(p.live(), 1)
		want = max(want, int(min(100*Headroom/live, maxPercent)))
	}
	// Setting it stops all goroutines for a moment: small differences are not worth that.
	if diff := want - p.percent; diff > p.percent/10 || -diff > p.percent/10 {
		p.set(want)
		p.percent = want
	}
	return true
}

// liveHeap is what the last collection left, in bytes.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}
