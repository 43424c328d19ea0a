package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/template"
	"time"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/internal/child"
	"github.com/meridian-mesh/meridian/internal/pgserver"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// The zones, in the order of their network's third byte, from 1.
const (
	usEast = "us-east"
	euWest = "eu-west"
)

var zoneNames = []string{usEast, euWest}

// Ports of every workload, on an address of its own.
const (
	inboundPort   = 8080
	appPort       = 9090
	readinessPort = 9901

	toTicketBooking = 20001
	toFlightSearch  = 20002
	toGlobalFlights = 20003
)

// outbound of a workload's Dataplane.
type outbound struct {
	Port       int
	Kind, Name string
}

// workload is one sidecar with its application.
type workload struct {
	Zone, Name, Service, App string
	Address                  string
	Outbounds                []outbound
	// Later workloads are started by a step.
	Later bool

	app, sidecar *child.Process
}

func (w *workload) id() string { return w.Zone + "/" + w.Name }

// url of one of the workload's outbounds: what its application calls.
func (w *workload) url(port int, path string) string {
	return fmt.Sprintf("http://%s:%d%s", w.Address, port, path)
}

// controlPlane is global or a zone.
type controlPlane struct {
	name, address string
	process       *child.Process
	client        *client.Client
}

// Stack is everything that runs.
type Stack struct {
	cfg       Config
	dir       string
	global    *controlPlane
	zones     map[string]*controlPlane
	workloads []*workload
	ingresses map[string]*child.Process
	tokens    map[string]string // by workload id, and "ZONE/ingress": files
	stops     []func()
	http      *http.Client
}

func newStack(cfg Config) (*Stack, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	marker := filepath.Join(dir, "made-by-meridian-demo")
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		if _, err := os.Stat(marker); err != nil {
			return nil, fmt.Errorf("%s is not empty and not a former demo's; choose another with --dir", dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	for _, sub := range []string{"logs", "tokens", "documents"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return nil, err
	}
	s := &Stack{
		cfg:       cfg,
		dir:       dir,
		zones:     map[string]*controlPlane{},
		ingresses: map[string]*child.Process{},
		tokens:    map[string]string{},
		http: &http.Client{
			Timeout:   2 * time.Second,
			Transport: &http.Transport{DisableKeepAlives: true},
		},
	}
	tickets := outbound{toTicketBooking, "MeshService", "ticket-booking"}
	flights := outbound{toFlightSearch, "MeshService", "flight-search"}
	globalFlights := outbound{toGlobalFlights, "MeshMultiZoneService", "global-flight-search"}
	add := func(zone, name, service, app string, later bool, outbounds ...outbound) {
		z := slices.Index(zoneNames, zone) + 1
		host := map[string]int{"booking-gateway": 10, "ticket-booking-v1": 11, "ticket-booking-v2": 12,
			"flight-search-1": 13,
			"flight-search-2": 14, "flight-search-3": 15}[name]
		s.workloads = append(s.workloads, &workload{
			Zone:      zone,
			Name:      name,
			Service:   service,
			App:       app,
			Later:     later,
			Outbounds: outbounds,
			Address:   fmt.Sprintf("%s.%d.%d", cfg.Network, z, host),
		})
	}
	add(usEast, "booking-gateway", "booking-gateway", "booking-gateway", false, tickets, flights,
		globalFlights)
	add(usEast, "ticket-booking-v1", "ticket-booking-v1", "ticket-booking", false)
	add(usEast, "ticket-booking-v2", "ticket-booking-v2", "ticket-booking", false)
	add(usEast, "flight-search-1", "flight-search", "flight-search", false, tickets)
	add(usEast, "flight-search-2", "flight-search", "flight-search", false)
	add(usEast, "flight-search-3", "flight-search", "flight-search", true)
	add(euWest, "booking-gateway", "booking-gateway", "booking-gateway", false, flights, globalFlights)
	add(euWest, "flight-search-1", "flight-search", "flight-search", false)
	add(euWest, "flight-search-2", "flight-search", "flight-search", false)
	add(euWest, "flight-search-3", "flight-search", "flight-search", true)
	return s, nil
}

func (s *Stack) workload(zone, name string) *workload {
	for _, w := range s.workloads {
		if w.Zone == zone && w.Name == name {
			return w
		}
	}
	panic("demo: no workload " + zone + "/" + name) // a slip in a step
}

// Up starts global, the zones, and applies what the scenario starts with; workloads are started by the
// first step.
func (s *Stack) Up(ctx context.Context) error {
	s.global = s.newControlPlane("global", s.cfg.Network+".0.1")
	if err := s.startControlPlane(ctx, s.global); err != nil {
		return err
	}
	for _, file := range []string{"mesh.yaml", "hostnames.yaml"} {
		if _, err := s.put(ctx, s.global, file); err != nil {
			return err
		}
	}
	for i, zone := range zoneNames {
		token, err := s.global.client.IssueZoneToken(ctx, zone, []string{"cp"}, nil)
		if err != nil {
			return fmt.Errorf("zone token: %w", err)
		}
		if err := s.keepToken("zone-"+zone, token); err != nil {
			return err
		}
		cp := s.newControlPlane(zone, fmt.Sprintf("%s.%d.1", s.cfg.Network, i+1))
		s.zones[zone] = cp
		if err := s.startControlPlane(ctx, cp); err != nil {
			return err
		}
	}
	ok, seen, _ := eventually(ctx, 20*time.Second, func(ctx context.Context) (bool, string) {
		st, err := s.global.client.Status(ctx)
		if err != nil {
			return false, err.Error()
		}
		online := 0
		for _, z := range st.GetZones() {
			if z.GetState() == adminv1.ZoneState_ZONE_STATE_ONLINE {
				online++
			}
		}
		return online == len(zoneNames), fmt.Sprintf("%d zones online", online)
	})
	if !ok {
		return fmt.Errorf("the zones did not join global: %s; see %s", seen, filepath.Join(s.dir, "logs"))
	}
	return s.issueTokens(ctx)
}

// issueTokens makes every token that the scenario needs, before control planes begin to die. Dataplane
// tokens come from the proxy's own zone, whose certificate they pin; ingress tokens from global,
// which alone may issue zone tokens.
func (s *Stack) issueTokens(ctx context.Context) error {
	for _, w := range s.workloads {
		var token string
		ok, seen, _ := eventually(ctx, 10*time.Second, func(ctx context.Context) (bool, string) {
			var err error
			token, err = s.zones[w.Zone].client.IssueDataplaneToken(ctx, client.DataplaneToken{
				Mesh: mesh.DefaultMesh,
				Name: w.Name,
				Tags: map[string][]string{mesh.TagService: {w.Service}},
			})
			if err != nil {
				return false, err.Error() // the mesh may not have arrived yet
			}
			return true, ""
		})
		if !ok {
			return fmt.Errorf("dataplane token of %s: %s", w.id(), seen)
		}
		if err := s.keepToken(w.id(), token); err != nil {
			return err
		}
	}
	for _, zone := range zoneNames {
		token, err := s.global.client.IssueZoneToken(ctx, zone, []string{"ingress"}, nil)
		if err != nil {
			return fmt.Errorf("ingress token: %w", err)
		}
		if err := s.keepToken(zone+"/ingress", token); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) keepToken(name, token string) error {
	path := filepath.Join(s.dir, "tokens", strings.ReplaceAll(name, "/", "-"))
	s.tokens[name] = path
	return os.WriteFile(path, []byte(token), 0o600)
}

func (s *Stack) dataDir(controlPlane string) string {
	return filepath.Join(s.dir, "data", controlPlane)
}

func (s *Stack) newControlPlane(name, address string) *controlPlane {
	cp := &controlPlane{name: name, address: address}
	at := func(port int) string { return net.JoinHostPort(address, fmt.Sprint(port)) }
	args := []string{s.cfg.Meridian, "global", "--kds-addr", at(5685)}
	if name != "global" {
		args = []string{s.cfg.Meridian, "zone", "--name", name, "--global",
			"grpcs://" + net.JoinHostPort(s.global.address, "5685"),
			"--token-file", s.tokens["zone-"+name], "--xds-addr", at(5678), "--test-hooks"}
	}
	args = append(args, "--data-dir", s.dataDir(name), "--api-addr", at(5681),
		"--api-tls-addr", at(5682),
		"--diagnostics-addr", at(5680), "--store", s.cfg.Store)
	cp.process = s.newProcess(name, nil, args...)
	return cp
}

// startControlPlane starts it the first time, with a database of its own if need be, and waits
// until it is ready.
func (s *Stack) startControlPlane(ctx context.Context, cp *controlPlane) error {
	if s.cfg.Store == "postgres" && cp.process.Env == nil {
		// Not below the demo's folder: the server runs as the user postgres if we are root, and
		// must be able to get there.
		dir, err := os.MkdirTemp("", "meridian-demo-postgres-")
		if err != nil {
			return err
		}
		s.stops = append(s.stops, func() { _ = os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
		server, err := pgserver.Start(filepath.Join(dir, "cluster"))
		if err != nil {
			return fmt.Errorf("start PostgreSQL for %s: %w", cp.name, err)
		}
		s.stops = append(s.stops, server.Stop)
		cp.process.Env = []string{"MERIDIAN_POSTGRES_URL=" + server.URL("postgres")}
	}
	if cp.client == nil {
		c, err := client.New(client.Options{
			URL:     "http://" + net.JoinHostPort(cp.address, "5681"),
			DataDir: s.dataDir(cp.name),
		})
		if err != nil {
			return err
		}
		cp.client = c
	}
	if err := cp.process.Start(); err != nil {
		return err
	}
	return s.controlPlaneReady(ctx, cp)
}

func (s *Stack) controlPlaneReady(ctx context.Context, cp *controlPlane) error {
	var dead error
	ok, seen, _ := eventually(ctx, 20*time.Second, func(ctx context.Context) (bool, string) {
		if dead = cp.process.Err(); dead != nil {
			return true, ""
		}
		code, body, err := s.fetch(ctx, "http://"+net.JoinHostPort(cp.address, "5680")+"/ready", "")
		if err != nil {
			return false, err.Error()
		}
		return code == http.StatusOK, strings.TrimSpace(body)
	})
	switch {
	case dead != nil:
		return dead
	case !ok:
		return fmt.Errorf("%s is not ready: %s; see %s", cp.name, seen, cp.process.Log)
	}
	return nil
}

// fetch gets a URL, with a token unless that is empty.
func (s *Stack) fetch(ctx context.Context, url, token string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// startWorkload starts the application and the sidecar, or what of them does not run.
func (s *Stack) startWorkload(w *workload) error {
	return errors.Join(s.startApp(w), s.startSidecar(w))
}

func (s *Stack) startApp(w *workload) error {
	if w.app == nil {
		w.app = s.newProcess(w.Zone+"-"+w.Name+"-app", nil, s.cfg.Meridian, "demo-app", "--addr",
			net.JoinHostPort(w.Address, fmt.Sprint(appPort)),
			"--service", w.Service, "--instance", w.Name, "--zone", w.Zone)
	}
	return w.app.Start()
}

func (s *Stack) startSidecar(w *workload) error {
	if w.sidecar == nil {
		file, err := s.render("dataplane.yaml.tmpl", w.Zone+"-"+w.Name+".yaml", w)
		if err != nil {
			return err
		}
		w.sidecar = s.launcher(w.Zone+"-"+w.Name+"-sidecar", w.Zone, w.id(), file, w.Address, "--proxy-type",
			"dataplane")
	}
	return w.sidecar.Start()
}

func (s *Stack) startIngress(zone string) error {
	if s.ingresses[zone] == nil {
		address := fmt.Sprintf("%s.%d.2", s.cfg.Network, slices.Index(zoneNames, zone)+1)
		file, err := s.render("ingress.yaml.tmpl", zone+"-ingress.yaml", struct{ Address string }{address})
		if err != nil {
			return err
		}
		s.ingresses[zone] = s.launcher(zone+"-ingress", zone, zone+"/ingress", file, address, "--proxy-type",
			"ingress")
	}
	return s.ingresses[zone].Start()
}

func (s *Stack) launcher(name, zone, tokenName, file, address string, more ...string) *child.Process {
	args := append([]string{s.cfg.Launcher, "run", "--cp",
		"https://" + net.JoinHostPort(s.zones[zone].address, "5678"), "--dataplane-file", file,
		"--token-file", s.tokens[tokenName], "--concurrency", "1", "--drain-time", "10s"}, more...)
	if s.cfg.Envoy != "" {
		args = append(args, "--envoy", s.cfg.Envoy)
	}
	return s.newProcess(name, nil, args...)
}

func (s *Stack) render(name, to string, data any) (string, error) {
	text, err := documents.ReadFile("yaml/" + name)
	if err != nil {
		return "", err
	}
	t, err := template.New(name).Parse(string(text))
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, "documents", to)
	return path, os.WriteFile(path, b.Bytes(), 0o600)
}

// document writes an embedded file where the command line can read it.
func (s *Stack) document(name string) (string, error) {
	text, err := documents.ReadFile("yaml/" + name)
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, "documents", name)
	return path, os.WriteFile(path, text, 0o600)
}

// put writes a file's documents and returns the last revision.
func (s *Stack) put(ctx context.Context, cp *controlPlane, file string) (uint64, error) {
	if _, err := s.document(file); err != nil {
		return 0, err
	}
	text, err := documents.ReadFile("yaml/" + file)
	if err != nil {
		return 0, err
	}
	docs, err := codec.Decode(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	var revision uint64
	for _, d := range docs {
		res, err := cp.client.Put(ctx, d.Resource, client.PutOptions{Force: true})
		if err != nil {
			return 0, fmt.Errorf("%s at %s: %w", file, cp.name, err)
		}
		revision = res.Revision
	}
	return revision, nil
}

// apply writes a file at global and waits until every proxy has it.
func (s *Stack) apply(ctx context.Context, r *Report, file string) (*adminv1.WaitRevisionResponse, error) {
	revision, err := s.put(ctx, s.global, file)
	if err != nil {
		return nil, err
	}
	answered := time.Now()
	resp, err := s.global.client.Wait(ctx, revision, 10*time.Second)
	if err != nil {
		return nil, err
	}
	if !resp.GetComplete() {
		return resp, fmt.Errorf("%s (revision %d) has not reached every proxy after 10 s: %s", file, revision,
			undelivered(resp))
	}
	r.delivered(file, time.Since(answered))
	return resp, nil
}

func undelivered(resp *adminv1.WaitRevisionResponse) string {
	var parts []string
	for _, z := range resp.GetZones() {
		if !z.GetComplete() {
			parts = append(parts, fmt.Sprintf("%s: %s %v", z.GetZone(), z.GetReason(), z.GetPending()))
		}
	}
	return strings.Join(parts, "; ")
}

// cli runs the meridian program against a control plane.
func (s *Stack) cli(ctx context.Context, cp *controlPlane, args ...string) (stdout, stderr string, code int) {
	args = append(args, "--address", "http://"+net.JoinHostPort(cp.address, "5681"))
	return runCommand(ctx, s.cfg.Meridian, args...)
}

// Close ends everything: workloads gracefully, then the control planes, then the databases.
func (s *Stack) Close() {
	var all []*child.Process
	for _, w := range s.workloads {
		for _, p := range []*child.Process{w.sidecar, w.app} {
			if p != nil {
				all = append(all, p)
			}
		}
	}
	for _, p := range s.ingresses {
		all = append(all, p)
	}
	endAll(all)
	all = nil
	for _, cp := range s.zones {
		all = append(all, cp.process)
	}
	if s.global != nil {
		all = append(all, s.global.process)
	}
	endAll(all)
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
	for _, cp := range append([]*controlPlane{s.global}, s.zones[usEast], s.zones[euWest]) {
		if cp != nil && cp.client != nil {
			_ = cp.client.Close()
		}
	}
}

// endAll asks all to end, a second time after a moment, and then kills.
func endAll(ps []*child.Process) {
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			for _, try := range []struct {
				signal syscall.Signal
				limit  time.Duration
			}{{syscall.SIGTERM, 2 * time.Second}, {syscall.SIGTERM, 3 * time.Second},
				{syscall.SIGKILL, 5 * time.Second}} {
				p.Signal(try.signal)
				if p.Wait(context.Background(), try.limit) {
					return
				}
			}
		})
	}
	wg.Wait()
}

func (s *Stack) play() string {
	gateway := s.workload(usEast, "booking-gateway")
	// Always written out: without it the user's current control plane would be asked.
	address := " --address http://" + net.JoinHostPort(s.global.address, "5681")
	return fmt.Sprintf(`Everything stays up until ^C. Try:
  bin/meridian status%[1]s
  bin/meridian get meshservices%[1]s
  bin/meridian describe meshhttproute canary%[1]s
  bin/meridian apply -f %[2]s --wait%[1]s
  curl %[3]s      # as booking-gateway in us-east
  curl %[4]s      # one service over two zones`, address,
		filepath.Join(s.dir, "documents", "canary-50-50.yaml"),
		gateway.url(toTicketBooking, "/"), gateway.url(toGlobalFlights, "/"))
}

// newProcess is a program of the stack, with its log among the others.
func (s *Stack) newProcess(name string, env []string, args ...string) *child.Process {
	return &child.Process{
		Name: name,
		Args: args,
		Env:  env,
		Log:  filepath.Join(s.dir, "logs", name+".log"),
	}
}
