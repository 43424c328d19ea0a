package delta

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

// response is a message that was sent and not answered.
type response struct {
	typ       Type
	nonce     string
	resources []*Resource
	// before is what the client held of each resource until then: what it goes on with if it rejects.
	before  []*Resource
	removed []string
	// since is the revision of the oldest change it brings; revision is that of the table it was made from.
	since, revision uint64
	committed       time.Time
	sent            time.Time
	// sotw is what goes over the wire if the stream is state-of-the-world; nil if it is incremental.
	sotw *sotw
	// content is the encoded response but for its nonce, if other streams have the same; else nil.
	content *body
	// bytes is what size gave.
	bytes int
}

// typeState is what a stream knows of one type.
type typeState struct {
	subscribed, wildcard bool
	items                record
	// pendingUpserts are names whose content the client must get, or of which it must hear that there
	// is none; pendingRemovals are names to take away.
	pendingUpserts, pendingRemovals waits
	// large says that room was made for many names at once.
	large    bool
	open     []*response
	rejected map[string]rejected
	// limit bounds the resources of a response while it is being found out which one the client
	// rejects; 0 is none.
	limit int
}

// wait is what waits to be sent under a name.
type wait struct {
	// resource as the table has it now; nil if it has none.
	resource *Resource
	// since is the revision that began the wait.
	since uint64
}

// waits is what waits, by name.
type waits map[string]wait

func (w *waits) set(name string, v wait) {
	if *w == nil {
		*w = waits{}
	}
	(*w)[name] = v
}

// reserve makes room for n names at once: a map that doubles allocates as much again.
func (w *waits) reserve(n int) {
	if len(*w) == 0 {
		*w = make(waits, n)
	}
}

func (w *waits) remove(name string) {
	delete(*w, name)
}

type rejected struct {
	version string
	Rejection
}

// state is the protocol of one stream, without I/O. It is fed with requests and updates;
// [state.next] says what to send.
type state struct {
	types    [numTypes]typeState
	desired  *Table
	revision uint64
	// committed is the time of the oldest commit that is not answered.
	committed time.Time
	// warming are the endpoints that clusters wait for which were just sent.
	warming *warming
	nonces  uint64
	// initialized says that the client has asked for all types that it will ask for at its start. Until
	// then nothing is taken away: a client that reconnects names its clusters before the routes
	// that still use them.
	initialized bool
	limits      limits
	// move is the plan that the stream follows. Until it leaves the plan, pendingUpserts and the
	// records' own names are empty for the types that the plan is about.
	move move
	// sotw says that the stream is state-of-the-world, whose responses no other stream has.
	sotw bool
	// rejectionChanges counts changes to what is rejected, suppressed resources that are too large.
	rejectionChanges, suppressed int
}

// limits bound what is sent, in bytes: the resources of one response, of which a larger one goes
// alone; and any message.
type limits struct{ response, message int }

// maxOpen is how many responses of a type may wait for an answer: more changes merge until one comes.
const maxOpen = 4

// manyUpserts is from how many resources at once on room is made for them beforehand.
const manyUpserts = 32

func newState(l limits) *state {
	s := &state{limits: l, warming: newWarming()}
	for t := range s.types {
		s.types[t].items.typ = Type(t)
	}
	return s
}

// update takes a new table.
func (s *state) update(u Update) {
	s.leavePlan()
	first := s.desired == nil
	step := u.Table.Diff(s.desired)
	planned := s.follows(step.plan)
	for t := range s.types {
		if items := &s.types[t].items; len(step.Changed[t]) == 0 && len(step.Removed[t]) == 0 && !first &&
			items.base == s.desired {
			items.base = u.Table // it says the same of this type, and the old one can go
		}
	}
	s.desired, s.revision = u.Table, u.Revision
	if s.committed.IsZero() {
		s.committed = u.Committed
	}
	if planned {
		s.take(step.plan)
		return
	}
	for t := range numTypes {
		ts := &s.types[t]
		if first {
			// Names that the client asked for or holds may not be in the table at all.
			for name := range ts.items.all() {
				s.recheck(t, name)
			}
		}
		if n := len(step.Changed[t]); n > manyUpserts {
			ts.pendingUpserts.reserve(n)
			ts.large = true
		}
		for _, r := range step.Changed[t] {
			s.compare(t, r.Name, r)
		}
		for _, name := range step.Removed[t] {
			s.recheck(t, name)
		}
	}
}

// recheck compares what the client holds of a name with what it should, and notes what is to be done.
func (s *state) recheck(t Type, name string) {
	if s.desired != nil {
		s.compare(t, name, s.desired.Lookup(t, name))
	}
}

// compare is recheck with the resource that the table has under the name.
func (s *state) compare(t Type, name string, r *Resource) {
	ts := &s.types[t]
	it, _ := ts.items.get(name)
	since := s.revision
	if w, ok := ts.pendingUpserts[name]; ok {
		since = w.since
		ts.pendingUpserts.remove(name)
	} else if w, ok := ts.pendingRemovals[name]; ok {
		since = w.since
		ts.pendingRemovals.remove(name)
	}
	if !ts.wildcard && !it.named {
		return
	}
	switch {
	case r == nil:
		s.clearNACK(ts, name)
		switch {
		case it.held == nil && it.named:
			ts.pendingUpserts.set(name, wait{since: since})
		case it.held != nil && it.held != absent:
			ts.pendingRemovals.set(name, wait{since: since})
		}
	case it.held != nil && it.held.Version == r.Version && it.held != absent:
		s.clearNACK(ts, name)
		if it.held != r {
			it.held = r
			ts.items.set(r.Name, it)
		}
	case ts.rejected[name].version == r.Version:
	case len(r.bytes()) > s.limits.message-envelope:
		s.suppress(ts, r)
	default:
		ts.pendingUpserts.set(r.Name, wait{resource: r, since: since})
		ts.large = ts.large || len(ts.pendingUpserts) > manyUpserts
	}
}

// envelope is more than what a response has besides its resources and the names that it takes away, in bytes.
const envelope = 256

// nameOverhead is more than a name that is taken away has besides its bytes.
const nameOverhead = 8

// suppress rejects a resource for the client, which could not take it: its connection would end,
// and again the next time.
func (s *state) suppress(ts *typeState, r *Resource) {
	ts.reject(r.Name, rejected{
		version: r.Version,
		Rejection: Rejection{
			Type:     r.Type,
			Resource: r.Name,
			Cause:    r.Cause,
			Revision: s.revision,
			Content:  r,
			Held:     ts.known(r.Name),
			Reason: fmt.Sprintf("not sent: the %s has %d bytes, and a message to this proxy may "+
				"have %d; the "+
				"proxy keeps what it had", r.Type, len(r.bytes()), s.limits.message),
		},
	})
	s.rejectionChanges++
	s.suppressed++
}

// known is what the client holds of a name; nil if that is nothing, or was sent by another server.
func (ts *typeState) known(name string) *Resource {
	it, _ := ts.items.get(name)
	if it.held == nil || it.held == absent || len(it.held.Body) == 0 {
		return nil
	}
	return it.held
}

func (ts *typeState) reject(name string, r rejected) {
	if ts.rejected == nil {
		ts.rejected = map[string]rejected{}
	}
	ts.rejected[name] = r
}

func (s *state) clearNACK(ts *typeState, name string) {
	if _, ok := ts.rejected[name]; ok {
		delete(ts.rejected, name)
		s.rejectionChanges++
	}
}

// request takes a request of a known type. It returns the response that the request answers, if any.
func (s *state) request(t Type, req *discoveryv3.DeltaDiscoveryRequest) *response {
	ts := &s.types[t]
	answered := s.answer(ts, req) // which leaves the plan
	first := !ts.subscribed
	ts.subscribed = true
	s.initialized = s.initialized || s.types[TypeListener].subscribed && s.types[TypeRoute].subscribed
	if first {
		for name, version := range req.GetInitialResourceVersions() {
			ts.items.set(name, item{held: &Resource{Type: t, Name: name, Version: version}})
		}
		if len(req.GetResourceNamesSubscribe()) == 0 && len(req.GetResourceNamesUnsubscribe()) == 0 &&
			(t == TypeCluster || t == TypeListener) {
			ts.wildcard = true
		}
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if name == "*" {
			ts.wildcard = true
			continue
		}
		it, _ := ts.items.get(name)
		it.named = true
		if _, known := req.GetInitialResourceVersions()[name]; !first || !known ||
			t == TypeEndpoint && s.warming.has(name) {
			// A client may have dropped what it asks for: it gets it whatever it was sent before.
			// And after a cut it may hold a cluster that waits for endpoints which it has of old.
			it.held = nil
			s.clearNACK(ts, name)
		}
		if r := s.desired.Lookup(t, name); r != nil {
			name = r.Name // one string for all streams
		}
		ts.items.set(name, it)
		s.recheck(t, name)
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		if name == "*" {
			ts.wildcard = false
			for name, it := range ts.items.all() {
				if !it.named {
					s.drop(t, name)
				}
			}
			continue
		}
		it, ok := ts.items.get(name)
		switch {
		case !ok:
		case ts.wildcard:
			// The client forgets it, yet subscribes to all: it is sent again.
			it.named, it.held = false, nil
			ts.items.set(name, it)
			s.recheck(t, name)
		default:
			s.drop(t, name)
		}
	}
	if first {
		for name := range ts.items.all() {
			s.recheck(t, name)
		}
		if ts.wildcard {
			for r := range s.desired.All(t) {
				s.compare(t, r.Name, r)
			}
		}
	} else if slices.Contains(req.GetResourceNamesSubscribe(), "*") {
		for r := range s.desired.All(t) {
			s.compare(t, r.Name, r)
		}
	}
	if len(ts.items.own) > 0 {
		s.share(ts)
	}
	return answered
}

func (s *state) drop(t Type, name string) {
	ts := &s.types[t]
	ts.items.remove(name)
	ts.pendingUpserts.remove(name)
	ts.pendingRemovals.remove(name)
	s.clearNACK(ts, name)
	if t == TypeEndpoint {
		s.warming.remove(name)
	}
}

// acknowledge takes a request that says nothing but a nonce.
func (s *state) acknowledge(t Type, nonce []byte) *response {
	ts := &s.types[t]
	i := slices.IndexFunc(ts.open, func(r *response) bool { return r.nonce == string(nonce) })
	switch {
	case !ts.subscribed:
		return s.request(t, &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: string(nonce)})
	case i < 0:
		return nil
	case s.move.at[t] != partSent:
		return s.settle(ts, i, nil)
	}
	r := ts.open[i]
	s.landPart(t)
	return r
}

// answer takes an ACK or NACK. A nonce that is not open is of an older stream or repeated, and says nothing.
func (s *state) answer(ts *typeState, req *discoveryv3.DeltaDiscoveryRequest) *response {
	s.leavePlan()
	i := slices.IndexFunc(ts.open, func(r *response) bool { return r.nonce == req.GetResponseNonce() })
	if i < 0 {
		return nil
	}
	return s.settle(ts, i, req.GetErrorDetail())
}

// settle takes the answer to an open response; problem is nil if the client accepts it.
func (s *state) settle(ts *typeState, i int, problem *rpcstatus.Status) *response {
	// A client works in order: one that answers only the last of several has taken those before.
	for _, r := range ts.open[:i] {
		s.accept(ts, r)
	}
	r := ts.open[i]
	ts.open = slices.Delete(ts.open, 0, i+1)
	if problem == nil {
		s.accept(ts, r)
	} else {
		s.reject(ts, r, problem.GetMessage())
	}
	if len(ts.open) == 0 && len(ts.pendingUpserts) == 0 {
		ts.limit = 0
	}
	s.share(ts)
	return r
}

// share gives up what the stream need not keep for itself, once everything of a type is answered.
func (s *state) share(ts *typeState) {
	if s.desired == nil || !ts.done() {
		return
	}
	ts.items.rebase(s.desired, !ts.wildcard)
	// A map does not shrink. A small one is kept for the next change.
	if ts.large {
		ts.large, ts.pendingUpserts = false, nil
		if len(ts.items.own) == 0 {
			ts.items.own = nil
		}
	}
}

// land notes that a response's resources are not in flight any more.
func (s *state) land(ts *typeState, r *response) {
	for _, res := range r.resources {
		if it, ok := ts.items.get(res.Name); ok && it.inFlight == r {
			it.inFlight = nil
			ts.items.set(res.Name, it)
		}
		s.warmed(r.typ, res.Name)
	}
	for _, name := range r.removed {
		if it, ok := ts.items.get(name); ok && it.inFlight == r {
			it.inFlight = nil
			if !it.named && it.held == absent {
				ts.items.remove(name)
			} else {
				ts.items.set(name, it)
			}
		}
		s.warmed(r.typ, name)
	}
}

// warmed notes that endpoints were answered, unless they must go once more: then their cluster was
// sent after them.
func (s *state) warmed(t Type, name string) {
	if t != TypeEndpoint {
		return
	}
	if _, waits := s.types[t].pendingUpserts[name]; !waits {
		s.warming.remove(name)
	}
}

func (s *state) accept(ts *typeState, r *response) {
	s.land(ts, r)
	if ts.limit *= 2; len(ts.rejected) == 0 {
		return // nothing to clearNACK
	}
	for _, res := range r.resources {
		// What is suppressed or was rejected since is not what was accepted.
		now := s.desired.Lookup(r.typ, res.Name)
		if now == nil || ts.rejected[res.Name].version != now.Version {
			s.clearNACK(ts, res.Name)
		}
	}
}

// reject charges the resources that the reason names. If it names none, the response is sent again
// in halves until the culprit stands alone: a proxy rejects a whole response for one resource,
// without saying which.
func (s *state) reject(ts *typeState, r *response, reason string) {
	s.land(ts, r)
	var blamed []*Resource
	for _, res := range r.resources {
		if mentions(reason, res.Name) {
			blamed = append(blamed, res)
		}
	}
	if len(blamed) == 0 && len(r.resources) == 1 {
		blamed = r.resources
	}
	if len(blamed) == 0 {
		ts.limit = (len(r.resources) + 1) / 2
	}
	for i, res := range r.resources {
		it, ok := ts.items.get(res.Name)
		if !ok {
			continue
		}
		if it.held == res {
			it.held = r.before[i]
			ts.items.set(res.Name, it)
		}
		if slices.Contains(blamed, res) {
			ts.reject(res.Name, rejected{
				version: res.Version,
				Rejection: Rejection{
					Type:     r.typ,
					Resource: res.Name,
					Cause:    res.Cause,
					Reason:   reason,
					Revision: r.revision,
					Content:  res,
					Held:     ts.known(res.Name),
				},
			})
			s.rejectionChanges++
		} else if _, waits := ts.pendingUpserts[res.Name]; !waits {
			ts.pendingUpserts.set(res.Name, wait{since: r.since}) // recheck keeps it
		}
		s.recheck(r.typ, res.Name)
	}
}

// mentions says whether text has name as a whole word.
func mentions(text, name string) bool {
	if name == "" {
		return false
	}
	for rest, at := text, 0; ; {
		i := strings.Index(rest, name)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(name)
		if (at == 0 || !wordByte(text[at-1])) &&
			(end == len(text) || !wordByte(text[end]) && !continues(text[end:])) {
			return true
		}
		at++
		rest = text[at:]
	}
}

func continues(rest string) bool {
	return len(rest) > 1 && (rest[0] == '.' || rest[0] == ':') && wordByte(rest[1])
}

func wordByte(b byte) bool {
	return b == '_' || b == '-' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

// answered is the revision up to which nothing is unsent or unanswered; ok is false while the
// client has asked for nothing.
func (s *state) answered() (revision uint64, ok bool) {
	revision = s.revision
	for t := range s.types {
		ts := &s.types[t]
		ok = ok || ts.subscribed
		for _, w := range ts.pendingUpserts {
			revision = min(revision, w.since-min(w.since, 1))
		}
		for _, w := range ts.pendingRemovals {
			revision = min(revision, w.since-min(w.since, 1))
		}
		for _, r := range ts.open {
			revision = min(revision, r.since-min(r.since, 1))
		}
		if s.move.at[t] == partUnsent {
			revision = min(revision, s.move.since-min(s.move.since, 1))
		}
	}
	if revision == s.revision {
		s.committed = time.Time{}
	}
	return revision, ok && s.desired != nil
}

// configured says that the client has asked for listeners, and for the routes and secrets that
// those need, and has answered everything there is.
func (s *state) configured() bool {
	revision, ok := s.answered()
	if !ok || revision != s.revision || !s.types[TypeListener].subscribed {
		return false
	}
	for _, t := range []Type{TypeRoute, TypeSecret} {
		if !s.types[t].subscribed && s.desired.has(t) {
			return false
		}
	}
	return true
}

// standing are all rejections that stand, in the order of types and names.
func (s *state) rejections() []Rejection {
	var out []Rejection
	for t := range s.types {
		for _, r := range s.types[t].rejected {
			out = append(out, r.Rejection)
		}
	}
	slices.SortFunc(out, func(a, b Rejection) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Resource, b.Resource))
	})
	return out
}
