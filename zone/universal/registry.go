package universal

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
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
	Zone string
	// Instance of this control plane, kept in insights.
	Instance string
	Store    store.Store
	Replica  *replica.Replica
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

	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Registry holds the zone's proxies; see the package comment. It is a delta.Admission and a DataplaneService.
type Registry struct {
	cfg Config
	log *zap.Logger
	// wake holds a token when Run should look again.
	wake chan struct{}

	joins    *prometheus.CounterVec
	events   *prometheus.CounterVec
	present  prometheus.Gauge
	withheld prometheus.Gauge

	mu      sync.Mutex
	proxies map[mesh.Key]*proxy
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

// New makes a Registry; [Registry.Run] starts its timers.
func New(cfg Config) *Registry {
	setDefault(&cfg.Grace, DefaultGrace)
	setDefault(&cfg.Lease, DefaultLease)
	setDefault(&cfg.ReturnTime, DefaultReturnTime)
	setDefault(&cfg.GoodbyeDelay, DefaultGoodbyeDelay)
	setDefault(&cfg.MassShare, DefaultMassShare)
	setDefault(&cfg.MassMinimum, DefaultMassMinimum)
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	r := &Registry{
		cfg:     cfg,
		log:     cfg.Logger,
		wake:    make(chan struct{}, 1),
		proxies: map[mesh.Key]*proxy{},
	}
	r.joins = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meridian_universal_joins_total",
		Help: "Streams of proxies by result: admitted, or the code of the refusal. Refusals that " +
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
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(r.joins, r.events, r.present, r.withheld)
	}
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

// Run keeps the timers until ctx ends, and returns its error. It waits for the replica and takes
// over the insights of the former instance.
func (r *Registry) Run(ctx context.Context) error {
	select {
	case <-r.cfg.Replica.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	r.adopt(time.Now())
	var retry time.Time
	for {
		now := time.Now()
		failed := false
		if err := r.confirm(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, store.ErrClosed) {
				return err
			}
			failed = true
			r.log.Warn("that proxies serve was not written, will try again", zap.Error(err))
		}
		due, at := r.due(now)
		for _, p := range due {
			if err := r.settle(ctx, p); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if errors.Is(err, store.ErrClosed) {
					return err
				}
				failed = true
				r.log.Warn("the liveness of a proxy was not written, will try again",
					zap.Stringer("proxy", p.key), zap.Error(err))
			}
		}
		if len(due) > 0 && !failed {
			continue
		}
		if failed {
			retry = now.Add(time.Second)
			if at.IsZero() || retry.Before(at) {
				at = retry
			}
		}
		if err := r.sleep(ctx, at); err != nil {
			return err
		}
	}
}

// confirm writes that proxies have their configuration, all of them at once.
func (r *Registry) confirm(ctx context.Context) error {
	r.mu.Lock()
	var list []*proxy
	for _, p := range r.proxies {
		if p.confirm && p.joined {
			list = append(list, p)
		}
	}
	r.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	txn := store.Txn{Actor: "system:liveness"}
	for _, p := range list {
		// Run is the only one that holds several of these locks.
		p.write.Lock()
		defer p.write.Unlock()
		r.mu.Lock()
		p.confirm = false
		txn.Ops = append(txn.Ops, r.putInsight(p))
		r.mu.Unlock()
	}
	if _, err := r.cfg.Store.Commit(ctx, txn); err != nil {
		r.mu.Lock()
		for _, p := range list {
			p.confirm = p.configured
		}
		r.mu.Unlock()
		return err
	}
	return nil
}

// sleep waits for a wake-up, or until at unless it is zero.
func (r *Registry) sleep(ctx context.Context, at time.Time) error {
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(max(time.Until(at), time.Millisecond))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.wake:
	case <-timer:
	}
	return nil
}

func (r *Registry) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// adopt takes over the insights that are in the store.
func (r *Registry) adopt(now time.Time) {
	view := r.cfg.Replica.View()
	hold := now.Add(r.cfg.ReturnTime)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range []mesh.Kind{mesh.KindDataplaneInsight, mesh.KindZoneIngressInsight} {
		for res := range view.List(kind, "") {
			if res.Key.Zone != r.cfg.Zone {
				continue
			}
			key := proxyKey(res.Key)
			if p, ok := r.proxies[key]; ok && p.joined {
				continue // it came back before we looked
			}
			p := r.entry(key)
			insight := mesh.Spec[*meshv1.ProxyInsight](res)
			p.joined, p.hold = true, hold
			if p.member == nil {
				p.absent = now
			}
			p.connected = insight.GetConnected().AsTime()
			p.notReady = insight.GetNotReady()
			p.launcherVersion, p.envoyVersion = insight.GetLauncherVersion(), insight.GetEnvoyVersion()
			if insight.GetState() == "Lost" {
				p.lost = true
				p.leaseEnd = hold
				if end := insight.GetLeaseEnd().AsTime(); end.After(hold) {
					p.leaseEnd = end
				}
			}
			p.draining = insight.GetState() == "Draining"
			p.configured = insight.GetState() != "Joining"
		}
	}
	r.poke()
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

// due are the proxies to settle now, and when to look again.
func (r *Registry) due(now time.Time) (due []*proxy, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	mass := r.measure(now)
	later := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, p := range r.proxies {
		t, ok := r.deadline(p)
		if !ok || (mass && p.goodbye.IsZero()) {
			continue
		}
		if t.After(now) {
			later(t)
		} else {
			due = append(due, p)
		}
	}
	if mass {
		// Not before the first grace is over does the share count.
		for _, p := range r.proxies {
			if t, ok := r.deadline(p); ok && t.After(now) {
				later(t)
			}
		}
	}
	return due, at
}

// deadline is when something has to be done about an absent proxy; mu is held.
func (r *Registry) deadline(p *proxy) (time.Time, bool) {
	var t time.Time
	switch {
	case p.member != nil || !p.joined:
		return t, false
	case !p.goodbye.IsZero():
		return later(p.goodbye, p.absent).Add(r.cfg.GoodbyeDelay), true
	case !p.lost:
		t = p.absent.Add(r.cfg.Grace)
	case p.session != nil:
		return t, false
	default:
		t = p.leaseEnd
	}
	return later(t, p.hold), true
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// measure decides whether a mass loss is in effect; mu is held.
func (r *Registry) measure(now time.Time) bool {
	alive, absent, overdue, present := 0, 0, 0, 0
	for _, p := range r.proxies {
		if p.member != nil {
			present++
		}
		if !p.joined || p.lost || p.draining || !p.goodbye.IsZero() {
			continue
		}
		alive++
		if p.member != nil {
			continue
		}
		absent++
		if t, ok := r.deadline(p); ok && !t.After(now) {
			overdue++
		}
	}
	r.present.Set(float64(present))
	mass := absent >= r.cfg.MassMinimum && float64(absent) >= r.cfg.MassShare*float64(alive)
	before := r.mass
	r.mass = 0
	if mass && overdue > 0 {
		r.mass = absent
	}
	r.withheld.Set(float64(r.mass))
	switch {
	case before == 0 && r.mass > 0:
		r.log.Error("a large share of the proxies vanished at once: nothing is marked or withdrawn "+
			"until they "+
			"return; look at the "+
			"network of this control plane", zap.Int("absent", absent), zap.Int("of", alive))
	case before > 0 && r.mass == 0:
		r.log.Info("the share of absent proxies is small again: they are handled one by one",
			zap.Int("absent", absent), zap.Int("of", alive))
	}
	return mass
}

// settle marks or deletes one proxy, if that is still due.
func (r *Registry) settle(ctx context.Context, p *proxy) error {
	p.write.Lock()
	defer p.write.Unlock()
	now := time.Now()
	r.mu.Lock()
	t, ok := r.deadline(p)
	if !ok || t.After(now) {
		r.mu.Unlock()
		return nil
	}
	if p.goodbye.IsZero() && !p.lost {
		p.lost, p.leaseEnd = true, now.Add(r.cfg.Lease)
		r.mu.Unlock()
		r.log.Info("lost a proxy; its endpoints are a last resort from now on", zap.Stringer("proxy", p.key),
			zap.Duration("lease", r.cfg.Lease))
		if _, err := r.writeInsight(ctx, p, nil); err != nil {
			// Not written, so not marked: the next look tries again.
			r.mu.Lock()
			if p.member == nil {
				p.lost = false
			}
			r.mu.Unlock()
			return err
		}
		r.events.WithLabelValues("lost").Inc()
		return nil
	}
	left := !p.goodbye.IsZero()
	r.mu.Unlock()
	txn := store.Txn{Actor: "system:liveness", Ops: []store.Op{store.Delete{Key: mesh.InsightKey(p.key)}}}
	res, err := r.cfg.Store.Get(ctx, p.key)
	switch {
	case err == nil && res.Labels[LabelRegistered] == registeredByStream:
		txn.Ops = append(txn.Ops, store.Delete{Key: p.key})
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	}
	if _, err := r.cfg.Store.Commit(ctx, txn); err != nil {
		return err
	}
	r.mu.Lock()
	p.joined = false
	if p.member == nil && p.session == nil {
		delete(r.proxies, p.key)
	}
	r.mu.Unlock()
	event := "expired"
	if left {
		event = "left"
	}
	r.events.WithLabelValues(event).Inc()
	r.log.Info("removed a proxy", zap.Stringer("proxy", p.key), zap.String("why", event))
	return nil
}

// writeInsight writes the proxy's insight as it is now, and with it the registration unless nil.
// p.write is held.
func (r *Registry) writeInsight(ctx context.Context, p *proxy, registration *mesh.Resource) (uint64, error) {
	r.mu.Lock()
	put := r.putInsight(p)
	r.mu.Unlock()
	txn := store.Txn{Actor: "system:liveness"}
	if registration != nil {
		txn.Actor = "proxy:" + p.key.Name
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
