package api

import (
	"context"

	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store"
)

// Event of a watch.
type Event struct {
	// Revision of the store that the event brings the reader to.
	Revision uint64
	Upserts  []*mesh.Resource
	Deletes  []mesh.Key
	// Bookmark ends the state at the start.
	Bookmark bool
}

// watchChunk bounds the resources of one event of the first state.
const watchChunk = 200

type drainKey struct{}

// Draining returns a context for requests of a server that stops when stop ends: watches, which
// never end by themselves, end then.
func Draining(ctx, stop context.Context) context.Context {
	return context.WithValue(ctx, drainKey{}, stop)
}

// untilDrained ends with ctx, and when the server of ctx's request begins to stop.
func untilDrained(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop, ok := ctx.Value(drainKey{}).(context.Context)
	if !ok {
		return ctx, cancel
	}
	undo := context.AfterFunc(stop, cancel)
	return ctx, func() {
		undo()
		cancel()
	}
}

// Watch calls send with the state of some kinds (none: all that the caller may read), a bookmark,
// and each change, until ctx ends, the server drains (both nil) or send fails. What a slow reader
// missed is merged by key.
func (r *reader) Watch(ctx context.Context, kinds []mesh.Kind, matches func(*mesh.Resource) bool,
	send func(Event) error) error {
	watched, err := r.watchable(ctx, kinds)
	if err != nil {
		return err
	}
	if _, err := r.view(ctx, 0); err != nil {
		return err
	}
	ctx, cancel := untilDrained(ctx)
	defer cancel()
	sub := r.cfg.Replica.Subscribe()
	defer sub.Close()
	for {
		batch, err := sub.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if batch.Reset {
			e := Event{Revision: batch.View.Revision()}
			for res := range batch.View.All() {
				if !watched[res.Key.Kind] || !matches(res) {
					continue
				}
				e.Upserts = append(e.Upserts, r.asHere(batch.View, res))
				if len(e.Upserts) == watchChunk {
					if err := send(e); err != nil {
						return err
					}
					e.Upserts = nil
				}
			}
			e.Bookmark = true
			if err := send(e); err != nil {
				return err
			}
			continue
		}
		if e, ok := eventOf(batch.View.Revision(), batch.Changes, watched, matches); ok {
			if err := send(e); err != nil {
				return err
			}
		}
	}
}

// watchable are the kinds to watch, which the caller may read.
func (r *reader) watchable(ctx context.Context, kinds []mesh.Kind) (map[mesh.Kind]bool, error) {
	const method = adminv1.ResourceService_WatchResources_FullMethodName
	out := map[mesh.Kind]bool{}
	for _, k := range kinds {
		info, ok := mesh.Lookup(k)
		if !ok {
			return nil, problem.UnknownKind(k)
		}
		if _, err := authz.Authorize(ctx, method, info); err != nil {
			return nil, err
		}
		if err := r.notHere(info); err != nil {
			return nil, err
		}
		out[k] = true
	}
	if len(kinds) > 0 {
		return out, r.secretsWatched(ctx, out)
	}
	for _, info := range mesh.Kinds {
		switch _, err := authz.Authorize(ctx, method, info); {
		case err == nil && !r.remote(info):
			out[info.Kind] = true
		case err != nil && !info.Secret():
			return nil, err
		}
	}
	return out, r.secretsWatched(ctx, out)
}

// secretsWatched records a watch that shows secrets, at its start.
func (r *reader) secretsWatched(ctx context.Context, kinds map[mesh.Kind]bool) error {
	for _, info := range mesh.Kinds {
		if kinds[info.Kind] {
			if err := r.secretRead(ctx, info, mesh.Key{}, "a watch"); err != nil {
				return err
			}
		}
	}
	return nil
}

// WatchSince is Watch for a reader that has the state of a revision: each commit after it is one
// event. It fails with [store.ErrCompacted] if the log does not reach back that far.
func (r *reader) WatchSince(ctx context.Context, since uint64, kind *mesh.KindInfo,
	matches func(*mesh.Resource) bool, send func(Event) error) error {
	watched, err := r.watchable(ctx, []mesh.Kind{kind.Kind})
	if err != nil {
		return err
	}
	ctx, cancel := untilDrained(ctx)
	defer cancel()
	w, err := r.cfg.Store.Watch(ctx, since)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := send(Event{Revision: since, Bookmark: true}); err != nil {
		return err
	}
	for {
		commit, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if e, ok := eventOf(commit.Revision, commit.Changes, watched, matches); ok {
			if err := send(e); err != nil {
				return err
			}
		}
	}
}

func eventOf(revision uint64, changes []store.Change, watched map[mesh.Kind]bool,
	matches func(*mesh.Resource) bool) (Event, bool) {
	e := Event{Revision: revision}
	for _, c := range changes {
		if !watched[c.Key.Kind] {
			continue
		}
		is := c.Resource != nil && matches(c.Resource)
		was := c.Old != nil && matches(c.Old)
		switch {
		case is:
			e.Upserts = append(e.Upserts, c.Resource)
		case was:
			e.Deletes = append(e.Deletes, c.Key)
		}
	}
	return e, len(e.Upserts)+len(e.Deletes) > 0
}
