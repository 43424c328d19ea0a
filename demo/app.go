package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// Answer is what the demo's HTTP program says of itself.
type Answer struct {
	Service  string `json:"service"`
	Instance string `json:"instance"`
	Zone     string `json:"zone"`
	// Caller is the header x-forwarded-client-cert, if the sidecar set it.
	Caller string `json:"caller,omitempty"`
}

// App is the HTTP program beside each sidecar. It answers every path with an [Answer]; /slow takes
// as long as the query parameter d says, and /health says how it is. /behave changes what it does
// from then on: status=500 is the answer to everything but these three paths, delay=40ms how long
// that takes, health=503 the answer of /health; what is not given is as it was in the beginning.
type App struct {
	Addr, Service, Instance, Zone string
}

// behaviour of an App.
type behaviour struct {
	status, health int
	delay          time.Duration
}

func newBehaviour(query url.Values) (*behaviour, error) {
	b := &behaviour{status: http.StatusOK, health: http.StatusOK}
	for name, values := range query {
		var err error
		switch name {
		case "status":
			b.status, err = strconv.Atoi(values[0])
		case "health":
			b.health, err = strconv.Atoi(values[0])
		case "delay":
			b.delay, err = time.ParseDuration(values[0])
		default:
			err = fmt.Errorf("must be status, delay or health, not %q", name)
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Run serves until ctx ends.
func (a App) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	var now atomic.Pointer[behaviour]
	now.Store(&behaviour{status: http.StatusOK, health: http.StatusOK})
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(Answer{a.Service, a.Instance, a.Zone,
			r.Header.Get("X-Forwarded-Client-Cert")})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b := now.Load()
		if b.delay > 0 {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(b.delay):
			}
		}
		if b.status != http.StatusOK {
			http.Error(w, "as I was told", b.status)
			return
		}
		answer(w, r)
	})
	mux.HandleFunc("/health",
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(now.Load().health) })
	mux.HandleFunc("/behave", func(w http.ResponseWriter, r *http.Request) {
		b, err := newBehaviour(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		now.Store(b)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.URL.Query().Get("d"))
		if err != nil {
			http.Error(w, "must be /slow?d=3s", http.StatusBadRequest)
			return
		}
		select {
		case <-r.Context().Done():
		case <-time.After(d):
			answer(w, r)
		}
	})
	srv := &http.Server{Addr: a.Addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
