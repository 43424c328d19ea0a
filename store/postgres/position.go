package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/store"
)

// mark is what tells one commit of a revision from another: a database that went back and was then
// written to has other commits at the same revisions. Its zero value is before the first commit.
type mark struct {
	revision uint64
	at       time.Time // of the commit, as its writer's clock had it, in microseconds
	author   string
}

func (m mark) equal(o mark) bool {
	return m.revision == o.revision && m.at.Equal(o.at) && m.author == o.author
}

// markOf is the mark of a commit that was written or read.
func markOf(c store.Commit) mark { return mark{revision: c.Revision, at: c.Time, author: c.Author} }

// provingRows is how many revisions stay in the log's table though readers no longer see them, so that
// another process that is that far behind can tell that the database did not go back.
const provingRows = 1024

// position is how far this process has read, and in which history. Everything that it keeps of the
// database is of this history and not after head.
type position struct {
	history uint64 // how often this process started over
	suffix  string // of the epoch, as the database has it
	head    mark
}

// observed is what the database said at one moment.
type observed struct {
	id        string
	suffix    string
	revision  uint64
	compacted uint64
	standby   bool
	// ours is the commit at the revision of the position that was asked for, last that at revision; nil
	// if the log has none.
	ours, last *mark
}

// observation reads observed; its parameter is the revision of a position.
const observation = `SELECT s.id, s.epoch, s.revision, s.compacted, pg_is_in_recovery(),
	ours.time, ours.actor, last.time, last.actor
	FROM meridian.store s
	LEFT JOIN meridian.log ours ON ours.revision = $1 AND ours.position = 0
	LEFT JOIN meridian.log last ON last.revision = s.revision AND last.position = 0`

// scan reads the row of an observation at a position.
func (o *observed) scan(row pgx.Row, at position) error {
	var ourTime, lastTime *time.Time
	var ourAuthor, lastAuthor *string
	if err := row.Scan(&o.id, &o.suffix, &o.revision, &o.compacted, &o.standby,
		&ourTime, &ourAuthor, &lastTime, &lastAuthor); err != nil {
		return err
	}
	if ourTime != nil {
		o.ours = &mark{revision: at.head.revision, at: *ourTime, author: *ourAuthor}
	}
	if lastTime != nil {
		o.last = &mark{revision: o.revision, at: *lastTime, author: *lastAuthor}
	}
	return nil
}

// verdict of what was observed, about a position.
type verdict int

const (
	// goesOn: the database has all that was read, and perhaps more.
	goesOn verdict = iota
	// unproven: it is further, but its log no longer reaches back to the position.
	unproven
	// wentBack: what was read is not what it has.
	wentBack
)

// judge is the one comparison of what was read with what the database has.
func (p position) judge(o observed) verdict {
	switch {
	case o.suffix != p.suffix, o.revision < p.head.revision:
		return wentBack
	case p.head.revision == 0:
		return goesOn
	case o.ours != nil && !o.ours.equal(p.head):
		return wentBack
	case o.ours == nil && o.revision > p.head.revision:
		return unproven
	}
	return goesOn
}

// place is the position of the process, and the suffixes of all epochs that it has seen.
type place struct {
	mu   sync.Mutex
	now  position
	seen map[string]bool

	// resetting is held by the one who starts over.
	resetting sync.Mutex
}

func (p *place) get() position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// extend moves the head on, unless the process started over since at was read.
func (p *place) extend(at position, head mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.history == at.history && head.revision > p.now.head.revision {
		p.now.head = head
	}
}

// set starts over, and gives the position its number.
func (p *place) set(to position) (history uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	to.history = p.now.history + 1
	p.now = to
	p.seen[to.suffix] = true
	return to.history
}

func (p *place) knows(suffix string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[suffix]
}

// Epoch implements [store.Store].
func (s *Store) Epoch() string { return epochName(s.id, s.place.get().suffix) }

func epochName(id, suffix string) string {
	if suffix == "" {
		return id
	}
	return id + "-" + suffix
}

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// observe asks the database where it is, and takes that in: afterwards the position is that of the
// database at some moment of the call. back says that the database had gone back.
func (s *Store) observe(ctx context.Context, q querier) (o observed, back bool, err error) {
	at := s.place.get()
	if err := o.scan(q.QueryRow(ctx, observation, int64(at.head.revision)), at); err != nil {
		return o, false, err
	}
	back, err = s.take(ctx, at, o)
	return o, back, err
}

// take compares what was observed at a position and goes on from it, or starts over.
func (s *Store) take(ctx context.Context, at position, o observed) (back bool, err error) {
	if o.id != s.id {
		return false, fmt.Errorf("%w: the database has become another store (id %s, was %s); restart "+
			"this process", store.ErrUnavailable, o.id, s.id)
	}
	switch v := at.judge(o); {
	case v != goesOn && o.standby:
		return false, fmt.Errorf("%w: connected to a standby that is at revision %d, behind %d",
			store.ErrUnavailable, o.revision, at.head.revision)
	case v != goesOn:
		return true, s.startOver(ctx, at, o, v)
	}
	if o.last != nil {
		s.place.extend(at, *o.last)
	}
	s.advance(o.revision)
	return false, nil
}

// startOver forgets all that was read, after the database went back or can no longer show that it did
// not. The first process that notices gives the database another epoch, and the others take it.
func (s *Store) startOver(ctx context.Context, at position, o observed, why verdict) error {
	s.place.resetting.Lock()
	defer s.place.resetting.Unlock()
	if s.place.get().history != at.history {
		return nil // another goroutine was faster
	}
	if why == wentBack && s.place.knows(o.suffix) {
		random := make([]byte, 4)
		if _, err := rand.Read(random); err != nil {
			return err
		}
		// If another process is faster its epoch is read below.
		if _, err := s.pool.Exec(ctx, "UPDATE meridian.store SET epoch = $1 WHERE epoch = $2",
			hex.EncodeToString(random), o.suffix); err != nil {
			return fmt.Errorf("give the database another epoch: %w", err)
		}
	}
	next := position{}
	if err := o.scan(s.pool.QueryRow(ctx, observation, int64(0)), next); err != nil {
		return err
	}
	next.suffix = o.suffix
	if o.last != nil {
		next.head = *o.last
	}
	if why == wentBack {
		s.metrics.resets.Inc()
		s.log.Error("the database went back to an earlier state, as after a failover to a standby that "+
			"lagged or a restore: commits that were answered may be lost; starting over",
			zap.Uint64("was_at", at.head.revision), zap.Uint64("is_at", o.revision),
			zap.String("epoch", epochName(s.id, next.suffix)))
	} else {
		s.log.Warn("the log of the database no longer reaches back to what was read; starting over",
			zap.Uint64("was_at", at.head.revision), zap.Uint64("is_at", o.revision))
	}
	s.wakeups.noted.Store(0)
	history := s.place.set(next)
	s.recent.restart(history)
	s.restart(o.revision, history)
	return nil
}

// restart ends all watches and makes a revision the head, which may be lower than it was.
func (s *Store) restart(revision, history uint64) {
	for {
		old := s.head.Load()
		if s.head.CompareAndSwap(old, &head{
			revision: revision,
			history:  history,
			next:     make(chan struct{}),
		}) {
			close(old.next)
			return
		}
	}
}

// errWentBack ends a group that found that the database had gone back.
var errWentBack = errors.New("the database went back")
