// Package rest is the management API over HTTP: the paths, documents and errors that clients of
// Kuma speak, over the core of package api.
//
// # Model
//
// The mux is generated from the table of kinds when a [Handler] is made: every kind has its
// collection, its items and, where it has them, overviews and views below an item. A handler reads
// the request, calls the core through [Core] and writes the answer as JSON, or as YAML if the
// caller accepts that.
//
// # Failure
//
// A handler that fails has written nothing: the Handler answers with problem+json. If an answer
// had begun (a watch), the connection is broken, so that the caller sees that it is not whole.
//
// # Concurrency
//
// A Handler is safe for concurrent use and has no state.
//
// No example: it serves the core of a running control plane; docs/operating.md shows requests.
package rest

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// Core is what REST needs of the management service; [*api.Service] is one. Every method
// authorizes its caller; errors are for [problem.Classify].
type Core interface {
	Info() api.Info
	Status(ctx context.Context) (*adminv1.GetStatusResponse, error)
	Wait(ctx context.Context, revision uint64, timeout time.Duration) (*adminv1.WaitRevisionResponse, error)
	ProcessConfig(ctx context.Context) ([]byte, error)
	MayListKinds(ctx context.Context) error

	List(ctx context.Context, s api.Selection) (api.Page, error)
	Get(ctx context.Context, key mesh.Key, exact bool, atLeast uint64) (*mesh.Resource, error)
	Watch(ctx context.Context, kinds []mesh.Kind, matches func(*mesh.Resource) bool,
		send func(api.Event) error) error
	WatchSince(ctx context.Context, since uint64, kind *mesh.KindInfo, matches func(*mesh.Resource) bool,
		send func(api.Event) error) error
	Members(ctx context.Context, service mesh.Key) (api.Page, error)
	Insights(ctx context.Context, rs []*mesh.Resource) (map[mesh.Key]*mesh.Resource, error)

	MayWrite(ctx context.Context, info *mesh.KindInfo, key mesh.Key) (zone string, err error)
	Writable(info *mesh.KindInfo) bool
	RejectedWrite(ctx context.Context, key mesh.Key, err error)
	Put(ctx context.Context, in api.PutRequest) (api.PutResult, error)
	Delete(ctx context.Context, in api.DeleteRequest) (revision uint64, err error)

	MayIssue(ctx context.Context, what string) error
	IssueDataplane(ctx context.Context, c tokens.DataplaneClaims, validFor *time.Duration) (string, error)
	IssueZone(ctx context.Context, c tokens.ZoneClaims, validFor *time.Duration) (string, error)
	IssueUser(ctx context.Context, c tokens.UserClaims, validFor *time.Duration) (string, error)

	InspectView(ctx context.Context, req *adminv1.InspectViewRequest) (*adminv1.InspectViewResponse, error)
	InspectPolicy(ctx context.Context,
		req *adminv1.InspectPolicyRequest) (*adminv1.InspectPolicyResponse, error)
	DebugProxy(ctx context.Context, req *adminv1.DebugProxyRequest) (*adminv1.DebugProxyResponse, error)
	DebugChange(ctx context.Context, req *adminv1.DebugChangeRequest) (*adminv1.DebugChangeResponse, error)
	ListAudit(ctx context.Context, req *adminv1.ListAuditRequest) (*adminv1.ListAuditResponse, error)
	Refused(ctx context.Context, what string, p *problem.Problem)
	ProxyAdmin(ctx context.Context, req *adminv1.ProxyAdminRequest) (*adminv1.ProxyAdminResponse, error)
}

// maxBody bounds the body of a request, bytes.
const maxBody = 8 << 20

// Handler serves REST; the context of a request carries its identity, see package authn.
type Handler struct {
	core Core
	edge *problem.Edge
	log  *zap.Logger
	root *node
}

// New makes a Handler over a core.
func New(core Core, edge *problem.Edge, log *zap.Logger) *Handler {
	h := &Handler{core: core, edge: edge, log: log}
	h.root = h.routes()
	return h
}

// ServeHTTP implements [http.Handler]; it is the edge of REST.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w}
	title := problem.TitleAnswer
	err := func() (err error) {
		defer h.edge.Recover(&err, r.Method+" "+r.URL.Path)
		return h.serve(rec, r, &title)
	}()
	if err != nil {
		p := h.edge.Problem(err, title)
		h.core.Refused(r.Context(), r.Method+" "+r.URL.Path, p)
		if rec.status != 0 { // too late for an answer: break the connection
			h.log.Debug("answer broken off", zap.Error(p))
			panic(http.ErrAbortHandler)
		}
		p.Write(rec)
	}
	verb := r.Method
	if q := r.URL.Query(); q.Get("watch") != "" || q.Get("wait") != "" {
		verb = ""
	}
	h.edge.Observe(verb, rec.status, start)
}

// serve finds the route and runs its handler; title is set to the route's.
func (h *Handler) serve(w *recorder, r *http.Request, title *string) error {
	path, err := segments(r.URL)
	if err != nil {
		return problem.New(http.StatusBadRequest, problem.TitleBadRequest, "the path cannot be read: %v", err)
	}
	var p params
	rt := h.root.find(path, &p)
	if rt == nil {
		return problem.New(http.StatusNotFound, "Page Not Found", "there is nothing at %s", r.URL.Path)
	}
	*title = rt.title
	if !rt.open {
		if _, err := authn.From(r.Context()); err != nil {
			return err
		}
	}
	handle, ok := rt.verbs[r.Method]
	if !ok {
		p := problem.New(http.StatusMethodNotAllowed, problem.TitleMethod, "%s is not possible at %s",
			r.Method, r.URL.Path)
		p.Allow = rt.allow()
		return p
	}
	if _, ok := acceptable(r); !ok && r.Method != http.MethodPost {
		return problem.New(http.StatusNotAcceptable, "Not Acceptable",
			"the header Accept is %q; there is application/json and application/yaml", r.Header.Get("Accept"))
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	return handle(w, r, p)
}

// segments of a path, unescaped; empty ones do not count, so that a trailing slash does no harm.
func segments(u *url.URL) ([]string, error) {
	var out []string
	for s := range strings.SplitSeq(u.EscapedPath(), "/") {
		if s == "" {
			continue
		}
		text, err := url.PathUnescape(s)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

// recorder notes whether an answer has begun.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach Flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
