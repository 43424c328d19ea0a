package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/api/admission"
	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store"
	"github.com/meridian-mesh/meridian/xds/inspect"
)

// attempts of a write without condition. Of the writers that meet, one gets through each time, so
// this is how many may write one resource at once.
const attempts = 1000

// writer commits what package admission admits.
type writer struct {
	*base
	reader    *reader
	admission *admission.Admission
	targets   *admission.Targets
	// guard gives the reasons to be sure before a change; see [differ.Guard].
	guard   func(ctx context.Context, change inspect.Change) (guards, warnings []string)
	retries prometheus.Counter
}

func newWriter(b *base, r *reader, targets *admission.Targets) *writer {
	w := &writer{
		base:   b,
		reader: r,
		admission: admission.New(admission.Config{
			Global:     b.global(),
			Zone:       b.cfg.Zone,
			Federated:  b.cfg.Federated,
			OnMesh:     b.cfg.OnMesh,
			Dataplanes: b.dataplanesOf,
		}),
		targets: targets,
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_api_write_retries_total",
			Help: "Writes repeated because another writer changed the same in between. A steady rise means " +
				"that two writers fight over one resource.",
		}),
	}
	obs.Register(b.cfg.Registerer, w.retries)
	return w
}

// PutRequest is a write as both protocols give it.
type PutRequest struct {
	admission.Request
	// DryRun checks all and writes nothing.
	DryRun bool
	// Force writes what leaves a route or a destination without an instance.
	Force bool
}

// PutResult of a write.
type PutResult struct {
	// Revision of the write; of the last write of the resource if nothing changed.
	Revision uint64
	// Created says that there was none before; Changed that something is different now.
	Created, Changed bool
	// Warnings for the author.
	Warnings []string
	// Resource as it is stored, or would be.
	Resource *mesh.Resource
}

// MayWrite says whether ctx's caller may write resources of a kind, and whether they are written
// here: as which zone's. It is for what should not be read from a caller who may not. A denial is
// a line of the audit log under the key that was to be written.
func (w *writer) MayWrite(ctx context.Context, info *mesh.KindInfo, key mesh.Key) (zone string, err error) {
	_, err = authz.Authorize(ctx, adminv1.ResourceService_PutResource_FullMethodName, info)
	if err == nil {
		zone, err = w.admission.Owner(info)
	}
	if err != nil {
		w.audit.refuse(ctx, about(ctx, actionPut, key), err)
	}
	return zone, err
}

// RejectedWrite notes a write in the audit log that failed before it came to Put.
func (w *writer) RejectedWrite(ctx context.Context, key mesh.Key, err error) {
	w.audit.refuse(ctx, about(ctx, actionPut, key), err)
}

// Writable says that resources of the kind are written at this control plane.
func (w *writer) Writable(info *mesh.KindInfo) bool {
	_, err := w.admission.Owner(info)
	return err == nil
}

// Put creates or replaces a resource. A write without a condition is repeated when another writer
// was faster; one with a condition fails with 412.
func (w *writer) Put(ctx context.Context, in PutRequest) (out PutResult, err error) {
	info, ok := mesh.Lookup(in.Resource.Key.Kind)
	if !ok {
		return out, problem.UnknownKind(in.Resource.Key.Kind)
	}
	caller, err := authz.Authorize(ctx, adminv1.ResourceService_PutResource_FullMethodName, info)
	defer func() {
		e := about(ctx, actionPut, in.Resource.Key)
		if in.DryRun {
			e.What = dryRun
		}
		if err != nil {
			w.audit.refuse(ctx, e, err)
		} else {
			w.audit.line(e, out.Revision, nil) // its row was of the transaction
		}
	}()
	if err != nil {
		return out, err
	}
	draft, err := w.admission.Prepare(in.Request)
	if err != nil {
		return out, err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var warning func() string
	var guarded []string
	state, err := w.state(ctx, 0)
	if err != nil {
		return out, err
	}
	for try := 0; ; try++ {
		admitted, err := draft.Admit(ctx, state)
		if err == nil && warning == nil {
			warning = w.targets.Check(ctx, admitted.Resource)
		}
		// Asked at each try: what was no change, or did no harm, may be one that does after another write.
		if err == nil && admitted.Changed && !in.Force {
			guarded, err = w.sure(ctx, problem.TitlePut, in.DryRun,
				inspect.Change{Puts: []*mesh.Resource{admitted.Resource}})
		}
		if err == nil {
			out, err = w.commitPut(ctx, caller, admitted, in.DryRun)
		}
		if err == nil {
			break
		}
		var conflict *store.ConflictError
		switch {
		case !errors.As(err, &conflict):
			return out, err
		case in.IfRevision != nil && concerns(conflict, draft.Key):
			return out, admission.Stale(problem.TitlePut, *in.IfRevision, conflict.Revision)
		case try+1 == attempts:
			return out, err
		}
		w.retries.Inc()
		if state, err = w.state(ctx, 0); err != nil {
			return out, err
		}
		state.Fresh = true
	}
	out.Warnings = append(draft.Warnings, admission.Inert(state.View, out.Resource)...)
	out.Warnings = append(out.Warnings, guarded...)
	if text := warning(); text != "" {
		out.Warnings = append(out.Warnings, text)
	}
	return out, nil
}

// sure refuses a change that needs force; of a dry run it warns. warnings are for people.
func (w *writer) sure(ctx context.Context, title string, dryRun bool,
	change inspect.Change) (warnings []string, err error) {
	guards, warnings := w.guard(ctx, change)
	if len(guards) == 0 {
		return warnings, nil
	}
	if dryRun {
		for _, g := range guards {
			warnings = append(warnings, "this would need force: "+g)
		}
		return warnings, nil
	}
	p := problem.New(http.StatusConflict, title, "the change needs to be forced, %s: %s", hint.Force,
		strings.Join(guards, "; "))
	p.Code = codes.FailedPrecondition
	return nil, p
}

func (w *writer) commitPut(ctx context.Context, caller authn.Caller, admitted *admission.Admitted,
	dryRun bool) (PutResult, error) {
	out := PutResult{
		Revision: admitted.Revision,
		Created:  admitted.Created,
		Changed:  admitted.Changed,
		Resource: admitted.Resource,
	}
	if dryRun {
		return out, nil
	}
	result, err := w.commit(ctx, caller, admitted, about(ctx, actionPut, admitted.Resource.Key))
	if err != nil {
		return PutResult{}, err
	}
	out.Changed = result.Changed
	if result.Changed {
		out.Revision = result.Revision
	}
	if now, ok := w.cfg.Replica.View().Get(admitted.Resource.Key); ok {
		out.Resource = now
	}
	return out, nil
}

// dryRun marks a row of what was asked and not done.
const dryRun = "dry run"

// commit writes what was admitted with a row of the audit, and waits until this process reads it.
func (w *writer) commit(ctx context.Context, caller authn.Caller, admitted *admission.Admitted,
	row store.AuditEntry) (store.Result, error) {
	result, err := w.cfg.Store.Commit(ctx, store.Txn{
		Author: "user:" + caller.Name,
		Epoch:  admitted.Epoch,
		Checks: admitted.Checks,
		Ops:    append(slices.Clip(admitted.Ops), store.Audit{Entry: row}),
	})
	if err == nil {
		w.audit.written(result)
		w.visible(ctx, result.Revision)
	}
	return result, err
}

// state is what the next attempt is checked against.
func (w *writer) state(ctx context.Context, atLeast uint64) (admission.State, error) {
	view, err := w.view(ctx, atLeast)
	return admission.State{View: view, Store: w.cfg.Store}, err
}

// concerns says that a conflict is about the resource itself, not about what it depends on.
func concerns(conflict *store.ConflictError, key mesh.Key) bool {
	at, ok := conflict.Check.(store.KeyAt)
	return ok && at.Key == key
}

// wouldAdmit is a write that writes nothing, neither a resource nor a line of the audit log. warnings are
// those that the write would have.
func (w *writer) wouldAdmit(ctx context.Context, r *mesh.Resource) (admitted *admission.Admitted,
	warnings []string, err error) {
	info, ok := mesh.Lookup(r.Key.Kind)
	if !ok {
		return nil, nil, problem.UnknownKind(r.Key.Kind)
	}
	if _, err := authz.Authorize(ctx, adminv1.ResourceService_PutResource_FullMethodName, info); err != nil {
		return nil, nil, err
	}
	draft, err := w.admission.Prepare(admission.Request{Resource: r})
	if err != nil {
		return nil, nil, err
	}
	state, err := w.state(ctx, 0)
	if err != nil {
		return nil, nil, err
	}
	if admitted, err = draft.Admit(ctx, state); err != nil {
		return nil, nil, err
	}
	return admitted, append(draft.Warnings, admission.Inert(state.View, admitted.Resource)...), nil
}

// DeleteRequest is a delete as both protocols give it.
type DeleteRequest struct {
	admission.Deletion
	// DryRun checks all and deletes nothing.
	DryRun bool
	// Force deletes what a route or a destination cannot do without.
	Force bool
}

// Delete removes a resource and what belongs to it. It returns the revision of the delete; of the
// resource for a dry run.
func (w *writer) Delete(ctx context.Context, in DeleteRequest) (revision uint64, err error) {
	info, ok := mesh.Lookup(in.Key.Kind)
	if !ok {
		return 0, problem.UnknownKind(in.Key.Kind)
	}
	key := in.Key
	caller, err := authz.Authorize(ctx, adminv1.ResourceService_DeleteResource_FullMethodName, info)
	defer func() {
		e := about(ctx, actionDelete, key)
		if in.DryRun {
			e.What = dryRun
		}
		if err != nil {
			w.audit.refuse(ctx, e, err)
		} else {
			w.audit.line(e, revision, nil)
		}
	}()
	if err != nil {
		return 0, err
	}
	located, err := w.admission.Locate(in.Deletion)
	if err != nil {
		return 0, err
	}
	key = located

	state, err := w.state(ctx, 0)
	if err != nil {
		return 0, err
	}
	for try := 0; ; try++ {
		if !in.Force {
			if _, err := w.sure(ctx, problem.TitleDelete, in.DryRun,
				inspect.Change{Deletes: []mesh.Key{key}}); err != nil {
				return 0, err
			}
		}
		revision, err := w.deleteOnce(ctx, caller, state, key, in)
		var conflict *store.ConflictError
		switch {
		case !errors.As(err, &conflict):
			return revision, err
		case in.IfRevision != nil && concerns(conflict, key):
			return 0, admission.Stale(problem.TitleDelete, *in.IfRevision, conflict.Revision)
		case try+1 == attempts:
			return 0, err
		}
		w.retries.Inc()
		// Rules of a delete read whole kinds, so the view itself must be new.
		head, err := w.cfg.Store.Revision(ctx)
		if err != nil {
			return 0, err
		}
		if state, err = w.state(ctx, head); err != nil {
			return 0, err
		}
		state.Fresh = true
	}
}

func (w *writer) deleteOnce(ctx context.Context, caller authn.Caller, state admission.State, key mesh.Key,
	in DeleteRequest) (uint64, error) {
	admitted, err := w.admission.Delete(ctx, state, key, in.IfRevision)
	if err != nil {
		return 0, err
	}
	if in.DryRun {
		return admitted.Revision, nil
	}
	result, err := w.commit(ctx, caller, admitted, about(ctx, actionDelete, key))
	return result.Revision, err
}
