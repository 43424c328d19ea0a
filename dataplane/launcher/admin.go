package launcher

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// admin speaks to Envoy's admin interface, on a socket or a loopback port.
type admin struct {
	network, address string
	client           *http.Client
}

func newAdmin(network, address string) admin {
	return admin{
		network: network,
		address: address,
		client: &http.Client{
			Timeout: 2 * time.Second,
			Transport: &http.Transport{
				// One request, one connection: the other end is on this host, and a kept connection
				// outlives a restarted Envoy.
				DisableKeepAlives: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, network, address)
				},
			},
		},
	}
}

func (a admin) call(ctx context.Context, method, path string) (int, string, error) {
	code, body, err := a.do(ctx, method, path, 8<<20)
	return code, strings.TrimSpace(string(body)), err
}

// fetchTimeout is for answers that people ask for: the dump of a large configuration takes Envoy some time.
const fetchTimeout = 10 * time.Second

// fetch reads an answer of at most limit bytes; a longer one is an error.
func (a admin) fetch(ctx context.Context, path string, limit int64) (int, []byte, error) {
	patient := *a.client
	patient.Timeout = fetchTimeout
	a.client = &patient
	code, body, err := a.do(ctx, http.MethodGet, path, limit+1)
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return code, body, err
}

func (a admin) do(ctx context.Context, method, path string, limit int64) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	return resp.StatusCode, body, err
}

// ready is Envoy's own word: LIVE, PRE_INITIALIZING, DRAINING…; an error if it does not answer.
func (a admin) ready(ctx context.Context) (string, error) {
	_, body, err := a.call(ctx, http.MethodGet, "/ready")
	return body, err
}

// waitLive returns nil once Envoy is live; an error if ctx ends first. Envoy has no way to be told
// of it, so it is asked.
func (a admin) waitLive(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if state, err := a.ready(ctx); err == nil && state == "LIVE" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (a admin) post(ctx context.Context, path string) error {
	code, body, err := a.call(ctx, http.MethodPost, path)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, code, body)
	}
	return err
}

// inFlight counts what a stop would cut: HTTP requests, and connections that are not HTTP's. An
// idle kept connection of an HTTP client does not delay the end.
func (a admin) inFlight(ctx context.Context) (int, error) {
	_, body, err := a.call(ctx, http.MethodGet,
		"/stats?format=json&type=Gauges&filter=downstream_(cx|rq)_active$")
	if err != nil {
		return 0, err
	}
	var answer struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return 0, fmt.Errorf("stats: %w", err)
	}
	requests, httpConnections, connections := 0, 0, 0
	for _, s := range answer.Stats {
		root, rest, _ := strings.Cut(s.Name, ".")
		switch {
		case strings.HasPrefix(rest, "admin."):
		case root == "http" && strings.HasSuffix(rest, "downstream_rq_active"):
			requests += s.Value
		case root == "http" && strings.HasSuffix(rest, "downstream_cx_active"):
			httpConnections += s.Value
		case root == "listener" && strings.HasSuffix(rest, "downstream_cx_active") &&
			!strings.Contains(rest, ".worker_"):
			connections += s.Value
		}
	}
	return requests + max(0, connections-httpConnections), nil
}
