// Package controlplane is what every benchmark does with the processes that it measures: wait until one is
// ready, ask it over HTTP, keep a profile of it.
//
// No example: it needs a running control plane.
package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/meridian-mesh/meridian/internal/child"
)

// Poll is how often a control plane is asked whether it is so far.
const Poll = 20 * time.Millisecond

// errEnded says that waiting is of no use.
var errEnded = errors.New("the process has ended")

// Await asks again every interval until ask returns nil, at most for limit. The error says what was
// waited for, and why it was not so when last asked.
func Await(ctx context.Context, limit, interval time.Duration, what string,
	ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()

	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, errEnded) {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, err)
		}
	}
}

// Running is nil while a process runs. Its error ends an [Await]: what is waited for cannot come any more.
func Running(p *child.Process) error {
	if err := p.Err(); err != nil {
		return errors.Join(errEnded, err)
	}
	return nil
}

// Ready waits until the control plane in p, whose diagnostics are at HOST:PORT, can serve. The error has
// the process's log.
func Ready(ctx context.Context, p *child.Process, diagnostics string, limit time.Duration) error {
	err := Await(ctx, limit, Poll, p.Name+" is ready", func(ctx context.Context) error {
		if err := Running(p); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := Get(ctx, "http://"+diagnostics+"/ready")
		return err
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	text, _ := os.ReadFile(p.Log)
	return fmt.Errorf("%w\n%s", err, text)
}

// Get reads url.
func Get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return Do(http.DefaultClient, req)
}

// GetJSON reads JSON from url.
func GetJSON(ctx context.Context, url string, into any) error {
	body, err := Get(ctx, url)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// Do sends a request and returns the body of the answer, which is in the error if the status is not of
// success.
func Do(client *http.Client, req *http.Request) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", req.Method, req.URL, resp.Status, body)
	}
	return body, err
}

// Profile keeps in file a CPU profile, over d, of the process whose diagnostics are at HOST:PORT.
func Profile(ctx context.Context, diagnostics string, d time.Duration, file string) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", diagnostics, max(1, int(d.Seconds())))
	profile, err := Get(ctx, url)
	if err != nil {
		return err
	}
	return os.WriteFile(file, profile, 0o600)
}
