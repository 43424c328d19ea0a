package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxPending bounds what waits for Envoy's answer on a stream, in bytes: beyond it the next response is
// received when Envoy has answered one.
const maxPending = 32 << 20

// responseBytes is the size, in bytes, from which a response from the cache is full.
const responseBytes = 1 << 20

// stream is one of Envoy's.
type stream struct {
	relay      *Relay
	down       grpc.ServerStream
	cancel     context.CancelCauseFunc
	generation uint64
	starting   bool // Envoy was not live when it opened the stream

	mu sync.Mutex // guards what follows
	// pending are responses that Envoy has not answered, by nonce.
	pending map[string][]byte
	bytes   int
	// room has a value when pending became less.
	room chan struct{}
	// requested are the types of which a first request came.
	requested map[string]bool
}

// carry carries the stream to the zone and back until one of them ends it. The error is errNotReached if
// there is no stream to the zone; Envoy may then be answered otherwise. cached says that it can be.
func (s *stream) carry(ctx context.Context, first *message, req request, cached bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answered := func() {}
	if s.starting && cached {
		timer := time.AfterFunc(s.relay.cfg.silence, func() { cancel(errSilent) })
		defer timer.Stop()
		answered = func() { timer.Stop() }
	}
	began := time.Now()
	up, err := s.relay.open(ctx)
	if err != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			s.relay.failed()
			err = errSilent
		}
		s.relay.log.Debug("no stream to the zone", zap.Error(err))
		if refuses(err) {
			return err
		}
		return errNotReached
	}
	// An error of a send is the end of the stream, whose reason the receiver gets.
	first.data = s.correct(first.data, req)
	_ = up.SendMsg(first)
	s.relay.mu.Lock()
	s.relay.newest = s
	s.relay.mu.Unlock()
	s.note(req)
	s.relay.streams.Go(func() { s.requests(up) })

	some := false
	for {
		var m message
		if err := up.RecvMsg(&m); err != nil {
			if errors.Is(context.Cause(ctx), errSilent) {
				err = errSilent
			}
			if !some && !refuses(err) && s.down.Context().Err() == nil && time.Since(began) < soon {
				s.relay.failed()
			}
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Unavailable, "the zone ended the stream")
			}
			return err
		}
		if !some {
			some = true
			answered()
			s.relay.answered()
		}
		if err := s.wait(ctx, m.data); err != nil {
			return err
		}
		if err := s.down.SendMsg(&m); err != nil {
			return err
		}
	}
}

// wait notes a response that Envoy is to answer, when there is room.
func (s *stream) wait(ctx context.Context, data []byte) error {
	nonce, err := nonceOf(data)
	if err != nil || nonce == "" {
		return nil // Envoy finds out; it is not remembered
	}
	for {
		s.mu.Lock()
		if s.bytes == 0 || s.bytes+len(data) <= maxPending {
			break
		}
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer s.mu.Unlock()
	s.bytes += len(data) - len(s.pending[nonce])
	s.pending[nonce] = data
	return nil
}

// take gives the response that a nonce is of, and makes room.
func (s *stream) take(nonce string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.pending[nonce]
	delete(s.pending, nonce)
	s.bytes -= len(data)
	select {
	case s.room <- struct{}{}:
	default:
	}
	return data
}

// requests carries what Envoy says to the zone.
func (s *stream) requests(up grpc.ClientStream) {
	for {
		var m message
		err := s.down.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			_ = up.CloseSend()
			return
		}
		if err != nil {
			s.cancel(err)
			return
		}
		req, malformed := parseRequest(m.data)
		if malformed == nil {
			m.data = s.correct(m.data, req)
		}
		if err := up.SendMsg(&m); err != nil {
			return // the receiver gets the reason
		}
		if malformed == nil {
			s.note(req)
		}
	}
}

// correct gives a request for the zone, which says another version of what Envoy holds and the cache does
// not have.
func (s *stream) correct(b []byte, req request) []byte {
	if len(req.initial) == 0 {
		return b
	}
	unknown := s.relay.cfg.Cache.unknown(req.url, req.initial)
	if len(unknown) == 0 {
		return b
	}
	return withoutVersions(b, unknown)
}

// note remembers what a request says that Envoy has.
func (s *stream) note(req request) {
	cache := s.relay.cfg.Cache
	s.mu.Lock()
	s.requested[req.url] = true
	s.mu.Unlock()
	if len(req.initial) > 0 {
		cache.hold(s.generation, req.url, req.initial)
	}
	if req.nonce != "" {
		data := s.take(req.nonce)
		if data != nil && !req.rejected {
			if r, err := parseResponse(data); err == nil && r.url == req.url {
				cache.accept(s.generation, r)
			}
		}
	}
	if len(req.unsubscribe) > 0 {
		cache.forget(s.generation, req.url, req.unsubscribe)
	}
}

// sweep drops from the cache what Envoy, which is live, was not given.
func (s *stream) sweep() {
	s.mu.Lock()
	urls := slices.Collect(maps.Keys(s.requested))
	s.mu.Unlock()
	for _, url := range urls {
		s.relay.cfg.Cache.sweep(s.generation, url)
	}
}

// fromCache answers Envoy from the cache until the zone may be tried.
func (s *stream) fromCache(ctx context.Context, first request) error {
	log := s.relay.log.Debug
	if s.starting {
		log = s.relay.log.Info
	}
	log("the zone cannot be reached; Envoy has what it last acknowledged",
		zap.Bool("envoy_starts", s.starting),
		zap.Int("resources", s.relay.cfg.Cache.Len()))
	s.relay.streams.Go(func() { s.answer(first) })
	if err := s.relay.awaitZone(ctx); err != nil {
		return err
	}
	// Envoy opens its next stream with the versions that it holds.
	return status.Error(codes.Unavailable, "the zone can be reached again")
}

// answer answers requests from the cache until Envoy or the stream ends.
func (s *stream) answer(req request) {
	asked := map[string]bool{}
	nonces := 0
	for {
		if req.rejected {
			s.relay.log.Warn("Envoy rejects what it had acknowledged before",
				zap.String("type", req.url))
		}
		for _, r := range s.answers(req, !asked[req.url]) {
			nonces++
			r.nonce = fmt.Sprint("cache-", nonces)
			if err := s.down.SendMsg(&message{data: r.encode()}); err != nil {
				s.cancel(err)
				return
			}
		}
		asked[req.url] = true
		for {
			var m message
			if err := s.down.RecvMsg(&m); err != nil {
				s.cancel(err)
				return
			}
			var err error
			if req, err = parseRequest(m.data); err == nil {
				break
			}
		}
	}
}

// answers are the responses to a request: what it subscribes to and Envoy does not hold as it is in the
// cache. first says that it is the first of its type.
func (s *stream) answers(req request, first bool) []response {
	all := first && req.wildcard()
	named := map[string]bool{}
	for _, name := range req.subscribe {
		if name != "*" {
			named[name] = true
		}
	}
	if !all && len(named) == 0 {
		return nil
	}
	found := map[string]bool{}
	resources := s.relay.cfg.Cache.read(req.url, func(name string) bool {
		if !all && !named[name] {
			return false
		}
		found[name] = true
		_, held := req.initial[name] // perhaps newer, if its acknowledgement was lost
		return !held
	})
	var out []response
	r, size := response{url: req.url}, 0
	for _, res := range resources {
		if size > 0 && size+len(res.body) > responseBytes {
			out = append(out, r)
			r, size = response{url: req.url}, 0
		}
		r.resources = append(r.resources, res)
		size += len(res.body)
	}
	starting := !s.relay.isLive()
	for _, name := range req.subscribe {
		if _, held := req.initial[name]; starting && named[name] && !found[name] && !held {
			r.removed = append(r.removed, name)
		}
	}
	// Who asks for everything and holds nothing waits for an answer even if there is nothing.
	if len(r.resources)+len(r.removed) > 0 || all && len(out) == 0 && len(req.initial) == 0 {
		out = append(out, r)
	}
	return out
}
