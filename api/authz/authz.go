// Package authz decides who may call what in the management API. Every operation is a row of one
// table; an operation without a row is closed to all callers, so a new RPC cannot be open by
// oversight.
//
// # Rules
//
// Administrators may everything. Every authenticated user may read, secrets left out. Anonymous
// callers may nothing that is in the table: the index and /who-am-i are not operations.
//
// # Failure
//
// Denials are a [*problem.Problem]: 401 for a bad token, 403 else, and 501 for an operation
// without a row.
package authz

import (
	"context"
	"net/http"

	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/internal/hint"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// Verb is what an operation does, as the texts of denials have it.
type Verb string

// Verbs. All but Read are for administrators.
const (
	Read   Verb = "read"
	Write  Verb = "write"
	Delete Verb = "delete"
	Issue  Verb = "issue"
	Review Verb = "review"
)

// Operations that REST has and gRPC has not.
const (
	GetConfig = "GET /config"
	GetKinds  = "GET /_resources"
)

// table has a row per RPC, by its full name, and per operation that REST alone has.
var table = map[string]Verb{
	adminv1.ResourceService_GetResource_FullMethodName:    Read,
	adminv1.ResourceService_ListResources_FullMethodName:  Read,
	adminv1.ResourceService_WatchResources_FullMethodName: Read,
	adminv1.ResourceService_PutResource_FullMethodName:    Write,
	adminv1.ResourceService_DeleteResource_FullMethodName: Delete,

	adminv1.StatusService_GetStatus_FullMethodName:    Read,
	adminv1.StatusService_WaitRevision_FullMethodName: Read,

	adminv1.TokenService_IssueDataplaneToken_FullMethodName: Issue,
	adminv1.TokenService_IssueZoneToken_FullMethodName:      Issue,
	adminv1.TokenService_IssueUserToken_FullMethodName:      Issue,

	adminv1.InspectService_InspectDataplane_FullMethodName: Read,
	adminv1.InspectService_InspectPolicy_FullMethodName:    Read,
	adminv1.InspectService_InspectView_FullMethodName:      Read,
	adminv1.InspectService_Explain_FullMethodName:          Read,

	// Control planes alone ask it of each other.
	adminv1.InspectService_CountSelected_FullMethodName: Write,

	// A comparison admits its resources as a write does, so it needs the same right.
	adminv1.DiffService_Diff_FullMethodName: Write,

	adminv1.DebugService_DebugProxy_FullMethodName:  Read,
	adminv1.DebugService_DebugChange_FullMethodName: Read,
	// What runs in a proxy names addresses, and headers that people set.
	adminv1.DebugService_ProxyAdmin_FullMethodName: Write,

	adminv1.AuditService_ListAudit_FullMethodName: Review,

	grpc_reflection_v1.ServerReflection_ServerReflectionInfo_FullMethodName:      Read,
	grpc_reflection_v1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: Read,

	GetConfig: Read,
	GetKinds:  Read,
}

// VerbOf is what an operation does; ok is false for one that is not in the table.
func VerbOf(operation string) (v Verb, ok bool) {
	v, ok = table[operation]
	return v, ok
}

// Authorize decides whether ctx's caller may run an operation, on resources of a kind: nil is what
// has no kind (status, tokens), or any kind but secrets. It returns the caller also with an error.
func Authorize(ctx context.Context, operation string, kind *mesh.KindInfo) (authn.Caller, error) {
	c, err := authn.From(ctx)
	if err != nil {
		return c, err
	}
	verb, ok := VerbOf(operation)
	if !ok {
		return c, problem.New(http.StatusNotImplemented, "Access Denied",
			"%s is not an operation that this control plane allows", operation)
	}

	what := "the control plane's state"
	switch {
	case kind != nil:
		what = string(kind.Kind)
	case verb == Issue:
		what = "tokens"
	case verb == Review:
		what = "the audit"
	}
	switch {
	case c.Admin():
		return c, nil
	case c.Anonymous():
		return c, problem.New(http.StatusForbidden, "Access Denied",
			"user %q may not %s %s: %s", c, verb, what, hint.Authenticate)
	case verb == Read && (kind == nil || !kind.Secret()):
		return c, nil
	}
	return c, problem.New(http.StatusForbidden, "Access Denied", "user %q may not %s %s: this needs group %s",
		c, verb, what, tokens.AdminGroup)
}
