// Package server serves the management API on one port: it authenticates every request and hands
// gRPC to the core and all else to REST.
//
// # Concurrency
//
// A [Server] is safe for concurrent use and starts nothing by itself; [Server.Serve] owns its
// listener and ends with its context.
//
// No example: it serves a running control plane; package client has examples of calls.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/api/rest"
	"github.com/meridian-mesh/meridian/internal/localapi"
)

// Times of connections.
const (
	// DrainTimeout is how long requests get to finish when a server stops.
	DrainTimeout = 5 * time.Second

	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 2 * time.Minute
)

// Server serves the management API; see the package comment.
type Server struct {
	*api.Service
	authn authn.Authenticator
	rest  http.Handler
	log   *zap.Logger
}

// New makes a Server with a service of its own. It panics if the registerer has metrics of these
// names already.
func New(cfg api.Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	s := &Server{
		Service: api.New(cfg),
		authn:   authn.Authenticator{Tokens: cfg.Tokens, LocalhostIsAdmin: cfg.LocalhostIsAdmin},
		log:     cfg.Logger,
	}
	s.rest = rest.New(s.Service, s.Edge(), cfg.Logger)
	return s
}

// ServeHTTP implements [http.Handler]. Its server must speak HTTP/2, cleartext (prior knowledge) or
// TLS, for gRPC; [Server.Serve] sets that up.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := s.authn.Identify(r)
	id.Address = authn.Origin(r)
	r = r.WithContext(api.Track(authn.With(r.Context(), id)))
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		s.GRPC().ServeHTTP(w, r)
		return
	}
	s.rest.ServeHTTP(w, r)
}

// Serve serves on l until ctx ends: with TLS if t is set, else in cleartext; HTTP/1.1 and HTTP/2
// either way. At the end watches finish at once and other requests get [DrainTimeout]. It closes l,
// and returns nil if ctx ended.
func (s *Server) Serve(ctx context.Context, l net.Listener, t *tls.Config) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           s,
		Protocols:         protocols,
		TLSConfig:         t,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          zap.NewStdLog(s.log.Named("http")),
		BaseContext: func(net.Listener) context.Context {
			return api.Draining(context.WithoutCancel(ctx), ctx)
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if uid, ok := localapi.Peer(c); ok {
				return authn.WithPeer(ctx, uid)
			}
			return ctx
		},
	}
	ended := make(chan error, 1)
	go func() { // ends with the server, which Shutdown or Close ends below
		if t != nil {
			ended <- server.ServeTLS(l, "", "")
		} else {
			ended <- server.Serve(l)
		}
	}()

	select {
	case err := <-ended:
		return fmt.Errorf("management API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), DrainTimeout)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		s.log.Info("requests were cut off at the end", zap.Error(err))
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
