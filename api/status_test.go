package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/api/server"
	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestWaitAndStatus(t *testing.T) {
	t.Parallel()
	var asked uint64
	p := withMesh(t, func(c *api.Config) {
		c.Wait = func(ctx context.Context, revision uint64) *adminv1.WaitRevisionResponse {
			asked = revision
			if _, ok := ctx.Deadline(); !ok {
				t.Error("a wait without an end")
			}
			return &adminv1.WaitRevisionResponse{Zones: []*adminv1.ZoneDelivery{{
				Zone:         "east",
				Reason:       "dp1 has not answered",
				Pending:      []string{"dp1"},
				PendingCount: 1,
			}}}
		}
		c.Status = func(context.Context) *adminv1.GetStatusResponse {
			return &adminv1.GetStatusResponse{
				Revision:       12,
				GlobalRevision: 7,
				Proxies:        &adminv1.ProxyRollup{Total: 3, Online: 2, AtRevision: 1},
			}
		}
		c.ProcessConfig = func() ([]byte, error) { return []byte(`{"apiAddr":":5681"}`), nil }
	})
	g := p.want(p.do("PUT", t1+"?wait=30s", timeoutJSON("t1", "")), 201)
	d := g.json["delivery"].(map[string]any)
	if d["complete"] != false || d["zones"].([]any)[0].(map[string]any)["pending"].([]any)[0] != "dp1" {
		t.Errorf("delivery: %s", g.text)
	}
	if want := g.header.Get("X-Meridian-Revision"); want != "2" || asked != 2 {
		t.Errorf("revision %s, waited for %d, want 2", want, asked)
	}
	p.want(p.do("GET", "/status", ""), 200, `"revision": 12`, `"globalRevision": 7`, `"atRevision": 1`)
	p.want(p.do("GET", "/config", ""), 200, `"apiAddr": ":5681"`)
	p.want(p.do("GET", "/policies", ""), 200, `"Mesh HTTP Route"`)
	p.want(p.do("GET", "/_resources", ""), 200, `"includeInFederation": true`)
}

// What a wait took is measured around its deadline: less than the timeout would read as a wait cut short.
func TestWaitTakesAtLeastItsTimeout(t *testing.T) {
	t.Parallel()
	p := withMesh(t, func(c *api.Config) {
		c.Wait = func(ctx context.Context, _ uint64) *adminv1.WaitRevisionResponse {
			<-ctx.Done()
			return &adminv1.WaitRevisionResponse{}
		}
	})
	g := p.want(p.do("PUT", t1+"?wait=100ms", timeoutJSON("t1", "")), 201)
	took, err := time.ParseDuration(g.json["delivery"].(map[string]any)["took"].(string))
	if err != nil || took < 100*time.Millisecond {
		t.Errorf("took %s (%v), want at least 100 ms", took, err)
	}
}

func TestOverviews(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	dp2 := dataplane("dp2", "east")
	insight := &mesh.Resource{
		Key:  mesh.InsightKey(dp2.Key),
		Spec: &meshv1.ProxyInsight{State: "Online", Instance: "cp-1"},
	}
	p.seed(dataplane("dp1", "east"), dp2, insight)
	g := p.want(p.do("GET", "/meshes/default/dataplanes/dp1/_overview", ""), 200)
	if diff := cmp.Diff(map[string]any{}, g.json["dataplaneInsight"]); diff != "" ||
		g.json["type"] != "DataplaneOverview" {
		t.Errorf("overview: %s", g.text)
	}
	if dp, ok := g.json["dataplane"].(map[string]any); !ok ||
		dp["networking"].(map[string]any)["address"] != "10.0.0.1" {
		t.Errorf("overview: %s", g.text)
	}
	for _, path := range []string{"/meshes/default/dataplanes/_overview", "/dataplanes/_overview",
		"/dataplanes+insights", "/meshes/default/dataplanes+insights"} {
		g = p.want(p.do("GET", path, ""), 200)
		items := g.json["items"].([]any)
		if len(items) != 2 || items[0].(map[string]any)["dataplaneInsight"] != nil ||
			items[1].(map[string]any)["dataplaneInsight"] == nil {
			t.Errorf("%s: %s", path, g.text)
		}
	}
	p.want(p.do("GET", "/zones/_overview", ""), 200)
	p.want(p.do("GET", "/meshtimeouts/_overview", ""), 404)
}

func TestWatch(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	p.want(p.do("PUT", t1, timeoutJSON("t1", "")), 201)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	open := func(query string) *bufio.Scanner {
		req, _ := http.NewRequestWithContext(ctx, "GET",
			p.url+"/meshes/default/meshtimeouts?watch=true"+query, nil)
		resp, err := p.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		if resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		return bufio.NewScanner(resp.Body)
	}
	next := func(s *bufio.Scanner) string {
		t.Helper()
		if !s.Scan() {
			t.Fatalf("the watch ended: %v", s.Err())
		}
		var l struct {
			Type     string
			Resource json.RawMessage
			Key      *struct{ Name string }
		}
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		var r struct{ Name string }
		_ = json.Unmarshal(l.Resource, &r)
		if l.Key != nil {
			r.Name = l.Key.Name
		}
		return strings.TrimSpace(l.Type + " " + r.Name)
	}
	expect := func(s *bufio.Scanner, want ...string) {
		t.Helper()
		for _, w := range want {
			if got := next(s); got != w {
				t.Fatalf("line %q, want %q", got, w)
			}
		}
	}
	all, since := open(""), open("&since=1")
	expect(all, "upsert t1", "bookmark")
	expect(since, "bookmark", "upsert t1")
	p.want(p.do("PUT", "/meshes/default/meshtimeouts/t2", timeoutJSON("t2", "")), 201)
	expect(all, "upsert t2")
	expect(since, "upsert t2")
	p.want(p.do("DELETE", t1, ""), 200)
	expect(all, "delete t1")
	expect(since, "delete t1")
	p.want(p.do("GET", "/meshtimeouts?watch=true&since=999", ""), 400)
	if err := p.store.Compact(ctx, 3); err != nil {
		t.Fatal(err)
	}
	p.want(p.do("GET", "/meshtimeouts?watch=true&since=1", ""), 410, "list again")
	// The server can stop although watches are open.
	start := time.Now()
	p.stop()
	if took := time.Since(start); took > server.DrainTimeout/2 {
		t.Errorf("stopping took %s: the watches held it up", took)
	}
	if all.Scan() {
		t.Errorf("a line after the end: %s", all.Text())
	}
}

func TestOnMesh(t *testing.T) {
	t.Parallel()
	p := newPlane(t, func(c *api.Config) {
		c.OnMesh = func(_ replica.View, m *mesh.Resource, created bool) []store.Op {
			if !created {
				return nil
			}
			r := timeoutResource("of-"+m.Key.Name, "east")
			r.Key.Mesh = m.Key.Name
			return []store.Op{store.Put{Resource: r}}
		}
	})
	p.want(p.do("PUT", "/meshes/m", `{"type":"Mesh","name":"m"}`), 201)
	p.want(p.do("GET", "/meshes/m/meshtimeouts/of-m", ""), 200)
	if rev := p.replica.View().Revision(); rev != 1 {
		t.Errorf("revision %d: the mesh and what comes with it are one transaction", rev)
	}
	p.want(p.do("PUT", "/meshes/m", `{"type":"Mesh","name":"m"}`), 200)
}

func TestMeshBackendChange(t *testing.T) {
	t.Parallel()
	p := newPlane(t, nil)
	body := func(enabled string) string {
		return `{"type":"Mesh","name":"m","mtls":{"enabledBackend":"` + enabled + `","backends":[{"name":"` +
			enabled + `","type":"builtin"}]}}`
	}
	p.want(p.do("PUT", "/meshes/m", body("ca-1")), 201)
	g := p.want(p.do("PUT", "/meshes/m", body("ca-2")), 400, "Failed to update a resource")
	if diff := cmp.Diff([]string{"mtls.enabledBackend"}, g.fields()); diff != "" {
		t.Error(diff)
	}
	p.want(p.do("PUT", "/meshes/m/secrets/m.ca-builtin-key-ca-1",
		`{"type":"Secret","mesh":"m","name":"m.ca-builtin-key-ca-1","data":"YQ=="}`), 201)
	p.want(p.do("DELETE", "/meshes/m/secrets/m.ca-builtin-key-ca-1", ""), 400, "in use")
}

func TestTLSWithPinnedToken(t *testing.T) {
	t.Parallel()
	p := withMesh(t, func(c *api.Config) { c.LocalhostIsAdmin = false })
	server, err := servercert.LoadOrCreate(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens := tokens.New(tokens.Config{
		Store: p.store,
		View:  p.replica.View,
		Zone:  "east",
		Pins:  func() []string { return []string{server.Pin} },
	})
	if err := tokens.EnsureKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.caughtUp()
	token, err := tokens.AdminToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- p.server.Serve(ctx, l, server.TLS()) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	url := "https://" + l.Addr().String()
	c, err := client.New(client.Options{URL: url, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.List(ctx, client.ListOptions{Kind: mesh.KindMesh}); err != nil {
		t.Errorf("with the token's pin: %v", err)
	}
	stranger, err := client.New(client.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_, err = stranger.Status(ctx)
	wantError(t, err, codes.Unavailable, "certificate")

	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(ctx, "GET", url+"/meshes?size=1", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("REST over TLS: %d", resp.StatusCode)
	}
}
