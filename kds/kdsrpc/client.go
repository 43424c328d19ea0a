package kdsrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	"github.com/meridian-mesh/meridian/store"
)

// epochMeta keeps the zone's last epoch, so that a clock set back does not fence the zone's own next start.
const epochMeta = "kds/epoch"

// Client is the zone's side; see the package comment.
type Client struct {
	cfg     ClientConfig
	metrics *metrics
	schemas []*kdsv1.KindSchema
	epoch   uint64
	tracker *tracker
	synced  chan struct{}
	once    sync.Once
	// local is the epoch of the zone's store that the tracker's local revisions count in. Only start and
	// then runConfig use it.
	local string

	mu          sync.Mutex
	state       GlobalState
	leaseLength time.Duration // as Welcome said
	conn        *grpc.ClientConn
	online      map[string]bool // streams that are up
	// current is the connection on which Config has begun from the zone's cursor or has replaced what
	// the zone had: only there do the revisions of the tracker mean something. It is the connection's
	// local address.
	current        string
	currentChanged chan struct{} // closed when current changes
	opened         chan struct{} // closed while conn is not nil
}

// NewClient makes a Client; it does nothing before Run.
func NewClient(cfg ClientConfig) *Client {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Client{
		cfg:         cfg,
		metrics:     newMetrics(cfg.Registerer),
		schemas:     kds.Schemas(),
		tracker:     newTracker(),
		synced:      make(chan struct{}),
		state:       GlobalState{State: Offline, Reason: "not connected yet", DigestsEqual: true},
		leaseLength: DefaultLease,
		online:      map[string]bool{},
		opened:      make(chan struct{}),

		currentChanged: make(chan struct{}),
	}
}

// Synced is closed once the zone has had global's state at least once, be it before this start.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// Applied is global's revision up to which everything is durable here.
func (c *Client) Applied() uint64 { return c.tracker.revision() }

// Local finds the revision of the zone's own store that brought what one of global's changed.
func (c *Client) Local(global uint64) (uint64, store.RevisionState) { return c.tracker.local(global) }

// State is what the zone knows of global now.
func (c *Client) State() GlobalState {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.state
	st.Revision = c.tracker.revision()
	silent := time.Since(st.LastSeen)
	switch up := c.online[streamConfig] && c.online[streamState]; {
	case up && silent < c.leaseLength:
		st.State, st.Reason, st.Permanent = Online, "", false
		if len(st.Degraded) > 0 {
			st.State = Degraded
			st.Reason = fmt.Sprintf("kind %s does not flow: %s", st.Degraded[0].GetKind(),
				st.Degraded[0].GetReason())
		}
	case silent < c.leaseLength:
		st.State = Stale
	default:
		st.State = Offline
	}
	return st
}

// Run keeps the three streams up until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	// A connection ends only when it had fallen silent, so that its failures are not in a row.
	delays := backoff.Backoff{Min: minRedial, Max: minRedial}
	for {
		err := c.connection(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.cfg.Logger.Info("dial global again", zap.Error(err))
		if err := backoff.Wait(ctx, delays.Next()); err != nil {
			return err
		}
	}
}

// start picks the epoch and finds the cursor.
func (c *Client) start(ctx context.Context) error {
	delays := backoff.Backoff{Min: minStoreRetry, Max: maxStoreRetry}
	for {
		last, err := c.cfg.Store.Meta(ctx, epochMeta)
		if err == nil {
			c.epoch = uint64(time.Now().UnixNano())
			if len(last) == 8 {
				c.epoch = max(c.epoch, binary.BigEndian.Uint64(last)+1)
			}
			value := binary.BigEndian.AppendUint64(nil, c.epoch)
			_, err = c.cfg.Store.Commit(ctx, store.Txn{
				Author: "system:kds",
				Ops:    []store.Op{store.SetMeta{Name: epochMeta, Value: value}},
			})
		}
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) {
			return fmt.Errorf("choose the epoch: %w", err)
		}
		if err := backoff.Wait(ctx, delays.Next()); err != nil {
			return err
		}
	}
	sink, revision, _, err := openSink(ctx, c.cfg.Store, c.cfg.Replica, c.sinkConfig())
	if err != nil {
		return fmt.Errorf("read the place in global's log: %w", err)
	}
	c.begin(sink, revision)
	if sink.Cursor() != nil {
		c.once.Do(func() { close(c.synced) })
	}
	return nil
}

// begin starts the tracker over at what the zone's store holds, unless it is of that epoch already.
func (c *Client) begin(sink *kds.Sink, revision uint64) {
	if c.local == sink.Epoch() {
		return
	}
	c.local = sink.Epoch()
	cursor := sink.Cursor()
	c.tracker.of(cursor.GetStoreId())
	c.tracker.apply(cursor.GetRevision(), revision, true)
	c.tracker.remember(cursor.GetRevision(), 0)
}

func (c *Client) sinkConfig() kds.SinkConfig {
	return kds.SinkConfig{
		Direction: kds.Down,
		Zone:      c.cfg.Zone,
		Author:    "kds:global",
		Validate:  c.cfg.Validate,
		Orphans:   c.orphans,
	}
}

// orphans lists what the zone owns in a mesh.
func (c *Client) orphans(meshName string) (keys []mesh.Key) {
	for r := range c.cfg.Replica.View().All() {
		if r.Key.Mesh == meshName && r.Key.Zone == c.cfg.Zone {
			keys = append(keys, r.Key)
		}
	}
	return keys
}

func (c *Client) hello(cursor *kdsv1.Cursor) *kdsv1.Hello {
	return &kdsv1.Hello{
		Zone:       c.cfg.Zone,
		Instance:   c.cfg.Instance,
		Epoch:      c.epoch,
		Capability: kds.Capability,
		Schemas:    c.schemas,
		Cursor:     cursor,
		CaPins:     c.cfg.CAPins,
		Version:    c.cfg.Version,
		StoreId:    c.cfg.Store.Epoch(),
	}
}

func (c *Client) lease() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaseLength
}

// connection holds one gRPC connection, which reconnects by itself, until it has fallen silent.
func (c *Client) connection(ctx context.Context) error {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(c.cfg.TLS)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                10 * time.Second,
			Timeout:             5 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// Less would give up handshakes that a busy global has begun, and begin them again.
			MinConnectTimeout: 5 * time.Second,
			Backoff: grpcbackoff.Config{
				BaseDelay:  50 * time.Millisecond,
				Multiplier: 1.6,
				Jitter:     0.2,
				MaxDelay:   400 * time.Millisecond,
			},
		}),
		// Static windows: an estimate of the bandwidth costs a ping per message.
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
	}
	if c.cfg.Token != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(token{c.cfg.Token}))
	}
	conn, err := grpc.NewClient("passthrough:///"+c.cfg.Address, opts...)
	if err != nil {
		return fmt.Errorf("address of global %q: %w", c.cfg.Address, err)
	}
	c.setConn(conn)
	defer func() { c.setConn(nil); _ = conn.Close() }()
	conn.Connect()
	client := kdsv1.NewKdsServiceClient(conn)
	g, ctx := errgroup.WithContext(ctx)
	for name, run := range map[string]func(context.Context, kdsv1.KdsServiceClient, func()) error{
		streamConfig: c.runConfig, streamState: c.runState, streamAdmin: c.serveAdmin,
	} {
		g.Go(func() error { return c.keep(ctx, name, conn, client, run) })
	}
	g.Go(func() error { return c.watchLease(ctx) })
	return g.Wait()
}

// watchLease ends the connection when global was silent for a whole lease while a stream is open.
func (c *Client) watchLease(ctx context.Context) error {
	for {
		c.mu.Lock()
		left := c.leaseLength
		if c.online[streamConfig] || c.online[streamState] {
			left -= time.Since(c.state.LastSeen)
		}
		c.mu.Unlock()
		if left <= 0 {
			return errLease
		}
		if err := backoff.Wait(ctx, left); err != nil {
			return err
		}
	}
}

func (c *Client) setConn(conn *grpc.ClientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if conn == nil {
		c.opened = make(chan struct{})
	} else {
		close(c.opened)
	}
}

// keep runs one stream again and again. It returns when ctx ends or the connection must be dialled
// again.
func (c *Client) keep(ctx context.Context, name string, conn *grpc.ClientConn,
	client kdsv1.KdsServiceClient,
	run func(context.Context, kdsv1.KdsServiceClient, func()) error) error {
	delays := backoff.Backoff{}
	for {
		wasUp := false
		err := run(ctx, client, func() {
			wasUp = true
			c.streamUp(name)
		})
		c.streamDown(name, wasUp, err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errLease) {
			return err
		}
		if wasUp {
			delays.Reset()
		}
		delays.Min, delays.Max = retryAfter(err)
		if err := backoff.Wait(ctx, delays.Next()); err != nil {
			return err
		}
		if status.Code(err) == codes.Unavailable {
			awaitReady(ctx, conn)
		}
	}
}

// lookAgain is how often a stream is tried while there is no connection, which shows why.
const lookAgain = time.Second

// awaitReady waits until a connection is up, at most for lookAgain: hundreds of zones that try their
// streams all the time would be in the way of a global that starts.
func awaitReady(ctx context.Context, conn *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// Limits of delays before retries.
const (
	minRedial = 150 * time.Millisecond
	// The zone's own store is unavailable.
	minStoreRetry = 200 * time.Millisecond
	maxStoreRetry = 2 * time.Second
)

// retryAfter bounds the first and every delay before a stream is tried again.
func retryAfter(err error) (first, longest time.Duration) {
	rejection := refusalOf(err)
	switch {
	case rejection != nil && rejection.GetRetryAfterMs() > 0:
		d := time.Duration(rejection.GetRetryAfterMs()) * time.Millisecond
		return d, d
	case rejection != nil && rejection.GetPermanent(), status.Code(err) == codes.PermissionDenied:
		return 500 * time.Millisecond, 5 * time.Second
	case status.Code(err) == codes.Unavailable, status.Code(err) == codes.Canceled,
		status.Code(err) == codes.Aborted:
		// Costs nothing while global is unreachable: gRPC paces the connecting itself.
		return 50 * time.Millisecond, 50 * time.Millisecond
	}
	return 100 * time.Millisecond, 2 * time.Second
}

func refusalOf(err error) *kdsv1.Close {
	var refused *kds.CloseError
	if errors.As(err, &refused) {
		return refused.Close
	}
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if r, ok := d.(*kdsv1.Close); ok {
			return r
		}
	}
	return nil
}

func (c *Client) streamUp(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.online[name] = true
	c.state.LastSeen = time.Now()
	if c.online[streamConfig] && c.online[streamState] && c.state.Reason != "" {
		c.cfg.Logger.Info("connected to global", zap.String("instance", c.state.Instance))
		c.state.Reason, c.state.Permanent, c.state.Connected = "", false, time.Now()
	}
}

func (c *Client) streamDown(name string, wasUp bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.online[name] = false
	if err == nil || errors.Is(err, context.Canceled) {
		err = errors.New("the stream ended")
	}
	rejection := refusalOf(err)
	reason := err.Error()
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		reason = strings.TrimPrefix(st.Message(), "connection error: ")
		if rejection == nil && st.Code() != codes.Unavailable {
			reason = st.Code().String() + ": " + reason
		}
	}
	code := status.Code(err)
	permanent := rejection.GetPermanent() || code == codes.PermissionDenied || code == codes.Unauthenticated
	if name == streamAdmin && !permanent && c.online[streamConfig] {
		return
	}
	if c.state.Reason != reason || wasUp {
		c.cfg.Logger.Warn("stream to global is down", zap.String("stream", name),
			zap.String("reason", reason), zap.Bool("permanent", permanent))
	}
	c.state.Reason, c.state.Permanent = reason, permanent
	result := "ended"
	if permanent {
		result = "refused"
	}
	c.metrics.connects.WithLabelValues(name, result).Inc()
}

func (c *Client) heard(change func(*GlobalState)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.LastSeen = time.Now()
	if change != nil {
		change(&c.state)
	}
}

// IssueIntermediate asks global to sign an intermediate authority; it waits for a connection as
// long as ctx allows.
func (c *Client) IssueIntermediate(ctx context.Context, meshName string,
	csr []byte) (*kdsv1.IssueIntermediateResponse, error) {
	for {
		c.mu.Lock()
		conn, opened := c.conn, c.opened
		c.mu.Unlock()
		if conn == nil {
			select {
			case <-opened:
				continue
			case <-ctx.Done():
				return nil, status.FromContextError(ctx.Err()).Err()
			}
		}
		return kdsv1.NewKdsServiceClient(conn).IssueIntermediate(ctx, &kdsv1.IssueIntermediateRequest{
			Mesh: meshName,
			Csr:  csr,
		}, grpc.WaitForReady(true))
	}
}

// token puts the zone token into every call's header.
type token struct{ read func() (string, error) }

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text, err := t.read()
	if err != nil {
		return nil, status.Errorf(codes.Unauthenticated, "read the zone token: %v", err)
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(text)}, nil
}

func (t token) RequireTransportSecurity() bool { return true }
