package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// lines is a sink that keeps what it is given.
type lines struct {
	mu   sync.Mutex
	list []store.AuditEntry // guarded by mu
}

func (l *lines) Append(e store.AuditEntry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
	return nil
}

// short is a row in one line, without address and time.
func short(e store.AuditEntry) string {
	s := strings.TrimSpace(fmt.Sprintf("%s %s %s %s/%s %s", e.Who, e.Action, e.Kind, e.Mesh, e.Name, e.What))
	if e.Refused != "" {
		return s + " refused"
	}
	return fmt.Sprintf("%s %v to %v", s, e.Before > 0, e.After > e.Before)
}

// meshKeys makes the key of tokens for proxies besides the signing keys.
func (p *plane) meshKeys() {
	p.t.Helper()
	if err := p.tokens.EnsureMeshKey(p.t.Context(), "default"); err != nil {
		p.t.Fatal(err)
	}
	p.keys()
}

// audited are the rows of a plane, oldest first.
func (p *plane) audited() []store.AuditEntry {
	p.t.Helper()
	rows, err := p.store.Audit(p.t.Context(), store.AuditQuery{})
	if err != nil {
		p.t.Fatal(err)
	}
	slices.Reverse(rows)
	return rows
}

// TestAudit: each call that writes, mints, reads a secret, dumps or is refused has exactly one row, whichever
// protocol it came over, and the file has the same.
func TestAudit(t *testing.T) {
	t.Parallel()
	sink := &lines{}
	p := withMesh(t, func(c *api.Config) {
		c.LocalhostIsAdmin = false
		c.AuditSink = sink
		c.ProcessConfig = func() ([]byte, error) { return []byte(`{}`), nil }
	})
	p.meshKeys()
	token, err := p.tokens.AdminToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	admin := bearer(token)
	secret := `{"type":"Secret","mesh":"default","name":"s","data":"YQ=="}`
	const t1 = "/meshes/default/meshtimeouts/t1"
	john := p.want(p.do("POST", "/tokens/user", `{"name":"john","groups":["team-a"],"validFor":"1h"}`,
		admin...), 200).text
	asJohn := bearer(john)

	p.want(p.do("PUT", t1, timeoutJSON("t1", ""), admin...), 201)
	p.want(p.do("PUT", t1, timeoutJSON("t1", ""), admin...), 200)
	p.want(p.do("PUT", "/meshes/default/secrets/s", secret, admin...), 201)
	p.want(p.do("GET", "/meshes/default/secrets/s", "", admin...), 200)
	p.want(p.do("GET", "/meshes/default/secrets", "", admin...), 200)
	p.want(p.do("GET", "/meshes", "", asJohn...), 200) // no row: it is nothing special
	p.want(p.do("GET", "/config", "", admin...), 200)
	p.want(p.do("DELETE", t1, "", admin...), 200)
	p.want(p.do("POST", "/tokens/dataplane", `{"mesh":"default","name":"web-1"}`, admin...), 200)
	// Refusals.
	p.want(p.do("GET", "/meshes/default/secrets/s", "", asJohn...), 403)
	p.want(p.do("PUT", t1, timeoutJSON("t1", ""), asJohn...), 403)
	p.want(p.do("GET", "/status", ""), 403)
	p.want(p.do("GET", "/meshes", "", bearer("x")...), 401)
	wrong := `{"type":"MeshTimeout","mesh":"default","name":"t1","spec":{"to":7}}`
	p.want(p.do("PUT", t1, wrong, admin...), 400)
	p.want(p.do("GET", "/audit", "", asJohn...), 403)
	grpc := p.grpc(john)
	ctx := t.Context()
	if _, err := grpc.Audit(ctx, &adminv1.ListAuditRequest{}); err == nil {
		t.Error("john reads the audit")
	}
	key := mesh.Key{Kind: mesh.KindSecret, Mesh: "default", Name: "s"}
	if _, err := p.grpc(token).Get(ctx, key); err != nil {
		t.Error(err)
	}

	var got []string
	rows := p.audited()
	for _, e := range rows {
		got = append(got, short(e))
		if !strings.HasPrefix(e.From, "127.0.0.1:") && e.Who != "system:auth" {
			t.Errorf("%s came from %q", short(e), e.From)
		}
	}
	want := []string{
		"system:auth issue UserToken /mesh-system:admin the first administrator's false to false",
		"mesh-system:admin issue UserToken /john valid for 1h0m0s, groups team-a false to false",
		"mesh-system:admin put MeshTimeout default/t1 false to true",
		"mesh-system:admin put MeshTimeout default/t1 true to false",
		"mesh-system:admin put Secret default/s false to true",
		"mesh-system:admin read Secret default/s true to false",
		"mesh-system:admin read Secret default/ 2 of a list false to false",
		"mesh-system:admin dump  / the configuration of the process false to false",
		"mesh-system:admin delete MeshTimeout default/t1 true to true",
		"mesh-system:admin issue DataplaneToken default/web-1 false to false",
		"john call  / GET /meshes/default/secrets/s refused",
		"john put MeshTimeout default/t1 refused",
		"mesh-system:anonymous call  / GET /status refused",
		"mesh-system:anonymous call  / GET /meshes refused",
		"mesh-system:admin put MeshTimeout default/t1 refused",
		"john call  / GET /audit refused",
		"john call  / /meridian.admin.v1.AuditService/ListAudit refused",
		"mesh-system:admin read Secret default/s true to false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	sink.mu.Lock()
	defer sink.mu.Unlock()
	var filed []string
	for _, e := range sink.list {
		filed = append(filed, short(e))
	}
	if diff := cmp.Diff(got[1:], filed); diff != "" {
		t.Errorf("the file: %s", diff)
	}
	for _, e := range rows {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{john, token, "YQ=="} {
			if strings.Contains(string(text), s) {
				t.Errorf("a row holds a secret: %s", text)
			}
		}
	}
}

// TestAuditIsRead: filters and pages over both protocols.
func TestAuditIsRead(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	for i := range 5 {
		name := fmt.Sprint("t", i)
		p.want(p.do("PUT", "/meshes/default/meshtimeouts/"+name, timeoutJSON(name, "")), 201)
		p.want(p.do("PUT", "/meshes/default/meshtimeouts/bad", timeoutJSON("other", "")), 400)
	}
	page := func(query string) (names []string, next string) {
		t.Helper()
		g := p.want(p.do("GET", "/audit?"+query, ""), http.StatusOK)
		for _, e := range g.json["entries"].([]any) {
			names = append(names, e.(map[string]any)["name"].(string))
		}
		if n, ok := g.json["next"]; ok {
			next = fmt.Sprint(n)
		}
		return names, next
	}
	var all []string
	for next := "0"; ; {
		var names []string
		if names, next = page("kind=meshtimeout&size=3&below=" + next); len(names) > 3 {
			t.Errorf("a page of %q", names)
		}
		if all = append(all, names...); next == "" || next == "0" {
			break
		}
	}
	want := []string{"other", "t4", "other", "t3", "other", "t2", "other", "t1", "other", "t0"}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	if got, _ := page("name=t3"); !slices.Equal(got, []string{"t3"}) {
		t.Errorf("by name: %q", got)
	}
	if g := p.want(p.do("GET", "/audit?who=john", ""), http.StatusOK); g.json["entries"] != nil &&
		len(g.json["entries"].([]any)) > 0 {
		t.Errorf("by who: %s", g.text)
	}
	p.want(p.do("GET", "/audit?since=yesterday", ""), 400, "since")
	p.want(p.do("GET", "/audit?below=x", ""), 400, "below")
	p.want(p.do("GET", "/audit?size=1001", ""), 400, "size")
	g := p.want(p.do("GET", "/audit?since=2999-01-01T00:00:00Z", ""), 200)
	if strings.Contains(g.text, "t3") {
		t.Errorf("of the future: %s", g.text)
	}
}

// TestNothingWithoutItsRow: when the store takes no row there is no write, no token and no secret.
func TestNothingWithoutItsRow(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	p.meshKeys()
	p.seed(&mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindSecret, Mesh: "default", Name: "s"},
		Spec: &meshv1.Secret{Data: []byte("hush")},
	})
	before := p.audited()
	p.store.fail = func() error { return fmt.Errorf("%w: away", store.ErrUnavailable) }
	const t1 = "/meshes/default/meshtimeouts/t1"
	for _, g := range []got{
		p.do("PUT", t1, timeoutJSON("t1", "")),
		p.do("POST", "/tokens/dataplane", `{"mesh":"default","name":"web-1"}`),
		p.do("GET", "/meshes/default/secrets/s", ""),
	} {
		if g.status != http.StatusServiceUnavailable || strings.Contains(g.text, "aHVzaA") {
			t.Errorf("%d: %s", g.status, g.text)
		}
	}
	p.store.fail = nil
	if _, err := p.store.Get(t.Context(), mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default",
		Name: "t1"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the write was done: %v", err)
	}
	if rows := p.audited(); len(rows) != len(before) {
		t.Errorf("rows %+v", rows[len(before):])
	}
}

// TestRefusalsAreBounded: callers who are refused in a loop do not fill the store, and the rows say how many
// there were.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	p := withMesh(t, func(c *api.Config) { c.LocalhostIsAdmin = false })
	const calls = 2000
	for range calls {
		p.want(p.do("GET", "/status", ""), 403)
	}
	n, unrecorded := 0, uint64(0)
	for _, e := range p.audited() {
		n++
		unrecorded += e.Unrecorded
	}
	if n < 200 || n > 600 || unrecorded > calls-uint64(n) {
		t.Errorf("%d rows, %d calls counted in them", n, unrecorded)
	}
}
