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
	"math/big"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meridian-mesh/meridian/bench/standin"
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
	store   store.Store
	answers *answers
	floor   *floor
	cert    tls.Certificate
	ca      []byte
	address string // of ADS
	bare    string // of the floor
	neutral int    // neutral changes written

	// Of the process that a restart ends.
	engine   *xds.Engine
	registry *prometheus.Registry
	stopXDS  func() error

	bareServer *grpc.Server
	bareGroup  errgroup.Group
}

// newPlane starts everything; stop ends it.
func newPlane(ctx context.Context) (*plane, error) {
	p := &plane{answers: newAnswers(), floor: &floor{}}
	var err error
	if p.cert, p.ca, err = selfSigned(); err != nil {
		return nil, err
	}
	if p.store, err = embedded.Open(embedded.Config{
		InMemory:   true,
		Registerer: prometheus.NewRegistry(),
	}); err != nil {
		return nil, err
	}
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, p.store.Close())
	}
	p.bare = bare.Addr().String()
	p.bareServer = grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&p.cert)),
		grpc.ForceServerCodecV2(standin.Codec()),
		grpc.UnknownServiceHandler(p.floor.serve), grpc.ReadBufferSize(4<<10), grpc.MaxSendMsgSize(64<<20),
		grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(1<<20))
	p.bareGroup.Go(func() error { return p.bareServer.Serve(bare) })
	if err := p.startXDS(ctx); err != nil {
		p.bareServer.Stop()
		return nil, errors.Join(err, p.bareGroup.Wait(), p.store.Close())
	}
	return p, nil
}

// startXDS starts what a restart of the zone's process ends: replica, engine and server.
func (p *plane) startXDS(parent context.Context) error {
	address := p.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	p.address = l.Addr().String()
	p.registry = prometheus.NewRegistry()
	rep := replica.New(replica.Config{Store: p.store, Registerer: p.registry})
	p.engine = xds.New(xds.Config{Zone: benchZone, Replica: rep, Registerer: p.registry})
	p.answers.follow(p.engine)
	ads := delta.NewServer(delta.Config{Source: p.answers, Admission: everyone{}, Registerer: p.registry})
	server := grpc.NewServer(append(delta.ServerOptions(),
		grpc.Creds(credentials.NewServerTLSFromCert(&p.cert)))...)
	ads.Register(server)
	ctx, cancel := context.WithCancel(parent)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return rep.Run(ctx) })
	group.Go(func() error { return p.engine.Run(ctx) })
	group.Go(func() error { return server.Serve(l) })
	p.stopXDS = func() error {
		server.Stop()
		ads.Wait()
		cancel()
		if err := group.Wait(); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
	return nil
}

func (p *plane) stop() error {
	err := p.stopXDS()
	p.bareServer.Stop()
	return errors.Join(err, p.bareGroup.Wait(), p.store.Close())
}

// commit writes resources in one revision.
func (p *plane) commit(ctx context.Context, ops ...store.Op) (uint64, error) {
	r, err := p.store.Commit(ctx, store.Txn{Author: "system:bench", Ops: ops})
	return r.Revision, err
}

// computes are the engine's computations until now, by query. The engine counts a batch after it
// has handed out the tables; so a change that concerns nothing goes through it first, and
// everything before that is counted.
func (p *plane) computes(ctx context.Context) (map[string]float64, error) {
	p.neutral++
	revision, err := p.commit(ctx, put(&mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindHostnameGenerator, Name: "neutral"},
		Labels: map[string]string{"round": strconv.Itoa(p.neutral)},
		Spec:   &meshv1.HostnameGenerator{},
	}))
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
	return resident(key(mesh.KindDataplane, j.NodeID[len(benchMesh)+1:])), nil
}

type resident mesh.Key

func (r resident) Proxy() (mesh.Key, uint64) { return mesh.Key(r), 0 }
func (resident) Superseded() <-chan struct{} { return nil }
func (resident) Configured()                 {}
func (resident) Leave(error)                 {}

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
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "bench"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{serverName},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{
			Certificate: [][]byte{der},
			PrivateKey:  key,
		}, pem.EncodeToMemory(&pem.Block{
			Type:  "CERTIFICATE",
			Bytes: der,
		}), nil
}
