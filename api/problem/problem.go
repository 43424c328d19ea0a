package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/store"
)

// Problem is a failure as the caller sees it, in REST and in gRPC.
type Problem struct {
	// Status of HTTP.
	Status int
	// Title names the operation; it is never empty.
	Title string
	// Detail says why and what to do.
	Detail string
	// Violations of a document.
	Violations []mesh.Violation

	allow      string
	retryAfter time.Duration
	code       codes.Code // if the status alone does not say
}

func (p *Problem) Error() string {
	if len(p.Violations) > 0 {
		return p.Title + ": " + p.Detail + ": " + (&mesh.ValidationError{Violations: p.Violations}).Error()
	}
	return p.Title + ": " + p.Detail
}

func problem(status int, title, detail string, args ...any) *Problem {
	return &Problem{Status: status, Title: title, Detail: fmt.Sprintf(detail, args...)}
}

// invalid is the problem of a document, or of a query, with violations.
func invalid(title string, violations []mesh.Violation) *Problem {
	return &Problem{
		Status:     http.StatusBadRequest,
		Title:      title,
		Detail:     "Resource is not valid",
		Violations: violations,
	}
}

// asProblem classes any error; title is that of the operation. Unexpected ones are logged and hide
// their cause.
func (a *API) asProblem(err error, title string) *Problem {
	var p *Problem
	var bad *mesh.ValidationError
	var te *tokens.TokenError
	var conflict *store.ConflictError
	var wrong *store.InvalidError
	switch {
	case errors.As(err, &p):
		if p.Title == "" {
			p.Title = title
		}
		return p
	case errors.As(err, &bad):
		return invalid(title, bad.Violations)
	case errors.As(err, &te):
		return problem(http.StatusUnauthorized, "Invalid authentication data", "%s", te.Reason)
	case errors.Is(err, store.ErrNotFound):
		return problem(http.StatusNotFound, title, "Not found")
	case errors.Is(err, store.ErrCompacted):
		return problem(http.StatusGone, title,
			"the history does not reach back to that revision; list again and watch from the revision "+
				"of the list")
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		a.log.Warn("store unavailable", zap.Error(err))
		p := problem(http.StatusServiceUnavailable, title,
			"the store of the control plane is unavailable, so nothing can be written now "+
				"(it is unknown whether a write that was under way happened: read it before trying again); "+
				"reads go on from memory, and zones keep serving")
		p.retryAfter = 2 * time.Second
		return p
	case errors.As(err, &conflict):
		return problem(http.StatusConflict, "Conflict", "resource conflict: %s; read it and try again",
			conflict)
	case errors.As(err, &wrong):
		return problem(http.StatusBadRequest, title, "%s", wrong)
	case errors.Is(err, context.Canceled):
		return &Problem{
			Status: 499,
			Title:  title,
			Detail: "the caller went away",
			code:   codes.Canceled,
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &Problem{
			Status: http.StatusGatewayTimeout,
			Title:  title,
			Detail: "the time given was over before the answer was there",
			code:   codes.DeadlineExceeded,
		}
	}
	a.log.Error("request failed", zap.String("operation", title), zap.Error(err))
	return problem(http.StatusInternalServerError, title, "Internal Server Error")
}

// write answers with problem+json.
func (p *Problem) write(w http.ResponseWriter) {
	type parameter struct {
		Field  string `json:"field"`
		Reason string `json:"reason"`
	}
	var parameters []parameter
	for _, v := range p.Violations {
		parameters = append(parameters, parameter{v.Field, v.Reason})
	}
	body := struct {
		Type              string      `json:"type"`
		Status            int         `json:"status"`
		Title             string      `json:"title"`
		Detail            string      `json:"detail"`
		InvalidParameters []parameter `json:"invalid_parameters,omitempty"`
	}{"/std-errors", p.Status, p.Title, p.Detail, parameters}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Del("ETag")
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int(p.retryAfter.Seconds()))))
	}
	w.WriteHeader(p.Status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	_ = enc.Encode(body) // the caller went away
}

// grpc is the status error: the title and the violations are its details.
func (p *Problem) grpc() error {
	code := p.code
	if code == codes.OK {
		switch p.Status {
		case http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusRequestEntityTooLarge:
			code = codes.InvalidArgument
		case http.StatusUnauthorized:
			code = codes.Unauthenticated
		case http.StatusForbidden:
			code = codes.PermissionDenied
		case http.StatusNotFound:
			code = codes.NotFound
		case http.StatusMethodNotAllowed, http.StatusPreconditionFailed, http.StatusConflict:
			code = codes.FailedPrecondition
		case http.StatusGone:
			code = codes.OutOfRange
		case http.StatusNotImplemented:
			code = codes.Unimplemented
		case http.StatusServiceUnavailable, http.StatusBadGateway:
			code = codes.Unavailable
		case http.StatusGatewayTimeout:
			code = codes.DeadlineExceeded
		default:
			code = codes.Internal
		}
	}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{
		Reason:   "STATUS_" + strconv.Itoa(p.Status),
		Domain:   "meridian.admin",
		Metadata: map[string]string{"title": p.Title},
	})}
	if len(p.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range p.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field:       v.Field,
				Description: v.Reason,
			})
		}
		details = append(details, protoadapt.MessageV1Of(bad))
	}
	st, err := status.New(code, p.Detail).WithDetails(details...)
	if err != nil {
		return status.Error(code, p.Detail)
	}
	return st.Err()
}

// fromGRPC reads back what a zone answered through the tunnel.
func fromGRPC(err error) *Problem {
	st := status.Convert(err)
	p := &Problem{Title: "Could not execute admin operation", Detail: st.Message(), code: st.Code()}
	switch st.Code() {
	case codes.InvalidArgument:
		p.Status = http.StatusBadRequest
	case codes.NotFound:
		p.Status = http.StatusNotFound
	case codes.FailedPrecondition, codes.AlreadyExists:
		p.Status = http.StatusConflict
	case codes.Unimplemented:
		p.Status = http.StatusNotImplemented
	case codes.DeadlineExceeded:
		p.Status = http.StatusGatewayTimeout
	default:
		p.Status, p.code = http.StatusBadGateway, codes.Unavailable
	}
	return p
}
