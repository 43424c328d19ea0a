package meshtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/test/roletest"
)

// Ports of every workload, on its own address.
const (
	InboundPort  = 8080
	appPort      = 9090
	outboundPort = 20001
	ingressPort  = 10001
)

// Spec says what a workload is.
type Spec struct {
	Zone, Name string
	// Service is its tag kuma.io/service, and so the name of its MeshService.
	Service string
	// Protocol of its inbound; "http" if empty.
	Protocol     string
	Tags, Labels map[string]string
	// Outbounds are its destinations, "SERVICE" or "MeshMultiZoneService/NAME", with ":PORT" if it
	// is not [InboundPort].
	Outbounds []string
	// Bare workloads have no sidecar.
	Bare bool
	// Place is the machine that it is on, such as a [Host]; nil is the test's own.
	Place Place
}

// Place is a machine of a world.
type Place interface {
	// Address is one of the machine's that nothing listens on.
	Address() string
	// in runs f so that sockets and processes that it makes are on the machine.
	in(f func())
	// forward makes an address of the test's machine reachable, and says as what.
	forward(t *testing.T, target string) string
	// started notes a process that was started on the machine.
	started(p *os.Process)
}

// at runs f on a machine; nil is the test's own.
func at(p Place, f func()) {
	if p == nil {
		f()
		return
	}
	p.in(f)
}

// Workload is an application, with or without a sidecar.
type Workload struct {
	Spec
	*App
	Address string

	world     *World
	transport *http.Transport
	client    *http.Client
	stop      func()
}

// Add starts a workload, and returns when its zone has it.
func (w *World) Add(s Spec) *Workload {
	w.t.Helper()
	if s.Protocol == "" {
		s.Protocol = "http"
	}
	x := &Workload{
		Spec:      s,
		Address:   w.addressAt(s.Place),
		world:     w,
		transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}
	x.client = &http.Client{
		Transport:     x.transport,
		Timeout:       Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	port := appPort
	if s.Bare {
		port = InboundPort
	}
	x.App = &App{
		name:    s.Name,
		address: net.JoinHostPort(x.Address, strconv.Itoa(port)),
		tcp:     s.Protocol == "tcp",
		place:   s.Place,
	}
	x.Start(w.t)
	w.t.Cleanup(x.Stop)
	w.t.Cleanup(x.transport.CloseIdleConnections)
	if s.Bare {
		w.apply(w.t, w.zones[s.Zone].client, s.Zone, x.document())
	} else {
		token, err := w.dataplaneToken(s.Name)
		if err != nil {
			w.t.Fatal(err)
		}
		x.stop = w.envoy(s.Place, s.Zone, mesh.DefaultMesh+"."+s.Name, "dataplane", x.document(), token)
	}
	return x
}

func (w *World) dataplaneToken(name string) (string, error) {
	ctx := context.Background()
	if err := w.tokens.EnsureMeshKey(ctx, mesh.DefaultMesh); err != nil {
		return "", err
	}
	return w.tokens.IssueDataplane(ctx, tokens.DataplaneClaims{Mesh: mesh.DefaultMesh, Name: name}, time.Hour)
}

// Ingress starts a zone's ingress.
func (w *World) Ingress(zoneName string) { w.IngressAt(zoneName, "ingress", nil) }

// IngressAt starts an ingress of a zone on a machine.
func (w *World) IngressAt(zoneName, name string, place Place) {
	w.t.Helper()
	address := w.addressAt(place)
	document := fmt.Sprintf(`{"type":"ZoneIngress","name":%q,"networking":
		{"address":%q,"port":%d,"advertisedAddress":%q,"advertisedPort":%d}}`,
		name, address, ingressPort, address, ingressPort)
	w.envoy(place, zoneName, "."+name, "ingress", document, w.zoneToken(zoneName))
}

// document is the Dataplane.
func (x *Workload) document() string {
	type object = map[string]any
	tags := object{mesh.TagService: x.Service, mesh.TagProtocol: x.Protocol}
	for k, v := range x.Tags {
		tags[k] = v
	}
	inbound := object{"port": InboundPort, "name": "main", "tags": tags}
	if !x.Bare {
		inbound["serviceAddress"], inbound["servicePort"] = x.Address, appPort
	}
	networking := object{"address": x.Address, "inbound": []any{inbound}}
	var outbounds []any
	for i, o := range x.Outbounds {
		kind, name, ok := strings.Cut(o, "/")
		if !ok {
			kind, name = "MeshService", o
		}
		port := InboundPort
		if n, p, ok := strings.Cut(name, ":"); ok {
			name = n
			port, _ = strconv.Atoi(p)
		}
		outbounds = append(outbounds,
			object{"address": x.Address, "port": outboundPort + i,
				"backendRef": object{"kind": kind, "name": name, "port": port}})
	}
	networking["outbound"] = outbounds
	doc, _ := json.Marshal(object{"type": "Dataplane", "mesh": mesh.DefaultMesh, "name": x.Name,
		"labels": x.Labels, "networking": networking})
	return string(doc)
}

// Remove takes a bare workload out of its zone and stops it; Join brings it back.
func (x *Workload) Remove(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c := x.world.zones[x.Zone].client
	revision, err := c.Delete(ctx, mesh.Key{
		Kind: mesh.KindDataplane,
		Mesh: mesh.DefaultMesh,
		Name: x.Name,
	}, client.DeleteOptions{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	x.world.wait(t, c, revision)
}

// Join is the undoing of Remove.
func (x *Workload) Join(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	docs, err := codec.Decode([]byte(x.document()))
	if err != nil {
		t.Fatal(err)
	}
	c := x.world.zones[x.Zone].client
	res, err := c.Put(ctx, docs[0].Resource, client.PutOptions{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	x.world.wait(t, c, res.Revision)
}

// Result of a request.
type Result struct {
	Status int
	Answer Answer
	Header http.Header
	Body   []byte
	Took   time.Duration
	Err    error
}

func (r Result) String() string {
	return fmt.Sprintf("status %d from %q after %s %q, error %v", r.Status, r.Answer.Instance,
		r.Took.Round(time.Millisecond), r.Body[:min(len(r.Body), 160)], r.Err)
}

// To is the address of the workload's outbound to a destination.
func (x *Workload) To(destination string) string {
	for i, o := range x.Outbounds {
		if o == destination {
			return net.JoinHostPort(x.Address, strconv.Itoa(outboundPort+i))
		}
	}
	panic("meshtest: " + x.Name + " has no outbound to " + destination) // a slip in a test
}

// Call sends a request to a destination. Headers are given as name, value, name, value.
func (x *Workload) Call(destination, method, path string, headers ...string) (r Result) {
	began := time.Now()
	defer func() { r.Took = time.Since(began) }()
	req, err := http.NewRequest(method, "http://"+x.To(destination)+path, http.NoBody)
	if err != nil {
		return Result{Err: err}
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if h := req.Header.Get("host"); h != "" {
		req.Host = h
	}
	resp, err := x.client.Do(req)
	if err != nil {
		return Result{Err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	r.Status, r.Header = resp.StatusCode, resp.Header
	r.Body, r.Err = io.ReadAll(resp.Body)
	if r.Status == http.StatusOK && bytes.HasPrefix(r.Body, []byte("{")) {
		_ = json.Unmarshal(r.Body, &r.Answer)
	}
	return r
}

// Get is Call of /.
func (x *Workload) Get(destination string) Result { return x.Call(destination, http.MethodGet, "/") }

// Many sends n requests, so many at once, and gives all results.
func (x *Workload) Many(n, atOnce int, one func(i int) Result) []Result {
	out := make([]Result, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				out[i] = one(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return out
}

// Connect opens a TCP connection to a destination and gives the name of who answers; empty if it is
// closed before. The connection stays open until close.
func (x *Workload) Connect(destination string) (who string, closing func()) {
	c, err := net.DialTimeout("tcp", x.To(destination), Patience)
	if err != nil {
		return "", func() {}
	}
	_ = c.SetReadDeadline(time.Now().Add(Patience))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		_ = c.Close()
		return "", func() {}
	}
	return strings.TrimSpace(line), func() { _ = c.Close() }
}

// Await waits until requests to a destination are answered with 200, and connections to one of TCP.
func (x *Workload) Await(t *testing.T, destinations ...string) {
	t.Helper()
	for _, d := range destinations {
		Eventually(t, x.Name+" reaches "+d, func() (bool, string) {
			r := x.Get(d)
			return r.Status == http.StatusOK, r.String()
		})
	}
}

// envoy starts a proxy that ends with the world, and gives a way to end it before.
func (w *World) envoy(place Place, zoneName, nodeID, kind, document, token string) (stop func()) {
	w.t.Helper()
	p := w.zones[zoneName]
	xds := p.Address(role.PortXDS)
	name, _, err := net.SplitHostPort(xds)
	if err != nil {
		w.t.Fatal(err)
	}
	if place != nil {
		xds = place.forward(w.t, xds)
	}
	host, service, err := net.SplitHostPort(xds)
	if err != nil {
		w.t.Fatal(err)
	}
	port, err := strconv.Atoi(service)
	if err != nil {
		w.t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "envoy") // socket paths must be short
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	doc, err := bootstrap.Build(bootstrap.Config{
		NodeID:      nodeID,
		ProxyType:   kind,
		Resource:    document,
		Host:        host,
		Port:        uint32(port),
		ServerName:  name,
		CA:          p.Server.CAPEM,
		TokenFile:   roletest.File(w.t, "token", []byte(token)),
		AdminSocket: filepath.Join(dir, "admin.sock"),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	// One worker, so that turns and buckets are one; a short drain, so that what a new listener
	// says holds soon.
	cmd := exec.Command(w.binary, "-c", roletest.File(w.t, "bootstrap.json", doc), "--use-dynamic-base-id",
		"--concurrency", "1", "--log-level", "error",
		"--drain-time-s", "1", "--drain-strategy", "immediate")
	cmd.Stderr = &logWriter{t: w.t, name: nodeID}
	at(place, func() { err = cmd.Start() })
	if err != nil {
		w.t.Fatal(err)
	}
	if place != nil {
		place.started(cmd.Process)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// logWriter passes an Envoy's complaints to the test's log.
type logWriter struct {
	t    *testing.T
	name string
}

func (l *logWriter) Write(p []byte) (int, error) {
	l.t.Logf("%s: %s", l.name, bytes.TrimSpace(p))
	return len(p), nil
}

// CutSidecar kills the workload's Envoy, as a machine that is gone.
func (x *Workload) CutSidecar() { x.stop() }

// CallFresh is Get over a connection of its own.
func (x *Workload) CallFresh(destination string) (r Result) {
	began := time.Now()
	defer func() { r.Took = time.Since(began) }()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: Patience}
	resp, err := c.Get("http://" + x.To(destination) + "/")
	if err != nil {
		return Result{Err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	r.Status, r.Header = resp.StatusCode, resp.Header
	r.Body, r.Err = io.ReadAll(resp.Body)
	return r
}
