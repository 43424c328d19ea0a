package problem_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
)

// One failure in both protocols.
func Example() {
	p := problem.Invalid(problem.TitlePut, mesh.Violation{Field: "name", Reason: "must not be empty"})

	w := httptest.NewRecorder()
	p.Write(w)
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	fmt.Println(status.Code(p.GRPC()))
	fmt.Println(problem.Is(fmt.Errorf("put: %w", p), http.StatusBadRequest))
	// Output:
	// 400 application/problem+json
	// InvalidArgument
	// true
}
