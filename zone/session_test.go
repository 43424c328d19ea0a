package zone_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/identity/tokens"
	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
	"github.com/meridian-mesh/meridian/xds/xdstest"
)

func (w *world) session(token string,
	hello *dataplanev1.SessionHello) (dataplanev1.DataplaneService_SessionClient, error) {
	w.t.Helper()
	tls, err := servercert.ClientTLS(servercert.ClientOptions{Pins: []string{w.server.Pin}})
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+w.addr,
		grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(w.ctx, "authorization", token))
	w.t.Cleanup(cancel)
	s, err := dataplanev1.NewDataplaneServiceClient(conn).Session(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.Send(
		&dataplanev1.SessionRequest{Message: &dataplanev1.SessionRequest_Hello{Hello: hello}}); err != nil {
		w.t.Fatal(err)
	}
	m, err := s.Recv()
	if err == nil && !m.GetAccepted() {
		w.t.Errorf("the first answer is %v", m)
	}
	return s, err
}

func report(w *world, s dataplanev1.DataplaneService_SessionClient, r *dataplanev1.Report) {
	w.t.Helper()
	if err := s.Send(
		&dataplanev1.SessionRequest{Message: &dataplanev1.SessionRequest_Report{Report: r}}); err != nil {
		w.t.Fatal(err)
	}
}

// TestLauncherSession: readiness reaches callers at once, and drained is said when they no longer
// pick the proxy.
func TestLauncherSession(t *testing.T) {
	w := newWorld(t)
	client := w.join("client", "client", "127.0.0.9")
	a := w.join("web-1", "web", "127.0.0.1")
	const endpoint = "127.0.0.1:9001"
	w.waitEndpoints(client, clusterOf("web"), map[string]string{endpoint: "HEALTHY"})
	token, err := w.zone.Tokens().IssueDataplane(w.ctx, tokens.DataplaneClaims{
		Mesh: "default",
		Name: "web-1",
	}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	doc := "type: Dataplane\nmesh: default\nname: web-1\nnetworking:\n  address: 127.0.0.1\n  inbound:\n" +
		"  - {port: 9001, tags: {kuma.io/service: web, kuma.io/protocol: http}}\n"
	s, err := w.session(token, &dataplanev1.SessionHello{
		NodeId:    "default.web-1",
		ProxyType: dataplanev1.ProxyType_PROXY_TYPE_DATAPLANE,
		Resource:  doc,
	})
	if err != nil {
		t.Fatal(err)
	}
	report(w, s, &dataplanev1.Report{NotReady: []string{"9001"}})
	w.waitEndpoints(client, clusterOf("web"), map[string]string{endpoint: "UNHEALTHY"})
	report(w, s, &dataplanev1.Report{})
	w.waitEndpoints(client, clusterOf("web"), map[string]string{endpoint: "HEALTHY"})
	report(w, s, &dataplanev1.Report{Draining: true})
	m, err := s.Recv()
	if err != nil || !m.GetDrained() {
		t.Fatalf("Recv = %v %v, want drained", m, err)
	}
	client.View(func(st *xdstest.State) {
		if got := endpoints(st, clusterOf("web"))[endpoint]; got == "HEALTHY" {
			t.Error("drained was said while a caller still has the proxy as healthy")
		}
	})
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	a.cut()
	w.waitEndpoints(client, clusterOf("web"), map[string]string{})
	if took := time.Since(began); took > time.Second {
		t.Errorf("after goodbye the proxy was removed in %s", took)
	}
}

func TestLauncherRefusals(t *testing.T) {
	w := newWorld(t)
	const doc = `{"type":"Dataplane","mesh":"default","name":"a","networking":{"address":"127.0.0.1"}}`
	for name, c := range map[string]struct {
		token string
		hello *dataplanev1.SessionHello
		code  codes.Code
	}{
		"no token": {"", &dataplanev1.SessionHello{
			NodeId:   "default.a",
			Resource: doc,
		}, codes.Unauthenticated},
		"garbage": {"garbage", &dataplanev1.SessionHello{
			NodeId:   "default.a",
			Resource: doc,
		}, codes.Unauthenticated},
		"mesh": {"garbage", &dataplanev1.SessionHello{NodeId: "nope.a", Resource: ""}, codes.NotFound},
		"document": {"garbage", &dataplanev1.SessionHello{
			NodeId:   "default.a",
			Resource: "type: Dataplane\nx: 1\n",
		}, codes.InvalidArgument},
	} {
		if _, err := w.session(c.token, c.hello); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

// TestTwoLaunchersOfOneName: the second is refused with both addresses, in the log and in the status, while
// the first is there; the first may reconnect, and a third follows when it has gone.
func TestTwoLaunchersOfOneName(t *testing.T) {
	w := newWorld(t)
	w.join("web-1", "web", "127.0.0.1")
	token, err := w.zone.Tokens().IssueDataplane(w.ctx, tokens.DataplaneClaims{
		Mesh: "default",
		Name: "web-1",
	}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	hello := func(instance, address string) *dataplanev1.SessionHello {
		return &dataplanev1.SessionHello{
			NodeId: "default.web-1",
			Resource: "type: Dataplane\nmesh: default\nname: web-1\nnetworking:\n  address: " + address +
				"\n  inbound:\n  - {port: 9001, tags: {kuma.io/service: web, kuma.io/protocol: http}}\n",
			LauncherInstance: instance,
		}
	}
	first, err := w.session(token, hello("a", "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = w.session(token, hello("b", "127.0.0.2"))
		if status.Code(err) != codes.AlreadyExists || strings.Count(err.Error(), "from 127.0.0.1:") != 2 {
			t.Fatalf("the second: %v", err)
		}
	}
	duplicates := w.zone.Status(w.ctx).GetDuplicates()
	if len(duplicates) != 1 || duplicates[0].GetProxy().GetName() != "web-1" ||
		duplicates[0].GetConnected() == "" || duplicates[0].GetConnected() == duplicates[0].GetRefused() {
		t.Errorf("status shows %v", duplicates)
	}
	again, err := w.session(token, hello("a", "127.0.0.1"))
	if err != nil {
		t.Fatalf("the first reconnects: %v", err)
	}

	for _, s := range []dataplanev1.DataplaneService_SessionClient{first, again} {
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = s.Recv()
		}
		err = nil
	}
	if _, err := w.session(token, hello("b", "127.0.0.2")); err != nil {
		t.Errorf("after the first has gone: %v", err)
	}
}
