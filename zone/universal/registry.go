package universal

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/reconcile"
)

// LabelRegistered marks a Dataplane or ZoneIngress that a proxy's stream wrote, and that goes with it.
const LabelRegistered = "meridian.io/registered-by"

const registeredByStream = "stream"

// Defaults of [Config].
const (
	DefaultGrace        = 300 * time.Millisecond
	DefaultLease        = 30 * time.Second
	DefaultReturnTime   = 10 * time.Second
	DefaultGoodbyeDelay = 200 * time.Millisecond
	DefaultMassShare    = 0.5
	DefaultMassMinimum  = 3
)

// Verifier checks tokens; [tokens.Tokens] is one.
type Verifier interface {
	VerifyDataplane(token string) (tokens.DataplaneClaims, error)
	VerifyZone(token string) (tokens.ZoneClaims, error)
}

// Config of a Registry. Zone, Store, Replica and Tokens are required.
type Config struct {
	reconcile.Deps
	Zone string
	// Instance of this control plane, kept in insights.
	Instance string
	Tokens   Verifier
	// Synced says whether this zone has ever heard from global; until then an unknown mesh or key
	// is to be retried. Nil means that the zone has no global.
	Synced func() bool
	// Issue gives the proxy its identity before its first configuration. May be nil.
	Issue func(ctx context.Context, dataplane *mesh.Resource)
	// Delivered waits until every proxy of the zone has answered a revision of the store. Nil
	// counts as delivered.
	Delivered func(ctx context.Context, revision uint64) error

	// Grace is how long a stream may be gone without being noticed; Lease, from then on, how long
	// the Dataplane stays; ReturnTime, after a start, how long the former instance's proxies have
	// to come back; GoodbyeDelay, after a clean end, how long the Dataplane stays.
	Grace, Lease, ReturnTime, GoodbyeDelay time.Duration
	// MassShare and MassMinimum: see the package comment.
	MassShare   float64
	MassMinimum int
}

// Registry holds the zone's proxies; see the package comment. It is a delta.Admission and a DataplaneService.
type Registry struct {
	cfg Config
	log *zap.Logger
	// wake holds a token when the loop should look again.
	wake chan struct{}
	loop *reconcile.Loop

	joins    *prometheus.CounterVec
	events   *prometheus.CounterVec
	present  prometheus.Gauge
	withheld prometheus.Gauge

	mu      sync.Mutex
	proxies map[mesh.Key]*proxy
	// duplicates were refused of late.
	duplicates []Duplicate
	// mass is how many are withheld in a mass loss, 0 if there is none.
	mass int
}

// proxy is what is known of one; Registry.mu guards it but for write.
type proxy struct {
	key mesh.Key
	// write is held while its resources are written.
	write sync.Mutex

	// member is the stream that is there; others are further ones of a gRPC client, which has one
	// for each channel.
	member  *member
	others  map[*member]struct{}
	session *session
	// joined says that a Dataplane and an insight are in the store.
	joined bool
	// configured says that the proxy has its configuration; confirm that the insight does not say so yet.
	configured, confirm bool
	// absent is since when no stream is there; zero while one is. Nothing is done before hold.
	absent, hold time.Time
	// lost says that the grace is over; leaseEnd is when the lease is.
	lost     bool
	leaseEnd time.Time
	// goodbye is when the launcher ended cleanly after draining.
	goodbye  time.Time
	draining bool
	notReady []string

	connected                     time.Time
	launcherVersion, envoyVersion string
}

// New makes a Registry; [Registry.Run] starts its loop.
func New(cfg Config) *Registry {
	setDefault(&cfg.Grace, DefaultGrace)
	setDefault(&cfg.Lease, DefaultLease)
	setDefault(&cfg.ReturnTime, DefaultReturnTime)
	setDefault(&cfg.GoodbyeDelay, DefaultGoodbyeDelay)
	setDefault(&cfg.MassShare, DefaultMassShare)
	setDefault(&cfg.MassMinimum, DefaultMassMinimum)
	cfg.Deps = cfg.Deps.WithDefaults()
	r := &Registry{
		cfg:     cfg,
		log:     cfg.Logger,
		wake:    make(chan struct{}, 1),
		proxies: map[mesh.Key]*proxy{},
	}
	r.joins = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meridian_universal_joins_total",
		Help: "Streams of proxies by result: admitted, or the code of the rejection. Rejections that " +
			"go on mean a " +
			"bad token or document.",
	}, []string{"result"})
	r.events = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meridian_universal_proxies_total",
		Help: "Events of proxies: lost, expired, left. Many lost ones mean crashing proxies or a " +
			"bad network.",
	}, []string{"event"})
	r.present = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meridian_universal_present_proxies",
		Help: "Proxies with a stream. A sudden fall means that they or this control plane are cut off.",
	})
	r.withheld = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meridian_universal_withheld_proxies",
		Help: "Absent proxies that are not marked because too many vanished at once. Above 0: look at the " +
			"network of this control plane.",
	})
	obs.Register(cfg.Registerer, r.joins, r.events, r.present, r.withheld)
	r.loop = reconcile.New(reconcile.Config{
		Name:       "proxies",
		Author:     "system:liveness",
		Deps:       cfg.Deps,
		Controller: &liveness{Registry: r},
		Wake:       func() <-chan struct{} { return r.wake },
	})
	return r
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Counts are the proxies that the registry knows and those with a stream; withheld are absent ones
// of a mass loss.
func (r *Registry) Counts() (total, online, withheld int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.proxies {
		if p.joined {
			total++
		}
		if p.member != nil {
			online++
		}
	}
	return total, online, r.mass
}

func (r *Registry) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// proxyKey is the inverse of mesh.InsightKey.
func proxyKey(insight mesh.Key) mesh.Key {
	k := insight
	k.Kind = mesh.KindDataplane
	if insight.Kind == mesh.KindZoneIngressInsight {
		k.Kind = mesh.KindZoneIngress
	}
	return k
}

// entry finds or makes a proxy; mu is held.
func (r *Registry) entry(key mesh.Key) *proxy {
	p, ok := r.proxies[key]
	if !ok {
		p = &proxy{key: key}
		r.proxies[key] = p
	}
	return p
}

// writeInsight writes the proxy's insight as it is now, and with it the registration unless nil.
// p.write is held.
func (r *Registry) writeInsight(ctx context.Context, p *proxy, registration *mesh.Resource) (uint64, error) {
	r.mu.Lock()
	put := r.putInsight(p)
	r.mu.Unlock()
	txn := store.Txn{Author: "system:liveness"}
	if registration != nil {
		txn.Author = "proxy:" + p.key.Name
		txn.Ops = append(txn.Ops, store.Put{Resource: registration})
	}
	txn.Ops = append(txn.Ops, put)
	res, err := r.cfg.Store.Commit(ctx, txn)
	return res.Revision, err
}

// putInsight writes the insight of a proxy as it is now; mu is held.
func (r *Registry) putInsight(p *proxy) store.Put {
	key := mesh.InsightKey(p.key)
	labels := map[string]string{mesh.LabelZone: r.cfg.Zone, mesh.LabelOrigin: mesh.OriginZone}
	if key.Mesh != "" {
		labels[mesh.LabelMesh] = key.Mesh
	}
	return store.Put{Resource: &mesh.Resource{Key: key, Labels: labels, Spec: r.insight(p)}}
}

// insight of a proxy as it should be in the store; mu is held.
func (r *Registry) insight(p *proxy) *meshv1.ProxyInsight {
	out := &meshv1.ProxyInsight{
		State:           "Online",
		Instance:        r.cfg.Instance,
		Connected:       timestamppb.New(p.connected),
		NotReady:        slices.Sorted(slices.Values(p.notReady)),
		LauncherVersion: p.launcherVersion,
		EnvoyVersion:    p.envoyVersion,
	}
	switch {
	case p.lost:
		out.State = "Lost"
		out.Disconnected, out.LeaseEnd = timestamppb.New(p.absent), timestamppb.New(p.leaseEnd)
	case p.draining:
		out.State = "Draining"
	case !p.configured:
		out.State = "Joining"
	}
	return out
}
