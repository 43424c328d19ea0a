package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/internal/obs"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store"
)

// Actions of the audit.
const (
	actionPut    = "put"
	actionDelete = "delete"
	actionIssue  = "issue"
	actionRead   = "read"
	actionDump   = "dump"
	actionCall   = "call" // one that was refused before it was known what it is about
)

// AuditSink takes rows of the audit beside the store.
type AuditSink interface {
	// Append writes a row that is durable in the store.
	Append(e store.AuditEntry) error
}

// audit keeps rows of what callers did or were refused: in the store, in a file, and as lines of the
// log. What was done is durable before the caller hears of it.
type audit struct {
	log   *zap.Logger
	store store.Store
	file  AuditSink // nil: none

	mu         sync.Mutex
	refusals   float64   // that may be recorded now; guarded by mu
	counted    time.Time // when refusals was right; guarded by mu
	unrecorded uint64    // refusals since the last row of one; guarded by mu

	missed, failed prometheus.Counter
}

// Refusals are recorded one by one up to a rate: each is a write of the store, and anyone who reaches the
// port can be refused. Those beyond it are counted, in a metric and in the next row.
const (
	refusalBurst     = 200
	refusalsASecond  = 20
	refusalTimeout   = 2 * time.Second
	maxAuditText     = 1 << 10
	maxAuditGroups   = 32
	maxAuditPage     = 1000
	maxAuditScanned  = 100_000
	auditScannedOnce = 1000
)

func newAudit(cfg Config) *audit {
	a := &audit{
		log:      cfg.Logger,
		store:    cfg.Store,
		file:     cfg.AuditSink,
		refusals: refusalBurst,
		missed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_audit_unrecorded_refusals_total",
			Help: "Refused calls without a row in the audit, for they came faster than 20 a second. A rise " +
				"means that something tries credentials or calls in a loop.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meridian_audit_failures_total",
			Help: "Rows of the audit that the file or, for refusals and dumps, the store " +
				"did not take. Any increase is a gap; the log says why.",
		}),
	}
	obs.Register(cfg.Registerer, a.missed, a.failed)
	return a
}

// entry begins a row about ctx's caller.
func entry(ctx context.Context, action string) store.AuditEntry {
	c, _ := authn.From(ctx)
	e := store.AuditEntry{
		Who:    clip(c.Name),
		From:   clip(authn.Address(ctx)),
		Action: action,
	}
	for _, g := range c.Groups[:min(len(c.Groups), maxAuditGroups)] {
		e.Groups = append(e.Groups, clip(g))
	}
	return e
}

// about begins a row about a resource.
func about(ctx context.Context, action string, key mesh.Key) store.AuditEntry {
	e := entry(ctx, action)
	e.SetKey(key)
	for _, text := range []*string{&e.Kind, &e.Mesh, &e.Zone, &e.Namespace, &e.Name} {
		*text = clip(*text)
	}
	return e
}

// clip bounds what a caller can write into a row.
func clip(text string) string {
	if len(text) > maxAuditText {
		text = text[:maxAuditText]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
}

// record makes a row durable that is about nothing else which is written.
func (a *audit) record(ctx context.Context, e store.AuditEntry) error {
	res, err := a.store.Commit(ctx, store.Txn{
		Author: "system:audit",
		Ops:    []store.Op{store.Audit{Entry: e}},
	})
	if err != nil {
		return err
	}
	a.written(res)
	return nil
}

// done records what was done, and fails if it cannot: the caller must not have it then.
func (a *audit) done(ctx context.Context, e store.AuditEntry) error {
	if err := a.record(ctx, e); err != nil {
		return err
	}
	a.line(e, 0, nil)
	return nil
}

// try records what was done, and lets it be done when the store cannot be reached: it helps then.
func (a *audit) try(ctx context.Context, e store.AuditEntry) {
	if err := a.record(ctx, e); err != nil {
		a.gap(e, err)
	}
	a.line(e, 0, nil)
}

// gap tells of a row that is missing.
func (a *audit) gap(e store.AuditEntry, err error) {
	a.failed.Inc()
	a.log.Error("a row of the audit was not written", zap.String("who", e.Who),
		zap.String("action", e.Action), zap.String("kind", e.Kind), zap.String("name", e.Name),
		zap.Error(err))
}

// written hands rows that are durable to the file.
func (a *audit) written(res store.Result) {
	if a.file == nil || res.Audit == nil {
		return
	}
	if err := a.file.Append(*res.Audit); err != nil {
		a.gap(*res.Audit, err)
	}
}

// refuse records that something was not done.
func (a *audit) refuse(ctx context.Context, e store.AuditEntry, cause error) {
	if noted, ok := ctx.Value(trackKey{}).(*tracked); ok {
		noted.recorded = true
	}
	e.Refused = clip(cause.Error())
	a.line(e, 0, cause)
	if errors.Is(cause, store.ErrUnavailable) || errors.Is(cause, store.ErrClosed) {
		return // the store takes no row either
	}
	var may bool
	if e.Unrecorded, may = a.mayRefuse(time.Now()); !may {
		a.missed.Inc()
		return
	}
	// A caller who has gone was refused all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusalTimeout)
	defer cancel()
	if err := a.record(ctx, e); err != nil {
		a.gap(e, err)
	}
}

// mayRefuse says whether a refusal gets a row now, and how many before it got none.
func (a *audit) mayRefuse(now time.Time) (unrecorded uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.counted.IsZero() {
		a.refusals = min(refusalBurst, a.refusals+now.Sub(a.counted).Seconds()*refusalsASecond)
	}
	a.counted = now
	if a.refusals < 1 {
		a.unrecorded++
		return 0, false
	}
	a.refusals--
	unrecorded, a.unrecorded = a.unrecorded, 0
	return unrecorded, true
}

// line writes a row to the log, too.
func (a *audit) line(e store.AuditEntry, revision uint64, err error) {
	key, ok := e.Key()
	fields := []zap.Field{
		zap.String("user", e.Who),
		zap.Strings("groups", e.Groups),
		zap.String("from", e.From),
		zap.String("verb", e.Action),
	}
	switch {
	case ok:
		fields = append(fields, zap.Stringer("key", key))
	case e.Kind != "":
		fields = append(fields, zap.String("kind", e.Kind), zap.String("mesh", e.Mesh),
			zap.String("name", e.Name))
	}
	if e.What != "" {
		fields = append(fields, zap.String("what", e.What))
	}
	if err != nil {
		a.log.Warn("audit: rejected", append(fields, zap.String("reason", err.Error()))...)
		return
	}
	if revision > 0 {
		fields = append(fields, zap.Uint64("revision", revision))
	}
	a.log.Info("audit", fields...)
}

type trackKey struct{}

// tracked is what a request has recorded.
type tracked struct{ recorded bool }

// Track returns the context of a request whose refusal [Service.Refused] records once, if nothing that
// knows more of it has.
func Track(ctx context.Context) context.Context {
	return context.WithValue(ctx, trackKey{}, &tracked{})
}

// Refused records a call that was refused for its caller, if nothing has; what names the call.
func (s *Service) Refused(ctx context.Context, what string, p *problem.Problem) {
	if p.Status != http.StatusUnauthorized && p.Status != http.StatusForbidden {
		return
	}
	if noted, ok := ctx.Value(trackKey{}).(*tracked); ok && noted.recorded {
		return
	}
	e := entry(ctx, actionCall)
	e.What = clip(what)
	s.audit.refuse(ctx, e, p)
}

// secretRead records that secrets were read; the caller must not have them if it fails.
func (b *base) secretRead(ctx context.Context, info *mesh.KindInfo, key mesh.Key, what string) error {
	if !info.Secret() {
		return nil
	}
	key.Kind = info.Kind
	e := about(ctx, actionRead, key)
	e.What = what
	return b.audit.done(ctx, e)
}

// auditor reads the audit.
type auditor struct {
	adminv1.UnimplementedAuditServiceServer
	*base
}

// ListAudit implements meridian.admin.v1.AuditService.
func (a *auditor) ListAudit(ctx context.Context,
	req *adminv1.ListAuditRequest) (*adminv1.ListAuditResponse, error) {
	if _, err := authz.Authorize(ctx, adminv1.AuditService_ListAudit_FullMethodName, nil); err != nil {
		return nil, err
	}
	size := int(req.GetSize())
	switch {
	case size > maxAuditPage:
		return nil, problem.Invalid(problem.TitleList,
			mesh.Violation{Field: "size", Reason: "must be at most 1000"})
	case size == 0:
		size = maxAuditPage
	}
	q := store.AuditQuery{Below: req.GetBelow(), Limit: auditScannedOnce}
	if req.GetSince() != nil {
		q.Since = req.GetSince().AsTime()
	}
	out := &adminv1.ListAuditResponse{}
	// One look reads so many rows at most; the next page goes on below them.
	for scanned := 0; scanned < maxAuditScanned; scanned += auditScannedOnce {
		rows, err := a.cfg.Store.Audit(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, e := range rows {
			if len(out.GetEntries()) == size {
				out.Next = q.Below
				return out, nil
			}
			q.Below = e.ID
			if req.GetWho() != "" && e.Who != req.GetWho() ||
				req.GetKind() != "" && !strings.EqualFold(e.Kind, req.GetKind()) ||
				req.GetName() != "" && e.Name != req.GetName() {
				continue
			}
			out.Entries = append(out.Entries, auditProto(e))
		}
		if len(rows) < auditScannedOnce {
			return out, nil
		}
	}
	out.Next = q.Below
	return out, nil
}

func auditProto(e store.AuditEntry) *adminv1.AuditEntry {
	return &adminv1.AuditEntry{
		Id:         e.ID,
		Time:       timestamppb.New(e.Time),
		Who:        e.Who,
		Groups:     slices.Clone(e.Groups),
		From:       e.From,
		Action:     e.Action,
		Kind:       e.Kind,
		Mesh:       e.Mesh,
		Zone:       e.Zone,
		Namespace:  e.Namespace,
		Name:       e.Name,
		What:       e.What,
		Refused:    e.Refused,
		Before:     e.Before,
		After:      e.After,
		Unrecorded: e.Unrecorded,
	}
}
