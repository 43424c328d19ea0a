// Package envoybench measures what a real Envoy pays for its configuration: CPU and wall time from its start
// until it is ready, with the configuration of a real zone, and beside it with the same clusters and
// listeners from a static file.
//
// For each size a standalone zone runs as a process of its own, with one instance for each service. An
// Envoy joins it as a sidecar that calls all of them, through a relay as a launcher has one, and in turn
// without, which shows what the relay costs; so do changes of a policy, each from its write until the zone
// has Envoy's acknowledgement. Once it is ready its own config dump is turned into
// a static file, which a second Envoy starts from, without statistics tags of ours, without discovery and
// without TLS to a control plane. The difference is what the mesh costs an Envoy.
//
// CPU time is read when Envoy's /ready first answers LIVE, over all its threads. Each size is run several
// times in turn, and medians are reported.
//
// No example: it needs an Envoy.
package envoybench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/bench/controlplane"
	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
	"github.com/meridian-mesh/meridian/internal/child"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Budgets that [Report.Missed] names.
const (
	// maxRatio of the CPU and of the wall time to those of the static file.
	maxRatio = 1.3
	// maxCPU100 is the CPU time of an Envoy with 100 services.
	maxCPU100 = 300 * time.Millisecond
)

// Limits of waiting.
const (
	zoneLimit  = 2 * time.Minute
	readyLimit = 2 * time.Minute
	stopLimit  = 10 * time.Second
	poll       = 5 * time.Millisecond
)

// Config of a run.
type Config struct {
	// Meridian and Envoy are the programs.
	Meridian, Envoy string
	// Services of each size, such as 20, 100 and 500.
	Services []int
	// Rounds of each size.
	Rounds int
	// Dir is for data, logs and documents; it must exist and be empty.
	Dir string
}

// Report is what a run found.
type Report struct {
	Rows []Row
	// Missed are the budgets that were not met.
	Missed []string
}

// Row is one size. Times are medians, from Envoy's start until it is ready; of Change from the write of a
// policy until Envoy has acknowledged it. Those of Direct are without a relay.
type Row struct {
	Services              int
	CPU, Wall             time.Duration
	DirectCPU, DirectWall time.Duration
	StaticCPU, StaticWall time.Duration
	Change, DirectChange  time.Duration
}

// CPURatio is the CPU time over that of the static file.
func (r Row) CPURatio() float64 { return float64(r.CPU) / float64(r.StaticCPU) }

// WallRatio is the same of the wall time.
func (r Row) WallRatio() float64 { return float64(r.Wall) / float64(r.StaticWall) }

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "services\tcpu ms\twithout relay\tstatic file\tratio\t"+
		"wall ms\twithout relay\tstatic file\tratio\tchange ms\twithout relay\t")
	for _, row := range r.Rows {
		_, _ = fmt.Fprintf(t, "%d\t%.0f\t%.0f\t%.0f\t%.2f\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t\n",
			row.Services, ms(row.CPU), ms(row.DirectCPU), ms(row.StaticCPU), row.CPURatio(),
			ms(row.Wall), ms(row.DirectWall), ms(row.StaticWall), row.WallRatio(),
			ms(row.Change), ms(row.DirectChange))
	}
	for _, m := range r.Missed {
		_, _ = fmt.Fprintln(t, "MISSED: "+m)
	}
	return t.Flush()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (r *Report) check() {
	for _, row := range r.Rows {
		if ratio := row.CPURatio(); ratio > maxRatio {
			r.Missed = append(r.Missed, fmt.Sprintf("with %d services Envoy takes %.2f times the CPU of a "+
				"static file, must be at most %.1f", row.Services, ratio, maxRatio))
		}
		if ratio := row.WallRatio(); ratio > maxRatio {
			r.Missed = append(r.Missed, fmt.Sprintf("with %d services Envoy takes %.2f times the time of a "+
				"static file, must be at most %.1f", row.Services, ratio, maxRatio))
		}
		if row.Services == 100 && row.CPU > maxCPU100 {
			r.Missed = append(r.Missed, fmt.Sprintf("with 100 services Envoy takes %v of CPU, must be at "+
				"most %v", row.CPU.Round(time.Millisecond), maxCPU100))
		}
	}
}

// Run measures every size.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	out := &Report{}
	for _, n := range cfg.Services {
		row, err := cfg.size(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("%d services: %w", n, err)
		}
		out.Rows = append(out.Rows, row)
	}
	out.check()
	return out, nil
}

// size measures one number of services.
func (cfg Config) size(ctx context.Context, services int) (row Row, err error) {
	dir := filepath.Join(cfg.Dir, strconv.Itoa(services))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return row, err
	}
	z, err := startZone(ctx, cfg.Meridian, dir, services)
	if err != nil {
		return row, err
	}
	defer z.stop()

	token, err := z.client.IssueDataplaneToken(ctx, client.DataplaneToken{
		Mesh: mesh.DefaultMesh,
		Name: "caller",
	})
	if err != nil {
		return row, err
	}
	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		return row, err
	}
	stopRelay, err := z.startRelay(ctx, dir, token)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, stopRelay()) }()
	document, err := z.bootstrap(services, dir, socket(dir), "")
	if err != nil {
		return row, err
	}
	direct, err := z.bootstrap(services, dir, "", tokenFile)
	if err != nil {
		return row, err
	}

	row.Services = services
	static := ""
	var m measured
	for i := range cfg.Rounds {
		e := envoy{binary: cfg.Envoy, dir: dir, admin: z.admin()}
		turns := []func() error{
			func() error {
				return m.start(ctx, e, document, &m.cpu, &m.wall, func() error {
					return z.changes(ctx, &m.change)
				})
			},
			func() error {
				return m.start(ctx, e, direct, &m.directCPU, &m.directWall, func() error {
					return z.changes(ctx, &m.directChange)
				})
			},
		}
		// What comes second finds more that the zone has computed.
		if err := errors.Join(turns[i%2](), turns[1-i%2]()); err != nil {
			return row, err
		}
		if static == "" {
			if err := m.start(ctx, e, document, new([]time.Duration), new([]time.Duration), func() error {
				static, err = staticFile(ctx, dir, e.admin)
				return err
			}); err != nil {
				return row, err
			}
		}
		if err := m.start(ctx, e, static, &m.staticCPU, &m.staticWall, nil); err != nil {
			return row, fmt.Errorf("static file: %w", err)
		}
	}
	row.CPU, row.Wall = median(m.cpu), median(m.wall)
	row.DirectCPU, row.DirectWall = median(m.directCPU), median(m.directWall)
	row.StaticCPU, row.StaticWall = median(m.staticCPU), median(m.staticWall)
	row.Change, row.DirectChange = median(m.change), median(m.directChange)
	return row, nil
}

// measured are the times of all rounds.
type measured struct {
	cpu, wall, directCPU, directWall, staticCPU, staticWall, change, directChange []time.Duration
}

// start measures one Envoy from its start until it is ready, and calls f before it ends.
func (m *measured) start(ctx context.Context, e envoy, document string, cpu, wall *[]time.Duration,
	f func() error) error {
	c, w, err := e.run(ctx, document, f)
	*cpu, *wall = append(*cpu, c), append(*wall, w)
	return err
}

func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

// envoy starts Envoys, one after the other.
type envoy struct {
	binary, dir string
	// admin is the address of the admin interface.
	admin string
}

// run starts an Envoy, waits until it is ready, calls f, and ends it.
func (e envoy) run(ctx context.Context, document string,
	f func() error) (cpu, wall time.Duration, err error) {
	p := &child.Process{
		Name: "envoy",
		Args: []string{e.binary, "--config-path", document, "--use-dynamic-base-id", "--concurrency", "1",
			"--log-level", "error"},
		Log: filepath.Join(e.dir, "envoy.log"),
	}
	began := time.Now()
	if err := p.Start(); err != nil {
		return 0, 0, err
	}
	defer p.Stop(stopLimit)

	err = controlplane.Await(ctx, readyLimit, poll, "Envoy is live", func(ctx context.Context) error {
		if err := controlplane.Running(p); err != nil {
			return err
		}
		body, err := controlplane.Get(ctx, "http://"+e.admin+"/ready")
		if err == nil && string(body) != "LIVE\n" {
			err = fmt.Errorf("envoy is %s", body)
		}
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	wall = time.Since(began)
	if cpu, err = child.CPU(p.PID()); err == nil && f != nil {
		err = f()
	}
	return cpu, wall, err
}

// zone is a standalone zone on a loopback address of its own.
type zone struct {
	process *child.Process
	client  *client.Client
	address string
	// timeout counts changes.
	timeout int
}

// Ports on the zone's address.
const (
	apiPort   = "5681"
	xdsPort   = 5678
	adminPort = 9901
)

func (z *zone) admin() string { return net.JoinHostPort(z.address, strconv.Itoa(adminPort)) }

func (z *zone) stop() {
	_ = z.client.Close()
	z.process.Stop(stopLimit)
}

// startZone starts a zone and waits until it has all services.
func startZone(ctx context.Context, program, dir string, services int) (*zone, error) {
	// Another address for each process, so that a benchmark beside this one is not in the way.
	z := &zone{address: fmt.Sprintf("127.77.%d.%d", os.Getpid()>>8&255, os.Getpid()&255|1)}
	at := func(port string) string { return net.JoinHostPort(z.address, port) }
	z.process = &child.Process{
		Name: "zone",
		Args: []string{program, "zone", "--name", "bench", "--data-dir", filepath.Join(dir, "zone"),
			"--api-addr", at(apiPort), "--api-tls-addr", at("5682"), "--diagnostics-addr", at("5680"),
			"--xds-addr", at(strconv.Itoa(xdsPort)), "--log-level", "warn",
			"--localhost-is-admin"},
		Log: filepath.Join(dir, "zone.log"),
	}
	if err := z.process.Start(); err != nil {
		return nil, err
	}
	var err error
	if z.client, err = client.New(client.Options{URL: "http://" + at(apiPort)}); err != nil {
		z.process.Kill()
		return nil, err
	}
	if err := z.fill(ctx, services); err != nil {
		z.stop()
		return nil, err
	}
	return z, nil
}

func (z *zone) fill(ctx context.Context, services int) error {
	diagnostics := net.JoinHostPort(z.address, "5680")
	if err := controlplane.Ready(ctx, z.process, diagnostics, zoneLimit); err != nil {
		return err
	}

	for i := range services {
		if _, err := z.client.Put(ctx, z.instance(i), client.PutOptions{}); err != nil {
			return err
		}
	}
	all := func(ctx context.Context) error {
		page, err := z.client.List(ctx, client.ListOptions{
			Kind: mesh.KindMeshService,
			Mesh: mesh.DefaultMesh,
			Size: 1000,
		})
		if err == nil && len(page.Resources) < services {
			err = fmt.Errorf("the zone has %d of %d services", len(page.Resources), services)
		}
		return err
	}
	return controlplane.Await(ctx, zoneLimit, poll, "the zone has all services", all)
}

func service(i int) string { return fmt.Sprintf("service-%03d", i) }

// instance is the one instance of a service. It does not run: only its endpoint is of interest.
func (z *zone) instance(i int) *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.Key{
			Kind: mesh.KindDataplane,
			Mesh: mesh.DefaultMesh,
			Zone: "bench",
			Name: service(i) + "-1",
		},
		Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: fmt.Sprintf("127.78.%d.%d", i>>7, i&127+1),
			Inbound: []*meshv1.Dataplane_Inbound{{
				Port: 8080,
				Tags: map[string]string{mesh.TagService: service(i), mesh.TagProtocol: "http"},
			}},
		}},
	}
}

// firstOutbound is the port of the first service.
const firstOutbound = 20000

// bootstrap writes the document of a sidecar that calls every service, with a relay's socket or the file of
// a token.
func (z *zone) bootstrap(services int, dir, socket, tokenFile string) (string, error) {
	dataplane := fmt.Sprintf("type: Dataplane\nmesh: %s\nname: caller\nnetworking:\n  address: %s\n"+
		"  inbound:\n    - {port: 8080, tags: {kuma.io/service: caller, kuma.io/protocol: http}}\n"+
		"  outbound:\n", mesh.DefaultMesh, z.address)
	for i := range services {
		dataplane += fmt.Sprintf("    - {port: %d, backendRef: {kind: MeshService, name: %s, port: 8080}}\n",
			firstOutbound+i, service(i))
	}
	document, err := bootstrap.Build(bootstrap.Config{
		NodeID:    mesh.DefaultMesh + ".caller",
		Cluster:   "caller",
		ProxyType: "dataplane",
		Resource:  dataplane,
		Host:      z.address,
		Port:      xdsPort,
		Socket:    socket,
		Insecure:  true, // the zone of this process; its certificate is not what is measured
		TokenFile: tokenFile,
		AdminPort: adminPort,
	})
	if err != nil {
		return "", err
	}
	if document, err = z.moveAdmin(document); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "direct.json")
	if socket != "" {
		path = filepath.Join(dir, "bootstrap.json")
	}
	return path, os.WriteFile(path, document, 0o600)
}

// moveAdmin puts the admin interface beside the zone: on 127.0.0.1 another Envoy may have the port.
func (z *zone) moveAdmin(document []byte) ([]byte, error) {
	var b object
	if err := json.Unmarshal(document, &b); err != nil {
		return nil, err
	}
	b["admin"] = object{"address": object{"socket_address": object{
		"address": z.address, "port_value": adminPort,
	}}}
	return json.Marshal(b)
}
