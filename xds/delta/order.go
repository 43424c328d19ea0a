package delta

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// next is the next response to send now, or nil. It counts as sent.
func (s *state) next(now time.Time) *response {
	if s.desired == nil {
		return nil
	}
	if s.move.plan != nil {
		return s.nextOfPlan(now)
	}
	cluster, endpoint, listener, route, secret := &s.types[TypeCluster], &s.types[TypeEndpoint],
		&s.types[TypeListener], &s.types[TypeRoute], &s.types[TypeSecret]
	if r := s.upsert(TypeSecret, now, nil); r != nil {
		return r
	}
	if r := s.upsert(TypeCluster, now, nil); r != nil {
		return r
	}
	// The endpoints of a cluster that is about to be sent go after it. If an older version of it is
	// with the client, they go at once: Envoy does not answer for clusters before those have their
	// endpoints.
	if r := s.upsert(TypeEndpoint, now, func(name string) bool {
		_, waits := cluster.pendingUpserts[name]
		return !waits || cluster.inFlight(name)
	}); r != nil {
		return r
	}
	if !cluster.upserted() || !s.warm() {
		return nil
	}
	if r := s.upsert(TypeListener, now, nil); r != nil {
		return r
	}
	// What a warming listener has just asked for does not wait for the listener's answer.
	listeners := listener.upserted()
	if r := s.upsert(TypeRoute, now,
		func(name string) bool { return listeners || !route.holds(name) }); r != nil {
		return r
	}
	if !s.initialized || !listeners || !route.upserted() || !secret.upserted() {
		return nil
	}
	if r := s.remove(TypeListener, now); r != nil {
		return r
	}
	if !listener.done() {
		return nil
	}
	if r := s.remove(TypeRoute, now); r != nil {
		return r
	}
	if !route.done() {
		return nil
	}
	if r := s.remove(TypeCluster, now); r != nil {
		return r
	}
	if !cluster.done() {
		return nil
	}
	if r := s.remove(TypeEndpoint, now); r != nil {
		return r
	}
	if !endpoint.done() {
		return nil
	}
	return s.remove(TypeSecret, now)
}

// inFlight says that the client was sent something of the name and has not answered.
func (ts *typeState) inFlight(name string) bool {
	it, _ := ts.items.get(name)
	return it.inFlight != nil
}

// holds says that the client was sent something of the name.
func (ts *typeState) holds(name string) bool {
	it, _ := ts.items.get(name)
	return it.held != nil
}

// upserted says that everything to add or change was answered.
func (ts *typeState) upserted() bool { return len(ts.pendingUpserts) == 0 && len(ts.open) == 0 }

// done says that everything was answered.
func (ts *typeState) done() bool { return ts.upserted() && len(ts.pendingRemovals) == 0 }

// warm says that no cluster which was just sent waits for endpoints that the client asked for.
func (s *state) warm() bool {
	ts := &s.types[TypeEndpoint]
	if ts.upserted() {
		return true
	}
	return !s.warming.any(func(name string) bool {
		_, waits := ts.pendingUpserts[name]
		return waits || ts.inFlight(name)
	})
}

// upsert makes a response of what is up and may go.
func (s *state) upsert(t Type, now time.Time, may func(name string) bool) *response {
	ts := &s.types[t]
	if len(ts.pendingUpserts) == 0 || len(ts.open) >= maxOpen || ts.limit > 0 && len(ts.open) > 0 {
		return nil
	}
	r := &response{typ: t}
	if n := len(ts.pendingUpserts); n > manyUpserts {
		r.resources, r.before = make([]*Resource, 0, n), make([]*Resource, 0, n)
		ts.items.reserve(n)
		ts.large = true
	}
	size := 0
	for name, w := range ts.pendingUpserts {
		it, _ := ts.items.get(name)
		if it.inFlight != nil || may != nil && !may(name) {
			continue
		}
		res := w.resource
		if res == nil {
			if size += len(name) + nameOverhead; size > s.limits.response &&
				len(r.resources)+len(r.removed) > 0 {
				break
			}
			r.removed = append(r.removed, name)
			it.held = absent
		} else {
			n := len(res.bytes())
			if len(r.resources)+len(r.removed) > 0 && size+n > s.limits.response ||
				len(r.resources) > 0 && len(r.resources) == ts.limit {
				break
			}
			size += n
			r.resources = append(r.resources, res)
			r.before = append(r.before, it.held)
			it.held = res
			name = res.Name
		}
		r.since = oldest(r.since, w.since)
		ts.pendingUpserts.remove(name)
		it.inFlight = r
		ts.items.set(name, it)
	}
	if len(r.resources) == 0 && len(r.removed) == 0 {
		return nil
	}
	if t == TypeCluster {
		if n := len(r.resources); n > manyUpserts {
			ends := &s.types[TypeEndpoint]
			ends.large = true
			ends.items.reserve(n)
			ends.pendingUpserts.reserve(n)
			s.warming.reserve(n)
		}
		for _, res := range r.resources {
			s.warmUp(res.endpoints)
		}
	}
	return s.send(ts, r, now)
}

// warmUp brings the endpoints of a cluster that was just sent once more: a proxy that replaces a
// cluster does not ask again for endpoints that it already has, and the new cluster takes no
// traffic until it gets them.
func (s *state) warmUp(name string) {
	if name == "" {
		return
	}
	s.warming.add(name)
	ts := &s.types[TypeEndpoint]
	if it, ok := ts.items.get(name); ok && it.named {
		it.held = nil
		ts.items.set(name, it)
		s.recheck(TypeEndpoint, name)
	}
}

// remove makes a response of names to take away.
func (s *state) remove(t Type, now time.Time) *response {
	ts := &s.types[t]
	r := &response{typ: t}
	size := 0
	for name, w := range ts.pendingRemovals {
		it, _ := ts.items.get(name)
		if it.inFlight != nil {
			continue
		}
		if size += len(name) + nameOverhead; size > s.limits.response && len(r.removed) > 0 {
			break // the rest goes when this was answered
		}
		r.removed = append(r.removed, name)
		r.since = oldest(r.since, w.since)
		ts.pendingRemovals.remove(name)
		it.held, it.inFlight = absent, r
		ts.items.set(name, it)
		if t == TypeEndpoint {
			s.warming.remove(name)
		}
	}
	if len(r.removed) == 0 {
		return nil
	}
	return s.send(ts, r, now)
}

// maxNonce is the length of the longest nonce: two numbers of 64 bits and a point.
const maxNonce = 2*13 + 1

func (s *state) send(ts *typeState, r *response, now time.Time) *response {
	s.nonces++
	// No client can answer what it has not read.
	nonce := strconv.AppendUint(make([]byte, 0, maxNonce), s.nonces, 36)
	nonce = strconv.AppendUint(append(nonce, '.'), rand.Uint64(), 36)
	r.nonce = string(nonce)
	r.revision, r.committed, r.sent = s.revision, s.committed, now
	ts.open = append(ts.open, r)
	return r
}

// unanswered is how many bytes were sent and not answered.
func (s *state) unanswered() int {
	n := 0
	for t := range s.types {
		for _, r := range s.types[t].open {
			n += r.size() + envelope
		}
	}
	return n
}

// oldest is the smaller of two revisions of which 0 is none.
func oldest(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
