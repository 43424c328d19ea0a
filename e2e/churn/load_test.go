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

	mu       sync.Mutex
	failures []string
	answers  map[string]int
	// ends are the times at which Envoy ended a connection. That of one which the client gave up,
	// as Go's does with one whose writer is slow to say that it is done, is not among them.
	ends []string
	last *connection
}

// connection notes that the other end closed it.
type connection struct {
	net.Conn
	ended  func()
	closed atomic.Bool
}

func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !c.closed.Load() {
		c.ended()
	}
	return n, err
}

func (c *connection) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

func (l *load) connect(conn net.Conn) net.Conn {
	c := &connection{Conn: conn, ended: sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ends = append(l.ends, time.Now().Format("15:04:05.000"))
	})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = c
	return c
}

// run sends a request every pause until ctx ends; the last one is let end.
func (l *load) run(ctx context.Context, w *world, pause time.Duration) {
	dialer := net.Dialer{Timeout: timeout}
	transport := &http.Transport{
		MaxConnsPerHost:     1,
		MaxIdleConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return l.connect(conn), nil
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: timeout}
	url := fmt.Sprintf("http://%s/", w.outbound(l.caller, l.destination))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		begin := time.Now()
		who, last, err := ask(client, url)
		l.requests.Add(1)
		l.mu.Lock()
		if err != nil {
			l.failures = append(l.failures,
				fmt.Sprintf("%s %s to %s after %s: %v", begin.Format("15:04:05.000"), l.caller.name, l.name,
					time.Since(begin).Round(time.Millisecond), err))
		} else {
			l.answers[who]++
		}
		conn := l.last
		l.mu.Unlock()
		if last {
			conn.ended()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// ask says who answered, and whether it was the last answer of the connection.
func ask(client *http.Client, url string) (who string, last bool, err error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s (%s)", resp.StatusCode, strings.TrimSpace(string(body)),
			resp.Header.Get("x-envoy-upstream-service-time"))
	}
	return strings.TrimSpace(string(body)), resp.Close, err
}

// failed are the failures so far.
func (l *load) failed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failures)
}
