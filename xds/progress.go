package xds

import (
	"slices"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Progress is how far the proxies are.
type Progress struct {
	// Revision of the replica that is fully processed.
	Revision uint64
	// Acked: every open watch has acknowledged or rejected all of it up to here.
	Acked uint64
	// Online is the number of open watches.
	Online int
	// Pending are proxies that owe an answer, at most maxPending of PendingCount.
	Pending      []mesh.Key
	PendingCount int
	Rejections   []*meshv1.Rejection
}

const maxPending = 20

// Progress is the state at the moment; its cost follows the number of proxies that owe an answer or
// reject something.
func (e *Engine) Progress() Progress {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := Progress{Revision: e.processed, Acked: e.processed, Online: len(e.watches)}
	seen := map[mesh.Key]bool{}
	for f := range e.outstanding {
		p.Acked = min(p.Acked, f.answered())
		if !seen[f.key] {
			seen[f.key] = true
			p.PendingCount++
			p.Pending = append(p.Pending, f.key)
		}
	}
	slices.SortFunc(p.Pending, mesh.Key.Compare)
	p.Pending = p.Pending[:min(len(p.Pending), maxPending)]
	p.Rejections = e.rejections(e.standing())
	return p
}

// ProgressChanged is closed at the next change of [Engine.Progress]; take it before reading that.
func (e *Engine) ProgressChanged() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.progressRead = true
	return e.progress
}

// changed notifies the readers of progress; mu is held.
func (e *Engine) changed() {
	if e.progressRead {
		close(e.progress)
		e.progress, e.progressRead = make(chan struct{}), false
	}
}
