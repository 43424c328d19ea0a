package client

import (
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/mesh"
)

// Error is what a control plane answered, or that it could not be reached.
type Error struct {
	// Code is the class: InvalidArgument, NotFound, FailedPrecondition, PermissionDenied,
	// Unauthenticated, Unavailable…
	Code codes.Code
	// Title names the operation that failed, such as "Could not process a resource".
	Title string
	// Detail says why, for people.
	Detail string
	// Violations of a document; empty for other errors.
	Violations []mesh.Violation
}

// Error is one line; Violations are included.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Title != "" {
		b.WriteString(e.Title + ": ")
	}
	b.WriteString(e.Detail)
	for i, v := range e.Violations {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep)
		if v.Field != "" {
			b.WriteString(v.Field + ": ")
		}
		b.WriteString(v.Reason)
	}
	return b.String()
}

func (c *Client) fail(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	e := &Error{Code: st.Code(), Detail: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, mesh.Violation{
					Field:  v.GetField(),
					Reason: v.GetDescription(),
				})
			}
		case *errdetails.ErrorInfo:
			e.Title = d.GetMetadata()["title"]
		}
	}
	if e.Title == "" {
		c.connection.explain(e)
	}
	return e
}
