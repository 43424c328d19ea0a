package apibench

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/bench/controlplane"
	"github.com/meridian-mesh/meridian/internal/child"
	"github.com/meridian-mesh/meridian/internal/pgserver"
)

// readyTimeout bounds the start of a control plane, and of the zones' joining.
const readyTimeout = 30 * time.Second

// stack is the processes.
type stack struct {
	dir     string
	globals []string // URLs of the API
	stops   []func()
	// processes whose CPU is measured, by what they are; a server of PostgreSQL with its children.
	processes map[string][]func() ([]int, error)
}

// Names of what uses CPU.
const (
	cpuGlobals  = "globals"
	cpuZones    = "zones"
	cpuDatabase = "database"
	cpuClients  = "clients"
)

// cpu is what each sort of process has used so far.
func (s *stack) cpu() (map[string]time.Duration, error) {
	used := map[string]time.Duration{}
	for what, processes := range s.processes {
		for _, list := range processes {
			pids, err := list()
			if err != nil {
				return nil, err
			}
			for _, pid := range pids {
				if d, err := child.CPU(pid); err == nil { // a connection may have ended
					used[what] += d
				}
			}
		}
	}
	return used, nil
}

// counts adds a process to what is measured.
func (s *stack) counts(what string, list func() ([]int, error)) {
	s.processes[what] = append(s.processes[what], list)
}

// stop ends everything, the last started first, and removes its files.
func (s *stack) stop() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
}

// start brings up the globals and two zones, and waits until the zones are online.
func start(ctx context.Context, cfg Config) (*stack, error) {
	dir, err := os.MkdirTemp("", "meridian-bench-api-")
	if err != nil {
		return nil, err
	}
	s := &stack{dir: dir, processes: map[string][]func() ([]int, error){}}
	s.counts(cpuClients, func() ([]int, error) { return []int{os.Getpid()}, nil })
	s.stops = append(s.stops, func() { _ = os.RemoveAll(dir) })
	if err := s.up(ctx, cfg); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *stack) up(ctx context.Context, cfg Config) error {
	// The server of PostgreSQL may run as another user, who has to get to its own folder.
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return err
	}
	var env []string
	globals := 1
	if cfg.Store == "postgres" {
		server, err := pgserver.Start(filepath.Join(s.dir, "cluster"), pgserver.Durable...)
		if err != nil {
			return err
		}
		s.stops = append(s.stops, server.Stop)
		s.counts(cpuDatabase, func() ([]int, error) {
			pids, err := child.Children(server.PID())
			return append(pids, server.PID()), err
		})
		env = []string{"MERIDIAN_POSTGRES_URL=" + server.URL("postgres")}
		globals = 2
	}

	// A token pins the certificate of the global that issued it.
	var admins []*client.Client
	for i := range globals {
		args := []string{"global", "--kds-addr", address(i, 5685), "--store", cfg.Store}
		if i > 0 {
			// Replicas of global share the key of the store.
			args = append(args, "--encryption-key-file", filepath.Join(s.dir, "global-0", "encryption.key"))
		}
		if err := s.controlPlane(ctx, cfg, fmt.Sprintf("global-%d", i), i, env, args); err != nil {
			return err
		}
		s.globals = append(s.globals, "http://"+address(i, 5681))
		admin, err := client.New(client.Options{URL: s.globals[i]})
		if err != nil {
			return err
		}
		admins = append(admins, admin)
	}

	for i, zone := range []string{"us-east", "eu-west"} {
		token, err := admins[i%globals].IssueZoneToken(ctx, zone, []string{"cp"}, nil)
		if err != nil {
			return fmt.Errorf("zone token: %w", err)
		}
		file := filepath.Join(s.dir, zone+".token")
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			return err
		}
		args := []string{"zone", "--name", zone, "--global", "grpcs://" + address(i%globals, 5685),
			"--token-file", file, "--xds-addr", address(2+i, 5678)}
		if err := s.controlPlane(ctx, cfg, zone, 2+i, nil, args); err != nil {
			return err
		}
	}
	return controlplane.Await(ctx, readyTimeout, controlplane.Poll, "both zones are online",
		func(ctx context.Context) error {
			online, err := zonesOnline(ctx, s.globals)
			if err != nil {
				return err
			}
			if online < 2 {
				return fmt.Errorf("%d zones are online", online)
			}
			return nil
		})
}

// zonesOnline counts the zones that are connected to any global. It asks as clients of Kuma do, which
// every version of the program answers alike.
func zonesOnline(ctx context.Context, globals []string) (int, error) {
	online := map[string]bool{}
	for _, global := range globals {
		var page struct {
			Items []struct {
				Name        string
				ZoneInsight struct{ State string }
			}
		}
		if err := controlplane.GetJSON(ctx, global+"/zones/_overview", &page); err != nil {
			return 0, err
		}
		for _, z := range page.Items {
			if z.ZoneInsight.State == "Online" {
				online[z.Name] = true
			}
		}
	}
	return len(online), nil
}

// address of a port of control plane i; each has a loopback address of its own, as in the demo.
func address(i, port int) string {
	return net.JoinHostPort(fmt.Sprintf("127.77.0.%d", i+1), fmt.Sprint(port))
}

// controlPlane starts one and waits until it is ready.
func (s *stack) controlPlane(ctx context.Context, cfg Config, name string, i int, env, args []string) error {
	args = append([]string{cfg.Meridian}, args...)
	args = append(args,
		"--data-dir", filepath.Join(s.dir, name),
		"--api-addr", address(i, 5681),
		"--api-tls-addr", address(i, 5682),
		"--diagnostics-addr", address(i, 5680),
		"--log-level", "warn",
		// Without tokens: what is measured is the write, not the check of a signature.
		"--localhost-is-admin",
	)
	p := &child.Process{
		Name: name,
		Args: args,
		Env:  env,
		Log:  filepath.Join(s.dir, name+".log"),
	}
	if err := p.Start(); err != nil {
		return err
	}
	s.stops = append(s.stops, func() { p.Stop(5 * time.Second) })
	what := cpuZones
	if args[1] == "global" {
		what = cpuGlobals
	}
	s.counts(what, func() ([]int, error) { return []int{p.PID()}, nil })

	return controlplane.Ready(ctx, p, address(i, 5680), readyTimeout)
}
