package authz

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/identity/tokens"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

var services = []grpc.ServiceDesc{
	adminv1.ResourceService_ServiceDesc,
	adminv1.StatusService_ServiceDesc,
	adminv1.TokenService_ServiceDesc,
	adminv1.InspectService_ServiceDesc,
	adminv1.DiffService_ServiceDesc,
	adminv1.DebugService_ServiceDesc,
	adminv1.AuditService_ServiceDesc,
}

// TestTableIsComplete: every RPC has a row, and every row of meridian.admin.v1 is an RPC.
func TestTableIsComplete(t *testing.T) {
	t.Parallel()
	methods := map[string]bool{}
	for _, s := range services {
		for _, m := range s.Methods {
			methods["/"+s.ServiceName+"/"+m.MethodName] = true
		}
		for _, m := range s.Streams {
			methods["/"+s.ServiceName+"/"+m.StreamName] = true
		}
	}
	for m := range methods {
		if _, ok := VerbOf(m); !ok {
			t.Errorf("%s has no row: it is closed to all callers", m)
		}
	}
	for operation := range table {
		if strings.HasPrefix(operation, "/meridian.admin.v1.") && !methods[operation] {
			t.Errorf("the row %s is not an RPC", operation)
		}
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	caller := func(name string, groups ...string) context.Context {
		c := authn.Caller{Name: name, Groups: groups}
		return authn.With(context.Background(), authn.Identity{Caller: c})
	}
	admin := caller("jane", tokens.AdminGroup)
	john := caller("john", "team-a")
	anonymous := context.Background()
	for _, c := range []struct {
		name      string
		ctx       context.Context
		operation string
		status    int
	}{
		{"admin issues", admin, adminv1.TokenService_IssueUserToken_FullMethodName, 0},
		{"admin counts", admin, adminv1.InspectService_CountSelected_FullMethodName, 0},
		{"admin, unknown", admin, "/meridian.admin.v1.ResourceService/New", http.StatusNotImplemented},
		{"user reads", john, adminv1.StatusService_GetStatus_FullMethodName, 0},
		{"user writes", john, adminv1.ResourceService_PutResource_FullMethodName, http.StatusForbidden},
		{"user compares", john, adminv1.DiffService_Diff_FullMethodName, http.StatusForbidden},
		{"user counts", john, adminv1.InspectService_CountSelected_FullMethodName, http.StatusForbidden},
		{"anonymous reads", anonymous, adminv1.StatusService_GetStatus_FullMethodName, http.StatusForbidden},
		{"anonymous, config", anonymous, GetConfig, http.StatusForbidden},
	} {
		_, err := Authorize(c.ctx, c.operation, nil)
		switch {
		case c.status == 0 && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.status != 0 && !problem.Is(err, c.status):
			t.Errorf("%s: %v, want status %d", c.name, err, c.status)
		}
	}
}
