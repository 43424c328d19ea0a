package authn_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/meridian-mesh/meridian/api/authn"
)

// TestLocationGivesWayToCredentials holds when being on this machine makes a caller administrator.
func TestLocationGivesWayToCredentials(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		admin  bool
		err    bool
	}{
		{
			name:   "a direct call",
			change: func(*http.Request) {},
			admin:  true,
		},
		{
			name:   "with TLS",
			change: func(r *http.Request) { r.TLS = &tls.ConnectionState{} },
		},
		{
			name:   "a token that does not verify",
			change: func(r *http.Request) { r.Header.Set("Authorization", "Bearer nonsense") },
			err:    true,
		},
		{
			name:   "a credential of another scheme",
			change: func(r *http.Request) { r.Header.Set("Authorization", "Basic am9objpq") },
		},
		{
			name:   "an empty credential",
			change: func(r *http.Request) { r.Header.Set("Authorization", "") },
		},
		{
			name:   "a forwarder that says so",
			change: func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.1") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:5681/meshes", nil)
			r.RemoteAddr = "127.0.0.1:40000"
			c.change(r)
			id := authn.Authenticator{LocalhostIsAdmin: true}.Identify(r)
			if id.Caller.Admin() != c.admin || (id.Err != nil) != c.err {
				t.Errorf("caller %s, error %v; want administrator %t, error %t",
					id.Caller, id.Err, c.admin, c.err)
			}
		})
	}
}

// TestSocketIsForOwnerAndRoot: over the UNIX socket the system says who calls; a credential counts there
// too.
func TestSocketIsForOwnerAndRoot(t *testing.T) {
	t.Parallel()

	own := uint32(os.Getuid())
	for _, c := range []struct {
		name       string
		uid        uint32
		credential string
		admin      bool
	}{
		{
			name:  "the process's own user",
			uid:   own,
			admin: true,
		},
		{name: "root", admin: true},
		{name: "another user", uid: own + 1},
		{
			name:       "a bad token",
			uid:        own,
			credential: "Bearer nonsense",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodGet, "http://localhost/meshes", nil)
			r = r.WithContext(authn.WithPeer(r.Context(), c.uid))
			r.RemoteAddr = "@"
			if c.credential != "" {
				r.Header.Set("Authorization", c.credential)
			}
			if id := (authn.Authenticator{}).Identify(r); id.Caller.Admin() != c.admin {
				t.Errorf("caller %s", id.Caller)
			}
		})
	}
}
