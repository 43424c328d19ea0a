package launcher

import (
	"slices"
	"sync"

	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

// state is what the launcher has to say to the zone, whole, and what the readiness endpoint reads.
type state struct {
	mu       sync.Mutex
	notReady []string
	draining bool
	accepted bool
	changed  chan struct{}
}

func newState() *state { return &state{changed: make(chan struct{})} }

func (s *state) setNotReady(sections []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.notReady, sections) {
		return
	}
	s.notReady = sections
	s.announce()
}

func (s *state) setDraining() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.draining = true
		s.announce()
	}
}

func (s *state) setAccepted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = true
}

func (s *state) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// report is the state now, and a channel that is closed at the next change of it.
func (s *state) report() (*dataplanev1.Report, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &dataplanev1.Report{NotReady: slices.Clone(s.notReady), Draining: s.draining}, s.changed
}

func (s *state) readiness() (accepted, draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted, s.draining
}
