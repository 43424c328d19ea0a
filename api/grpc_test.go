package api_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/client"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

func timeoutOf(t *testing.T, name string) *mesh.Resource {
	t.Helper()
	docs, err := codec.Decode([]byte(timeoutJSON(name, "")))
	if err != nil {
		t.Fatal(err)
	}
	return docs[0].Resource
}

func wantError(t *testing.T, err error, code codes.Code, contains string) *client.Error {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), contains) || e.Title == "" {
		t.Fatalf("error %#v, want code %s, a title and text %q", err, code, contains)
	}
	return e
}

func TestClientWritesAndReads(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	c, ctx := p.grpc(""), t.Context()
	r := timeoutOf(t, "t1")
	one, err := c.Put(ctx, r, client.PutOptions{})
	if err != nil || !one.Created || !one.Changed || one.Resource.Key.Zone != "east" ||
		one.Resource.Revision != one.Revision {
		t.Fatalf("put: %+v, %v", one, err)
	}
	two, err := c.Put(ctx, r, client.PutOptions{})
	if err != nil || two.Created || two.Changed || two.Revision != one.Revision {
		t.Errorf("put of the same: %+v, %v", two, err)
	}
	got, err := c.Get(ctx, r.Key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Spec, got.Spec, protocmp.Transform()); diff != "" || got.Generation != 1 {
		t.Errorf("get: generation %d, %s", got.Generation, diff)
	}
	zero, past := uint64(0), one.Revision+5
	_, err = c.Put(ctx, r, client.PutOptions{IfRevision: &zero})
	wantError(t, err, codes.FailedPrecondition, "already exists at revision")
	_, err = c.Put(ctx, r, client.PutOptions{IfRevision: &past})
	wantError(t, err, codes.FailedPrecondition, "changed in between")
	changed := got.Clone()
	changed.Labels = map[string]string{"a": "b"}
	dry, err := c.Put(ctx, changed, client.PutOptions{DryRun: true})
	if err != nil || !dry.Changed || dry.Created || dry.Resource.Labels["a"] != "b" {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	if _, err := c.Put(ctx, changed, client.PutOptions{IfRevision: &one.Revision}); err != nil {
		t.Error(err)
	}
	for range 3 {
		if _, err := c.Put(ctx, timeoutOf(t, "t2"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := c.List(ctx, client.ListOptions{Kind: mesh.KindMeshTimeout, Size: 1, Offset: 1})
	if err != nil || page.Total != 2 || len(page.Resources) != 1 || page.Resources[0].Key.Name != "t2" {
		t.Errorf("page: %+v, %v", page, err)
	}
	page, err = c.List(ctx, client.ListOptions{
		Kind:   mesh.KindMeshTimeout,
		Mesh:   "default",
		Labels: map[string]string{"a": "b"},
	})
	if err != nil || page.Total != 1 {
		t.Errorf("filtered: %+v, %v", page, err)
	}
	if _, err := c.Delete(ctx, r.Key, client.DeleteOptions{IfRevision: &past}); err == nil {
		t.Error("a delete with a stale condition went through")
	}
	if _, err := c.Delete(ctx, r.Key, client.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	_, err = c.Get(ctx, r.Key)
	wantError(t, err, codes.NotFound, "Not found")
	st, err := c.Status(ctx)
	if err != nil || st.GetRole() != api.RoleZone || st.GetRevision() == 0 {
		t.Errorf("status: %v, %v", st, err)
	}
	_, err = c.Wait(ctx, 1, time.Second)
	wantError(t, err, codes.Unimplemented, "does not know")
}

func TestClientErrors(t *testing.T) {
	t.Parallel()
	p := withMesh(t, global)
	c, ctx := p.grpc(""), t.Context()
	bad := timeoutOf(t, "t1")
	bad.Key.Name = "T_1"
	bad.Labels = map[string]string{mesh.LabelOrigin: "zone"}
	_, err := c.Put(ctx, bad, client.PutOptions{})
	e := wantError(t, err, codes.InvalidArgument, "Resource is not valid")
	var fields []string
	for _, v := range e.Violations {
		fields = append(fields, v.Field)
	}
	if diff := cmp.Diff([]string{"name", `labels["kuma.io/origin"]`}, fields); diff != "" {
		t.Errorf("violations: %s", diff)
	}
	_, err = c.Put(ctx, dataplane("dp1", ""), client.PutOptions{})
	wantError(t, err, codes.FailedPrecondition, "apply it at the control plane of that zone")
	_, err = c.Put(ctx, dataplane("dp1", "east"), client.PutOptions{})
	wantError(t, err, codes.FailedPrecondition, "zone")
	elsewhere := timeoutOf(t, "t1")
	elsewhere.Key.Zone = "west"
	_, err = c.Put(ctx, elsewhere, client.PutOptions{})
	wantError(t, err, codes.InvalidArgument, "zone west")
	_, err = c.List(ctx, client.ListOptions{Kind: "Foo"})
	wantError(t, err, codes.InvalidArgument, "Foo")
	noMesh := timeoutOf(t, "t1")
	noMesh.Key.Mesh = "nope"
	_, err = c.Put(ctx, noMesh, client.PutOptions{})
	wantError(t, err, codes.NotFound, "create the mesh first")
	p.store.fail = func() error { return store.ErrUnavailable }
	_, err = c.Put(ctx, timeoutOf(t, "t1"), client.PutOptions{})
	wantError(t, err, codes.Unavailable, "unavailable")
	p.store.fail = nil

	gone, err := client.New(client.Options{URL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for range 2 {
			if err := gone.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	}()
	_, err = gone.Status(ctx)
	wantError(t, err, codes.Unavailable, "127.0.0.1:1")
	for _, u := range []string{"", "localhost:5681", "ftp://x", "http://x/api"} {
		if _, err := client.New(client.Options{URL: u}); err == nil {
			t.Errorf("URL %q is accepted", u)
		}
	}
}

func TestClientRights(t *testing.T) {
	t.Parallel()
	p := withMesh(t, func(c *api.Config) { c.LocalhostIsAdmin = false })
	p.keys()
	if err := p.tokens.EnsureMeshKey(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	p.caughtUp()
	before := p.replica.View().Revision()
	p.keys()
	if rev, _ := p.store.Revision(t.Context()); rev != before {
		t.Errorf("keys were made again: revision %d, then %d", before, rev)
	}
	admin, err := p.tokens.AdminToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, err = p.grpc("").List(ctx, client.ListOptions{Kind: mesh.KindMesh})
	wantError(t, err, codes.PermissionDenied, "send a user token")
	_, err = p.grpc(strings.Replace(admin, ".", ".x", 1)).List(ctx, client.ListOptions{Kind: mesh.KindMesh})
	wantError(t, err, codes.Unauthenticated, "token")
	a := p.grpc(admin)
	john, err := a.IssueUserToken(ctx, "john", []string{"team-a"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.grpc(john).List(ctx, client.ListOptions{Kind: mesh.KindMesh}); err != nil {
		t.Error(err)
	}
	_, err = p.grpc(john).List(ctx, client.ListOptions{Kind: mesh.KindSecret})
	wantError(t, err, codes.PermissionDenied, "john")
	_, err = p.grpc(john).Put(ctx, timeoutOf(t, "t1"), client.PutOptions{})
	wantError(t, err, codes.PermissionDenied, "mesh-system:admin")
	token, err := a.IssueDataplaneToken(ctx, client.DataplaneToken{
		Mesh: "default",
		Name: "dp1",
		Tags: map[string][]string{"a": {"b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := p.tokens.VerifyDataplane(token)
	if err != nil || claims.Name != "dp1" || claims.Tags["a"][0] != "b" {
		t.Errorf("claims %+v, %v", claims, err)
	}
	zoneToken, err := a.IssueZoneToken(ctx, "east", []string{"ingress"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.tokens.VerifyZone(zoneToken); err != nil {
		t.Error(err)
	}
	never := time.Duration(0)
	_, err = a.IssueZoneToken(ctx, "east", []string{"all"}, &never)
	if e := wantError(t, err, codes.InvalidArgument, "scope[0]"); len(e.Violations) != 2 {
		t.Errorf("violations %v", e.Violations)
	}
}

func TestClientWatch(t *testing.T) {
	t.Parallel()
	p := withMesh(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	c := p.grpc("")
	var seen []string
	done := errors.New("done")
	err := c.Watch(ctx, []mesh.Kind{mesh.KindMeshTimeout}, "default", func(e client.Event) error {
		switch {
		case e.Bookmark:
			seen = append(seen, "bookmark")
			_, err := c.Put(ctx, timeoutOf(t, "t1"), client.PutOptions{})
			return err
		case len(e.Upserts) > 0:
			seen = append(seen, "upsert "+e.Upserts[0].Key.Name)
			_, err := c.Delete(ctx, e.Upserts[0].Key, client.DeleteOptions{})
			return err
		}
		seen = append(seen, "delete "+e.Deletes[0].Name)
		return done
	})
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"bookmark", "upsert t1", "delete t1"}, seen); diff != "" {
		t.Error(diff)
	}
}

func TestReflection(t *testing.T) {
	t.Parallel()
	p := newPlane(t, nil)
	conn, err := grpc.NewClient(strings.TrimPrefix(p.url, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	req := &grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(req); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(resp.String(), "meridian.admin.v1.ResourceService") {
		t.Errorf("services: %v", resp)
	}
}

func TestTunnelAndForward(t *testing.T) {
	t.Parallel()
	east := withMesh(t, func(c *api.Config) { c.Zone, c.Federated, c.LocalhostIsAdmin = "east", true, false })
	north := withMesh(t,
		func(c *api.Config) { c.Zone, c.Federated, c.LocalhostIsAdmin = "north", true, false })
	east.seed(dataplane("dp1", "east"), dataplane("both", "east"))
	north.seed(dataplane("dp2", "north"), dataplane("both", "north"),
		dataplane("forged", "east")) // not north's to tell
	lateInsight := &mesh.Resource{
		Key:  mesh.InsightKey(dataplane("dp1", "east").Key),
		Spec: &meshv1.ProxyInsight{State: "Online"},
	}
	east.seed(lateInsight)
	g := withMesh(t, func(c *api.Config) {
		global(c)
		c.Forward = func(ctx context.Context, zone, method string, req []byte) ([]byte, error) {
			switch zone {
			case "east":
				return east.server.Call(ctx, method, req)
			case "north":
				return north.server.Call(ctx, method, req)
			}
			return nil, status.Error(codes.Unavailable, "its connection is lost")
		}
	})
	for _, name := range []string{"east", "north", "south", "west"} {
		state := "Online"
		if name == "west" {
			state = "Offline"
		}
		g.seed(&mesh.Resource{
			Key:    mesh.Key{Kind: mesh.KindZone, Name: name},
			Spec:   &meshv1.Zone{},
			Status: &meshv1.ZoneStatus{State: state},
		})
	}
	a := g.want(g.do("GET", "/meshes/default/dataplanes", ""), 200)
	var names []string
	for _, i := range a.json["items"].([]any) {
		names = append(names, i.(map[string]any)["name"].(string))
	}
	if diff := cmp.Diff([]string{"both", "both", "dp1", "dp2"}, names); diff != "" {
		t.Errorf("dataplanes of all zones: %s", diff)
	}
	warnings := []any{"zone south is left out: its connection is lost",
		"zone west is left out: it is offline"}
	if diff := cmp.Diff(warnings, a.json["warnings"]); diff != "" || a.json["total"] != float64(4) {
		t.Errorf("warnings: %s, total %v", diff, a.json["total"])
	}
	g.want(g.do("GET", "/meshes/default/dataplanes?size=1&offset=2", ""), 200, `"dp1"`, `"total": 4`,
		"offset=3")
	g.want(g.do("GET", "/meshes/default/dataplanes?zone=north", ""), 200, `"dp2"`, `"total": 2`)
	g.want(g.do("GET", "/meshes/default/dataplanes?zone=south", ""), 502, "its connection is lost")
	g.want(g.do("GET", "/meshes/default/dataplanes?zone=mars", ""), 404, "mars")
	g.want(g.do("GET", "/meshes/default/dataplanes?gateway=false", ""), 200, `"total": 4`)
	g.want(g.do("GET", "/meshes/default/dataplanes/dp1", ""), 200, `"dp1"`)
	g.want(g.do("GET", "/meshes/default/dataplanes/both", ""), 409, "east, north")
	g.want(g.do("GET", "/meshes/default/dataplanes/both?zone=east", ""), 200, `"both"`)
	g.want(g.do("GET", "/meshes/default/dataplanes/nope", ""), 404, "zone south is left out")
	o := g.want(g.do("GET", "/meshes/default/dataplanes/dp1/_overview", ""), 200)
	if in, ok := o.json["dataplaneInsight"].(map[string]any); !ok || in["state"] != "Online" {
		t.Errorf("overview through the tunnel: %s", o.text)
	}
	g.want(g.do("GET", "/dataplanes?watch=true", ""), 400, "watch it at the zone")
	if d := g.want(g.do("DELETE", "/meshes/default", ""), 400); !strings.Contains(d.text,
		"still dataplanes") {
		t.Errorf("mesh delete: %s", d.text)
	}
	page, err := g.grpc("").List(t.Context(), client.ListOptions{Kind: mesh.KindDataplane})
	if err != nil || page.Total != 4 || len(page.Warnings) != 2 {
		t.Errorf("over gRPC: %+v, %v", page, err)
	}

	// The tunnel speaks for the control plane itself, and in status errors.
	if _, err := east.server.Call(t.Context(), "/meridian.admin.v1.Nope/Nope",
		nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
	if _, err := east.server.Call(t.Context(), adminv1.StatusService_GetStatus_FullMethodName,
		[]byte{0xff}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("junk: %v", err)
	}
	raw, err := east.server.Call(t.Context(), adminv1.StatusService_GetStatus_FullMethodName, nil)
	if err != nil {
		t.Fatal(err)
	}
	st := &adminv1.GetStatusResponse{}
	if err := proto.Unmarshal(raw, st); err != nil || st.GetZone() != "east" {
		t.Errorf("status of the zone: %v, %v", st, err)
	}
}
