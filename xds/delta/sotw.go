package delta

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// State-of-the-world streams have the same state as incremental ones: what is sent when, what waits
// for which answer, what was rejected. They differ in two things, which are all that is here. A
// request names all that the client subscribes to, and becomes a change of the subscription. A
// response of clusters or listeners holds all that the client subscribes to, for what it lacks is
// gone; one of another type holds what changed, and cannot take away.

// subscriptions are the names of a state-of-the-world client by type.
type subscriptions [numTypes]struct {
	subscribed bool
	// implicit says that the client has named nothing yet and so wants all.
	implicit bool
	names    map[string]struct{}
}

// step turns a request into what it changes.
func (w *subscriptions) step(req *discoveryv3.DiscoveryRequest) *discoveryv3.DeltaDiscoveryRequest {
	out := &discoveryv3.DeltaDiscoveryRequest{
		Node:          req.GetNode(),
		TypeUrl:       req.GetTypeUrl(),
		ResponseNonce: req.GetResponseNonce(),
		ErrorDetail:   req.GetErrorDetail(),
	}
	t, ok := TypeOf(req.GetTypeUrl())
	if !ok {
		return out
	}
	sub := &w[t]
	first := !sub.subscribed
	sub.subscribed = true
	if len(req.GetResourceNames()) == 0 && (first || sub.implicit) && full(t) {
		// The incremental protocol says the same by the same: a first request without names.
		sub.implicit = true
		sub.names = map[string]struct{}{"*": {}}
		return out
	}
	sub.implicit = false
	now := make(map[string]struct{}, len(req.GetResourceNames()))
	for _, name := range req.GetResourceNames() {
		if _, twice := now[name]; twice {
			continue
		}
		now[name] = struct{}{}
		if _, had := sub.names[name]; !had {
			out.ResourceNamesSubscribe = append(out.ResourceNamesSubscribe, name)
		}
	}
	for name := range sub.names {
		if _, has := now[name]; !has {
			out.ResourceNamesUnsubscribe = append(out.ResourceNamesUnsubscribe, name)
		}
	}
	sub.names = now
	return out
}

// full says that a response of the type holds all that the client subscribes to.
func full(t Type) bool { return t == TypeCluster || t == TypeListener }

// sotw is the content of a state-of-the-world response.
type sotw struct {
	version   string
	resources []*Resource
}

// nextSotW is next for a state-of-the-world stream. It fails if what must be in one message is too
// much for one.
func (s *state) nextSotW(now time.Time) (*response, error) {
	for {
		r := s.next(now)
		if r == nil {
			return nil, nil
		}
		held := s.held(r.typ)
		w := &sotw{resources: r.resources, version: versionOf(held)}
		if full(r.typ) {
			w.resources = held
		} else if len(r.resources) == 0 {
			// That something is gone cannot be said: the client hears of it by what referred to it.
			ts := &s.types[r.typ]
			ts.open = slices.DeleteFunc(ts.open, func(o *response) bool { return o == r })
			s.accept(ts, r)
			continue
		}
		r.sotw, r.bytes = w, 0
		if n := r.size(); n > s.limits.message-envelope {
			return nil, status.Errorf(codes.ResourceExhausted,
				"the %d resources of type %s come to %d bytes, and a message to this proxy may have %d: ask "+
					"for fewer by name, or by incremental xDS",
				len(w.resources), r.typ, n, s.limits.message)
		}
		return r, nil
	}
}

// held is what the client has of a type when it has taken all that was sent, in the order of names.
func (s *state) held(t Type) []*Resource {
	var out []*Resource
	for _, it := range s.types[t].items.all() {
		if it.held != nil && it.held != absent {
			out = append(out, it.held)
		}
	}
	slices.SortFunc(out, func(a, b *Resource) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// versionOf is a hash over the names and versions of resources.
func versionOf(list []*Resource) string {
	h := sha256.New()
	for _, r := range list {
		_, _ = io.WriteString(h, r.Name+"\x00"+r.Version+"\x00")
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// encodeSotW is the DiscoveryResponse. Its resources are a part of the bytes that incremental streams share.
func (r *response) encodeSotW() mem.BufferSlice {
	out := make(mem.BufferSlice, 0, len(r.sotw.resources)+1)
	for _, res := range r.sotw.resources {
		out = append(out, mem.SliceBuffer(res.anyBytes()))
	}
	b := protowire.AppendTag(nil, sotwVersion, protowire.BytesType)
	b = protowire.AppendString(b, r.sotw.version)
	b = protowire.AppendTag(b, sotwTypeURL, protowire.BytesType)
	b = protowire.AppendString(b, r.typ.URL())
	b = protowire.AppendTag(b, sotwNonce, protowire.BytesType)
	b = protowire.AppendString(b, r.nonce)
	return append(out, mem.SliceBuffer(b))
}

// lookups are the requests for listeners of a client that names what it calls. They wait until the
// engine has looked the names up: a table that does not know a name yet must not read as "there is
// none".
type lookups struct {
	names map[string]struct{}
	calls uint64
	held  []heldRequest
}

type heldRequest struct {
	call uint64
	req  *discoveryv3.DeltaDiscoveryRequest
}

// take gives a request to the state, or holds it back; it returns the response that the request
// answers, if any.
func (st *stream) take(t Type, req *discoveryv3.DeltaDiscoveryRequest) *response {
	if t != TypeListener || st.client.Kind != ClientGRPC ||
		len(req.GetResourceNamesSubscribe())+len(req.GetResourceNamesUnsubscribe()) == 0 {
		return st.state.request(t, req)
	}
	a := &st.lookups
	if a.names == nil {
		a.names = map[string]struct{}{}
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		a.names[name] = struct{}{}
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		delete(a.names, name)
	}
	a.calls++
	st.watch.Subscribe(slices.Sorted(maps.Keys(a.names)))
	answered := st.state.answer(&st.state.types[t], req)
	req.ResponseNonce, req.ErrorDetail = "", nil
	a.held = append(a.held, heldRequest{a.calls, req})
	return answered
}

// update takes a new table, and then the requests that waited for it.
func (st *stream) update(u Update) {
	st.state.update(u)
	a := &st.lookups
	for len(a.held) > 0 && a.held[0].call <= u.Subscribed {
		st.state.request(TypeListener, a.held[0].req)
		a.held = a.held[1:]
	}
}
