package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/xds/delta"
)

// answers stands between the server and the engine and tells when proxies have answered what.
type answers struct {
	mu     sync.Mutex
	source delta.Source          // guarded by mu
	at     map[mesh.Key]uint64   // guarded by mu
	due    map[mesh.Key][]*group // guarded by mu: by ascending revision
}

// group is a revision and the proxies that must answer it.
type group struct {
	revision uint64
	left     int       // guarded by answers.mu
	last     time.Time // of the last answer, once done is closed
	done     chan struct{}
}

func newAnswers() *answers {
	return &answers{at: map[mesh.Key]uint64{}, due: map[mesh.Key][]*group{}}
}

// Open implements delta.Source.
func (a *answers) Open(o delta.OpenRequest) delta.Watch {
	a.mu.Lock()
	source := a.source
	a.at[o.Proxy] = 0 // a new stream has answered nothing
	a.mu.Unlock()
	return &countingWatch{Watch: source.Open(o), answers: a, proxy: o.Proxy}
}

// follow sets the engine, at the start and after a restart; it has no answer yet.
func (a *answers) follow(s delta.Source) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.source = s
	clear(a.at)
}

type countingWatch struct {
	delta.Watch
	answers *answers
	proxy   mesh.Key
}

// Ack implements delta.Watch.
func (c *countingWatch) Ack(revision uint64, rejections []delta.Rejection) {
	c.Watch.Ack(revision, rejections)
	now := time.Now()
	a := c.answers
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[c.proxy] = revision
	due := a.due[c.proxy]
	for len(due) > 0 && due[0].revision <= revision {
		if due[0].left--; due[0].left == 0 {
			due[0].last = now
			close(due[0].done)
		}
		due = due[1:]
	}
	a.due[c.proxy] = due
}

// expect follows who of the proxies has answered a revision. Revisions are expected in ascending order.
func (a *answers) expect(revision uint64, proxies []mesh.Key) *group {
	g := &group{revision: revision, done: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range proxies {
		if a.at[p] < revision {
			g.left++
			a.due[p] = append(a.due[p], g)
		}
	}
	if g.left == 0 {
		g.last = time.Now()
		close(g.done)
	}
	return g
}

// wait blocks until all have answered.
func (a *answers) wait(ctx context.Context, g *group) error {
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		return fmt.Errorf("%d sidecars have not acknowledged revision %d: %w", g.left, g.revision, ctx.Err())
	}
}
