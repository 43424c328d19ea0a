package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/embedded"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
	"github.com/meridian-mesh/meridian/xds/delta"
)

const (
	serverName = "localhost"
	benchZone  = "bench"
	benchMesh  = "default"
)

// plane is the control plane under test, and the floor beside it.
type plane struct {
	store    store.Store
	engine   *xds.Engine
	registry *prometheus.Registry
	answers  *answers
	floor    *floor
	ca       []byte
	address  string // of ADS
	bare     string // of the floor
	stop     func() error
	neutral  int // neutral changes written
}

// newPlane starts everything; stop ends it.
func newPlane(parent context.Context) (*plane, error) {
	cert, ca, err := selfSigned()
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	st, err := embedded.Open(embedded.Config{InMemory: true, Registerer: registry})
	if err != nil {
		return nil, err
	}
	rep := replica.New(replica.Config{Store: st, Registerer: registry})
	engine := xds.New(xds.Config{Zone: benchZone, Replica: rep, Registerer: registry})
	p := &plane{store: st, engine: engine, registry: registry, ca: ca, floor: &floor{}, answers: &answers{source: engine, at: map[mesh.Key]uint64{}, changed: make(chan struct{})}}

	ads := delta.NewServer(delta.Config{Source: p.answers, Admission: everyone{}, Registerer: registry})
	creds := grpc.Creds(credentials.NewServerTLSFromCert(&cert))
	adsServer := grpc.NewServer(append(delta.ServerOptions(), creds)...)
	ads.Register(adsServer)
	bareServer := grpc.NewServer(creds, grpc.ForceServerCodecV2(newRawCodec()), grpc.UnknownServiceHandler(p.floor.serve),
		grpc.ReadBufferSize(4<<10))

	ctx, cancel := context.WithCancel(parent)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return rep.Run(ctx) })
	group.Go(func() error { return engine.Run(ctx) })
	for _, s := range []struct {
		server  *grpc.Server
		address *string
	}{{adsServer, &p.address}, {bareServer, &p.bare}} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			cancel()
			return nil, errors.Join(err, group.Wait(), st.Close())
		}
		*s.address = l.Addr().String()
		group.Go(func() error { return s.server.Serve(l) })
	}
	p.stop = func() error {
		adsServer.Stop()
		bareServer.Stop()
		ads.Wait()
		cancel()
		err := group.Wait()
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return errors.Join(err, st.Close())
	}
	return p, nil
}

// commit writes resources in one revision.
func (p *plane) commit(ctx context.Context, ops ...store.Op) (uint64, error) {
	r, err := p.store.Commit(ctx, store.Txn{Actor: "system:bench", Ops: ops})
	return r.Revision, err
}

// computes are the engine's computations until now, by query. The engine counts a batch after it has handed out the tables;
// so a change that concerns nothing goes through it first, and everything before that is counted.
func (p *plane) computes(ctx context.Context) (map[string]float64, error) {
	p.neutral++
	revision, err := p.commit(ctx, put(&mesh.Resource{Key: mesh.Key{Kind: mesh.KindHostnameGenerator, Name: "neutral"},
		Labels: map[string]string{"round": strconv.Itoa(p.neutral)}, Spec: &meshv1.HostnameGenerator{}}))
	if err != nil {
		return nil, err
	}
	for {
		changed := p.engine.ProgressChanged()
		if p.engine.Progress().Revision >= revision {
			return p.counters("meridian_xds_compute_total", "query")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// counters sums a counter by the value of a label ("" sums all).
func (p *plane) counters(name, label string) (map[string]float64, error) {
	families, err := p.registry.Gather()
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			key := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == label {
					key = l.GetValue()
				}
			}
			out[key] += m.GetCounter().GetValue()
		}
	}
	return out, nil
}

// everyone is an Admission without tokens: node id "<mesh>.<name>" names the Dataplane.
type everyone struct{}

func (everyone) Join(_ context.Context, j delta.Join) (delta.Member, error) {
	return resident(mesh.Key{Kind: mesh.KindDataplane, Mesh: benchMesh, Zone: benchZone, Name: j.NodeID[len(benchMesh)+1:]}), nil
}

type resident mesh.Key

func (r resident) Proxy() (mesh.Key, uint64) { return mesh.Key(r), 0 }
func (resident) Superseded() <-chan struct{} { return nil }
func (resident) Configured()                 {}
func (resident) Leave(error)                 {}

// answers stands between the server and the engine and counts who has answered what.
type answers struct {
	source delta.Source

	mu      sync.Mutex
	at      map[mesh.Key]uint64 // guarded by mu
	target  uint64              // guarded by mu
	reached int                 // guarded by mu: proxies at target
	need    int                 // guarded by mu
	changed chan struct{}       // guarded by mu: closed when reached is need
}

// Open implements delta.Source.
func (a *answers) Open(o delta.Opening) delta.Feed {
	return &counted{Feed: a.source.Open(o), answers: a, proxy: o.Proxy}
}

type counted struct {
	delta.Feed
	answers *answers
	proxy   mesh.Key
}

// Answered implements delta.Feed.
func (c *counted) Answered(revision uint64, refusals []delta.Refusal) {
	c.Feed.Answered(revision, refusals)
	a := c.answers
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.at[c.proxy]; a.target > 0 && old < a.target && revision >= a.target {
		if a.reached++; a.reached == a.need {
			close(a.changed)
			a.changed = make(chan struct{})
		}
	}
	a.at[c.proxy] = revision
}

// wait blocks until n proxies have answered revision.
func (a *answers) wait(ctx context.Context, revision uint64, n int) error {
	a.mu.Lock()
	a.target, a.need, a.reached = revision, n, 0
	for _, at := range a.at {
		if at >= revision {
			a.reached++
		}
	}
	done, changed := a.reached >= n, a.changed
	a.mu.Unlock()
	if done {
		return nil
	}
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		return fmt.Errorf("%d of %d sidecars have acknowledged revision %d: %w", a.reached, n, revision, ctx.Err())
	}
}

// floor pushes bytes to bare streams.
type floor struct {
	mu      sync.Mutex
	streams []*bareStream // guarded by mu
}

type bareStream struct {
	push     chan []byte
	answered chan error
}

func (f *floor) serve(_ any, s grpc.ServerStream) error {
	b := &bareStream{push: make(chan []byte), answered: make(chan error, 1)}
	f.mu.Lock()
	f.streams = append(f.streams, b)
	f.mu.Unlock()
	for {
		select {
		case data := <-b.push:
			err := s.SendMsg(&data)
			if err == nil {
				var answer []byte
				err = s.RecvMsg(&answer)
			}
			b.answered <- err
			if err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

// round pushes size bytes to each stream and returns when the last has answered.
func (f *floor) round(ctx context.Context, size int) (time.Duration, error) {
	f.mu.Lock()
	streams := f.streams
	f.mu.Unlock()
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		return 0, err
	}
	start := time.Now()
	for _, s := range streams {
		select {
		case s.push <- data:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	for _, s := range streams {
		select {
		case err := <-s.answered:
			if err != nil {
				return 0, err
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return time.Since(start), nil
}

// cpu is the CPU time that this process has used, in seconds.
func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{serverName}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
