package universal

import (
	"context"
	"errors"
	"fmt"

	"github.com/meridian-mesh/meridian/mesh"
	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

// maxAdminAnswer bounds what a launcher may answer, bytes.
const maxAdminAnswer = 64 << 20

// Errors of [Registry.Admin].
var (
	// ErrNoLauncher says that no launcher of the proxy is connected to this control plane.
	ErrNoLauncher = errors.New("no launcher of this proxy is connected")
	// ErrCannotAnswer says that the launcher, or its Envoy, does not answer the question.
	ErrCannotAnswer = errors.New("the launcher cannot answer")
)

// Admin asks a proxy's launcher what its Envoy's admin interface says: "config_dump", "clusters",
// "stats" (filter is a regular expression on names), "listeners" or "server_info", as JSON.
func (r *Registry) Admin(ctx context.Context, proxy mesh.Key, what, filter string) ([]byte, error) {
	r.mu.Lock()
	var s *session
	if p := r.proxies[proxy]; p != nil {
		s = p.session
	}
	r.mu.Unlock()
	switch {
	case s == nil:
		return nil, ErrNoLauncher
	case !s.answers:
		return nil, fmt.Errorf("%w: meridian-dp %s is too old", ErrCannotAnswer, s.version)
	}
	return s.ask(ctx, what, filter)
}

// topics are the words of the management API.
var topics = map[string]dataplanev1.AdminTopic{
	"config_dump": dataplanev1.AdminTopic_ADMIN_TOPIC_CONFIG_DUMP,
	"clusters":    dataplanev1.AdminTopic_ADMIN_TOPIC_CLUSTERS,
	"stats":       dataplanev1.AdminTopic_ADMIN_TOPIC_STATS,
	"listeners":   dataplanev1.AdminTopic_ADMIN_TOPIC_LISTENERS,
	"server_info": dataplanev1.AdminTopic_ADMIN_TOPIC_SERVER_INFO,
}

func (s *session) ask(ctx context.Context, what, filter string) ([]byte, error) {
	a := &ask{done: make(chan struct{})}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil, ErrNoLauncher
	}
	s.next++
	id := s.next
	s.asked[id] = a
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.asked, id)
		s.mu.Unlock()
	}()
	if err := s.stream.send(&dataplanev1.SessionResponse{AdminQuestion: &dataplanev1.AdminQuestion{
		Id:     id,
		Topic:  topics[what],
		Filter: filter,
	}}); err != nil {
		return nil, ErrNoLauncher
	}
	select {
	case <-a.done:
		return a.body, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// take takes in a part of an answer. An answer whose caller has given up is dropped.
func (s *session) take(part *dataplanev1.AdminAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.asked[part.GetId()]
	if a == nil {
		return
	}
	a.body = append(a.body, part.GetBody()...)
	last := part.GetLast()
	switch {
	case part.GetError() != "":
		a.body, a.err, last = nil, fmt.Errorf("%w: %s", ErrCannotAnswer, part.GetError()), true
	case len(a.body) > maxAdminAnswer:
		// The launcher goes on sending, and the rest is dropped.
		a.body, a.err, last = nil,
			fmt.Errorf("%w: it is longer than %d bytes", ErrCannotAnswer, maxAdminAnswer), true
	}
	if last {
		delete(s.asked, part.GetId())
		close(a.done)
	}
}

// end fails all that waits.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for id, a := range s.asked {
		delete(s.asked, id)
		a.err = ErrNoLauncher
		close(a.done)
	}
}
