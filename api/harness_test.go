package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/api/server"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plane is a control plane's API on a real listener, with a store in memory.
type plane struct {
	t       *testing.T
	server  *server.Server
	cfg     api.Config
	replica *replica.Replica
	store   *flaky
	tokens  *tokens.Tokens
	url     string
	client  *http.Client
	logs    *observer.ObservedLogs
	stop    func()
}

// flaky is a store that can be unavailable.
type flaky struct {
	store.Store
	fail func() error
}

func (f *flaky) Commit(ctx context.Context, txn store.Txn) (store.Result, error) {
	if f.fail != nil {
		if err := f.fail(); err != nil {
			return store.Result{}, err
		}
	}
	return f.Store.Commit(ctx, txn)
}

// newPlane starts a control plane; edit may change its configuration.
func newPlane(t *testing.T, edit func(*api.Config)) *plane {
	t.Helper()
	inner, err := embedded.Open(embedded.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	st := &flaky{Store: inner}
	core, logs := observer.New(zap.InfoLevel)
	p := &plane{t: t, store: st, logs: logs}
	rep := replica.New(replica.Config{Store: st})
	p.replica = rep
	cfg := api.Config{
		Role:             api.RoleZone,
		Zone:             "east",
		Store:            st,
		Replica:          rep,
		Version:          "0.1.0",
		Instance:         "cp-1",
		LocalhostIsAdmin: true,
		Logger:           zap.New(core),
	}
	if edit != nil {
		edit(&cfg)
	}
	p.tokens = tokens.New(tokens.Config{Store: st, View: rep.View, Zone: cfg.Zone})
	cfg.Tokens = p.tokens
	p.server = server.New(cfg)
	p.cfg = cfg
	l, url := listen(t)
	p.url = url
	p.client = &http.Client{Transport: &http.Transport{}}
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return rep.Run(ctx) })
	g.Go(func() error { return p.server.Serve(ctx, l, nil) })
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		p.client.CloseIdleConnections()
		cancel()
		if err := g.Wait(); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		if err := inner.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(p.stop)
	<-rep.Ready()
	return p
}

func listen(t *testing.T) (l net.Listener, url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, "http://" + l.Addr().String()
}

// strict serves the same control plane to callers of which none is the administrator by its
// address, and returns its URL.
func (p *plane) strict() string {
	cfg := p.cfg
	cfg.LocalhostIsAdmin = false
	l, url := listen(p.t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.New(cfg).Serve(ctx, l, nil) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			p.t.Error(err)
		}
	})
	return url
}

// withMesh is a plane that has mesh default.
func withMesh(t *testing.T, edit func(*api.Config)) *plane {
	p := newPlane(t, edit)
	p.seed(&mesh.Resource{Key: mesh.Key{Kind: mesh.KindMesh, Name: "default"}, Spec: &meshv1.Mesh{}})
	return p
}

// keys makes the signing keys, as a control plane does at its start, and waits until its replica has them:
// a token is checked against the replica.
func (p *plane) keys() {
	p.t.Helper()
	if err := p.tokens.EnsureKeys(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.caughtUp()
}

// caughtUp waits until the replica has what the store has.
func (p *plane) caughtUp() {
	p.t.Helper()
	rev, err := p.store.Revision(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.replica.Wait(p.t.Context(), rev); err != nil {
		p.t.Fatal(err)
	}
}

// seed writes past the API, as KDS and the control plane itself do.
func (p *plane) seed(rs ...*mesh.Resource) uint64 {
	p.t.Helper()
	txn := store.Txn{Author: "test"}
	for _, r := range rs {
		txn.Ops = append(txn.Ops, store.Put{Resource: r})
		if r.Status != nil {
			txn.Ops = append(txn.Ops, store.PutStatus{Key: r.Key, Status: r.Status})
		}
	}
	res, err := p.store.Commit(p.t.Context(), txn)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.replica.Wait(p.t.Context(), res.Revision); err != nil {
		p.t.Fatal(err)
	}
	return res.Revision
}

// got is an answer.
type got struct {
	status int
	header http.Header
	text   string
	json   map[string]any
}

func (g got) fields() []string {
	var out []string
	list, _ := g.json["invalid_parameters"].([]any)
	for _, v := range list {
		out = append(out, v.(map[string]any)["field"].(string))
	}
	return out
}

// do sends a request; headers are pairs. A body of JSON or YAML gets its content type unless one is given.
func (p *plane) do(method, path, body string, headers ...string) got {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
		if body[0] != '{' {
			req.Header.Set("Content-Type", "application/yaml")
		}
	}
	for i := 0; i+1 < len(headers); i += 2 {
		switch {
		case headers[i] == "Host":
			req.Host = headers[i+1]
		case headers[i+1] == "":
			req.Header.Del(headers[i])
		default:
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	out := got{status: resp.StatusCode, header: resp.Header, text: string(data)}
	if strings.HasSuffix(resp.Header.Get("Content-Type"), "json") {
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(&out.json); err != nil {
			p.t.Fatalf("%s %s: the answer is not JSON: %v in %q", method, path, err, data)
		}
	}
	return out
}

// anon are headers that make a loopback call anonymous.
var anon = []string{"X-Forwarded-For", "1.2.3.4"}

func bearer(token string) []string {
	return append([]string{"Authorization", "Bearer " + token}, anon...)
}

func (p *plane) want(g got, status int, contains ...string) got {
	p.t.Helper()
	if g.status != status {
		p.t.Fatalf("status %d, want %d: %s", g.status, status, g.text)
	}
	for _, c := range contains {
		if !strings.Contains(g.text, c) {
			p.t.Errorf("the answer lacks %q: %s", c, g.text)
		}
	}
	return g
}

func (p *plane) grpc(token string) *client.Client {
	p.t.Helper()
	return p.dial(p.url, token)
}

func (p *plane) dial(url, token string) *client.Client {
	p.t.Helper()
	c, err := client.New(client.Options{URL: url, Token: token})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

const timeoutSpec = `"spec":{"targetRef":{"kind":"Mesh"},` +
	`"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"requestTimeout":"5s"}}}]}`

func timeoutJSON(name string, extra string) string {
	return `{"type":"MeshTimeout","mesh":"default","name":"` + name + `",` + extra + timeoutSpec + `}`
}

func timeoutResource(name, zone string) *mesh.Resource {
	return &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Zone: zone, Name: name},
		Spec: &meshv1.MeshTimeout{},
	}
}

func dataplane(name, zone string) *mesh.Resource {
	return &mesh.Resource{
		Key: mesh.Key{Kind: mesh.KindDataplane, Mesh: "default", Zone: zone, Name: name},
		Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: "10.0.0.1",
			Inbound: []*meshv1.Dataplane_Inbound{{
				Port: 80,
				Tags: map[string]string{"kuma.io/service": "web"},
			}},
		}},
	}
}

func global(c *api.Config) { c.Role, c.Zone = api.RoleGlobal, "" }

func federated(c *api.Config) { c.Federated = true }

const wait = 10 * time.Second
