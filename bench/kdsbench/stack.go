package kdsbench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/bench/controlplane"
	"github.com/meridian-mesh/meridian/internal/child"
)

const (
	// readyTimeout bounds the start of one control plane.
	readyTimeout = 60 * time.Second
	// joinTimeout bounds the joining of all zones, and their return.
	joinTimeout = 3 * time.Minute
	// startsAtOnce is how many zones start at the same time.
	startsAtOnce = 8
	// wired is how many zones reach global through a wire; these have sidecars.
	wired = 2
)

// stack is the processes.
type stack struct {
	cfg    Config
	dir    string
	global *child.Process
	admin  *client.Client // of global
	zones  []*member
	stops  []func()
}

// member is a zone control plane.
type member struct {
	name    string
	number  int
	process *child.Process
	client  *client.Client
	wire    *wire // nil but for the first zones
}

// start brings up global and the zones, and waits until all are online.
func start(ctx context.Context, cfg Config) (*stack, error) {
	s := &stack{cfg: cfg, dir: cfg.Dir}
	if err := s.up(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// stop ends everything, the last started first.
func (s *stack) stop() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
}

func (s *stack) up(ctx context.Context) error {
	s.global = s.controlPlane("global", 0, "global",
		"--store", "embedded",
		"--kds-addr", address(0, 5685),
	)
	s.stops = append(s.stops, func() { s.global.Stop(5 * time.Second) })
	if err := s.ready(ctx, s.global, 0); err != nil {
		return err
	}
	admin, err := client.New(client.Options{URL: "http://" + address(0, 5681)})
	if err != nil {
		return err
	}
	s.stops = append(s.stops, func() { _ = admin.Close() })
	s.admin = admin

	for i := range s.cfg.Zones {
		m, err := s.member(ctx, i)
		if err != nil {
			return fmt.Errorf("zone %d: %w", i, err)
		}
		s.zones = append(s.zones, m)
	}
	// Global ends last, and zones all at once: each waits for its own end.
	s.stops = append(s.stops, s.stopZones)
	group, starting := errgroup.WithContext(ctx)
	group.SetLimit(startsAtOnce)
	for _, m := range s.zones {
		group.Go(func() error { return s.ready(starting, m.process, m.number) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return s.allOnline(ctx)
}

func (s *stack) stopZones() {
	for _, m := range s.zones {
		m.process.Signal(syscall.SIGKILL)
	}
	for _, m := range s.zones {
		m.process.Kill()
	}
}

// member prepares a zone; it does not start it.
func (s *stack) member(ctx context.Context, i int) (*member, error) {
	m := &member{name: fmt.Sprintf("zone-%03d", i), number: i + 1}
	token, err := s.admin.IssueZoneToken(ctx, m.name, []string{"cp"}, nil)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	file := filepath.Join(s.dir, m.name+".token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return nil, err
	}
	global := address(0, 5685)
	if i < wired {
		if m.wire, err = listen(address(m.number, 5685), global); err != nil {
			return nil, err
		}
		s.stops = append(s.stops, m.wire.stop)
		global = address(m.number, 5685)
	}
	m.process = s.controlPlane(m.name, m.number, "zone",
		"--name", m.name,
		"--global", "grpcs://"+global,
		"--token-file", file,
		"--xds-addr", address(m.number, 5678),
	)
	m.client, err = client.New(client.Options{URL: "http://" + address(m.number, 5681)})
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() { _ = m.client.Close() })
	return m, nil
}

// address of a port of control plane i: each has a loopback address of its own.
func address(i, port int) string {
	return net.JoinHostPort(fmt.Sprintf("127.78.%d.%d", i/250, 1+i%250), fmt.Sprint(port))
}

func (s *stack) controlPlane(name string, i int, args ...string) *child.Process {
	args = append([]string{s.cfg.Meridian}, args...)
	args = append(args,
		"--data-dir", filepath.Join(s.dir, name),
		"--api-addr", address(i, 5681),
		"--api-tls-addr", address(i, 5682),
		"--diagnostics-addr", address(i, 5680),
		"--log-level", "warn",
		"--localhost-is-admin",
	)
	return &child.Process{
		Name: name,
		Args: args,
		Log:  filepath.Join(s.dir, name+".log"),
	}
}

// ready starts a control plane if it does not run, and waits until it is ready.
func (s *stack) ready(ctx context.Context, p *child.Process, i int) error {
	if err := p.Start(); err != nil {
		return err
	}
	return controlplane.Ready(ctx, p, address(i, 5680), readyTimeout)
}

// allOnline waits until global says that every zone is online.
func (s *stack) allOnline(ctx context.Context) error {
	all := func(ctx context.Context) error {
		online, err := s.online(ctx)
		if err == nil && online < len(s.zones) {
			err = fmt.Errorf("%d of %d are", online, len(s.zones))
		}
		return err
	}
	return controlplane.Await(ctx, joinTimeout, controlplane.Poll, "all zones are online", all)
}

// online counts the zones that global sees.
func (s *stack) online(ctx context.Context) (int, error) {
	var status struct {
		Zones []struct {
			State string `json:"state"`
		} `json:"zones"`
	}
	if err := controlplane.GetJSON(ctx, "http://"+address(0, 5681)+"/status", &status); err != nil {
		return 0, err
	}
	online := 0
	for _, z := range status.Zones {
		if z.State == "Online" {
			online++
		}
	}
	return online, nil
}

// put writes a resource at global.
func (s *stack) put(ctx context.Context, path, document string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+address(0, 5681)+path,
		strings.NewReader(document))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	_, err = controlplane.Do(http.DefaultClient, req)
	return err
}
