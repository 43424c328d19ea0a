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

// rows is the state that a group is evaluated against.
type rows struct {
	resources map[mesh.Key]*mesh.Resource
	kinds     map[txn.KindRef]uint64
}

// Resource implements [txn.State].
func (r rows) Resource(key mesh.Key) *mesh.Resource { return r.resources[key] }

// KindRevision implements [txn.State].
func (r rows) KindRevision(kind mesh.Kind, meshName string) uint64 {
	return r.kinds[txn.KindRef{Kind: kind, Mesh: meshName}]
}

// columns are the rows that a group writes, by column.
type columns struct {
	revision uint64 // of the last commit

	putKeys   []string
	putBodies [][]byte
	deleted   []string

	logRevisions []int64
	logPositions []int32
	logKeys      []string
	logTimes     []time.Time
	logActors    []string
	logBodies    [][]byte

	kinds, kindMeshes []string
	kindRevisions     []int64

	metaNames  []string
	metaValues [][]byte
}

// log is the group's part of the log.
func (c *columns) log() []logRow {
	rows := make([]logRow, len(c.logRevisions))
	for i := range rows {
		rows[i] = logRow{
			revision: uint64(c.logRevisions[i]),
			position: int(c.logPositions[i]),
			at:       c.logTimes[i],
			actor:    c.logActors[i],
			body:     c.logBodies[i],
		}
	}
	return rows
}

// write commits one group and fills in the answers.
func (s *Store) write(requests []*txn.Request) {
	start := time.Now()
	// Not the context of the one who leads: the group is not its own.
	ctx, cancel := context.WithTimeout(s.ctx, writeTimeout)
	defer cancel()
	commits, err := 0, error(nil)
	for try := 0; ; try++ {
		var final bool
		commits, final, err = s.writeGroup(ctx, requests)
		if err == nil {
			break
		}
		s.forget(err)
		// The group's own deadline passes because the database is slow, not because a caller gave up.
		err = classify(context.Background(), "commit to Postgres", err)
		if final || try == 2 || ctx.Err() != nil || !errors.Is(err, store.ErrUnavailable) {
			break
		}
	}
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
	requests []*txn.Request) (commits int, final bool, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return 0, false, err
	}
	defer conn.Release() // a connection within a transaction is closed, which rolls it back

	revision, state, err := s.begin(ctx, conn, requests)
	if err != nil {
		return 0, false, err
	}
	cols, err := s.evaluate(requests, revision, state)
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
	s.recent.add(cols.log())
	s.advance(cols.revision)
	return int(cols.revision - revision), false, nil
}

// begin locks the counter and reads what the group needs, in one round trip. Each statement sees
// what was committed when the lock was had.
func (s *Store) begin(ctx context.Context, conn *pgxpool.Conn,
	requests []*txn.Request) (revision uint64, state rows, err error) {
	var names, kinds, meshes []string
	seen := map[mesh.Key]bool{}
	for _, r := range requests {
		keys, refs := txn.Needs(r.Txn)
		for _, key := range keys {
			if !seen[key] {
				seen[key] = true
				names = append(names, key.String())
			}
		}
		for _, ref := range refs {
			kinds, meshes = append(kinds, string(ref.Kind)), append(meshes, ref.Mesh)
		}
	}
	state = rows{resources: make(map[mesh.Key]*mesh.Resource, len(names)), kinds: map[txn.KindRef]uint64{}}
	var id string
	batch := &pgx.Batch{}
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	batch.Queue("SELECT id, revision FROM meridian.store FOR UPDATE").QueryRow(func(row pgx.Row) error {
		return row.Scan(&id, &revision)
	})
	batch.Queue("SELECT key, body FROM meridian.resources WHERE key = ANY($1::text[])",
		names).Query(func(found pgx.Rows) error {
		var name string
		var body []byte
		_, err := pgx.ForEachRow(found, []any{&name, &body}, func() error {
			r, err := s.decode(name, body)
			if err != nil {
				return err
			}
			state.resources[r.Key] = r
			return nil
		})
		return err
	})
	if len(kinds) > 0 {
		batch.Queue("SELECT kind, mesh, revision FROM meridian.kinds WHERE (kind, mesh) IN (SELECT * FROM "+
			"unnest($1::text[], $2::text[]))",
			kinds, meshes).Query(func(found pgx.Rows) error {
			var kind, meshName string
			var at uint64
			_, err := pgx.ForEachRow(found, []any{&kind, &meshName, &at}, func() error {
				state.kinds[txn.KindRef{Kind: mesh.Kind(kind), Mesh: meshName}] = at
				return nil
			})
			return err
		})
	}
	// What other replicas committed since is read on the way, so that the watches of this process do
	// not have to ask for it.
	known := s.recent.last()
	var others []logRow
	if known > 0 {
		batch.Queue("SELECT "+logColumns+` FROM meridian.log WHERE revision > $1 AND revision <= $2
			ORDER BY revision, position`, int64(known), int64(known+fetchRevisions)).Query(
			func(found pgx.Rows) (err error) {
				others, err = logRows(found)
				return err
			})
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return 0, rows{}, err
	}
	if revision < known {
		s.recent.reset()
	} else {
		s.recent.add(others)
	}
	if id != s.id {
		return 0, rows{}, fmt.Errorf("%w: the database has become another store (id %s, was %s); restart "+
			"this process", store.ErrUnavailable, id, s.id)
	}
	return revision, state, nil
}

// evaluate runs every transaction in turn; nil columns mean that there is nothing to write.
func (s *Store) evaluate(requests []*txn.Request, revision uint64, state rows) (*columns, error) {
	cols := &columns{revision: revision}
	overlay := txn.NewOverlay(state)
	meta := map[string][]byte{}
	at := time.Now().UTC().Truncate(time.Microsecond)
	for _, r := range requests {
		r.Result, r.Err = store.Result{}, nil // of a try before
		changes, metas, err := txn.Evaluate(overlay, r.Txn, cols.revision+1, at)
		if err != nil {
			r.Err = err
			continue
		}
		if len(changes) > 0 {
			bodies, err := s.encodeChanges(cols.revision+1, changes)
			if err != nil {
				// What cannot become a row fails alone.
				r.Err = &store.InvalidError{Reason: err.Error()}
				continue
			}
			cols.revision++
			overlay.Apply(changes, cols.revision)
			for i, ch := range changes {
				cols.logRevisions = append(cols.logRevisions, int64(cols.revision))
				cols.logPositions = append(cols.logPositions, int32(i))
				cols.logKeys = append(cols.logKeys, ch.Key.String())
				cols.logTimes = append(cols.logTimes, at)
				cols.logActors = append(cols.logActors, r.Txn.Actor)
				cols.logBodies = append(cols.logBodies, bodies[i])
			}
		}
		for _, m := range metas {
			if m.Value == nil {
				m.Value = []byte{}
			}
			meta[m.Name] = m.Value
		}
		r.Result = store.Result{Revision: cols.revision, Changed: len(changes) > 0}
	}
	if len(cols.logKeys) == 0 && len(meta) == 0 {
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

func (s *Store) encodeChanges(revision uint64, changes []store.Change) ([][]byte, error) {
	bodies := make([][]byte, len(changes))
	for i, ch := range changes {
		var err error
		if bodies[i], err = s.codec.EncodeChange(rowName(revision, i), ch); err != nil {
			return nil, err
		}
	}
	return bodies, nil
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
			c.logRevisions, c.logPositions, c.logKeys, c.logTimes, c.logActors, c.logBodies)
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
