package problem

import (
	"encoding/json"
	"net/http"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/meridian-mesh/meridian/mesh"
)

// Write answers with problem+json.
func (p *Problem) Write(w http.ResponseWriter) {
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
	}{
		Type:              "/std-errors",
		Status:            p.Status,
		Title:             p.Title,
		Detail:            p.Detail,
		InvalidParameters: parameters,
	}

	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Del("ETag")
	if p.Allow != "" {
		h.Set("Allow", p.Allow)
	}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int(p.RetryAfter.Seconds()))))
	}
	w.WriteHeader(p.Status)

	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	_ = enc.Encode(body) // it fails only if the caller has closed the connection
}

// Names in the details of a gRPC status.
const (
	domain        = "meridian.admin"
	metadataTitle = "title"
)

// GRPC is the status error: the title and the violations are its details.
func (p *Problem) GRPC() error {
	code := p.Code
	if code == codes.OK {
		code = codeOf(p.Status)
	}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{
		Reason:   "STATUS_" + strconv.Itoa(p.Status),
		Domain:   domain,
		Metadata: map[string]string{metadataTitle: p.Title},
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

// codeOf is the gRPC code of an HTTP status.
func codeOf(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusRequestEntityTooLarge:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.NotFound
	case http.StatusMethodNotAllowed, http.StatusPreconditionFailed, http.StatusConflict:
		return codes.FailedPrecondition
	case http.StatusGone:
		return codes.OutOfRange
	case http.StatusNotImplemented:
		return codes.Unimplemented
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return codes.Unavailable
	case http.StatusGatewayTimeout:
		return codes.DeadlineExceeded
	}
	return codes.Internal
}

// statusOf is the HTTP status of what a zone answered with a gRPC code. What is neither an answer
// about the request nor a timeout means that the zone could not be asked.
func statusOf(code codes.Code) int {
	switch code {
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.FailedPrecondition, codes.AlreadyExists:
		return http.StatusConflict
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// FromGRPC reads back what another control plane answered. The tunnel carries code and text; title
// and violations are restored where the details came along.
func FromGRPC(err error) *Problem {
	st := status.Convert(err)
	p := &Problem{
		Status: statusOf(st.Code()),
		Title:  TitleTunnel,
		Detail: st.Message(),
		Code:   st.Code(),
	}
	if p.Status == http.StatusBadGateway {
		p.Code = codes.Unavailable
	}
	for _, d := range st.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				p.Violations = append(p.Violations, mesh.Violation{
					Field:  v.GetField(),
					Reason: v.GetDescription(),
				})
			}
		}
	}
	return p
}

// HasStatus says that err is a gRPC status already, and for the caller as it is.
func HasStatus(err error) bool {
	_, ok := err.(interface{ GRPCStatus() *status.Status })
	return ok
}
