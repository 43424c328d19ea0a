package grpcclients

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// command is one for a client: calls one after the other.
type command struct {
	Target string `json:"target"`
	Calls  int    `json:"calls"`
	// Timeout of each call, in seconds.
	Timeout  float64           `json:"timeout"`
	Metadata map[string]string `json:"metadata"`
}

// client calls, and counts who answered; errors are "error CODE: text".
type client interface {
	call(command) map[string]int
}

// library is a gRPC implementation under test.
type library struct {
	name string
	// inClear says that it cannot reach the zone over TLS.
	inClear bool
	start   func(t *testing.T, bootstrap []byte) client
}

var libraries = []library{
	{name: "go", start: startGo},
	{name: "python", start: startPython},
	{name: "node", start: startNode, inClear: true},
}

type goClient struct {
	t        *testing.T
	resolver resolver.Builder
	conns    map[string]*grpc.ClientConn
}

func startGo(t *testing.T, bootstrap []byte) client {
	t.Helper()
	r, err := xds.NewXDSResolverWithConfigForTesting(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	c := &goClient{t: t, resolver: r, conns: map[string]*grpc.ClientConn{}}
	t.Cleanup(func() {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
	})
	return c
}

func (c *goClient) call(cmd command) map[string]int {
	c.t.Helper()
	conn := c.conns[cmd.Target]
	if conn == nil {
		creds, err := xdscreds.NewClientCredentials(
			xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
		if err != nil {
			c.t.Fatal(err)
		}
		if conn, err = grpc.NewClient(cmd.Target, grpc.WithTransportCredentials(creds),
			grpc.WithResolvers(c.resolver)); err != nil {
			c.t.Fatal(err)
		}
		c.conns[cmd.Target] = conn
	}
	out := map[string]int{}
	for range cmd.Calls {
		ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(),
			metadata.New(cmd.Metadata)),
			time.Duration(cmd.Timeout*float64(time.Second)))
		var who wrapperspb.StringValue
		if err := conn.Invoke(ctx, "/meridian.test.Echo/Who", &emptypb.Empty{}, &who); err != nil {
			out[fmt.Sprintf("error %s: %s", status.Code(err), status.Convert(err).Message())]++
		} else {
			out[who.GetValue()]++
		}
		cancel()
	}
	return out
}

// process is a client in another language.
type process struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func (p *process) call(cmd command) map[string]int {
	p.t.Helper()
	if cmd.Metadata == nil {
		cmd.Metadata = map[string]string{}
	}
	line, err := json.Marshal(cmd)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(p.in, "%s\n", line); err != nil {
		p.t.Fatal(err)
	}
	if !p.out.Scan() {
		p.t.Fatalf("the client ended: %v", p.out.Err())
	}
	out := map[string]int{}
	if err := json.Unmarshal(p.out.Bytes(), &out); err != nil {
		p.t.Fatalf("%q: %v", p.out.Text(), err)
	}
	return out
}

func startProcess(t *testing.T, bootstrap []byte, cmd *exec.Cmd) client {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(append(os.Environ(), cmd.Env...), "GRPC_XDS_BOOTSTRAP="+file)
	cmd.Stderr = &logWriter{t}
	cmd.WaitDelay = time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			t.Logf("the client: %v", err)
		}
	})
	return &process{t: t, in: in, out: bufio.NewScanner(out)}
}

type logWriter struct{ t *testing.T }

func (l *logWriter) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// run runs a tool to its end.
func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("NOT TESTED: there is no %s on this machine, so this gRPC library was not tried", name)
	}
	return path
}

func script(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startPython takes the installed grpcio (Debian: python3-grpcio), else one by pip.
func startPython(t *testing.T, bootstrap []byte) client {
	t.Helper()
	python := tool(t, "python3")
	var env []string
	if exec.Command(python, "-c", "import grpc; grpc.xds_channel_credentials").Run() != nil {
		dir := libs(t, "python", func(dir string) {
			run(t, dir, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target",
				dir, "grpcio>=1.60")
		})
		env = append(env, "PYTHONPATH="+dir)
	}
	cmd := exec.Command(python, script(t, "client.py"))
	cmd.Env = env
	return startProcess(t, bootstrap, cmd)
}

func startNode(t *testing.T, bootstrap []byte) client {
	t.Helper()
	node := tool(t, "node")
	dir := libs(t, "node", func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, dir, tool(t, "npm"), "install", "--silent", "--no-audit", "--no-fund", "@grpc/grpc-js@^1.14",
			"@grpc/grpc-js-xds@^1.14")
	})
	cmd := exec.Command(node, script(t, "client.js"))
	cmd.Env = []string{"NODE_PATH=" + filepath.Join(dir, "node_modules")}
	return startProcess(t, bootstrap, cmd)
}
