package launcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// serveReadiness answers /ready until ctx ends: 200 LIVE if Envoy is live and the zone accepted
// this proxy at least once, else 503 with the reason.
func serveReadiness(ctx context.Context, ln net.Listener, s *state, a admin) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		text := "LIVE"
		accepted, draining := s.readiness()
		switch {
		case draining:
			text = "TERMINATING"
		case !accepted:
			text = "NOT_ACCEPTED"
		default:
			state, err := a.ready(r.Context())
			if err != nil {
				state = "ENVOY_NOT_READY"
			}
			text = state
		}
		if text != "LIVE" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintln(w, text)
	})
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("readiness port: %w", err)
	}
	return nil
}
