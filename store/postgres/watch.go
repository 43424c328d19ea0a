package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/store"
)

const (
	// pollInterval is how late a change shows whose notification was lost.
	pollInterval = time.Second
	minPause     = 100 * time.Millisecond
	maxPause     = 5 * time.Second
	// fetchRevisions is how many revisions a watch reads at once.
	fetchRevisions = 256
)

// advance wakes watches if revision is news.
func (s *Store) advance(revision uint64) {
	for {
		old := s.head.Load()
		if revision <= old.revision {
			return
		}
		if s.head.CompareAndSwap(old, &head{revision: revision, next: make(chan struct{})}) {
			close(old.next)
			return
		}
	}
}

// listen keeps the connection for wake-ups until Close.
func (s *Store) listen(config *pgx.ConnConfig) {
	pause := minPause
	for s.ctx.Err() == nil {
		err := s.listenOnce(config, &pause)
		s.metrics.listening.Set(0)
		if s.ctx.Err() != nil {
			return
		}
		d := pause/2 + rand.N(pause/2)
		pause = min(pause*2, maxPause)
		s.log.Warn("the connection for wake-ups broke", zap.Error(err), zap.Duration("retry", d))
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
		}
		timer.Stop()
	}
}

func (s *Store) listenOnce(config *pgx.ConnConfig, pause *time.Duration) error {
	conn, err := pgx.ConnectConfig(s.ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	exec := func(do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(s.ctx, readTimeout)
		defer cancel()
		return do(ctx)
	}
	if err := exec(func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "LISTEN meridian")
		return err
	}); err != nil {
		return err
	}
	for {
		// Every wake-up, and every pollInterval without one, looks at the counter: what came before
		// LISTEN is found too.
		if err := exec(func(ctx context.Context) error {
			var revision uint64
			if err := conn.QueryRow(ctx, "SELECT revision FROM meridian.store").Scan(&revision); err != nil {
				return err
			}
			s.advance(revision)
			return nil
		}); err != nil {
			return err
		}
		*pause = minPause
		s.metrics.listening.Set(1)
		ctx, cancel := context.WithTimeout(s.ctx, pollInterval)
		_, err := conn.WaitForNotification(ctx)
		cancel()
		if err != nil && (s.ctx.Err() != nil || !pgconn.Timeout(err)) {
			return err
		}
	}
}

// watch implements [store.Watch] by reading the log.
type watch struct {
	store  *Store
	after  uint64
	buffer []store.Commit
	once   sync.Once
	closed chan struct{}
}

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, after uint64) (store.Watch, error) {
	revision, compacted, err := s.counters(ctx)
	switch {
	case err != nil:
		return nil, err
	case after > revision:
		return nil, &store.InvalidError{Reason: fmt.Sprintf("cannot watch after revision %d: the "+
			"store is at "+
			"%d, so the cursor is of another store", after, revision)}
	case after < compacted:
		return nil, store.ErrCompacted
	}
	return &watch{store: s, after: after, closed: make(chan struct{})}, nil
}

// Next implements [store.Watch].
func (w *watch) Next(ctx context.Context) (store.Commit, error) {
	for {
		if err := w.store.queue.Check(ctx); err != nil {
			return store.Commit{}, err
		}
		select {
		case <-w.closed:
			return store.Commit{}, store.ErrClosed
		default:
		}
		if len(w.buffer) > 0 {
			c := w.buffer[0]
			w.buffer = w.buffer[1:]
			w.after = c.Revision
			return c, nil
		}
		head := w.store.head.Load()
		if w.after < head.revision {
			if err := w.fill(ctx); err != nil {
				return store.Commit{}, err
			}
			continue
		}
		select {
		case <-head.next:
		case <-ctx.Done():
		case <-w.store.queue.Closed():
		case <-w.closed:
		}
	}
}

// fill reads the next revisions into the buffer. Revisions are dense, so a hole means compaction.
func (w *watch) fill(ctx context.Context) error {
	var commits []store.Commit
	err := w.store.read(ctx, "read the log", readTimeout, func(ctx context.Context) error {
		rows, err := w.store.pool.Query(ctx, `SELECT revision, position, time, actor, body FROM meridian.log
			WHERE revision > $1 AND revision <= $2 ORDER BY revision, position`, int64(w.after),
			int64(w.after+fetchRevisions))
		if err != nil {
			return err
		}
		commits, err = w.store.scan(rows)
		return err
	})
	if err != nil {
		return err
	}
	for i, c := range commits {
		if c.Revision != w.after+1+uint64(i) {
			commits = commits[:i]
			break
		}
	}
	if len(commits) > 0 {
		w.buffer = commits
		return nil
	}
	_, compacted, err := w.store.counters(ctx)
	if err != nil {
		return err
	}
	if compacted > w.after {
		return store.ErrCompacted
	}
	return &store.CorruptError{
		Where: "table meridian.log",
		Err:   errors.New("there is no revision " + fmt.Sprint(w.after+1)),
	}
}

// Close implements [store.Watch].
func (w *watch) Close() { w.once.Do(func() { close(w.closed) }) }
