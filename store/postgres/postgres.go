package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

const (
	connectTimeout = 3 * time.Second
	// writeTimeout bounds a group of commits, and so how long a Commit hangs on a database that
	// does not answer.
	writeTimeout = 5 * time.Second
	// readTimeout bounds one try of a read; snapshots and compaction have longTimeout.
	readTimeout = 5 * time.Second
	longTimeout = 60 * time.Second

	defaultMaxConns = 8
)

// Config of a Store.
type Config struct {
	// URL as libpq has it, such as
	// "postgres://user:password@host:5432/database?sslmode=verify-full". Required.
	URL string
	// Sealer encrypts secrets. Required.
	Sealer store.Sealer
	// Owner of the store; the zero Owner opens that of any.
	Owner store.Owner
	// MaxConns bounds the connections of this process, the one that listens aside; 0 is 8.
	MaxConns int
	// Logger may be nil.
	Logger *zap.Logger
	// Registerer may be nil. One store per registerer.
	Registerer prometheus.Registerer
}

// Store implements [store.Store]; see the package comment.
type Store struct {
	id      string
	pool    *pgxpool.Pool
	codec   txn.Codec
	queue   *txn.Queue
	log     *zap.Logger
	metrics metrics
	head    atomic.Pointer[head]
	recent  recent
	wakeups wakeups
	place   place
	known   known

	// ctx ends at Close, and with it the listener and every read.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// head is the latest revision this process knows of; next is closed when it learns of a later one.
// history is that of the position.
type head struct {
	revision uint64
	history  uint64
	next     chan struct{}
}

type metrics struct {
	commits     prometheus.Counter
	group       prometheus.Histogram
	write       prometheus.Histogram
	unavailable prometheus.Counter
	listening   prometheus.Gauge
	resets      prometheus.Counter
}

// Open connects, migrates and starts to listen. Errors: [store.ErrUnavailable] if the database
// cannot be reached, [*store.WrongKeyError], [*store.OwnerError], [*NewerError], [ErrPooled].
func Open(ctx context.Context, c Config) (*Store, error) {
	switch {
	case c.URL == "":
		return nil, errNoURL
	case c.Sealer == nil:
		return nil, errors.New("the Postgres store needs an encryption key")
	}
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, fmt.Errorf("read the Postgres URL: %w", err) // pgx hides the password
	}
	config.ConnConfig.ConnectTimeout = connectTimeout
	config.MaxConns = defaultMaxConns
	if c.MaxConns > 0 {
		config.MaxConns = int32(min(c.MaxConns, 1000))
	}
	config.AfterConnect = prepareConn
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "meridian"
	}

	s := &Store{codec: txn.Codec{Sealer: c.Sealer}, log: c.Logger, metrics: newMetrics()}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	s.queue = txn.NewQueue(maxGroup, s.write)
	s.head.Store(&head{next: make(chan struct{})})

	all, err := migrations(migrationFiles)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, classify(ctx, "connect to Postgres", err)
	}
	if err := checkSessions(ctx, conn, config.ConnConfig); err != nil {
		_ = conn.Close(ctx)
		return nil, classify(ctx, "connect to Postgres", err)
	}
	s.id, err = migrate(ctx, conn, all, c.Sealer.Fingerprint(), c.Owner)
	_ = conn.Close(ctx)
	if err != nil {
		return nil, classify(ctx, "open the database", err)
	}
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, classify(ctx, "connect to Postgres", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if c.Registerer != nil {
		for _, m := range s.metrics.all(s.pool) {
			if err := c.Registerer.Register(m); err != nil {
				s.log.Warn("a metric of the store is not registered", zap.Error(err))
			}
		}
	}
	err = s.read(ctx, "read the epoch", readTimeout, func(ctx context.Context) error {
		var suffix string
		err := s.pool.QueryRow(ctx, "SELECT epoch FROM meridian.store").Scan(&suffix)
		history := s.place.set(position{suffix: suffix})
		s.recent.restart(history)
		s.restart(0, history)
		return err
	})
	if err == nil {
		_, err = s.Revision(ctx)
	}
	if err != nil {
		s.cancel()
		s.pool.Close()
		return nil, err
	}
	listen := config.ConnConfig.Copy()
	s.tasks.Go(func() { s.listen(listen) })
	return s, nil
}

// prepareConn sets timeouts by statement, since poolers refuse them as start-up parameters.
func prepareConn(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "SET statement_timeout = '5s'; SET idle_in_transaction_session_timeout = '5s'")
	return err
}

func newMetrics() metrics {
	return metrics{
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_store_commits_total",
			Help: "Revisions committed by this process. A rate far above the rate of real changes " +
				"means that " +
				"something writes in a loop.",
		}),
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meridian_store_group_transactions_count",
			Help: "Transactions written in one database transaction. Large groups mean that writers wait " +
				"for the database.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		write: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meridian_store_write_seconds",
			Help: "Time to write a group of transactions. More than 0.1 s means a slow database or many " +
				"replicas that write at once.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		unavailable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_store_unavailable_total",
			Help: "Calls that failed because the database was unreachable or overloaded. Writes fail " +
				"while it grows.",
		}),
		resets: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_store_resets_total",
			Help: "Times that the database went back to an earlier state. Commits that were answered " +
				"before may be lost.",
		}),
		listening: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meridian_store_listening_bool",
			Help: "1 while the connection for wake-ups is up. At 0 this process does not learn of other " +
				"replicas' changes.",
		}),
	}
}

func (m metrics) all(pool *pgxpool.Pool) []prometheus.Collector {
	return []prometheus.Collector{m.commits, m.group, m.write, m.unavailable, m.listening, m.resets,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meridian_store_busy_connections_count",
			Help: "Connections in use. At the bound (MaxConns), calls wait for each other."},
			func() float64 { return float64(pool.Stat().AcquiredConns()) }),
	}
}

// classify wraps err with what was tried, and with [store.ErrUnavailable] if waiting may help.
func classify(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var (
		wrongKey *store.WrongKeyError
		owner    *store.OwnerError
		newer    *NewerError
		corrupt  *store.CorruptError
		pg       *pgconn.PgError
	)
	switch {
	case errors.As(err, &wrongKey), errors.As(err, &owner), errors.As(err, &newer), errors.As(err, &corrupt),
		errors.Is(err, store.ErrUnavailable), errors.Is(err, ErrPooled),
		errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCompacted):
		return err
	case errors.As(err, &pg) && !temporary(pg.Code):
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%w: %s: %w", store.ErrUnavailable, what, err)
}

// temporary says whether a SQLSTATE is about the state of the server and not about what was asked.
func temporary(code string) bool {
	switch code {
	case "40001", "40P01", // serialization, deadlock
		"55P03", "57014", "25P03", // lock and statement and idle timeouts
		"25006": // a read-only standby, as during failover
		return true
	}
	// Connection, resources, operator intervention, system error.
	return slices.Contains([]string{"08", "53", "57", "58"}, code[:min(2, len(code))])
}

// Tries of a read while the database is unavailable, and the delays between them.
const (
	readTries    = 3
	minReadRetry = 100 * time.Millisecond
	maxReadRetry = 400 * time.Millisecond
)

// read runs do, up to three times while the database is unavailable.
func (s *Store) read(ctx context.Context, what string, limit time.Duration,
	do func(context.Context) error) error {
	delays := backoff.Backoff{Min: minReadRetry, Max: maxReadRetry}
	for {
		if err := s.queue.Check(ctx); err != nil {
			return err
		}
		err := s.once(ctx, limit, do)
		if err == nil || errors.Is(err, store.ErrNotFound) {
			return err
		}
		if closed := s.queue.Check(ctx); closed != nil {
			return closed
		}
		s.forget(err)
		if err = classify(ctx, what, err); !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		delay := delays.Next()
		if delays.Failures() == readTries {
			s.metrics.unavailable.Inc()
			return err
		}
		s.pause(ctx, delay)
	}
}

// pause waits until d is over, ctx ends or the store closes.
func (s *Store) pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	_ = backoff.Wait(ctx, d) // the caller looks at ctx and the store
}

// forget closes idle connections after one of them broke: after a restart of the database all of them have.
func (s *Store) forget(err error) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || strings.HasPrefix(pg.Code, "57P") {
		s.pool.Reset()
	}
}

func (s *Store) once(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	return do(ctx)
}

// ID implements [store.Store].
func (s *Store) ID() string { return s.id }

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, key mesh.Key) (r *mesh.Resource, err error) {
	name := key.String()
	if strings.ContainsRune(name, 0) {
		return nil, store.ErrNotFound
	}
	err = s.read(ctx, "read "+name, readTimeout, func(ctx context.Context) error {
		var body []byte
		err := s.pool.QueryRow(ctx, "SELECT body FROM meridian.resources WHERE key = $1", name).Scan(&body)
		if errors.Is(err, pgx.ErrNoRows) {
			return store.ErrNotFound
		}
		if err != nil {
			return err
		}
		r, err = s.decode(name, body)
		return err
	})
	return r, err
}

func (s *Store) decode(name string, body []byte) (*mesh.Resource, error) {
	r, err := s.codec.DecodeResource(name, body)
	if err != nil {
		return nil, &store.CorruptError{Where: "row " + name + " of table meridian.resources", Err: err}
	}
	return r, nil
}

// Meta implements [store.Store].
func (s *Store) Meta(ctx context.Context, name string) (value []byte, err error) {
	if strings.ContainsRune(name, 0) {
		return nil, nil
	}
	err = s.read(ctx, "read meta "+name, readTimeout, func(ctx context.Context) error {
		value = nil
		err := s.pool.QueryRow(ctx, "SELECT value FROM meridian.meta WHERE name = $1", name).Scan(&value)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return value, err
}

// Revision implements [store.Store].
func (s *Store) Revision(ctx context.Context) (uint64, error) {
	o, err := s.counters(ctx)
	return o.revision, err
}

// counters are where the database is.
func (s *Store) counters(ctx context.Context) (o observed, err error) {
	err = s.read(ctx, "read the revision", readTimeout, func(ctx context.Context) error {
		o, _, err = s.observe(ctx, s.pool)
		return err
	})
	return o, err
}

// Snapshot implements [store.Store].
func (s *Store) Snapshot(ctx context.Context) (snapshot store.Snapshot, err error) {
	err = s.read(ctx, "read a snapshot", longTimeout, func(ctx context.Context) error {
		snapshot = store.Snapshot{}
		return s.long(ctx, pgx.TxOptions{
			IsoLevel:   pgx.RepeatableRead,
			AccessMode: pgx.ReadOnly,
		}, func(tx pgx.Tx) error {
			o, back, err := s.observe(ctx, tx)
			if err != nil {
				return err
			}
			if back {
				// The epoch of what this transaction sees is no longer the database's.
				return fmt.Errorf("%w: the database went back", store.ErrUnavailable)
			}
			snapshot.Epoch, snapshot.Revision = epochName(o.id, o.suffix), o.revision
			rows, err := tx.Query(ctx, "SELECT key, body FROM meridian.resources")
			if err != nil {
				return err
			}
			var name string
			var body []byte
			_, err = pgx.ForEachRow(rows, []any{&name, &body}, func() error {
				r, err := s.decode(name, body)
				snapshot.Resources = append(snapshot.Resources, r)
				return err
			})
			return err
		})
	})
	if err != nil {
		return store.Snapshot{}, err
	}
	slices.SortFunc(snapshot.Resources, func(a, b *mesh.Resource) int { return a.Key.Compare(b.Key) })
	return snapshot, nil
}

// long runs a transaction whose statements may take longTimeout.
func (s *Store) long(ctx context.Context, options pgx.TxOptions, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, options, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx,
			fmt.Sprintf("SET LOCAL statement_timeout = %d", longTimeout.Milliseconds())); err != nil {
			return err
		}
		return do(tx)
	})
}

// History implements [store.Store].
func (s *Store) History(ctx context.Context, key mesh.Key, limit int) (commits []store.Commit, err error) {
	name := key.String()
	if strings.ContainsRune(name, 0) {
		return nil, nil
	}
	sql := `SELECT revision, position, time, actor, body FROM meridian.log
		WHERE key = $1 AND revision > (SELECT compacted FROM meridian.store) ORDER BY revision DESC`
	if limit > 0 {
		sql += fmt.Sprintf(" LIMIT %d", limit)
	}
	err = s.read(ctx, "read the history of "+name, readTimeout, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, sql, name)
		if err != nil {
			return err
		}
		commits, err = s.scan(rows)
		return err
	})
	return commits, err
}

// scan reads log rows and makes commits of them; rows of one revision follow each other.
func (s *Store) scan(rows pgx.Rows) ([]store.Commit, error) {
	found, err := logRows(rows)
	if err != nil {
		return nil, err
	}
	entries, err := s.entries(found)
	commits := make([]store.Commit, len(entries))
	for i, e := range entries {
		commits[i] = e.commit
	}
	return commits, err
}

// logRow is a row of the log as the database has it.
type logRow struct {
	revision uint64
	position int
	at       time.Time
	author   string
	body     []byte
}

// logColumns are those that logRows reads.
const logColumns = "revision, position, time, actor, body"

func logRows(rows pgx.Rows) (found []logRow, err error) {
	var row logRow
	columns := []any{&row.revision, &row.position, &row.at, &row.author, &row.body}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		found = append(found, row)
		row.body = nil
		return nil
	})
	return found, err
}

// entries makes commits of log rows.
func (s *Store) entries(rows []logRow) ([]entry, error) {
	var entries []entry
	for _, row := range rows {
		name := rowName(row.revision, row.position)
		change, err := s.codec.DecodeChange(name, row.body)
		if err != nil {
			return nil, &store.CorruptError{Where: "row " + name + " of table meridian.log", Err: err}
		}
		if n := len(entries); n == 0 || entries[n-1].commit.Revision != row.revision {
			entries = append(entries, entry{commit: store.Commit{
				Revision: row.revision,
				Time:     row.at.UTC(),
				Author:   row.author,
			}})
		}
		e := &entries[len(entries)-1]
		e.commit.Changes = append(e.commit.Changes, change)
		e.size += len(row.body)
	}
	return entries, nil
}

func rowName(revision uint64, position int) string { return fmt.Sprintf("%d/%d", revision, position) }

// Compact implements [store.Store]. Of several replicas that compact, one works at a time.
func (s *Store) Compact(ctx context.Context, through uint64) error {
	defer s.recent.reset()

	for {
		more := false
		err := s.read(ctx, "compact the log", longTimeout, func(ctx context.Context) error {
			if _, err := s.pool.Exec(ctx,
				`UPDATE meridian.store SET compacted = greatest(compacted, least(revision, $1))
				WHERE compacted < least(revision, $1)`, int64(min(through, 1<<62))); err != nil {
				return err
			}
			return s.long(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)",
					int64(compactionLock)); err != nil {
					return err
				}
				// The entries are out of reach already. A bounded number at a time keeps locks and WAL small.
				tag, err := tx.Exec(ctx,
					`DELETE FROM meridian.log WHERE revision <= (SELECT compacted FROM meridian.store)
					AND revision <= (SELECT revision FROM meridian.store) - $1
					AND revision < (SELECT min(revision) + 2000 FROM meridian.log)`, int64(provingRows))
				more = tag.RowsAffected() > 0
				return err
			})
		})
		if err != nil || !more {
			return err
		}
	}
}

// Close implements [store.Store].
func (s *Store) Close() error {
	if !s.queue.Close() {
		return nil
	}
	s.cancel()
	s.tasks.Wait()
	s.pool.Close()
	return nil
}
