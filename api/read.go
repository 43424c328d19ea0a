package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/store/replica"
)

// selection of a list.
type selection struct {
	kind *mesh.KindInfo
	mesh string // empty: all
	// zone is the origin wanted; nil: all.
	zone   *string
	labels map[string]string
	name   string
	// keep is a further filter, which zones do not know; nil: none.
	keep         func(*mesh.Resource) bool
	size, offset int
	atLeast      uint64
}

func (s *selection) matches(r *mesh.Resource) bool {
	if s.zone != nil && r.Key.Zone != *s.zone {
		return false
	}
	if !strings.Contains(r.Key.Name, s.name) {
		return false
	}
	for k, v := range s.labels {
		if got, ok := r.Labels[k]; !ok || got != v {
			return false
		}
	}
	return s.keep == nil || s.keep(r)
}

// listing is one page.
type listing struct {
	resources []*mesh.Resource
	total     int
	revision  uint64
	warnings  []string
	// away are the zones that could not be asked.
	away map[string]bool
}

func (a *API) list(ctx context.Context, s selection) (listing, error) {
	if _, err := a.authorize(ctx, verbRead, s.kind); err != nil {
		return listing{}, err
	}
	view, err := a.view(ctx, s.atLeast)
	if err != nil {
		return listing{}, err
	}
	if s.mesh != "" && s.kind.Scope == mesh.ScopeMesh {
		if m, err := a.read(ctx, view, mesh.Key{Kind: mesh.KindMesh, Name: s.mesh}, false); err != nil {
			return listing{}, err
		} else if m == nil {
			return listing{},
				problem(http.StatusNotFound, "Failed to retrieve Mesh", "Not found: there is no mesh %q",
					s.mesh)
		}
	}
	if a.remote(s.kind) {
		return a.listRemote(ctx, view, s.kind, s)
	}
	out := listing{revision: view.Revision()}
	for r := range view.List(s.kind.Kind, s.mesh) {
		if !s.matches(r) {
			continue
		}
		if out.total >= s.offset && len(out.resources) < s.size {
			out.resources = append(out.resources, r)
		}
		out.total++
	}
	return out, nil
}

// get finds one resource. exact: key.Zone is meant as it is; otherwise an empty one means the only
// one of that name.
func (a *API) get(ctx context.Context, key mesh.Key, exact bool, atLeast uint64) (*mesh.Resource, error) {
	info, ok := mesh.Lookup(key.Kind)
	if !ok {
		return nil, unknownKind(string(key.Kind))
	}
	if _, err := a.authorize(ctx, verbRead, info); err != nil {
		return nil, err
	}
	view, err := a.view(ctx, atLeast)
	if err != nil {
		return nil, err
	}
	if info.Scope == mesh.ScopeMesh {
		if m, err := a.read(ctx, view, mesh.Key{Kind: mesh.KindMesh, Name: key.Mesh}, false); err != nil {
			return nil, err
		} else if m == nil {
			return nil, problem(http.StatusNotFound, "Failed to retrieve Mesh",
				"Not found: there is no mesh %q", key.Mesh)
		}
	}
	var found []*mesh.Resource
	hint := ""
	switch {
	case a.remote(info):
		s := selection{
			kind: info,
			mesh: key.Mesh,
			name: key.Name,
			size: maxPage,
			keep: func(r *mesh.Resource) bool {
				return r.Key.Name == key.Name && r.Key.Namespace == key.Namespace
			},
		}
		if exact || key.Zone != "" {
			s.zone = &key.Zone
		}
		got, err := a.listRemote(ctx, view, info, s)
		if err != nil {
			return nil, err
		}
		found = got.resources
		if len(got.warnings) > 0 {
			hint = " (" + strings.Join(got.warnings, "; ") + ")"
		}
	case exact || key.Zone != "":
		if r, ok := view.Get(key); ok {
			return r, nil
		}
	default:
		for r := range view.List(key.Kind, key.Mesh) {
			if r.Key.Name == key.Name && r.Key.Namespace == key.Namespace {
				found = append(found, r)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, problem(http.StatusNotFound, titleGet, "Not found%s", hint)
	case 1:
		return found[0], nil
	}
	var zones []string
	for _, r := range found {
		if r.Key.Zone == "" {
			zones = append(zones, "global (zone=)")
		} else {
			zones = append(zones, r.Key.Zone)
		}
	}
	return nil, problem(http.StatusConflict, titleGet,
		"several zones have a %s of that name: %s; say which with ?zone=ZONE", key.Kind,
		strings.Join(zones, ", "))
}

// event of a watch.
type event struct {
	revision uint64
	upserts  []*mesh.Resource
	deletes  []mesh.Key
	bookmark bool
}

// watchChunk bounds the resources of one event of the first state.
const watchChunk = 200

// watch calls send with the state, a bookmark, and each change, until ctx ends, the server drains
// (both nil) or send fails. What a slow reader missed is merged by key.
func (a *API) watch(ctx context.Context, kinds []mesh.Kind, matches func(*mesh.Resource) bool,
	send func(event) error) error {
	wanted := map[mesh.Kind]bool{}
	for _, k := range kinds {
		info, ok := mesh.Lookup(k)
		if !ok {
			return unknownKind(string(k))
		}
		if _, err := a.authorize(ctx, verbRead, info); err != nil {
			return err
		}
		if a.remote(info) {
			return problem(http.StatusBadRequest, titleList,
				"a %s is kept in its zone: watch it at the zone's control plane", k)
		}
		wanted[k] = true
	}
	if len(kinds) == 0 {
		for _, info := range mesh.Kinds {
			if _, err := a.authorize(ctx, verbRead, info); err == nil && !a.remote(info) {
				wanted[info.Kind] = true
			} else if err != nil && !info.Secret() {
				return err
			}
		}
	}
	if _, err := a.view(ctx, 0); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer onDrain(ctx, cancel)()
	sub := a.conf.Replica.Subscribe()
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
			e := event{revision: batch.View.Revision()}
			for r := range batch.View.All() {
				if !wanted[r.Key.Kind] || !matches(r) {
					continue
				}
				e.upserts = append(e.upserts, r)
				if len(e.upserts) == watchChunk {
					if err := send(e); err != nil {
						return err
					}
					e.upserts = nil
				}
			}
			e.bookmark = true
			if err := send(e); err != nil {
				return err
			}
			continue
		}
		if e, some := eventOf(batch.View.Revision(), batch.Changes, wanted, matches); some {
			if err := send(e); err != nil {
				return err
			}
		}
	}
}

// watchSince is watch for a reader that has the state of a revision: each commit after it is one
// event. It fails with [store.ErrCompacted] if the log does not reach back that far.
func (a *API) watchSince(ctx context.Context, since uint64, kind *mesh.KindInfo,
	matches func(*mesh.Resource) bool, send func(event) error) error {
	if _, err := a.authorize(ctx, verbRead, kind); err != nil {
		return err
	}
	if a.remote(kind) {
		return problem(http.StatusBadRequest, titleList,
			"a %s is kept in its zone: watch it at the zone's control plane", kind.Kind)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer onDrain(ctx, cancel)()
	w, err := a.conf.Store.Watch(ctx, since)
	if err != nil {
		return err
	}
	defer w.Close()
	wanted := map[mesh.Kind]bool{kind.Kind: true}
	if err := send(event{revision: since, bookmark: true}); err != nil {
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
		if e, some := eventOf(commit.Revision, commit.Changes, wanted, matches); some {
			if err := send(e); err != nil {
				return err
			}
		}
	}
}

func eventOf(revision uint64, changes []store.Change, wanted map[mesh.Kind]bool,
	matches func(*mesh.Resource) bool) (event, bool) {
	e := event{revision: revision}
	for _, c := range changes {
		if !wanted[c.Key.Kind] {
			continue
		}
		is := c.Resource != nil && matches(c.Resource)
		was := c.Old != nil && matches(c.Old)
		switch {
		case is:
			e.upserts = append(e.upserts, c.Resource)
		case was:
			e.deletes = append(e.deletes, c.Key)
		}
	}
	return e, len(e.upserts)+len(e.deletes) > 0
}

// zonesOf are the names of the zones that global knows, and what state each is in.
func zonesOf(v replica.View) map[string]string {
	out := map[string]string{}
	for z := range v.List(mesh.KindZone, "") {
		out[z.Key.Name] = mesh.Status[*meshv1.ZoneStatus](z).GetState()
	}
	return out
}

func awayWarning(zone, why string) string {
	return fmt.Sprintf("zone %s is left out: %s", zone, why)
}

func sortResources(rs []*mesh.Resource) {
	slices.SortFunc(rs, func(x, y *mesh.Resource) int { return x.Key.Compare(y.Key) })
}
