package demo

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
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

// App is the HTTP program beside each sidecar. It answers every path with an [Answer]; /slow takes as long as the query
// parameter d says.
type App struct {
	Addr, Service, Instance, Zone string
}

// Run serves until ctx ends.
func (a App) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(Answer{a.Service, a.Instance, a.Zone, r.Header.Get("X-Forwarded-Client-Cert")})
	}
	mux.HandleFunc("/", answer)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.URL.Query().Get("d"))
		if err != nil {
			http.Error(w, "want /slow?d=3s", http.StatusBadRequest)
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
