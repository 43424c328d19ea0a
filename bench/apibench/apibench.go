package apibench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/bench/controlplane"
)

// Config of Run.
type Config struct {
	// Store of global: postgres (two globals) or embedded (one).
	Store string
	// Writers is the number of concurrent clients.
	Writers int
	// Duration of the writes; each kind of read takes an eighth of it.
	Duration time.Duration
	// Resources are in the store while it is read.
	Resources int
	// Meridian is the path of the program.
	Meridian string
	// CPUProfile is a file for a profile of the first global while it is written to; empty: none.
	CPUProfile string
}

// Report is what was measured.
type Report struct {
	Store    string    `json:"store"`
	Writers  int       `json:"writers"`
	Measures []Measure `json:"measures"`
}

// Measure is one kind of call.
type Measure struct {
	Name      string  `json:"name"`
	Calls     int     `json:"calls"`
	PerSecond float64 `json:"perSecond"`
	// P50 and P99 are milliseconds from request to the end of the answer.
	P50 float64 `json:"p50Milliseconds"`
	P99 float64 `json:"p99Milliseconds"`
	// CPU is milliseconds for each call, by who used them: globals, zones, database, clients.
	CPU map[string]float64 `json:"cpuMilliseconds"`
}

// namesPerWriter is how many policies each client writes in turn.
const namesPerWriter = 100

// Run starts everything, measures, and ends everything.
func Run(ctx context.Context, cfg Config) (report Report, err error) {
	s, err := start(ctx, cfg)
	if err != nil {
		return report, err
	}
	defer s.stop()

	report.Store, report.Writers = cfg.Store, cfg.Writers
	b := bench{cfg: cfg, globals: s.globals, cpu: s.cpu}
	profiled := make(chan error, 1)
	go func() { profiled <- b.profile(ctx) }()
	writes, err := b.measure(ctx, "write", cfg.Duration, b.write)
	if err != nil {
		return report, err
	}
	if err := <-profiled; err != nil {
		return report, err
	}
	report.Measures = append(report.Measures, writes)

	if err := b.fill(ctx); err != nil {
		return report, err
	}
	for _, read := range []struct {
		name string
		path string
	}{
		{"get", "/meshes/default/meshtimeouts/bench-0-0"},
		{"list of 100", "/meshes/default/meshretries?size=100"},
		{"filtered list", "/meshes/default/meshretries?size=100&filter[labels.group]=7"},
	} {
		m, err := b.measure(ctx, read.name, cfg.Duration/8, func(_, _ int) (string, string, []byte) {
			return http.MethodGet, read.path, nil
		})
		if err != nil {
			return report, err
		}
		report.Measures = append(report.Measures, m)
	}
	return report, nil
}

type bench struct {
	cfg     Config
	globals []string // URLs
	cpu     func() (map[string]time.Duration, error)
}

// call says what client i does in its turn n.
type call func(i, n int) (method, path string, body []byte)

// write replaces a policy of the client by one that differs.
func (b bench) write(i, n int) (method, path string, body []byte) {
	name := fmt.Sprintf("bench-%d-%d", i, n%namesPerWriter)
	return http.MethodPut, "/meshes/default/meshtimeouts/" + name, fmt.Appendf(nil, `{
		"type": "MeshTimeout", "mesh": "default", "name": %q,
		"spec": {
			"targetRef": {"kind": "Mesh"},
			"to": [{"targetRef": {"kind": "Mesh"}, "default": {
				"connectionTimeout": "%ds", "idleTimeout": "1h", "http": {"requestTimeout": "15s"}
			}}]
		}}`, name, 1+n%1000)
}

// fill creates the resources that lists read; each tenth of a tenth has the label group=7.
func (b bench) fill(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range b.cfg.Writers {
		group.Go(func() error {
			client := newClient()
			defer client.CloseIdleConnections()
			for n := i; n < b.cfg.Resources; n += b.cfg.Writers {
				name := fmt.Sprintf("fill-%d", n)
				body := fmt.Appendf(nil, `{
					"type": "MeshRetry", "mesh": "default", "name": %q, "labels": {"group": "%d"},
					"spec": {"targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": %q}},
						"to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"numRetries": 3}}}]}
					}`, name, n%100, name)
				url := b.globals[i%len(b.globals)] + "/meshes/default/meshretries/" + name
				if err := do(ctx, client, http.MethodPut, url, body); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// measure has all clients call for d.
func (b bench) measure(ctx context.Context, name string, d time.Duration, next call) (Measure, error) {
	times := make([][]time.Duration, b.cfg.Writers)
	before, err := b.cpu()
	if err != nil {
		return Measure{}, err
	}
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for i := range b.cfg.Writers {
		group.Go(func() error {
			client := newClient()
			defer client.CloseIdleConnections()
			for n := 0; time.Since(start) < d; n++ {
				method, path, body := next(i, n)
				at := time.Now()
				if err := do(ctx, client, method, b.globals[i%len(b.globals)]+path, body); err != nil {
					return err
				}
				times[i] = append(times[i], time.Since(at))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Measure{}, fmt.Errorf("%s: %w", name, err)
	}

	took := time.Since(start)
	after, err := b.cpu()
	if err != nil {
		return Measure{}, err
	}

	all := slices.Concat(times...)
	slices.Sort(all)
	cpu := map[string]float64{}
	for what, d := range after {
		cpu[what] = float64((d - before[what]).Microseconds()) / 1000 / float64(len(all))
	}
	at := func(share float64) float64 {
		return float64(all[int(share*float64(len(all)-1))].Microseconds()) / 1000
	}
	return Measure{
		Name:      name,
		Calls:     len(all),
		PerSecond: float64(len(all)) / took.Seconds(),
		P50:       at(0.5),
		P99:       at(0.99),
		CPU:       cpu,
	}, nil
}

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
}

func do(ctx context.Context, client *http.Client, method, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	_, err = controlplane.Do(client, req)
	return err
}

// profile keeps a CPU profile of the first global over half of the writes.
func (b bench) profile(ctx context.Context) error {
	if b.cfg.CPUProfile == "" {
		return nil
	}
	return controlplane.Profile(ctx, address(0, 5680), b.cfg.Duration/2, b.cfg.CPUProfile)
}
