// Package problem is a failure of the management API as its caller sees it: the same in REST
// (problem+json) and in gRPC (a status with details), rendered here and nowhere else.
//
// # Model
//
// A [Problem] is made where a failure arises. Code that must recognise a failure asks for its type,
// with errors.As on the Problem or on its Cause; nothing compares texts. [Classify] gives the
// errors of other packages (validation, tokens, store, context) their Problem.
//
// An [Edge] is the outermost part of a request in either protocol: it turns a panic and any error
// into a Problem, writes what only the log should know, and counts.
//
// # Concurrency
//
// An Edge is safe for concurrent use. A Problem belongs to the request that made it.
package problem

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// Titles of operations, as Kuma spells them.
const (
	TitleAnswer       = "Could not answer"
	TitleBadRequest   = "Bad Request"
	TitleCreate       = "Failed to create a resource"
	TitleDebug        = "Could not look"
	TitleDelete       = "Could not delete a resource"
	TitleDiff         = "Could not compare"
	TitleExplain      = "Could not explain"
	TitleGet          = "Could not retrieve a resource"
	TitleImmutable    = "Could not update a resource"
	TitleInspect      = "Could not inspect"
	TitleList         = "Could not retrieve resources"
	TitleMesh         = "Failed to retrieve Mesh"
	TitleMethod       = "Method not allowed"
	TitleNoKey        = "Signing Key not found"
	TitlePut          = "Could not process a resource"
	TitleToken        = "Could not issue a token"
	TitleTokenRequest = "Invalid request"
	TitleTunnel       = "Could not execute admin operation"
	TitleUpdate       = "Failed to update a resource"
)

// statusClientClosed is the status of a request whose caller closed the connection, as nginx numbers it.
const statusClientClosed = 499

// Problem is a failure as the caller sees it, in REST and in gRPC.
type Problem struct {
	// Status of HTTP.
	Status int
	// Title names the operation; it is never empty once the Problem reached its caller.
	Title string
	// Detail says why and what to do.
	Detail string
	// Violations of a document.
	Violations []mesh.Violation
	// Allow is the header of that name, for 405.
	Allow string
	// RetryAfter is when a retry can help; 0 is unknown.
	RetryAfter time.Duration
	// Code of gRPC; codes.OK means the usual one of Status.
	Code codes.Code
	// Cause is a typed error for code that recognises this failure; the caller does not see it.
	Cause error
}

// New makes a Problem; detail is a format.
func New(status int, title, detail string, args ...any) *Problem {
	return &Problem{Status: status, Title: title, Detail: fmt.Sprintf(detail, args...)}
}

// Invalid is the problem of a document, or of a query, with violations.
func Invalid(title string, violations ...mesh.Violation) *Problem {
	return &Problem{
		Status:     http.StatusBadRequest,
		Title:      title,
		Detail:     "Resource is not valid",
		Violations: violations,
	}
}

// NoZone is the problem of a request that names a zone which global does not know.
func NoZone(title, zone string) *Problem {
	return New(http.StatusNotFound, title, "there is no zone %q", zone)
}

// UnknownKind is the problem of a resource of a kind that this control plane does not have.
func UnknownKind(kind mesh.Kind) *Problem {
	p := New(http.StatusBadRequest, TitlePut, "there is no kind %q", string(kind))
	p.Violations = []mesh.Violation{{
		Field:  "type",
		Reason: fmt.Sprintf("is %q, which is not a kind of this control plane", string(kind)),
	}}
	return p
}

// Error is one line: title, detail and violations.
func (p *Problem) Error() string {
	if len(p.Violations) > 0 {
		return p.Title + ": " + p.Detail + ": " + (&mesh.ValidationError{Violations: p.Violations}).Error()
	}
	return p.Title + ": " + p.Detail
}

// Unwrap is the Cause.
func (p *Problem) Unwrap() error { return p.Cause }

// Because sets the Cause and returns p.
func (p *Problem) Because(cause error) *Problem {
	p.Cause = cause
	return p
}

// Is says whether err is a Problem of an HTTP status.
func Is(err error, status int) bool {
	var p *Problem
	return errors.As(err, &p) && p.Status == status
}

// Classify gives any error its Problem; title is that of the operation. known is false for errors
// that are a fault of the control plane: the Problem hides what they say.
func Classify(err error, title string) (p *Problem, known bool) {
	var (
		invalid  *mesh.ValidationError
		token    *tokens.TokenError
		conflict *store.ConflictError
		wrong    *store.InvalidError
	)
	switch {
	case errors.As(err, &p):
		if p.Title == "" {
			p.Title = title
		}
		return p, true
	case errors.As(err, &invalid):
		return Invalid(title, invalid.Violations...), true
	case errors.As(err, &token):
		return New(http.StatusUnauthorized, "Invalid authentication data", "%s", token.Reason), true
	case errors.Is(err, store.ErrNotFound):
		return New(http.StatusNotFound, title, "Not found"), true
	case errors.Is(err, store.ErrCompacted):
		return New(http.StatusGone, title, "the history does not reach back to that revision; list "+
			"again and watch from the revision of the list"), true
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		p := New(http.StatusServiceUnavailable, title, "the store of the control plane is unavailable, so "+
			"nothing can be written now (it is unknown whether a write that was under way happened: read it "+
			"before trying again); reads go on from memory, and zones keep serving")
		p.RetryAfter = 2 * time.Second
		return p, true
	case errors.As(err, &conflict):
		return New(http.StatusConflict, "Conflict", "resource conflict: %s; read it and try again",
			conflict), true
	case errors.As(err, &wrong):
		return New(http.StatusBadRequest, title, "%s", wrong), true
	case errors.Is(err, context.Canceled):
		p := New(statusClientClosed, title, "the caller cancelled the request")
		p.Code = codes.Canceled
		return p, true
	case errors.Is(err, context.DeadlineExceeded):
		p := New(http.StatusGatewayTimeout, title, "the time given was over before the answer was there")
		p.Code = codes.DeadlineExceeded
		return p, true
	}
	return New(http.StatusInternalServerError, title, "Internal Server Error"), false
}
