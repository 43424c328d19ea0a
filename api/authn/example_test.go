package authn_test

import (
	"fmt"
	"net/http/httptest"

	"github.com/meridian-mesh/meridian/api/authn"
)

// A direct call from this machine is the administrator's; one through a proxy is not.
func ExampleAuthenticator_Identify() {
	a := authn.Authenticator{LocalhostIsAdmin: true}
	r := httptest.NewRequest("GET", "http://localhost:5681/meshes", nil)
	r.RemoteAddr = "127.0.0.1:40000"
	fmt.Println(a.Identify(r).Caller.Admin())

	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	fmt.Println(a.Identify(r).Caller.Anonymous())
	// Output:
	// true
	// true
}
