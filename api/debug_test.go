package api_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
)

// knows is a zone that remembers revisions 10 to 20 of its own, which are 100 to 110 of global's;
// of global's 105 it has nothing.
type knows struct{ zone string }

func (k knows) Proxy(key mesh.Key) *adminv1.DebugProxyResponse {
	return &adminv1.DebugProxyResponse{
		Key:     key.Proto(),
		Streams: []*adminv1.DebugStream{{Client: "envoy", RemoteAddress: k.zone}},
	}
}

func (k knows) Change(revision uint64) (*adminv1.DebugChangeResponse, store.RevisionState) {
	switch {
	case revision < 10:
		return nil, store.RevisionForgotten
	case revision > 20:
		return nil, store.RevisionAhead
	}
	return &adminv1.DebugChangeResponse{
		Zone:     k.zone,
		First:    revision,
		Last:     revision,
		Affected: 3,
	}, store.RevisionKnown
}

func (k knows) Local(global uint64) (uint64, store.RevisionState) {
	switch {
	case global == 105:
		return 0, store.RevisionElsewhere
	case global < 100:
		return 0, store.RevisionForgotten
	case global > 110:
		return 0, store.RevisionAhead
	}
	return global - 90, store.RevisionKnown
}

func (k knows) Admin(_ context.Context, key mesh.Key, what, filter string) ([]byte, error) {
	switch key.Name {
	case "alone":
		return nil, api.NotNow("no launcher of this proxy is connected")
	case "broken":
		return nil, errors.New("a bug")
	}
	return fmt.Appendf(nil, `{"what":%q,"filter":%q,"zone":%q}`, what, filter, k.zone), nil
}

func debuggable(t *testing.T, zone string) *plane {
	p := withMesh(t, func(c *api.Config) { c.Zone, c.Debug, c.Federated = zone, knows{zone}, true })
	p.seed(dataplane("both", zone), dataplane("only-"+zone, zone), dataplane("alone", zone),
		dataplane("broken", zone))
	return p
}

func TestDebugAtAZone(t *testing.T) {
	t.Parallel()
	p := debuggable(t, "east")
	const dps = "/meshes/default/dataplanes/"
	p.want(p.do("GET", dps+"both/_delivery", ""), 200, `"client":`, `"envoy"`)
	p.want(p.do("GET", dps+"none/_delivery", ""), 404)
	p.want(p.do("GET", dps+"both/xds", ""), 200, `"config_dump"`)
	p.want(p.do("GET", dps+"both/clusters", ""), 200, `"clusters"`)
	p.want(p.do("GET", dps+"both/stats?filter=a.b", ""), 200, `"stats"`, `"a.b"`)
	p.want(p.do("GET", dps+"both/quitquitquit", ""), 404)
	p.want(p.do("GET", dps+"alone/xds", ""), 409, "Dataplane alone: no launcher of this proxy is connected")
	p.want(p.do("GET", dps+"broken/xds", ""), 500)
	// Every authenticated user may see how far a proxy is; what runs in it is for administrators.
	p.keys()
	token, err := p.tokens.IssueUser(t.Context(), tokens.UserClaims{
		Name:   "reader",
		Groups: []string{"team"},
	}, wait)
	if err != nil {
		t.Fatal(err)
	}
	p.want(p.do("GET", dps+"both/_delivery", "", bearer(token)...), 200)
	p.want(p.do("GET", dps+"both/xds", "", bearer(token)...), 403)
	p.want(p.do("GET", dps+"both/_delivery", "", anon...), 403)
	p.want(p.do("GET", "/changes/12", "", anon...), 403)

	p.want(p.do("GET", "/changes/12", ""), 200, `"last": 12`, `"affected": 3`)
	p.want(p.do("GET", "/changes/102?ofGlobal", ""), 200, `"last": 12`, `"globalRevision": 102`)
	p.want(p.do("GET", "/changes/105?ofGlobal", ""), 200, `"last": 0`, `"globalRevision": 105`)
	p.want(p.do("GET", "/changes/99?ofGlobal", ""), 404, "it no longer remembers revision 99 of global")
	p.want(p.do("GET", "/changes/111?ofGlobal", ""), 404, "it has not applied revision 111 of global")
	p.want(p.do("GET", "/changes/9", ""), 404,
		"revision 9 is no longer remembered, or from before zone east started")
	p.want(p.do("GET", "/changes/21", ""), 404, "revision 21 is not there yet; zone east is at")
	p.want(p.do("GET", "/changes/12?zone=north", ""), 404, "this is the control plane of zone east")
	p.want(p.do("GET", "/changes/0", ""), 400, "revision")
	p.want(p.do("GET", "/changes/x", ""), 400, "is not a revision")
	c := p.grpc("")
	_, err = c.ProxyAdmin(t.Context(), dataplane("both", "east").Key, 99, "")
	wantError(t, err, codes.InvalidArgument, "must be one of config_dump")
	_, err = c.DebugProxy(t.Context(), mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: "default", Name: "t"})
	wantError(t, err, codes.InvalidArgument, "must be Dataplane or ZoneIngress")
	_, err = c.ProxyAdmin(t.Context(), dataplane("alone", "east").Key,
		adminv1.AdminQuestion_ADMIN_QUESTION_STATS, "")
	wantError(t, err, codes.FailedPrecondition, "no launcher")
}

func TestDebugThroughGlobal(t *testing.T) {
	t.Parallel()
	east, north := debuggable(t, "east"), debuggable(t, "north")
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
	for name, state := range map[string]string{"east": "Online", "north": "Online", "south": "Online",
		"west": "Offline"} {
		g.seed(&mesh.Resource{
			Key:    mesh.Key{Kind: mesh.KindZone, Name: name},
			Spec:   &meshv1.Zone{},
			Status: &meshv1.ZoneStatus{State: state},
		})
	}
	const dps = "/meshes/default/dataplanes/"
	g.want(g.do("GET", dps+"only-north/_delivery", ""), 200, `"north"`)
	g.want(g.do("GET", dps+"only-east/xds", ""), 200, `"config_dump"`, `"east"`)
	g.want(g.do("GET", dps+"both/xds", ""), 409, "east, north")
	g.want(g.do("GET", dps+"both/xds?zone=north", ""), 200, `"north"`)
	g.want(g.do("GET", dps+"both/xds?zone=mars", ""), 404, `there is no zone \"mars\"`)
	g.want(g.do("GET", dps+"both/xds?zone=south", ""), 502,
		"zone south cannot be asked: its connection is lost")
	g.want(g.do("GET", dps+"alone/xds?zone=east", ""), 409, "no launcher")
	g.want(g.do("GET", dps+"none/_delivery?zone=east", ""), 404)

	g.want(g.do("GET", "/changes/12?zone=north", ""), 200, `"last": 12`, `"north"`)
	g.want(g.do("GET", "/changes/12?zone=mars", ""), 404, `there is no zone \"mars\"`)
	g.want(g.do("GET", "/changes/12?zone=south", ""), 502, "its connection is lost")
	g.want(g.do("GET", "/changes/999999", ""), 404, "revision 999999 is not there yet; global is at")
	var last uint64
	for last < 105 { // revisions that the zones know
		last = g.seed(timeoutResource(fmt.Sprintf("t-%d", last), ""))
	}
	a := g.want(g.do("GET", "/changes/102", ""), 200, "zone south cannot say: its connection is lost",
		"zone west cannot say: it is offline")
	zones, _ := a.json["zones"].([]any)
	if len(zones) != 2 || zones[0].(map[string]any)["zone"] != "east" ||
		zones[1].(map[string]any)["last"] != float64(12) {
		t.Errorf("zones: %s", a.text)
	}
	g.want(g.do("GET", "/changes/50", ""), 200,
		"zone east cannot say: it no longer remembers revision 50 of global")
}
