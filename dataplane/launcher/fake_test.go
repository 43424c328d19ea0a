package launcher

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/meridian-mesh/meridian/identity/servercert"
	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

// listenVariable makes the test's own binary an application that listens on the address and does
// nothing else.
const listenVariable = "LAUNCHER_TEST_LISTEN"

func TestMain(m *testing.M) {
	if address := os.Getenv(listenVariable); address != "" {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			os.Exit(1)
		}
		for {
			conn, err := ln.Accept()
			if err != nil {
				os.Exit(1)
			}
			_ = conn.Close()
		}
	}
	goleak.VerifyTestMain(m)
}

// application starts a process that listens on the address.
func application(t *testing.T, address string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), listenVariable+"="+address)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// freeAddress is one that nothing listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// fakeZone is a DataplaneService that a test scripts.
type fakeZone struct {
	dataplanev1.UnimplementedDataplaneServiceServer
	address string
	server  *servercert.Server
	grpc    *grpc.Server
	// answer decides about a session after its hello; nil accepts.
	answer  func(attempt int, hello *dataplanev1.SessionHello) error
	hellos  chan *dataplanev1.SessionHello
	tokens  chan string
	reports chan *dataplanev1.Report
	// cut ends the present session as a crash would.
	cut chan struct{}
	// drain makes the zone answer draining reports with drained.
	drain bool

	attempts int
}

func startZone(t *testing.T, z *fakeZone) *fakeZone {
	t.Helper()
	z.hellos, z.reports = make(chan *dataplanev1.SessionHello, 100), make(chan *dataplanev1.Report, 100)
	z.tokens, z.cut = make(chan string, 100), make(chan struct{})
	var err error
	if z.server, err = servercert.LoadOrCreate(t.TempDir(), nil); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z.address = ln.Addr().String()
	z.grpc = grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&z.server.Certificate)))
	dataplanev1.RegisterDataplaneServiceServer(z.grpc, z)
	done := make(chan struct{})
	go func() { _ = z.grpc.Serve(ln); close(done) }()
	t.Cleanup(func() { z.grpc.Stop(); <-done })
	return z
}

func (z *fakeZone) Session(stream dataplanev1.DataplaneService_SessionServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	z.tokens <- md.Get("authorization")[0]
	z.hellos <- first.GetHello()
	z.attempts++ // sessions of one launcher follow each other
	if z.answer != nil {
		if err := z.answer(z.attempts, first.GetHello()); err != nil {
			return err
		}
	}
	if err := stream.Send(&dataplanev1.SessionResponse{Accepted: true, Zone: "here"}); err != nil {
		return err
	}
	received := make(chan error, 1)
	go func() {
		for {
			req, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			z.reports <- req.GetReport()
			if req.GetReport().GetDraining() && z.drain {
				_ = stream.Send(&dataplanev1.SessionResponse{Drained: true})
			}
		}
	}()
	select {
	case err := <-received:
		return err
	case <-z.cut:
		return context.Canceled
	}
}

// token is a token as a control plane issues it, but for the signature.
func token(t *testing.T, pin string, expires time.Time) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"ca": []string{pin}, "exp": expires.Unix(), "Name": "web-1"})
	if err != nil {
		t.Fatal(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln"
}

func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}
