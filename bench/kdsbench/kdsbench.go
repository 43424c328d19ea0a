package kdsbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/bench/controlplane"
	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/internal/child"
	"github.com/meridian-mesh/meridian/mesh"
)

// Config of Run.
type Config struct {
	// Zones is their number, at least 2.
	Zones int
	// Idle is how long the idle control planes are looked at, and After how long a flipped route is.
	// Before each all must be at rest, for Rest.
	Idle, After, Rest time.Duration
	// Policies is how many policies are written, one after the other.
	Policies int
	// Meridian is the path of the program.
	Meridian string
	// Dir takes data directories and logs; it exists and is empty.
	Dir string
	// CPUProfile is a file for a profile of the idle global; empty: none.
	CPUProfile string
	// Progress takes a line at each step; nil: none.
	Progress io.Writer
}

// Run starts everything, measures, and ends everything.
func Run(ctx context.Context, cfg Config) (report Report, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	report.Zones, report.Sidecars = cfg.Zones, wired*sidecarsPerZone
	began := time.Now()
	s, err := start(ctx, cfg)
	if err != nil {
		return report, err
	}
	defer s.stop()
	report.add("all zones started, s", time.Since(began).Seconds(), 0)

	group, ctx := errgroup.WithContext(ctx)
	defer func() { cancel(); err = errors.Join(err, group.Wait()) }()
	b := &bench{stack: s, report: &report}
	for _, m := range s.zones[:wired] {
		if err := sidecars(ctx, group, m); err != nil {
			return report, err
		}
	}
	b.received = watchAll(ctx, group, s.zones)
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"idle", b.idle},
		{"flipped route", b.flip},
		{"policy in all zones", b.policies},
		{"global killed", b.killed},
	} {
		if cfg.Progress != nil {
			fmt.Fprintf(cfg.Progress, "%6.1f s  %s\n", time.Since(began).Seconds(), step.name)
		}
		if err := step.run(ctx); err != nil {
			return report, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return report, nil
}

type bench struct {
	*stack
	report   *Report
	received <-chan arrival
	written  int     // policies
	rate     float64 // bytes a second on all wires when idle
}

// wireBytes are those of all wires.
func (s *stack) wireBytes() int64 {
	var sum int64
	for _, m := range s.zones {
		if m.wire != nil {
			sum += m.wire.bytes.Load()
		}
	}
	return sum
}

// idle measures what nothing costs.
func (b *bench) idle(ctx context.Context) error {
	if err := b.route(ctx, 90); err != nil {
		return err
	}
	if err := backoff.Wait(ctx, b.cfg.Rest); err != nil {
		return err
	}
	profiled := make(chan error, 1)
	go func() { profiled <- b.profile(ctx) }()

	bytes, began := b.wireBytes(), time.Now()
	cpu, err := child.CPU(b.global.PID())
	if err != nil {
		return err
	}
	zonesCPU, memory := b.zonesUse()
	if err := backoff.Wait(ctx, b.cfg.Idle); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	bytes = b.wireBytes() - bytes
	after, err := child.CPU(b.global.PID())
	if err != nil {
		return err
	}
	zonesAfter, _ := b.zonesUse()
	b.rate = float64(bytes) / took
	b.report.add("idle, bytes a minute and zone", b.rate*60/wired, 2000)
	b.report.add("idle, CPU of global, % of a core", 100*(after-cpu).Seconds()/took, 3)
	zones := float64(len(b.zones))
	b.report.add("idle, CPU of a zone, % of a core", 100*(zonesAfter-zonesCPU).Seconds()/took/zones, 0)
	b.report.add("memory of a zone, MB", float64(memory)/zones/1e6, 0)
	if now, _, err := child.Memory(b.global.PID()); err == nil {
		b.report.add("memory of global, MB", float64(now)/1e6, 0)
	}
	return <-profiled
}

// zonesUse sums CPU time and resident bytes of all zones; those that ended count nothing.
func (b *bench) zonesUse() (cpu time.Duration, memory uint64) {
	for _, m := range b.zones {
		if used, err := child.CPU(m.process.PID()); err == nil {
			cpu += used
		}
		if now, _, err := child.Memory(m.process.PID()); err == nil {
			memory += now
		}
	}
	return cpu, memory
}

// route writes a MeshHTTPRoute with a weight.
func (b *bench) route(ctx context.Context, weight int) error {
	return b.put(ctx, "/meshes/default/meshhttproutes/canary", fmt.Sprintf(`{
		"type": "MeshHTTPRoute", "mesh": "default", "name": "canary",
		"spec": {
			"targetRef": {"kind": "Mesh"},
			"to": [{"targetRef": {"kind": "MeshService", "name": "backend"}, "rules": [{
				"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
				"default": {"backendRefs": [
					{"kind": "MeshService", "name": "backend", "port": 8080, "weight": %d},
					{"kind": "MeshService", "name": "web", "port": 8080, "weight": %d}
				]}
			}]}]
		}}`, weight, 100-weight))
}

// flip measures all that one changed weight costs on the wires, be it later, beyond what nothing costs.
func (b *bench) flip(ctx context.Context) error {
	bytes, began := b.wireBytes(), time.Now()
	if err := b.route(ctx, 50); err != nil {
		return err
	}
	if err := backoff.Wait(ctx, b.cfg.After); err != nil {
		return err
	}
	bytes = b.wireBytes() - bytes
	beyond := float64(bytes) - b.rate*time.Since(began).Seconds()
	b.report.add(fmt.Sprintf("one flipped route, bytes over %d zones", wired), beyond, 2000)
	return nil
}

// policies measures how long a policy takes until every zone has it.
func (b *bench) policies(ctx context.Context) error {
	var took []float64
	for range b.cfg.Policies {
		began := time.Now()
		if err := b.everywhere(ctx); err != nil {
			return err
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
		if err := backoff.Wait(ctx, time.Second); err != nil {
			return err
		}
	}
	slices.Sort(took)
	b.report.add("policy in all zones, p50 ms", took[len(took)/2], 0)
	b.report.add("policy in all zones, max ms", took[len(took)-1], 0)
	return nil
}

// everywhere writes a policy and waits until every zone has it.
func (b *bench) everywhere(ctx context.Context) error {
	b.written++
	name := fmt.Sprintf("everywhere-%d", b.written)
	take := func(ctx context.Context) error {
		return b.put(ctx, "/meshes/default/meshtimeouts/"+name, fmt.Sprintf(`{
			"type": "MeshTimeout", "mesh": "default", "name": %q,
			"spec": {
				"targetRef": {"kind": "Mesh"},
				"to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "%ds"}}]
			}}`, name, 100+b.written))
	}
	if err := controlplane.Await(ctx, joinTimeout, controlplane.Poll, "global takes a policy",
		take); err != nil {
		return err
	}

	have := map[int]bool{}
	limit := time.NewTimer(joinTimeout)
	defer limit.Stop()
	for len(have) < len(b.zones) {
		select {
		case a := <-b.received:
			if a.policy == name {
				have[a.zone] = true
			}
		case <-limit.C:
			return fmt.Errorf("%s is in %d of %d zones", name, len(have), len(b.zones))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// killed measures from a kill -9 of global, which is started again at once, until all zones are
// online there, and until one more policy is in all of them.
func (b *bench) killed(ctx context.Context) error {
	began := time.Now()
	b.global.Kill()
	if err := b.ready(ctx, b.global, 0); err != nil {
		return err
	}
	b.report.add("global killed: ready again, s", time.Since(began).Seconds(), 0)
	group, both := errgroup.WithContext(ctx)
	var online, policy time.Duration
	group.Go(func() (err error) {
		err = b.allOnline(both)
		online = time.Since(began)
		return err
	})
	group.Go(func() (err error) {
		err = b.everywhere(both)
		policy = time.Since(began)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	b.report.add("global killed: all zones back, s", online.Seconds(), 0)
	b.report.add("global killed: a policy in all zones, s", policy.Seconds(), 0)
	return nil
}

// arrival says that a zone has a policy.
type arrival struct {
	zone   int
	policy string
}

// watchAll follows the policies of every zone until ctx ends. What is not read waits at the zones.
func watchAll(ctx context.Context, group *errgroup.Group, zones []*member) <-chan arrival {
	out := make(chan arrival, len(zones))
	for _, m := range zones {
		group.Go(func() error {
			kinds := []mesh.Kind{mesh.KindMeshTimeout}
			err := m.client.Watch(ctx, kinds, mesh.DefaultMesh, func(e client.Event) error {
				for _, r := range e.Upserts {
					select {
					case out <- arrival{m.number, r.Key.Name}:
					case <-ctx.Done():
						return nil
					}
				}
				return nil
			})
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("watch policies of %s: %w", m.name, err)
			}
			return nil
		})
	}
	return out
}

// profile keeps a CPU profile of the idle global.
func (b *bench) profile(ctx context.Context) error {
	if b.cfg.CPUProfile == "" {
		return nil
	}
	return controlplane.Profile(ctx, address(0, 5680), b.cfg.Idle-time.Second, b.cfg.CPUProfile)
}
