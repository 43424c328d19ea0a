package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/txn"
)

// maxGroup bounds how many transactions share a database transaction.
const maxGroup = 256

// Commit implements [store.Store].
func (s *Store) Commit(ctx context.Context, t store.Txn) (store.Result, error) {
	return s.queue.Commit(ctx, t)
}

// columns are the rows that a group writes, by column.
type columns struct {
	revision uint64 // of the last commit
	commits  []entry

	putKeys   []string
	putBodies [][]byte
	deleted   []string

	logRevisions []int64
	logPositions []int32
	logKeys      []string
	logTimes     []time.Time
	logAuthors   []string
	logBodies    [][]byte

	kinds, kindMeshes []string
	kindRevisions     []int64

	metaNames  []string
	metaValues [][]byte

	auditTimes  []time.Time
	auditBodies [][]byte
}

// first is the first row of the last commit.
func (c *columns) first() logRow {
	i := len(c.logPositions) - 1
	for c.logPositions[i] > 0 {
		i--
	}
	return logRow{
		revision: uint64(c.logRevisions[i]),
		position: 0,
		at:       c.logTimes[i],
		author:   c.logAuthors[i],
		body:     c.logBodies[i],
	}
}

// write commits one group and fills in the answers.
func (s *Store) write(take func() []*txn.Request) {
	start := time.Now()
	// Not the context of the one who leads: the group is not its own.
	ctx, cancel := context.WithTimeout(s.ctx, writeTimeout)
	defer cancel()
	commits, err := 0, error(nil)
	for try := 0; ; try++ {
		var final bool
		commits, final, err = s.writeGroup(ctx, take)
		if err == nil {
			break
		}
		if errors.Is(err, errWentBack) {
			// What the group was made from may never have been.
			s.known = known{}
			if _, _, err = s.observe(ctx, s.pool); err == nil {
				err = store.ErrReset
			}
			err = classify(context.Background(), "start over", err)
			break
		}
		s.known = known{} // what was read for the group may be only in part there
		s.forget(err)
		// The group's own deadline passes because the database is slow, not because a caller gave up.
		err = classify(context.Background(), "commit to Postgres", err)
		if final || try == 2 || ctx.Err() != nil || !errors.Is(err, store.ErrUnavailable) {
			break
		}
	}
	requests := take()
	if err != nil {
		s.metrics.unavailable.Inc()
		s.log.Warn("a group of transactions failed", zap.Int("transactions", len(requests)), zap.Error(err))
		for _, r := range requests {
			r.Result, r.Err = store.Result{}, err
		}
		return
	}
	s.metrics.commits.Add(float64(commits))
	s.metrics.group.Observe(float64(len(requests)))
	s.metrics.write.Observe(time.Since(start).Seconds())
}

// writeGroup tries once. final says that an error came when COMMIT may have been received: then
// the group must not be tried again.
func (s *Store) writeGroup(ctx context.Context,
	take func() []*txn.Request) (commits int, final bool, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return 0, false, err
	}
	defer conn.Release() // a connection within a transaction is closed, which rolls it back

	at := s.place.get()
	revision, err := s.begin(ctx, conn, at)
	if err != nil {
		return 0, false, err
	}
	// Those who came while this process waited for the lock are of the group.
	requests := take()
	if err := s.learn(ctx, conn, requests); err != nil {
		return 0, false, err
	}
	cols, err := s.evaluate(requests, epochName(s.id, at.suffix), revision)
	if err != nil {
		return 0, false, err
	}
	if cols == nil {
		_, err := conn.Exec(ctx, "ROLLBACK")
		return 0, false, err
	}
	if err := s.finish(ctx, conn, cols); err != nil {
		return 0, true, err
	}
	if len(cols.commits) > 0 {
		for _, e := range cols.commits {
			s.known.apply(e.commit)
		}
		s.known.revision, s.known.head = cols.revision, cols.first()
		s.recent.add(at.history, cols.commits)
		s.place.extend(at, markOf(cols.commits[len(cols.commits)-1].commit))
		s.advance(cols.revision)
	}
	return len(cols.commits), false, nil
}

// begin locks the counter and reads what others added to the log, in one round trip. Each statement
// sees what was committed when the lock was had.
func (s *Store) begin(ctx context.Context, conn *pgxpool.Conn,
	at position) (revision uint64, err error) {
	var o observed
	batch := &pgx.Batch{}
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	batch.Queue("SELECT FROM meridian.store FOR UPDATE")
	batch.Queue(observation, int64(at.head.revision)).QueryRow(func(row pgx.Row) error {
		return o.scan(row, at)
	})
	// Watches of this process do not have to ask for what is read here.
	from := s.known.revision
	if from == 0 {
		from = s.recent.last()
	}
	var rows []logRow
	if from > 0 {
		batch.Queue("SELECT "+logColumns+` FROM meridian.log WHERE revision >= $1 AND revision <= $2
			ORDER BY revision, position`, int64(from), int64(from+fetchRevisions)).Query(
			func(found pgx.Rows) (err error) {
				rows, err = logRows(found)
				return err
			})
	}
	s.wakeups.begin()
	defer func() { s.advance(s.wakeups.done()) }()
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return 0, err
	}
	if o.id == s.id && at.judge(o) != goesOn {
		return 0, errWentBack
	}
	if _, err := s.take(ctx, at, o); err != nil {
		return 0, err
	}
	revision = o.revision

	others, err := s.entries(s.known.news(rows))
	if err != nil {
		return 0, err
	}
	s.recent.add(at.history, others)
	s.known.follow(revision, rows, others)
	return revision, nil
}

// learn reads what the group needs and this process does not know.
func (s *Store) learn(ctx context.Context, conn *pgxpool.Conn, requests []*txn.Request) error {
	keys, refs := s.known.missing(requests)
	if len(keys)+len(refs) == 0 {
		return nil
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.String()
	}
	batch := &pgx.Batch{}
	batch.Queue("SELECT key, body FROM meridian.resources WHERE key = ANY($1::text[])",
		names).Query(func(found pgx.Rows) error {
		var name string
		var body []byte
		_, err := pgx.ForEachRow(found, []any{&name, &body}, func() error {
			r, err := s.decode(name, body)
			if err != nil {
				return err
			}
			s.known.resources[r.Key] = r
			return nil
		})
		return err
	})
	if len(refs) > 0 {
		kinds, meshes := make([]string, len(refs)), make([]string, len(refs))
		for i, ref := range refs {
			kinds[i], meshes[i] = string(ref.Kind), ref.Mesh
		}
		batch.Queue("SELECT kind, mesh, revision FROM meridian.kinds WHERE (kind, mesh) IN (SELECT * FROM "+
			"unnest($1::text[], $2::text[]))",
			kinds, meshes).Query(func(found pgx.Rows) error {
			var kind, meshName string
			var at uint64
			_, err := pgx.ForEachRow(found, []any{&kind, &meshName, &at}, func() error {
				s.known.kinds[txn.KindRef{Kind: mesh.Kind(kind), Mesh: meshName}] = at
				return nil
			})
			return err
		})
	}
	return conn.SendBatch(ctx, batch).Close()
}

// evaluate runs every transaction in turn; nil columns mean that there is nothing to write.
func (s *Store) evaluate(requests []*txn.Request, epoch string, revision uint64) (*columns, error) {
	cols := &columns{revision: revision}
	overlay := txn.NewOverlay(&s.known)
	meta := map[string][]byte{}
	at := time.Now().UTC().Truncate(time.Microsecond)
	for _, r := range requests {
		r.Result, r.Err = store.Result{}, nil // of a try before
		if r.Err = txn.CheckEpoch(r.Txn, epoch); r.Err != nil {
			continue
		}
		effects, err := txn.Evaluate(overlay, r.Txn, cols.revision+1, at)
		if err != nil {
			r.Err = err
			continue
		}
		changes := effects.Changes
		if len(changes) > 0 {
			commit := store.Commit{
				Revision: cols.revision + 1,
				Time:     at,
				Author:   r.Txn.Author,
				Changes:  changes,
			}
			if err := s.addCommit(cols, commit); err != nil {
				// What cannot become a row fails alone.
				r.Err = &store.InvalidError{Reason: err.Error()}
				continue
			}
			overlay.Apply(changes, cols.revision)
		}
		for _, e := range effects.Audit {
			body, err := txn.EncodeAudit(e)
			if err != nil {
				return nil, err
			}
			cols.auditTimes = append(cols.auditTimes, e.Time)
			cols.auditBodies = append(cols.auditBodies, body)
		}
		for _, m := range effects.Metas {
			if m.Value == nil {
				m.Value = []byte{}
			}
			meta[m.Name] = m.Value
		}
		r.Result = effects.Result(cols.revision)
	}
	if len(cols.commits) == 0 && len(meta) == 0 && len(cols.auditTimes) == 0 {
		return nil, nil
	}
	for key, r := range overlay.Written() {
		name := key.String()
		if r == nil {
			cols.deleted = append(cols.deleted, name)
			continue
		}
		body, err := s.codec.EncodeResource(name, r)
		if err != nil {
			return nil, err
		}
		cols.putKeys, cols.putBodies = append(cols.putKeys, name), append(cols.putBodies, body)
	}
	for ref, at := range overlay.WrittenKinds() {
		cols.kinds, cols.kindMeshes = append(cols.kinds, string(ref.Kind)), append(cols.kindMeshes, ref.Mesh)
		cols.kindRevisions = append(cols.kindRevisions, int64(at))
	}
	for name, value := range meta {
		cols.metaNames, cols.metaValues = append(cols.metaNames, name), append(cols.metaValues, value)
	}
	return cols, nil
}

// addCommit adds the log rows of a commit, all or none.
func (s *Store) addCommit(cols *columns, c store.Commit) error {
	bodies, size, err := s.encodeChanges(c)
	if err != nil {
		return err
	}
	cols.revision = c.Revision
	cols.commits = append(cols.commits, entry{commit: c, size: size})
	for i, ch := range c.Changes {
		cols.logRevisions = append(cols.logRevisions, int64(c.Revision))
		cols.logPositions = append(cols.logPositions, int32(i))
		cols.logKeys = append(cols.logKeys, ch.Key.String())
		cols.logTimes = append(cols.logTimes, c.Time)
		cols.logAuthors = append(cols.logAuthors, c.Author)
		cols.logBodies = append(cols.logBodies, bodies[i])
	}
	return nil
}

func (s *Store) encodeChanges(c store.Commit) (bodies [][]byte, size int, err error) {
	bodies = make([][]byte, len(c.Changes))
	for i, ch := range c.Changes {
		if bodies[i], err = s.codec.EncodeChange(rowName(c.Revision, i), ch); err != nil {
			return nil, 0, err
		}
		size += len(bodies[i])
	}
	return bodies, size, nil
}

// finish writes everything and commits, in one round trip.
func (s *Store) finish(ctx context.Context, conn *pgxpool.Conn, c *columns) error {
	batch := &pgx.Batch{}
	if len(c.putKeys) > 0 {
		batch.Queue(`INSERT INTO meridian.resources (key, body) SELECT * FROM unnest($1::text[], $2::bytea[])
			ON CONFLICT (key) DO UPDATE SET body = excluded.body`, c.putKeys, c.putBodies)
	}
	if len(c.deleted) > 0 {
		batch.Queue("DELETE FROM meridian.resources WHERE key = ANY($1::text[])", c.deleted)
	}
	if len(c.logKeys) > 0 {
		batch.Queue(`INSERT INTO meridian.log (revision, position, key, time, actor, body)
			SELECT * FROM unnest(
				$1::bigint[], $2::int[], $3::text[], $4::timestamptz[], $5::text[], $6::bytea[])`,
			c.logRevisions, c.logPositions, c.logKeys, c.logTimes, c.logAuthors, c.logBodies)
	}
	if len(c.kinds) > 0 {
		batch.Queue(
			`INSERT INTO meridian.kinds (kind, mesh, revision)
			SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
			ON CONFLICT (kind, mesh) DO UPDATE SET revision = excluded.revision`, c.kinds, c.kindMeshes,
			c.kindRevisions)
	}
	if len(c.metaNames) > 0 {
		batch.Queue(`INSERT INTO meridian.meta (name, value) SELECT * FROM unnest($1::text[], $2::bytea[])
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, c.metaNames, c.metaValues)
	}
	if len(c.auditTimes) > 0 {
		batch.Queue(`INSERT INTO meridian.audit (time, body) SELECT * FROM
			unnest($1::timestamptz[], $2::bytea[])`, c.auditTimes, c.auditBodies)
	}
	if len(c.logKeys) > 0 {
		batch.Queue("UPDATE meridian.store SET revision = $1", int64(c.revision))
		batch.Queue("SELECT pg_notify('meridian', $1)", strconv.FormatUint(c.revision, 10))
	}
	committed := false
	batch.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		committed = tag.String() == "COMMIT"
		return nil
	})
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	if !committed {
		return fmt.Errorf("%w: the database rolled the transaction back", store.ErrUnavailable)
	}
	return nil
}
