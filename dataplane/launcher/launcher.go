// Package launcher is the work of meridian-dp: it brings up one Envoy beside a workload or as a
// zone proxy, tells the zone about it, and takes it down without a failed request.
//
// # Order
//
//	local checks      resource file, token, Envoy's binary: all before the first request, each fails at once
//	relay             a socket for Envoy's configuration, and what an earlier Envoy acknowledged
//	trust             the zone is dialled; its certificate must end in a pin of the token (or in --ca-file)
//	session           DataplaneService.Session: the zone takes the resource, or refuses it with a reason
//	Envoy             bootstrap in a private folder, child process, restarted in place if it crashes;
//	                  its configuration comes through the relay (package relay)
//	watch             application ports; a change is reported on the session at once
//	stop              SIGTERM: tell the zone, let Envoy drain, end as soon as nothing is in flight
//
// # Session
//
// One goroutine owns the session stream ([session]). What it has to say is one state, whole: which
// inbounds do not answer and whether the launcher is draining. A stream that breaks is opened again
// with jitter and says the whole state again, so nothing is lost and nothing is queued.
//
// # Failure
//
// An unavailable zone never disturbs a running Envoy: Envoy keeps its configuration, and its own
// stream and the session are retried without limit. An Envoy that crashes meanwhile is served what it
// last acknowledged; so is the Envoy of a launcher that starts again in the same work folder. A permanent
// rejection (token, resource, mesh) ends the launcher with its reason, for then the zone itself says that
// this proxy is not wanted; once a proxy was accepted it is retried too, while Envoy goes on: a token
// expires and its file is replaced, a zone comes back without its state. Envoy that crashes is restarted
// with backoff; Envoy that never comes up, several times in a row, ends the launcher. Envoy dies with the
// launcher (parent-death signal).
//
// # Secrets
//
// The token comes from a file, which is read for each attempt, or the environment, and goes to the zone in
// a header: Envoy does not have it. It is never an argument and never logged. What Envoy acknowledged, with
// the keys of workloads, is sealed in the work folder; the key is in memory if that folder ends with the
// launcher, else in a file.
//
// No example: it needs an Envoy and a zone.
package launcher

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/dataplane/relay"
	"github.com/meridian-mesh/meridian/identity/servercert"
)

// Config of a launcher.
type Config struct {
	// CP is the zone's xDS address, https://HOST:PORT; a missing port is 5678.
	CP string
	// Resource is the Dataplane or ZoneIngress, YAML or JSON.
	Resource []byte
	// ProxyType is "dataplane", "ingress" or "egress".
	ProxyType string
	// Token of the proxy. TokenFile is read for each attempt to reach the zone, so that the file may be
	// replaced; while it cannot be read, or is empty, the last token counts.
	Token, TokenFile string
	// CAFile and TLSSkipVerify override the token's pins.
	CAFile        string
	TLSSkipVerify bool
	// Envoy is the path of the binary; empty means PATH, then .tools/envoy beside the program or in
	// the current folder.
	Envoy string
	// EnvoyLogLevel such as "warning"; empty means that.
	EnvoyLogLevel string
	// EnvoyLogJSON has Envoy write each line of its log as a JSON object.
	EnvoyLogJSON bool
	// Concurrency is the number of Envoy's worker threads; 0 lets Envoy choose.
	Concurrency int
	// WorkDir holds bootstrap, sockets, and what Envoy acknowledged; empty means a new private folder,
	// removed at the end.
	WorkDir string
	// CacheKeyFile has the key of what Envoy acknowledged, as seal.LoadOrCreate has it; empty means
	// cache.key in WorkDir, and memory if there is no WorkDir.
	CacheKeyFile string
	// DrainTime is the longest that a stop may take; it ends earlier when nothing is in flight.
	DrainTime time.Duration
	// ReadinessPort serves /ready on loopback; 0 means off.
	ReadinessPort int
	// AdminPort of Envoy on loopback; 0 means a socket in WorkDir.
	AdminPort int
	// Version of the launcher, for the zone.
	Version string
	// Stop is closed, or sent to once, to drain and end; a second value ends at once, unless it comes
	// within a second of the first. It takes the place of signals.
	Stop <-chan os.Signal
	// Stdout and Stderr of Envoy; nil means the launcher's own.
	Stdout, Stderr *os.File
	Logger         *zap.Logger
}

// Launcher of one proxy.
type Launcher struct {
	cfg      Config
	log      *zap.Logger
	instance string // random, for the zone
	proxy    proxy
	address  string // host:port of the zone
	host     string
	envoyBin string
	envoyVer string
	admin    admin
	dir      string
	ownDir   bool
	state    *state
	token    tokenSource
}

// New makes the local checks. Every error says what to change.
func New(cfg Config) (*Launcher, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	l := &Launcher{cfg: cfg, log: cfg.Logger, instance: rand.Text()}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	l.host, l.address, err = parseCP(cfg.CP)
	note(err)
	if cfg.DrainTime <= 0 {
		note(errors.New("--drain-time must be above 0; a short time such as 1s ends nearly at once"))
	}
	for _, p := range []struct {
		flag string
		port int
	}{{"--readiness-port", cfg.ReadinessPort}, {"--admin-port", cfg.AdminPort}} {
		if p.port < 0 || p.port > 65535 {
			note(fmt.Errorf("%s: %d is not a port; 0 turns it off", p.flag, p.port))
		}
	}
	l.proxy, err = readProxy(cfg.Resource, cfg.ProxyType)
	note(err)
	l.state = newState(l.proxy.sections...)
	l.token = tokenSource{file: cfg.TokenFile, last: cfg.Token}
	note(checkToken(l.token.get(), time.Now()))
	l.envoyBin, l.envoyVer, err = findEnvoy(cfg.Envoy)
	note(err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return l, nil
}

// Run brings the proxy up and blocks until it has ended: nil after a stop that was asked for, else
// the reason.
func (l *Launcher) Run(ctx context.Context) error {
	if err := l.makeWorkDir(); err != nil {
		return err
	}
	if l.ownDir {
		defer func() { _ = os.RemoveAll(l.dir) }()
	}
	trust, err := l.newTrust()
	if err != nil {
		return err
	}

	// stopping ends the waits before Envoy runs; the drain itself happens below, with Envoy still up.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	drainAsked, endAsked := make(chan struct{}), make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		followStop(ctx, l.cfg.Stop, drainAsked, endAsked)
		return nil
	})

	conn, err := dial(l.address, trust, l.cfg.Version)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	cache, err := l.openCache()
	if err != nil {
		return err
	}
	ads, err := relay.New(relay.Config{
		Socket: l.socket(),
		Zone:   conn,
		Token:  l.token.get,
		Cache:  cache,
		Logger: l.log,
	})
	if err != nil {
		return err
	}
	g.Go(func() error { return ads.Run(ctx) })

	watch := newAppWatch(l.proxy.targets, l.log, l.state.setNotReady)
	watch.first(ctx)
	g.Go(func() error { return watch.run(ctx) })

	s := &session{
		log:     l.log,
		address: l.address,
		conn:    conn,
		trust:   trust,
		token:   l.token.get,
		state:   l.state,
		hello:   l.hello(),
		cached:  cache.Len() > 0,
		admin:   l.admin,
	}
	g.Go(func() error { return s.run(ctx) })

	if l.cfg.ReadinessPort != 0 {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(l.cfg.ReadinessPort)))
		if err != nil {
			cancel()
			_ = g.Wait()
			return fmt.Errorf("--readiness-port: %w", err)
		}
		g.Go(func() error { return serveReadiness(ctx, ln, l.state, l.admin) })
	}

	g.Go(func() error {
		defer cancel() // Envoy has ended: so does everything
		if !l.mayStart(ctx, s, drainAsked) {
			return nil // nothing runs yet
		}
		bootstrap, err := l.bootstrap()
		if err != nil {
			return err
		}
		e := &envoy{
			log:         l.log,
			binary:      l.envoyBin,
			bootstrap:   bootstrap,
			drainTime:   l.cfg.DrainTime,
			logLevel:    l.cfg.EnvoyLogLevel,
			logJSON:     l.cfg.EnvoyLogJSON,
			concurrency: l.cfg.Concurrency,
			admin:       l.admin,
			stdout:      l.cfg.Stdout,
			stderr:      l.cfg.Stderr,
			onLive: func(live bool) {
				l.state.setLive(live)
				ads.SetLive(live)
			},
		}
		return l.superviseUntilDrained(ctx, e, s, drainAsked, endAsked)
	})
	return g.Wait()
}

// unreached is how long a zone may leave a session without an answer before an Envoy starts with what is
// cached. That Envoy's stream waits for the zone once more, so both together are less than 5 s.
const unreached = time.Second

// mayStart waits until Envoy may start: the zone accepted this proxy, or cannot be reached and what an
// earlier Envoy of it acknowledged is cached. It is false if the launcher is to end before.
func (l *Launcher) mayStart(ctx context.Context, s *session, drainAsked <-chan struct{}) bool {
	var failed <-chan struct{}
	var silent <-chan time.Time
	if s.cached {
		failed = s.failed()
		timer := time.NewTimer(unreached)
		defer timer.Stop()
		silent = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-drainAsked:
		return false
	case <-s.accepted():
		return true
	case <-failed:
	case <-silent:
	}
	l.log.Warn("the zone cannot be reached; Envoy starts with what it had",
		zap.String("zone_address", l.address))
	s.wasKnown()
	return true
}

// superviseUntilDrained runs Envoy until the context ends or a drain that was asked for is over.
func (l *Launcher) superviseUntilDrained(ctx context.Context, e *envoy, s *session,
	drainAsked, endAsked <-chan struct{}) error {
	envoyCtx, stopEnvoy := context.WithCancel(ctx)
	defer stopEnvoy()
	ended := make(chan error, 1)
	go func() { ended <- e.run(envoyCtx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return <-ended
	case <-drainAsked:
	}
	d := drain{
		log:     l.log,
		admin:   l.admin,
		state:   l.state,
		drained: s.drained(),
		limit:   l.cfg.DrainTime,
	}
	drainCtx, endDrain := context.WithCancel(ctx)
	defer endDrain()
	go func() {
		select {
		case <-endAsked:
			l.log.Info("second signal: ending at once")
			e.killAtOnce.Store(true)
			endDrain()
		case <-drainCtx.Done():
		}
	}()
	e.leave.Store(true) // an Envoy that ends now is not restarted
	finished := make(chan struct{})
	go func() { d.run(drainCtx); close(finished) }()
	select {
	case err := <-ended: // Envoy is gone, there is nothing left to drain
		endDrain()
		<-finished
		return err
	case <-finished:
	}
	stopEnvoy()
	return <-ended
}

func (l *Launcher) makeWorkDir() error {
	if l.cfg.WorkDir == "" {
		dir, err := os.MkdirTemp("", "meridian-dp-")
		if err != nil {
			return fmt.Errorf("make a work folder: %w", err)
		}
		l.dir, l.ownDir = dir, true
	} else {
		dir, err := filepath.Abs(l.cfg.WorkDir)
		if err != nil {
			return fmt.Errorf("--work-dir: %w", err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("--work-dir: %w", err)
		}
		l.dir = dir
	}
	if l.cfg.AdminPort != 0 {
		l.admin = newAdmin("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(l.cfg.AdminPort)))
		return nil
	}
	socket := filepath.Join(l.dir, "admin.sock")
	if len(socket) > 100 {
		return fmt.Errorf("--work-dir: %s is too long for a socket's path (100 bytes); choose a "+
			"shorter folder", l.dir)
	}
	_ = os.Remove(socket) // left by a launcher that was killed
	l.admin = newAdmin("unix", socket)
	return nil
}

func (l *Launcher) newTrust() (*trust, error) {
	if l.cfg.TLSSkipVerify {
		l.log.Warn("the zone's certificate is not verified (--tls-skip-verify); any host on the way can " +
			"read the token")
	}
	return newTrust(servercert.ClientOptions{
		CAFile:     l.cfg.CAFile,
		SkipVerify: l.cfg.TLSSkipVerify,
		ServerName: l.host,
	}, l.token.get)
}
