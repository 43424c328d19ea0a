package bootstrap_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meridian-mesh/meridian/dataplane/bootstrap"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/test/envoytest"
	"github.com/meridian-mesh/meridian/xds/delta"
)

func certificate(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "zone"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{
			Certificate: [][]byte{der},
			PrivateKey:  key,
		}, pem.EncodeToMemory(&pem.Block{
			Type:  "CERTIFICATE",
			Bytes: der,
		})
}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func document(t *testing.T, c bootstrap.Config) []byte {
	t.Helper()
	doc, err := bootstrap.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestWhatIsMissing(t *testing.T) {
	t.Parallel()

	_, err := bootstrap.Build(bootstrap.Config{ProxyType: "sidecar"})
	for _, want := range []string{"NodeID", `proxy type "sidecar"`, "Host", "port 0", "no CA"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not mention %q", err, want)
		}
	}
}

func TestEnvoyAccepts(t *testing.T) {
	t.Parallel()

	bin := envoytest.Binary(t)
	_, ca := certificate(t)
	base := bootstrap.Config{
		NodeID:    "default.web",
		ProxyType: "dataplane",
		Resource:  "type: Dataplane",
		Host:      "localhost",
		Port:      5678,
		CA:        ca,
	}
	for name, change := range map[string]func(dir string, c *bootstrap.Config){
		"plain": func(string, *bootstrap.Config) {},
		"token": func(dir string, c *bootstrap.Config) {
			c.TokenFile = write(t, dir, "token", []byte("secret-token"))
		},
		"address":     func(_ string, c *bootstrap.Config) { c.Host = "127.0.0.1" },
		"address six": func(_ string, c *bootstrap.Config) { c.Host = "::1" },
		"pinned":      func(_ string, c *bootstrap.Config) { c.AnyName = true },
		"insecure":    func(_ string, c *bootstrap.Config) { c.CA, c.Insecure = nil, true },
		"ca file": func(dir string, c *bootstrap.Config) {
			c.CA, c.CAFile = nil, write(t, dir, "ca.pem", ca)
		},
		"relay": func(dir string, c *bootstrap.Config) {
			c.Host, c.CA, c.Socket = "", nil, filepath.Join(dir, "ads.sock")
		},
		"admin socket": func(dir string, c *bootstrap.Config) {
			c.AdminSocket = filepath.Join(dir, "admin.sock")
		},
		"ingress, heap": func(_ string, c *bootstrap.Config) {
			c.ProxyType, c.MaxHeapBytes, c.Zone = "ingress", 1<<30, "us-east"
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := base
			change(dir, &c)
			path := write(t, dir, "bootstrap.json", document(t, c))
			if out, err := exec.CommandContext(t.Context(), bin, "--mode", "validate", "-c", path,
				"--log-level", "error").CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// server answers with an empty table and hands out the joins.
type server struct{ joins chan delta.Join }

func (s *server) Join(_ context.Context, j delta.Join) (delta.Member, error) {
	s.joins <- j
	return s, nil
}
func (*server) Proxy() (mesh.Key, uint64)   { return mesh.Key{Kind: mesh.KindDataplane, Name: "web"}, 0 }
func (*server) Superseded() <-chan struct{} { return nil }
func (*server) Configured()                 {}
func (*server) Leave(error)                 {}
func (*server) Open(o delta.OpenRequest) delta.Watch {
	o.Wake(false)
	return &watch{}
}

type watch struct{ sent bool }

func (f *watch) Next() (delta.Update, bool, error) {
	first := !f.sent
	f.sent = true
	return delta.Update{Table: &delta.Table{}, Revision: 1}, first, nil
}
func (*watch) Ack(uint64, []delta.Rejection) {}
func (*watch) Subscribe([]string)            {}
func (*watch) Close()                        {}

// TestEnvoyJoins starts a real Envoy: it joins with the token of the file, and joins again soon
// after a restart of the server.
func TestEnvoyJoins(t *testing.T) {
	bin := envoytest.Binary(t)
	dir := t.TempDir()
	cert, ca := certificate(t)
	s := &server{joins: make(chan delta.Join, 10)}
	serve := func(address string) (*grpc.Server, string, func()) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		d := delta.NewServer(delta.Config{Source: s, Admission: s})
		g := grpc.NewServer(append(delta.ServerOptions(),
			grpc.Creds(credentials.NewServerTLSFromCert(&cert)))...)
		d.Register(g)
		done := make(chan error, 1)
		go func() { done <- g.Serve(l) }()
		return g, l.Addr().String(), func() {
			g.Stop()
			<-done
			d.Wait()
		}
	}
	_, address, stop := serve("127.0.0.1:0")
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	const token = "header.payload.signature"
	c := bootstrap.Config{
		NodeID:      "default.web",
		ProxyType:   "dataplane",
		Resource:    "type: Dataplane",
		Host:        host,
		Port:        uint32(n),
		CA:          ca,
		TokenFile:   write(t, dir, "token", []byte(token)),
		AdminSocket: filepath.Join(dir, "admin.sock"),
		Metadata:    map[string]string{"version": "1", "dataplane.token": token},
	}
	doc := document(t, c)
	if strings.Contains(string(doc), token) {
		t.Error("the token is in the document")
	}
	cmd := exec.Command(bin, "-c", write(t, dir, "bootstrap.json", doc), "--use-dynamic-base-id",
		"--concurrency", "1", "--log-level", "warning")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log(out.String())
		}
	})
	join := func() delta.Join {
		t.Helper()
		select {
		case j := <-s.joins:
			return j
		case err := <-ended:
			ended <- err
			t.Fatalf("Envoy ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("Envoy did not join")
		}
		return delta.Join{}
	}
	j := join()
	if j.Token != token || j.NodeID != "default.web" || j.ProxyType != "dataplane" ||
		j.Resource != "type: Dataplane" || !strings.HasPrefix(j.UserAgent, "envoy/") {
		t.Errorf("joined as %+v", j)
	}
	stop()
	_, _, stop = serve(address)
	defer stop()
	start := time.Now()
	join()
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("came back after %v", d)
	} else {
		t.Logf("came back after %v", d)
	}
}
