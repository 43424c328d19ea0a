package delta

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stream is one client. A goroutine that has something for it takes mu and does all that follows:
// the goroutine that receives its requests, a worker of the queue with an update, the end of a
// send. None of them ever waits for the client.
type stream struct {
	server *Server
	grpc   grpc.ServerStream
	recv   func(*incoming) error
	sotw   bool
	client Client
	log    *zap.Logger
	// join and since are set before the stream can be looked at.
	join  Join
	since time.Time
	// first is the first request; received why no more come; ended why the stream must end; joined
	// is closed when the requests after the first may be taken.
	first    chan *discoveryv3.DeltaDiscoveryRequest
	joined   chan struct{}
	received chan error
	ended    chan error
	// configured is called when the client has its first configuration.
	configured func()

	line line // guarded by queue.mu

	mu      sync.Mutex
	watch   Watch  // guarded by mu, as all below
	state   *state // of the protocol
	lookups lookups
	// sending says that a goroutine waits until the client takes a response.
	sending bool
	closed  bool
	ready   bool // configured was called
	// answered and rejectionChanges are what the last call of Watch.Ack said.
	answered         uint64
	rejectionChanges int
	// taken updates, and how many of them the watch knows to be answered.
	taken, acked uint64
	initTimer    *time.Timer
}

// initTimeout is how long a client that asks for no routes is waited for before anything is taken from it.
const initTimeout = 200 * time.Millisecond

// open starts the stream with its first request.
func (st *stream) open(o OpenRequest, first *discoveryv3.DeltaDiscoveryRequest) {
	st.mu.Lock()
	defer st.mu.Unlock()
	o.Wake = func(urgent bool) { st.server.queue.enqueue(st, urgent) }
	st.watch = st.server.cfg.Source.Open(o)
	st.initTimer = time.AfterFunc(initTimeout, func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.state.initialized = true
		st.advance()
	})
	st.request(&incoming{req: first})
	st.advance()
	close(st.joined)
}

// wait blocks until the stream has to end, and says why.
func (st *stream) wait(ctx context.Context, superseded <-chan struct{}) error {
	aged, stop := st.server.cfg.lifetime()
	defer stop()
	select {
	case err := <-st.received:
		return err
	case err := <-st.ended:
		return err
	case <-superseded:
		return errSuperseded
	case <-aged:
		return ErrAged
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends all work for the stream.
func (st *stream) close() {
	st.initTimer.Stop()
	st.mu.Lock()
	defer st.mu.Unlock()
	st.closed = true
	st.watch.Close()
}

// receive takes requests; it returns nil when the client has closed its side.
func (st *stream) receive(ctx context.Context) error {
	var in incoming
	for in.full = true; ; in.full = false {
		err := st.recv(&in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if in.full {
			select {
			case st.first <- in.req:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case <-st.joined:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		st.mu.Lock()
		if !st.closed {
			st.request(&in)
			st.advance()
		}
		st.mu.Unlock()
	}
}

// push takes what the engine has for the stream. A worker of the queue calls it.
func (st *stream) push() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return
	}
	u, ok, err := st.watch.Next()
	if err != nil {
		st.end(status.Errorf(codes.Unavailable, "the control plane stops serving this proxy: %v", err))
		return
	}
	if ok {
		st.taken++
		st.update(u)
		st.advance()
	}
}

// end makes the stream end; the first reason counts. mu is held.
func (st *stream) end(err error) {
	st.closed = true
	select {
	case st.ended <- err:
	default:
	}
}

// inTransit is how many bytes of a stream gRPC takes in without waiting for the client: less than
// its write quota of 64 KiB.
const inTransit = 48 << 10

// advance sends what may go and tells the engine and the zone what was answered. mu is held.
func (st *stream) advance() {
	for !st.closed && !st.sending {
		before := st.state.unanswered()
		r, err := st.next(time.Now())
		if err != nil {
			st.end(err)
			return
		}
		if r == nil {
			break
		}
		st.server.metrics.push(r)
		if before < inTransit {
			// What the client answered it has read, and the rest fits: this does not wait for it.
			// Handing every response to a goroutine that may wait costs more than the response.
			if err := st.grpc.SendMsg(r); err != nil {
				st.end(err)
				return
			}
			continue
		}
		st.sending = true
		st.server.running.Go(func() { st.send(r) })
	}
	if st.closed {
		return
	}
	if n := st.state.suppressed; n > 0 {
		st.state.suppressed = 0
		st.server.metrics.suppressed.Add(float64(n))
	}
	// An update that brings no new revision, such as a certificate alone, is answered too.
	revision, ok := st.state.answered()
	complete := revision == st.state.revision && st.acked != st.taken
	if ok && (revision > st.answered || st.state.rejectionChanges != st.rejectionChanges || complete) {
		st.answered, st.rejectionChanges = max(st.answered, revision), st.state.rejectionChanges
		if complete {
			st.acked = st.taken
		}
		st.watch.Ack(st.answered, st.state.rejections())
	}
	if !st.ready && st.hasAll() {
		st.ready = true
		st.configured()
	}
}

// send writes a response that the client may not take at once. A client that does not read blocks
// it, and it alone.
func (st *stream) send(r *response) {
	err := st.grpc.SendMsg(r)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sending = false
	if err != nil {
		st.end(err)
		return
	}
	st.advance()
}

// hasAll says that the client has what it needs before others call it. A gRPC client may ask for as
// little as its certificate.
func (st *stream) hasAll() bool {
	if st.client.Kind == ClientGRPC {
		revision, ok := st.state.answered()
		return ok && revision == st.state.revision
	}
	return st.state.configured()
}

// next is the next response to send now, or nil.
func (st *stream) next(now time.Time) (*response, error) {
	if st.sotw {
		return st.state.nextSotW(now)
	}
	return st.state.next(now), nil
}

// request takes one request.
func (st *stream) request(in *incoming) {
	t := in.typ
	var r *response
	if in.req == nil {
		r = st.state.acknowledge(t, in.nonce)
	} else {
		var ok bool
		if t, ok = TypeOf(in.req.GetTypeUrl()); !ok {
			st.log.Debug("request of a type that is not served", zap.String("type", in.req.GetTypeUrl()))
			return
		}
		r = st.take(t, in.req)
	}
	if r == nil {
		return
	}
	m := st.server.metrics
	m.answer(r, time.Now())
	if d := in.req.GetErrorDetail(); d != nil {
		m.byType[t].nacks.Inc()
		st.log.Warn("proxy rejected a response", zap.Stringer("type", t),
			zap.Int("resources", len(r.resources)), zap.String("reason", d.GetMessage()))
	}
}
