package kdsrpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a control plane's store and replica.
type node struct {
	store   store.Store
	replica *replica.Replica
	close   func() // also at the end of the test
}

func newNode(t *testing.T) *node {
	t.Helper()
	return openNode(t, embedded.Config{InMemory: true})
}

func openNode(t *testing.T, cfg embedded.Config) *node {
	t.Helper()
	st, err := embedded.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{store: st, replica: replica.New(replica.Config{Store: st})}
	stop := run(t, n.replica.Run)
	n.close = func() { stop(); _ = st.Close() }
	t.Cleanup(n.close)
	return n
}

// run starts f and returns what ends it and waits; it is called again at the end of the test.
func run(t *testing.T, f func(context.Context) error) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("ended by itself: %v", err)
		}
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func (n *node) commit(t *testing.T, ops ...store.Op) uint64 {
	t.Helper()
	r, err := n.store.Commit(t.Context(), store.Txn{Author: "user:test", Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	return r.Revision
}

// await blocks until the replica's view satisfies ok.
func (n *node) await(t *testing.T, what string, ok func(replica.View) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for rev := uint64(0); ; {
		v, err := n.replica.Wait(ctx, rev)
		if err != nil {
			t.Fatalf("waiting for %s at revision %d: %v", what, n.replica.View().Revision(), err)
		}
		if ok(v) {
			return
		}
		rev = v.Revision() + 1
	}
}

func (n *node) awaitKey(t *testing.T, key mesh.Key) *mesh.Resource {
	t.Helper()
	var found *mesh.Resource
	n.await(t, key.String(), func(v replica.View) bool {
		r, ok := v.Get(key)
		found = r
		return ok
	})
	return found
}

// global is a server on a loopback listener whose connections can be cut.
type global struct {
	*node
	server *Server
	addr   string
	tls    *tls.Config // of clients
	ln     *cutListener
	stop   func()
}

type globalOptions struct {
	node *node
	addr string
	cert tls.Certificate
	edit func(*ServerConfig)
	// idle leaves out Server.Run.
	idle bool
}

func startGlobal(t *testing.T, o globalOptions) *global {
	t.Helper()
	if o.node == nil {
		o.node = newNode(t)
	}
	if o.addr == "" {
		o.addr = "127.0.0.1:0"
	}
	if o.cert.Leaf == nil {
		o.cert = selfSigned(t)
	}
	cfg := ServerConfig{
		Store:    o.node.store,
		Replica:  o.node.replica,
		Instance: "global-1",
		Lease:    3 * time.Second,
		Authenticate: func(ctx context.Context) (string, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			zone, ok := strings.CutPrefix(strings.Join(md.Get("authorization"), ""), "Bearer token-")
			if !ok {
				return "", errors.New("no token of a zone")
			}
			return zone, nil
		},
	}
	if o.edit != nil {
		o.edit(&cfg)
	}
	raw, err := net.Listen("tcp", o.addr)
	if err != nil {
		t.Fatal(err)
	}
	g := &global{
		node:   o.node,
		server: NewServer(cfg),
		addr:   raw.Addr().String(),
		ln:     &cutListener{Listener: raw},
	}
	pool := x509.NewCertPool()
	pool.AddCert(o.cert.Leaf)
	g.tls = &tls.Config{RootCAs: pool, ServerName: "global"}
	gs := grpc.NewServer(append(ServerOptions(), grpc.Creds(credentials.NewServerTLSFromCert(&o.cert)))...)
	g.server.Register(gs)
	served := make(chan struct{})
	go func() { defer close(served); _ = gs.Serve(g.ln) }()
	stopRun := func() {}
	if !o.idle {
		stopRun = run(t, g.server.Run)
	}
	var once sync.Once
	g.stop = func() { once.Do(func() { stopRun(); gs.Stop(); <-served }) }
	t.Cleanup(g.stop)
	return g
}

// cutListener remembers its connections, to cut them.
type cutListener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

// frozenConn carries nothing more once thaw is set by freeze: a network that drops packets.
type frozenConn struct {
	net.Conn
	mu   sync.Mutex
	thaw chan struct{}
}

func (c *frozenConn) wait() {
	c.mu.Lock()
	thaw := c.thaw
	c.mu.Unlock()
	if thaw != nil {
		<-thaw
	}
}

func (c *frozenConn) Write(b []byte) (int, error) { c.wait(); return c.Conn.Write(b) }

func (c *frozenConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wait()
	return n, err
}

// freeze stops all present connections without closing them; new ones work. The result ends them for good.
func (l *cutListener) freeze() (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	thaw := make(chan struct{})
	for _, c := range l.conns {
		f := c.(*frozenConn)
		f.mu.Lock()
		f.thaw = thaw
		f.mu.Unlock()
	}
	conns := l.conns
	l.conns = nil
	return func() {
		for _, c := range conns {
			_ = c.Close()
		}
		close(thaw)
	}
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		c = &frozenConn{Conn: c}
		l.conns = append(l.conns, c)
		l.mu.Unlock()
	}
	return c, err
}

func (l *cutListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "global"},
		DNSNames:              []string{"global"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// client makes a Client of a zone.
func (g *global) client(zone string, n *node, edit func(*ClientConfig)) *Client {
	cfg := ClientConfig{
		Zone:     zone,
		Instance: zone + "-1",
		Address:  g.addr,
		TLS:      g.tls,
		Store:    n.store,
		Replica:  n.replica,
		Token:    func() (string, error) { return "token-" + zone, nil },
	}
	if edit != nil {
		edit(&cfg)
	}
	return NewClient(cfg)
}

// awaitZone blocks until the zone's state satisfies ok, and returns it.
func (g *global) awaitZone(t *testing.T, name, what string, ok func(ZoneState) bool) ZoneState {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		changed := g.server.Changed()
		var last ZoneState
		for _, z := range g.server.Zones() {
			if z.Name == name {
				last = z
				if ok(z) {
					return z
				}
			}
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("zone %s: waited for %s, is %+v", name, what, last)
		}
	}
}

func timeout(meshName, zone, name string, seconds int64) *mesh.Resource {
	return &mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindMeshTimeout, Mesh: meshName, Zone: zone, Name: name},
		Labels: map[string]string{mesh.LabelDisplayName: name},
		Spec: &meshv1.MeshTimeout{
			TargetRef: &meshv1.TargetRef{Kind: "Mesh"},
			To: []*meshv1.MeshTimeout_To{{
				TargetRef: &meshv1.TargetRef{Kind: "Mesh"},

				Default: &meshv1.MeshTimeout_Conf{
					ConnectionTimeout: durationpb.New(time.Duration(seconds) * time.Second),
				},
			}},
		},
	}
}

func service(meshName, zone, name string) *mesh.Resource {
	return &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindMeshService, Mesh: meshName, Zone: zone, Name: name},
		Spec: &meshv1.MeshService{},
	}
}

func manyTimeouts(n int) []store.Op {
	ops := make([]store.Op, n)
	for i := range ops {
		ops[i] = store.Put{Resource: timeout("default", "", fmt.Sprintf("policy-%04d", i), int64(i+1))}
	}
	return ops
}
