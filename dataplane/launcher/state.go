package launcher

import (
	"slices"
	"sync"

	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

// state is what the launcher has to say to the zone, whole, and what the readiness endpoint reads.
type state struct {
	mu sync.Mutex
	// sections are all inbounds; while Envoy is not live none of them can be called.
	sections []string
	live     bool
	notReady []string
	draining bool
	accepted bool
	changed  chan struct{}
}

// newState is that of a launcher with the inbounds named, whose Envoy does not run yet.
func newState(sections ...string) *state {
	return &state{sections: slices.Sorted(slices.Values(sections)), changed: make(chan struct{})}
}

// setLive says whether Envoy takes connections.
func (s *state) setLive(live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != live {
		s.live = live
		s.announce()
	}
}

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
	notReady := s.notReady
	if !s.live {
		notReady = s.sections
	}
	return &dataplanev1.Report{NotReady: slices.Clone(notReady), Draining: s.draining}, s.changed
}

func (s *state) readiness() (accepted, draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted, s.draining
}
