package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// result of one request.
type result struct {
	began, ended time.Time
	status       int
	header       http.Header
	answer       Answer
	err          error
}

func (r result) failed() bool { return r.err != nil || r.status != http.StatusOK }

// newClient is a client as an application has it: kept connections, no retries of its own.
func newClient() *http.Client {
	return &http.Client{
		Timeout: 15 * time.Second,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     30 * time.Second,
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		},
	}
}

func get(ctx context.Context, c *http.Client, url string, header ...string) (r result) {
	r.began = time.Now()
	defer func() { r.ended = time.Now() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		r.err = err
		return r
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		r.err = err
		return r
	}
	defer func() { _ = resp.Body.Close() }()
	r.status, r.header = resp.StatusCode, resp.Header
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.err = err
		return r
	}
	if r.status == http.StatusOK {
		r.err = json.Unmarshal(body, &r.answer)
	}
	return r
}

// Load sends requests at a steady rate and keeps every result.
type Load struct {
	cancel  context.CancelFunc
	done    sync.WaitGroup
	mu      sync.Mutex
	results []result
}

// startLoad begins with the given number of workers, each sending one request at a time, together
// at most rate per second.
func startLoad(ctx context.Context, url string, workers, rate int) *Load {
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{cancel: cancel}
	client := newClient()
	pause := time.Second * time.Duration(workers) / time.Duration(rate)
	for i := range workers {
		l.done.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			first := time.NewTimer(pause * time.Duration(i) / time.Duration(workers))
			defer first.Stop()
			select {
			case <-first.C:
			case <-ctx.Done():
				return
			}
			for {
				// A request that is under way when the load stops is let end, so that stopping fails none.
				r := get(context.WithoutCancel(ctx), client, url)
				l.mu.Lock()
				l.results = append(l.results, r)
				l.mu.Unlock()
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return l
}

// stop ends the load and returns every result in order of time.
func (l *Load) stop() []result {
	l.cancel()
	l.done.Wait()
	out := l.results
	sort.Slice(out, func(i, j int) bool { return out[i].began.Before(out[j].began) })
	return out
}

// since returns the results of requests that began after t, so far.
func (l *Load) since(t time.Time) []result {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []result
	for _, r := range l.results {
		if r.began.After(t) {
			out = append(out, r)
		}
	}
	return out
}

// failures of results, described.
func failures(results []result) (n int, text string) {
	kinds := map[string]int{}
	for _, r := range results {
		if r.failed() {
			n++
			kinds[describe(r)]++
		}
	}
	text = fmt.Sprintf("%d of %d requests failed", n, len(results))
	if n > 0 {
		var parts []string
		for k, c := range kinds {
			parts = append(parts, fmt.Sprintf("%d× %s", c, k))
		}
		slices.Sort(parts)
		text += ": " + strings.Join(parts, ", ")
	}
	return n, text
}

func describe(r result) string {
	if r.err != nil {
		msg := r.err.Error()
		if i := strings.LastIndex(msg, ": "); i >= 0 {
			msg = msg[i+2:]
		}
		return msg
	}
	return fmt.Sprint(r.status)
}

// failedAfter are the failures that ended later than t, and the time of the last, after t.
func failedAfter(results []result, t time.Time) (n int, last time.Duration) {
	for _, r := range results {
		if r.failed() && r.ended.After(t) {
			n++
			last = max(last, r.ended.Sub(t))
		}
	}
	return n, last
}

// tally counts answers by what name gives.
func tally(results []result, name func(Answer) string) map[string]int {
	out := map[string]int{}
	for _, r := range results {
		if !r.failed() {
			out[name(r.answer)]++
		}
	}
	return out
}

func tallyText(m map[string]int) string {
	var parts []string
	for k, n := range m {
		parts = append(parts, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return "no answers"
	}
	return strings.Join(parts, ", ")
}

func byZone(a Answer) string     { return a.Zone }
func byService(a Answer) string  { return a.Service }
func byInstance(a Answer) string { return a.Zone + "/" + a.Instance }
