package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// Config of a run.
type Config struct {
	// Sidecars that each see all Services, of Endpoints each.
	Sidecars, Services, Endpoints int
	// Rounds of each kind of change.
	Rounds int
	// Idle is how long to look at the idle control plane.
	Idle time.Duration
	// Command starts the process that runs [Sidecars].
	Command func(ctx context.Context) *exec.Cmd
}

// Figure is what one kind of change cost.
type Figure struct {
	// From the write to the last acknowledgement, in milliseconds.
	P50, P99 float64
	// Bytes that a concerned sidecar got, and all others together, per change.
	BytesEach, BytesOthers float64
	// CPU seconds of the control plane per change; of the sidecars' process.
	CPU, SidecarsCPU float64
	// Computes of the engine per change, by query.
	Computes map[string]float64
	// Concerned sidecars.
	Concerned int
}

// Report is what a run found.
type Report struct {
	Sidecars, Services, Endpoints, Rounds int
	// ColdStart of all sidecars at once, in milliseconds, to the last acknowledgement.
	ColdStart float64
	// Every destination, one destination, one endpoint, one sidecar.
	Every, One, Endpoint, Sidecar Figure
	// Floor is the same bytes as Every over bare gRPC in the same run; Ratio is Every.P50 to Floor.P50.
	FloorP50, FloorP99, Ratio float64
	// UntouchedBytes and UntouchedComputes are what changes of one sidecar cost the others, over all rounds.
	UntouchedBytes, UntouchedComputes float64
	// IdleCPU in percent of one core.
	IdleCPU float64
	Missed  []string
}

// Limits that issue 3 sets.
const (
	maxRatio   = 5.0
	maxIdleCPU = 0.5
)

// perProxy are the engine's queries that are computed for one proxy each.
var perProxy = []string{"membership", "match", "scope", "inbound", "secrets", "table"}

// Run measures.
func Run(ctx context.Context, c Config) (*Report, error) {
	p, err := newPlane(ctx)
	if err != nil {
		return nil, err
	}
	r, err := run(ctx, c, p)
	return r, errors.Join(err, p.stop())
}

func run(ctx context.Context, c Config, p *plane) (*Report, error) {
	if err := c.populate(ctx, p); err != nil {
		return nil, err
	}
	out := &Report{Sidecars: c.Sidecars, Services: c.Services, Endpoints: c.Endpoints, Rounds: c.Rounds}
	child, err := startChild(ctx, c.Command)
	if err != nil {
		return nil, err
	}
	defer child.close()
	revision, err := p.store.Revision(ctx)
	if err != nil {
		return nil, err
	}
	s := &startOrder{Address: p.address, Floor: p.bare, CA: p.ca}
	for i := range c.Sidecars {
		s.Nodes = append(s.Nodes, benchMesh+"."+sidecar(i))
	}
	start := time.Now()
	if err := child.send(order{Start: s}); err != nil {
		return nil, err
	}
	if err := p.answers.wait(ctx, revision, c.Sidecars); err != nil {
		return nil, fmt.Errorf("cold start: %w", err)
	}
	out.ColdStart = milliseconds(time.Since(start))
	if _, err := child.ask(); err != nil { // it answers when it is done with its start
		return nil, err
	}

	b := &bench{Config: c, plane: p, child: child}
	all := c.Sidecars
	b.withFloor = true // in turn with what it is compared to, so that both see the same machine
	if out.Every, err = b.measure(ctx, all, func(i int) store.Op { return put(timeout("every", meshRef(), meshRef(), i)) }); err != nil {
		return nil, fmt.Errorf("a change for every destination: %w", err)
	}
	b.withFloor = false
	if out.One, err = b.measure(ctx, all, func(i int) store.Op {
		return put(timeout("one", meshRef(), &meshv1.TargetRef{Kind: "MeshService", Name: service(c.Services / 2)}, i))
	}); err != nil {
		return nil, fmt.Errorf("a change for one destination: %w", err)
	}
	if out.Endpoint, err = b.measure(ctx, all, func(i int) store.Op {
		d := backend(0, c.Endpoints)
		if i%2 == 1 {
			return store.Delete{Key: d.Key}
		}
		return put(d)
	}); err != nil {
		return nil, fmt.Errorf("a change of one endpoint: %w", err)
	}
	if out.Sidecar, err = b.measure(ctx, 1, func(i int) store.Op {
		return put(timeout("single", &meshv1.TargetRef{Kind: "Dataplane", Name: sidecar(c.Sidecars / 2)}, meshRef(), i))
	}); err != nil {
		return nil, fmt.Errorf("a change for one sidecar: %w", err)
	}
	out.UntouchedBytes = math.Round(out.Sidecar.BytesOthers * float64(c.Rounds))
	for _, q := range perProxy {
		// One computation per round and query is the touched sidecar's own.
		out.UntouchedComputes += max(0, math.Round(out.Sidecar.Computes[q]*float64(c.Rounds))-float64(c.Rounds))
	}

	out.FloorP50, out.FloorP99 = quantile(b.floors, 0.5), quantile(b.floors, 0.99)
	out.Ratio = out.Every.P50 / out.FloorP50

	before := cpu()
	select {
	case <-time.After(c.Idle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out.IdleCPU = (cpu() - before) / c.Idle.Seconds() * 100
	out.check()
	return out, nil
}

func (r *Report) check() {
	miss := func(bad bool, format string, args ...any) {
		if bad {
			r.Missed = append(r.Missed, fmt.Sprintf(format, args...))
		}
	}
	miss(!(r.Ratio <= maxRatio), "a change for every destination takes %.1f times the floor, want at most %.0f", r.Ratio, maxRatio)
	miss(r.UntouchedBytes != 0, "untouched sidecars got %.0f bytes, want 0", r.UntouchedBytes)
	miss(r.UntouchedComputes != 0, "untouched sidecars cost %.0f computations, want 0", r.UntouchedComputes)
	miss(r.IdleCPU > maxIdleCPU, "idle takes %.2f %% of a core, want at most %.1f", r.IdleCPU, maxIdleCPU)
}

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(&b, "%d sidecars that each see %d services of %d endpoints, %d rounds, one process for all sidecars\n\n", r.Sidecars, r.Services, r.Endpoints, r.Rounds)
	fmt.Fprintln(t, "write to last ACK\tp50 ms\tp99 ms\tbytes each\tbytes others\tcpu-s\tcpu-s sidecars\tcomputes\t")
	for _, row := range []struct {
		name string
		f    Figure
	}{{"every destination", r.Every}, {"one destination", r.One}, {"one endpoint", r.Endpoint}, {"one sidecar", r.Sidecar}} {
		sum := 0.0
		for _, n := range row.f.Computes {
			sum += n
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.0f\t%.0f\t%.4f\t%.4f\t%.1f\t\n", row.name, row.f.P50, row.f.P99, row.f.BytesEach, row.f.BytesOthers, row.f.CPU, row.f.SidecarsCPU, sum)
	}
	fmt.Fprintf(t, "floor, same bytes as every\t%.2f\t%.2f\t%.0f\t\t\t\t\t\n", r.FloorP50, r.FloorP99, r.Every.BytesEach)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nevery destination / floor: %.2f (at most %.0f)\nothers during a change for one sidecar: %.0f bytes, %.0f computations (none)\ncold start of all sidecars: %.0f ms\nidle CPU: %.2f %% of a core (at most %.1f)\n",
		r.Ratio, maxRatio, r.UntouchedBytes, r.UntouchedComputes, r.ColdStart, r.IdleCPU, maxIdleCPU)
	for _, m := range r.Missed {
		fmt.Fprintf(&b, "MISSED: %s\n", m)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

type bench struct {
	Config
	plane *plane
	child *child
	// withFloor adds a round of the floor after each round.
	withFloor bool
	floors    []time.Duration
}

// measure commits one change per round and waits for the concerned sidecars. The first round is not counted.
func (b *bench) measure(ctx context.Context, concerned int, change func(round int) store.Op) (Figure, error) {
	f := Figure{Concerned: concerned, Computes: map[string]float64{}}
	n := float64(b.Rounds)
	var times []time.Duration
	got := make([]float64, b.Sidecars)
	for i := range b.Rounds + 1 {
		before, err := b.child.ask()
		if err != nil {
			return f, err
		}
		computes, err := b.plane.computes(ctx)
		if err != nil {
			return f, err
		}
		used, start := cpu(), time.Now()
		revision, err := b.plane.commit(ctx, change(i))
		if err != nil {
			return f, err
		}
		if err := b.plane.answers.wait(ctx, revision, concerned); err != nil {
			return f, err
		}
		took := time.Since(start)
		used = cpu() - used
		after, err := b.child.ask()
		if err != nil {
			return f, err
		}
		now, err := b.plane.computes(ctx)
		if err != nil {
			return f, err
		}
		size := 0
		for s := range after.Bytes {
			size = max(size, after.Bytes[s]-before.Bytes[s])
		}
		if b.withFloor {
			d, err := b.plane.floor.round(ctx, size)
			if err != nil {
				return f, fmt.Errorf("floor: %w", err)
			}
			if i > 0 {
				b.floors = append(b.floors, d)
			}
		}
		if i == 0 {
			continue
		}
		times = append(times, took)
		f.CPU += used / n
		f.SidecarsCPU += (after.CPU - before.CPU) / n
		for s := range got {
			got[s] += float64(after.Bytes[s]-before.Bytes[s]) / n
		}
		for q, v := range now {
			if d := v - computes[q]; d > 0 {
				f.Computes[q] += d
			}
		}
	}
	for q := range f.Computes {
		f.Computes[q] /= n
	}
	slices.Sort(got)
	for i, v := range got {
		if i < len(got)-concerned {
			f.BytesOthers += v
		} else {
			f.BytesEach += v / float64(concerned)
		}
	}
	f.P50, f.P99 = quantile(times, 0.5), quantile(times, 0.99)
	return f, nil
}

// populate writes the mesh, the services with their endpoints and the sidecars.
func (c Config) populate(ctx context.Context, p *plane) error {
	ops := []store.Op{put(&mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: benchMesh}, Spec: &meshv1.Mesh{}})}
	for i := range c.Services {
		ops = append(ops, put(&mesh.Resource{Key: key(mesh.KindMeshService, service(i)), Spec: &meshv1.MeshService{
			Selector: &meshv1.MeshService_Selector{DataplaneTags: map[string]string{mesh.TagService: service(i)}},
			Ports: []*meshv1.ServicePort{{Port: 80, Name: "http", AppProtocol: "http",
				TargetPort: &meshv1.IntOrString{Value: &meshv1.IntOrString_IntValue{IntValue: 8080}}}},
			Identities: []*meshv1.MeshService_Identity{{Type: "ServiceTag", Value: service(i)}}, State: "Available",
		}}))
		for e := range c.Endpoints {
			ops = append(ops, put(backend(i, e)))
		}
	}
	for i := range c.Sidecars {
		d := dataplane(sidecar(i), address(200, i), "client")
		n := d.Spec.(*meshv1.Dataplane).Networking
		for s := range c.Services {
			n.Outbound = append(n.Outbound, &meshv1.Dataplane_Outbound{Port: uint32(10000 + s),
				BackendRef: &meshv1.Dataplane_OutboundBackendRef{Kind: "MeshService", Name: service(s), Port: 80}})
		}
		ops = append(ops, put(d))
	}
	_, err := p.commit(ctx, ops...)
	return err
}

func service(i int) string { return fmt.Sprintf("service-%03d", i) }
func sidecar(i int) string { return fmt.Sprintf("client-%05d", i) }

func address(net, i int) string { return fmt.Sprintf("10.%d.%d.%d", net, i/250, i%250+1) }

func key(kind mesh.Kind, name string) mesh.Key {
	return mesh.Key{Kind: kind, Mesh: benchMesh, Zone: benchZone, Name: name}
}

func backend(s, e int) *mesh.Resource {
	return dataplane(fmt.Sprintf("%s-%d", service(s), e), address(100+e%100, s), service(s))
}

func dataplane(name, address, service string) *mesh.Resource {
	return &mesh.Resource{Key: key(mesh.KindDataplane, name), Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Address: address,
		Inbound: []*meshv1.Dataplane_Inbound{{Port: 8080, Name: "http", ServicePort: 8081, Protocol: "http", Tags: map[string]string{mesh.TagService: service}}}}}}
}

func meshRef() *meshv1.TargetRef { return &meshv1.TargetRef{Kind: "Mesh"} }

// timeout is a policy whose content depends on the round, in clusters as well as in routes.
func timeout(name string, target, to *meshv1.TargetRef, round int) *mesh.Resource {
	d := durationpb.New(time.Duration(1000+round) * time.Millisecond)
	return &mesh.Resource{Key: mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: benchMesh, Name: name}, Spec: &meshv1.MeshTimeout{
		TargetRef: target, To: []*meshv1.MeshTimeout_To{{TargetRef: to, Default: &meshv1.MeshTimeout_Conf{
			ConnectionTimeout: proto.CloneOf(d), Http: &meshv1.MeshTimeout_Http{RequestTimeout: d}}}}}}
}

func put(r *mesh.Resource) store.Op { return store.Put{Resource: r} }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile in milliseconds, nearest rank.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return milliseconds(d[max(0, int(math.Ceil(q*float64(len(d))))-1)])
}

// child is the process of the sidecars.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startChild(ctx context.Context, command func(context.Context) *exec.Cmd) (*child, error) {
	cmd := command(ctx)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the sidecars: %w", err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	return &child{cmd: cmd, in: in, lines: lines}, nil
}

func (c *child) send(o order) error { return json.NewEncoder(c.in).Encode(o) }

// ask returns what came in until now.
func (c *child) ask() (report, error) {
	var r report
	if err := c.send(order{}); err != nil {
		return r, fmt.Errorf("the sidecars' process has ended: %w", err)
	}
	if !c.lines.Scan() {
		return r, errors.Join(errors.New("the sidecars' process has ended"), c.lines.Err())
	}
	return r, json.Unmarshal(c.lines.Bytes(), &r)
}

func (c *child) close() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}
