package authz_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/api/authz"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// An authenticated user may read, secrets left out.
func ExampleAuthorize() {
	ctx := authn.With(context.Background(), authn.Identity{Caller: authn.Caller{Name: "john"}})
	for _, kind := range []mesh.Kind{mesh.KindMesh, mesh.KindSecret} {
		info, _ := mesh.Lookup(kind)
		_, err := authz.Authorize(ctx, adminv1.ResourceService_GetResource_FullMethodName, info)
		fmt.Println(kind, problem.Is(err, http.StatusForbidden))
	}
	// Output:
	// Mesh false
	// Secret true
}
