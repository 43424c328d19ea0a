package churn

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is requests from a caller to one destination, one after the other over one connection.
type load struct {
	caller      *proxy
	destination int
	name        string
	requests    atomic.Int64
	// dials counts connections.
	dials atomic.Int64

	mu       sync.Mutex
	failures []string
	answers  map[string]int
}

// run sends a request every pause until ctx ends; the last one is let end.
func (l *load) run(ctx context.Context, w *world, pause time.Duration) {
	dialer := net.Dialer{Timeout: patience}
	transport := &http.Transport{MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		l.dials.Add(1)
		return dialer.DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	url := fmt.Sprintf("http://%s/", w.outbound(l.caller, l.destination))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		begin := time.Now()
		who, err := ask(client, url)
		l.requests.Add(1)
		l.mu.Lock()
		if err != nil {
			l.failures = append(l.failures, fmt.Sprintf("%s %s to %s after %s: %v", begin.Format("15:04:05.000"), l.caller.name, l.name,
				time.Since(begin).Round(time.Millisecond), err))
		} else {
			l.answers[who]++
		}
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func ask(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s (%s)", resp.StatusCode, strings.TrimSpace(string(body)), resp.Header.Get("x-envoy-upstream-service-time"))
	}
	return strings.TrimSpace(string(body)), err
}

// failed are the failures so far.
func (l *load) failed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failures)
}
