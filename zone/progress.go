package zone

import (
	"context"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/xds"
)

// progress is the engine's progress as everybody in the zone reads it. A burst of a thousand
// answers changes it a thousand times, and computing it costs as much as there are proxies that owe
// one; so one goroutine computes it, for all readers, and rests in between for a multiple of what
// the last time cost. What readers see is at most that much behind.
type progress struct {
	engine *xds.Engine

	mu      sync.Mutex
	latest  xds.Progress
	changed chan struct{}
}

// Rest between two computations: at least minRest, and restFactor times what the last one took.
const (
	minRest    = time.Millisecond
	restFactor = 5
)

func newProgress(engine *xds.Engine) *progress {
	return &progress{engine: engine, changed: make(chan struct{})}
}

func (p *progress) run(ctx context.Context) error {
	for {
		change := p.engine.ProgressChanged()
		began := time.Now()
		next := p.engine.Progress()
		p.set(next)
		rest := max(minRest, restFactor*time.Since(began))
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
		t := time.NewTimer(rest)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

func (p *progress) set(next xds.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latest = next
	close(p.changed)
	p.changed = make(chan struct{})
}

// read is the latest progress and what is closed at the next.
func (p *progress) read() (xds.Progress, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest, p.changed
}

// next is closed at the next change; take it before now.
func (p *progress) next() <-chan struct{} {
	_, changed := p.read()
	return changed
}

func (p *progress) now() xds.Progress {
	latest, _ := p.read()
	return latest
}
