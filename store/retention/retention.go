// Package retention compacts a store's change log, which is also the history, by age and by count, and
// prunes its audit.
//
// The log does not say when a revision was made without being read, so the [Keeper] notes the head
// with its time now and then. These marks are in the store's meta: ages survive restarts, and
// several replicas on one database share them. What is at or before a mark is at least as old as
// the mark, so nothing goes before its time; it may stay up to one mark longer. Nothing is noted
// while nothing changes.
//
// A reader that follows the log from before its new beginning gets [store.ErrCompacted] and takes a
// snapshot: a replica, or a zone that was disconnected for longer than the history is kept.
//
// No example: a [Keeper] shows its work only in a store with more than [MinRevisions] commits.
package retention

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/store"
)

// Defaults of the commands.
const (
	DefaultAge       = 7 * 24 * time.Hour
	DefaultRevisions = 100_000

	DefaultAuditAge  = 90 * 24 * time.Hour
	DefaultAuditRows = 100_000
)

// MinRevisions is the least that may be kept by count: those who follow the log a little behind must find it.
const MinRevisions = 1000

// Config of a Keeper. Store and Head are required.
type Config struct {
	Store store.Store
	// Head is the latest revision known here; it costs nothing.
	Head func() uint64
	// Age and Revisions are how long, and how many, log entries are kept at most; 0 is without bound.
	Age       time.Duration
	Revisions uint64
	// AuditAge and AuditRows bound the audit in the same way.
	AuditAge  time.Duration
	AuditRows uint64
	// Logger and Registerer may be nil.
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Keeper compacts; see the package comment.
type Keeper struct {
	cfg     Config
	log     *zap.Logger
	through uint64 // known to be compacted; 0 before the first compaction of this process
	kept    prometheus.Gauge
}

// New makes a Keeper; [Keeper.Run] starts it.
func New(cfg Config) *Keeper {
	k := &Keeper{
		cfg: cfg,
		log: cfg.Logger,
		kept: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meridian_store_history_revisions_count",
			Help: "Revisions since the last compaction of the change log by this process. Far more than " +
				"are to be kept means that compaction fails; the log says why.",
		}),
	}
	if k.log == nil {
		k.log = zap.NewNop()
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(k.kept)
	}
	return k
}

// mark says that the head was at Revision at Time, Unix seconds.
type mark struct {
	Time     int64  `json:"t"`
	Revision uint64 `json:"r"`
}

const (
	marksMeta = "retention/marks"
	// marksPerAge is how finely age is known.
	marksPerAge = 100
	// slack is the share of Revisions that may pile up before a compaction is worth its cost.
	slack = 20
)

// interval between two looks.
func (k *Keeper) interval() time.Duration {
	if k.cfg.Age == 0 {
		return time.Minute
	}
	return min(max(k.cfg.Age/marksPerAge, time.Second), time.Minute)
}

// Run compacts until ctx ends, and returns its error, or that of a store that was closed. A store
// that is unavailable is tried again at the next look.
func (k *Keeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(k.interval())
	defer ticker.Stop()
	for {
		if err := k.look(ctx, time.Now()); err != nil {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, store.ErrClosed):
				return err
			}
			k.log.Warn("the change log was not compacted, will try again", zap.Error(err))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (k *Keeper) look(ctx context.Context, now time.Time) error {
	if err := k.prune(ctx, now); err != nil {
		return err
	}
	head := k.cfg.Head()
	if head == 0 {
		return nil
	}
	through := uint64(0)
	if n := k.cfg.Revisions; n > 0 && head > n && head-n > k.through+n/slack {
		through = head - n
	}
	if k.cfg.Age > 0 {
		old, err := k.aged(ctx, now, head)
		if err != nil {
			return err
		}
		through = max(through, old)
	}
	if through > k.through {
		if err := k.cfg.Store.Compact(ctx, through); err != nil {
			return err
		}
		k.log.Info("compacted the change log", zap.Uint64("through", through), zap.Uint64("head", head))
		k.through = through
	}
	k.kept.Set(float64(head - min(head, k.through)))
	return nil
}

// prune drops what the audit need not keep.
func (k *Keeper) prune(ctx context.Context, now time.Time) error {
	if k.cfg.AuditAge == 0 && k.cfg.AuditRows == 0 {
		return nil
	}
	var before time.Time
	if k.cfg.AuditAge > 0 {
		before = now.Add(-k.cfg.AuditAge)
	}
	return k.cfg.Store.PruneAudit(ctx, before, k.cfg.AuditRows)
}

// aged is the last revision that is known to be older than Age; 0 is none. It notes the head if it
// is time to.
func (k *Keeper) aged(ctx context.Context, now time.Time, head uint64) (uint64, error) {
	raw, err := k.cfg.Store.Meta(ctx, marksMeta)
	if err != nil {
		return 0, err
	}
	var marks []mark
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &marks); err != nil {
			k.log.Warn("the times of the change log cannot be read; its age counts from now", zap.Error(err))
			marks = nil
		}
	}
	old := uint64(0)
	first := 0
	for i, m := range marks {
		if now.Sub(time.Unix(m.Time, 0)) >= k.cfg.Age {
			old, first = max(old, m.Revision), i
		}
	}
	marks = marks[first:] // the last old one stays, so that a restart compacts no less
	last := mark{}
	if len(marks) > 0 {
		last = marks[len(marks)-1]
	}
	if head > last.Revision && now.Sub(time.Unix(last.Time, 0)) >= k.cfg.Age/marksPerAge {
		data, err := json.Marshal(append(marks, mark{now.Unix(), head}))
		if err != nil {
			return 0, err
		}
		_, err = k.cfg.Store.Commit(ctx, store.Txn{
			Author: "system:retention",
			Ops:    []store.Op{store.SetMeta{Name: marksMeta, Value: data}},
		})
		if err != nil {
			return 0, err
		}
	}
	return old, nil
}
