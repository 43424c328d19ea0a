package delta

import (
	"sync"
	"time"
	"weak"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// plan is what a step from one segment to another sends to a client that holds all of the first:
// whole responses, made once for every stream that takes the step. There is one only for a step that
// replaces resources and neither adds nor removes names, which is what a policy or an endpoint does.
type plan struct {
	// parts are the responses; nil where nothing of the type changes.
	parts [numTypes]*part
	// warming are the names of the endpoints that the clusters of the step wait for. They are a part
	// of the endpoints' response, changed or not.
	warming map[string]struct{}
	// changed are the endpoints that go whether their clusters do or not.
	changed []*Resource
}

// part is one response of a plan.
type part struct {
	typ       Type
	resources []*Resource
	// size is that of all resources, largest that of one, in bytes.
	size, largest int

	mu   sync.Mutex
	body weak.Pointer[body] // guarded by mu; weak, for a plan lives as long as its segment
}

// body is an encoded response without its nonce.
type body struct{ buffer mem.Buffer }

// newPlan is the plan of a step to a segment, all of whose changed resources replace others.
func newPlan(to *Segment, step *Step) *plan {
	p := &plan{changed: step.Changed[TypeEndpoint]}
	resources := step.Changed
	for _, c := range step.Changed[TypeCluster] {
		if c.endpoints == "" {
			continue
		}
		e := to.Lookup(TypeEndpoint, c.endpoints)
		if e == nil {
			return nil
		}
		if p.warming == nil {
			p.warming = make(map[string]struct{}, len(step.Changed[TypeCluster]))
			resources[TypeEndpoint] = nil
		}
		if _, twice := p.warming[e.Name]; !twice {
			p.warming[e.Name] = struct{}{}
			resources[TypeEndpoint] = append(resources[TypeEndpoint], e)
		}
	}
	if p.warming != nil {
		for _, e := range p.changed {
			if _, has := p.warming[e.Name]; !has {
				resources[TypeEndpoint] = append(resources[TypeEndpoint], e)
			}
		}
	}
	for t, list := range resources {
		if len(list) == 0 {
			continue
		}
		one := &part{typ: Type(t), resources: list}
		for _, r := range list {
			n := len(r.bytes())
			one.size += n
			one.largest = max(one.largest, n)
		}
		p.parts[t] = one
	}
	return p
}

// content is the encoded response, made by the first stream that sends it.
func (p *part) content() *body {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.body.Value(); b != nil {
		return b
	}
	url := p.typ.URL()
	data := make([]byte, 0, p.size+protowire.SizeTag(responseTypeURL)+protowire.SizeBytes(len(url)))
	for _, r := range p.resources {
		data = append(data, r.bytes()...)
	}
	data = protowire.AppendTag(data, responseTypeURL, protowire.BytesType)
	data = protowire.AppendString(data, url)
	b := &body{mem.SliceBuffer(data)}
	p.body = weak.Make(b)
	return b
}

// move is a stream on its way along a plan. Until a part is answered, the record of its type has the
// table before the step as its base; then the table after it.
type move struct {
	plan *plan // nil: the stream is on no plan
	// since is the revision of the step.
	since uint64
	at    [numTypes]progress
}

// progress is how far a part is.
type progress uint8

const (
	partDone progress = iota // there is none, or it is answered
	partUnsent
	partSent
)

// follows says that a stream can take a step by its plan: it holds all that the table before says,
// and nothing is open, pending or rejected. s.desired is that table.
func (s *state) follows(p *plan) bool {
	if p == nil || s.sotw {
		return false
	}
	for t := range s.types {
		ts := &s.types[t]
		if !ts.done() {
			return false
		}
		one := p.parts[t]
		if one == nil {
			continue
		}
		items := &ts.items
		switch {
		case items.base != s.desired, len(items.own) > 0, len(ts.rejected) > 0, ts.limit > 0,
			!ts.wildcard && !items.named,
			Type(t) == TypeEndpoint && len(p.warming) > 0 && !items.named,
			one.size > s.limits.response, one.largest > s.limits.message-envelope:
			return false
		}
	}
	return true
}

// take begins a plan.
func (s *state) take(p *plan) {
	s.move = move{plan: p, since: s.revision}
	for t, one := range p.parts {
		if one != nil {
			s.move.at[t] = partUnsent
		}
	}
}

// nextOfPlan is next for a stream on a plan: the same order.
func (s *state) nextOfPlan(now time.Time) *response {
	m := &s.move
	for _, t := range [...]Type{TypeSecret, TypeCluster, TypeEndpoint} {
		if m.at[t] == partUnsent {
			return s.sendPart(t, now)
		}
	}
	switch {
	case m.at[TypeCluster] == partSent, m.at[TypeEndpoint] == partSent && len(m.plan.warming) > 0:
		return nil
	case m.at[TypeListener] == partUnsent:
		return s.sendPart(TypeListener, now)
	case m.at[TypeListener] == partSent:
		return nil
	case m.at[TypeRoute] == partUnsent:
		return s.sendPart(TypeRoute, now)
	}
	return nil
}

func (s *state) sendPart(t Type, now time.Time) *response {
	one := s.move.plan.parts[t]
	s.move.at[t] = partSent
	if t == TypeCluster {
		s.warming.share(s.move.plan.warming)
	}
	return s.send(&s.types[t], &response{
		typ:       t,
		resources: one.resources,
		content:   one.content(),
		bytes:     one.size,
		since:     s.move.since,
	}, now)
}

// landPart takes the ACK of a part: the record of its type moves on by its base alone.
func (s *state) landPart(t Type) {
	ts := &s.types[t]
	clear(ts.open)
	ts.open = ts.open[:0]
	ts.items.base = s.desired
	if t == TypeEndpoint {
		s.warming.unshare(s.move.plan.parts[t].resources)
	}
	s.move.at[t] = partDone
	if s.move.at == ([numTypes]progress{}) {
		s.move = move{}
	}
}

// leavePlan writes down for this stream alone what its place in a plan says, when something
// comes that the plan does not foresee: an update, a rejection, another request.
func (s *state) leavePlan() {
	m := s.move
	if m.plan == nil {
		return
	}
	s.move = move{}
	s.warming.own()
	for t, one := range m.plan.parts {
		ts := &s.types[t]
		switch m.at[t] {
		case partSent:
			s.landLater(ts, one, m.plan)
		case partUnsent:
			if t := Type(t); t == TypeEndpoint {
				s.pendingEndpoints(ts, one, m)
			} else {
				ts.await(one.resources, m.since)
			}
		}
	}
}

// landLater notes that a part was sent and is not answered.
func (s *state) landLater(ts *typeState, one *part, p *plan) {
	r := ts.open[0]
	r.before = make([]*Resource, len(one.resources))
	ts.items.reserve(len(one.resources))
	ts.large = ts.large || len(one.resources) > manyUpserts
	for i, res := range one.resources {
		it, _ := ts.items.get(res.Name)
		if _, again := p.warming[res.Name]; !again || one.typ != TypeEndpoint {
			r.before[i] = it.held
		}
		it.held, it.inFlight = res, r
		ts.items.set(res.Name, it)
	}
}

// pendingEndpoints notes endpoints that were not sent: those of clusters that were, and changed ones.
func (s *state) pendingEndpoints(ts *typeState, one *part, m move) {
	if m.at[TypeCluster] == partUnsent {
		ts.await(m.plan.changed, m.since)
		return
	}
	ts.await(one.resources, m.since)
	for name := range m.plan.warming {
		it, _ := ts.items.get(name)
		it.held = nil
		ts.items.set(name, it)
	}
}

// await makes resources pending.
func (ts *typeState) await(list []*Resource, since uint64) {
	ts.pendingUpserts.reserve(len(list))
	ts.large = ts.large || len(list) > manyUpserts
	for _, res := range list {
		ts.pendingUpserts.set(res.Name, wait{resource: res, since: since})
	}
}
