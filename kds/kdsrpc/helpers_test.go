package kdsrpc

import (
	"strings"
	"sync"
	"testing"
	"time"
)

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// awaitClient looks at the client's state again and again: it is made of the clock as well, so
// there is nothing to wait on.
func awaitClient(t *testing.T, c *Client, ok func(GlobalState) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok(c.State()) {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("client is %+v", c.State())
		}
	}
}

// fakeProgress is the xds engine as the client sees it.
type fakeProgress struct {
	mu      sync.Mutex
	now     LocalProgress
	changed chan struct{}
}

func newFakeProgress() *fakeProgress { return &fakeProgress{changed: make(chan struct{})} }

func (p *fakeProgress) get() LocalProgress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *fakeProgress) watch() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *fakeProgress) set(n LocalProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = n
	close(p.changed)
	p.changed = make(chan struct{})
}
