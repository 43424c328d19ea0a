package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/internal/backoff"
	"github.com/meridian-mesh/meridian/store"
)

const (
	// pollInterval is how late a change shows whose notification was lost.
	pollInterval = time.Second
	// minRetry and maxRetry bound the delay before the listening connection is opened again.
	minRetry = 100 * time.Millisecond
	maxRetry = 5 * time.Second
	// holdBack bounds how long a notification waits for a group that is about to read what it is of.
	holdBack = 20 * time.Millisecond
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
		if s.head.CompareAndSwap(old, &head{
			revision: revision,
			history:  old.history,
			next:     make(chan struct{}),
		}) {
			close(old.next)
			return
		}
	}
}

// wakeups holds a notification back while a group of this process waits for the lock: under it the
// group reads the commit that the notification is of, and watches need not ask for it. Its zero value
// is ready.
type wakeups struct {
	reading atomic.Bool
	noted   atomic.Uint64 // the latest revision of a notification
}

// note takes a notification and says whether it is held back.
func (w *wakeups) note(revision uint64) bool {
	for {
		old := w.noted.Load()
		if revision <= old || w.noted.CompareAndSwap(old, revision) {
			break
		}
	}
	// Read after noted was written: either this sees that the group has read, or done sees noted.
	return w.reading.Load()
}

// begin says that a group is about to read; done, that it has, or failed, and gives what was held back.
func (w *wakeups) begin() { w.reading.Store(true) }

func (w *wakeups) done() (revision uint64) {
	w.reading.Store(false)
	return w.noted.Load()
}

// listen keeps the connection for wake-ups until Close.
func (s *Store) listen(config *pgx.ConnConfig) {
	delays := backoff.Backoff{Min: minRetry, Max: maxRetry}
	for s.ctx.Err() == nil {
		err := s.listenOnce(config, delays.Reset)
		s.metrics.listening.Set(0)
		if s.ctx.Err() != nil {
			return
		}
		delay := delays.Next()
		s.log.Warn("the connection that listens for commits broke; retrying", zap.Error(err),
			zap.Duration("in", delay))
		_ = backoff.Wait(s.ctx, delay)
	}
}

// listenOnce listens until the connection breaks; working is called when it is known to work.
func (s *Store) listenOnce(config *pgx.ConnConfig, working func()) error {
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
		// Every pollInterval looks at the counter, and so does the first turn: what came before LISTEN,
		// what a lost notification was about, and that the database went back, is found too.
		if err := exec(func(ctx context.Context) error {
			_, _, err := s.observe(ctx, conn)
			return err
		}); err != nil {
			return err
		}
		working()
		s.metrics.listening.Set(1)
		if err := s.notifications(conn); err != nil {
			return err
		}
	}
}

// notifications takes them until it is time to look at the counter. Their payload is the revision;
// one without is of a former version of this program, and a reason to look.
func (s *Store) notifications(conn *pgx.Conn) error {
	poll := time.Now().Add(pollInterval)
	var held time.Time // when to give what is held back; zero if nothing is
	for {
		until := poll
		if !held.IsZero() {
			until = held
		}
		n, err := s.notification(conn, until)
		switch {
		case err == nil:
		case s.ctx.Err() != nil || !pgconn.Timeout(err):
			return err
		case !held.IsZero():
			s.advance(s.wakeups.noted.Load())
			held = time.Time{}
			continue
		default:
			return nil
		}
		revision, err := strconv.ParseUint(n.Payload, 10, 63)
		if err != nil {
			return nil
		}
		switch {
		case !s.wakeups.note(revision):
			s.advance(revision)
			held = time.Time{}
		case held.IsZero():
			held = time.Now().Add(holdBack)
		}
		if time.Now().After(poll) {
			s.advance(s.wakeups.noted.Load())
			return nil
		}
	}
}

// notification waits for the next one until a time.
func (s *Store) notification(conn *pgx.Conn, until time.Time) (*pgconn.Notification, error) {
	ctx, cancel := context.WithDeadline(s.ctx, until)
	defer cancel()
	return conn.WaitForNotification(ctx)
}

// watch implements [store.Watch] by reading the log.
type watch struct {
	store  *Store
	after  uint64
	at     mark   // of after, as it was read; zero if nothing was yet
	past   uint64 // the history of the head that it is of
	buffer []store.Commit
	once   sync.Once
	closed chan struct{}
}

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, after uint64) (store.Watch, error) {
	history := s.head.Load().history
	o, err := s.counters(ctx)
	switch {
	case err != nil:
		return nil, err
	case s.head.Load().history != history:
		return nil, store.ErrReset
	case after > o.revision:
		return nil, &store.InvalidError{Reason: fmt.Sprintf("cannot watch after revision %d: the "+
			"store is at "+
			"%d, so the cursor is of another store", after, o.revision)}
	case after < o.compacted:
		return nil, store.ErrCompacted
	}
	w := &watch{store: s, after: after, past: history, closed: make(chan struct{})}
	if o.last != nil && o.last.revision == after {
		w.at = *o.last
	}
	return w, nil
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
		head := w.store.head.Load()
		if head.history != w.past {
			return store.Commit{}, store.ErrReset
		}
		if len(w.buffer) > 0 {
			c := w.buffer[0]
			w.buffer = w.buffer[1:]
			w.after, w.at = c.Revision, markOf(c)
			return c, nil
		}
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
	if w.buffer = w.store.recent.after(w.after, fetchRevisions); len(w.buffer) > 0 {
		return nil
	}
	at := w.store.place.get()
	var rows []logRow
	err := w.store.read(ctx, "read the log", readTimeout, func(ctx context.Context) error {
		// The commit at the place of the watch comes with it, to show that what follows does follow.
		found, err := w.store.pool.Query(ctx, "SELECT "+logColumns+` FROM meridian.log
			WHERE revision >= $1 AND revision <= $2
			AND revision >= (SELECT compacted FROM meridian.store)
			ORDER BY revision, position`, int64(w.after), int64(w.after+fetchRevisions))
		if err != nil {
			return err
		}
		rows, err = logRows(found)
		return err
	})
	if err != nil {
		return err
	}
	if ours, ok := takeOurs(&rows, w.after); ok && w.at.revision == w.after && !ours.equal(w.at) {
		return w.lost(ctx, at)
	}
	entries, err := w.store.entries(rows)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if e.commit.Revision != w.after+1+uint64(i) {
			entries = entries[:i]
			break
		}
		w.buffer = append(w.buffer, e.commit)
	}
	if n := len(entries); n > 0 {
		w.store.recent.add(w.past, entries)
		w.store.place.extend(at, markOf(entries[n-1].commit))
		return nil
	}
	o, err := w.store.counters(ctx)
	switch {
	case err != nil:
		return err
	case w.store.head.Load().history != w.past:
		return store.ErrReset
	case o.compacted > w.after:
		return store.ErrCompacted
	}
	return &store.CorruptError{
		Where: "table meridian.log",
		Err:   errors.New("there is no revision " + fmt.Sprint(w.after+1)),
	}
}

// takeOurs takes the rows of a revision off the beginning of rows, and gives its mark.
func takeOurs(rows *[]logRow, revision uint64) (ours mark, ok bool) {
	for len(*rows) > 0 && (*rows)[0].revision == revision {
		row := (*rows)[0]
		ours, ok = mark{revision: row.revision, at: row.at, author: row.author}, true
		*rows = (*rows)[1:]
	}
	return ours, ok
}

// lost starts the store over after the watch found another commit at its place than it has read.
func (w *watch) lost(ctx context.Context, at position) error {
	err := w.store.read(ctx, "read the log again", readTimeout, func(ctx context.Context) error {
		_, back, err := w.store.observe(ctx, w.store.pool)
		if err != nil || back || w.store.head.Load().history != w.past {
			return err
		}
		var o observed
		if err := o.scan(w.store.pool.QueryRow(ctx, observation, int64(0)), position{}); err != nil {
			return err
		}
		return w.store.startOver(ctx, at, o, wentBack)
	})
	if err != nil {
		return err
	}
	return store.ErrReset
}

// Close implements [store.Watch].
func (w *watch) Close() { w.once.Do(func() { close(w.closed) }) }
