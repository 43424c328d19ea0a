package api

import (
	"net/http"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/internal/adminjson"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// envoyPaths are the words for Envoy's admin interface below a proxy (rest-api 2.8).
var envoyPaths = map[string]string{"xds": "config_dump", "stats": "stats", "clusters": "clusters"}

// live are the paths below a proxy about what it has; nil if there is no such path. Envoy's own
// answers are JSON always.
func (i item) live(p []string) handler {
	if i.info.Kind != mesh.KindDataplane && i.info.Kind != mesh.KindZoneIngress || len(p) != 1 {
		return nil
	}
	debug := &debugService{api: i.api}
	key := func(r *http.Request) mesh.Key {
		k := i.key()
		k.Zone = r.URL.Query().Get("zone")
		return k
	}
	if p[0] == "_delivery" {
		return func(w http.ResponseWriter, r *http.Request) error {
			resp, err := debug.DebugProxy(r.Context(), &adminv1.DebugProxyRequest{Key: key(r).Proto()})
			return answerMessage(w, r, resp, err)
		}
	}
	what, ok := envoyPaths[p[0]]
	if !ok {
		return nil
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		resp, err := debug.ProxyAdmin(r.Context(), &adminv1.ProxyAdminRequest{
			Key:    key(r).Proto(),
			What:   what,
			Filter: r.URL.Query().Get("filter"),
		})
		if err != nil {
			return err
		}
		return answer(w, r, http.StatusOK, resp.GetBody())
	}
}

// change is GET /changes/{revision}.
func (a *API) change(revision string) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		n, err := strconv.ParseUint(revision, 10, 64)
		if err != nil {
			return badQuery("revision", strconv.Quote(revision)+" is no revision; one is a number from 1")
		}
		q := r.URL.Query()
		ofGlobal, err := boolQuery(q, "ofGlobal")
		if err != nil {
			return err
		}
		resp, err := (&debugService{api: a}).DebugChange(r.Context(), &adminv1.DebugChangeRequest{
			Revision: n,
			Zone:     q.Get("zone"),
			OfGlobal: ofGlobal,
		})
		return answerMessage(w, r, resp, err)
	}
}

func answerMessage(w http.ResponseWriter, r *http.Request, m proto.Message, err error) error {
	if err != nil {
		return err
	}
	raw, err := adminjson.Marshal(m)
	if err != nil {
		return err
	}
	return answer(w, r, http.StatusOK, raw)
}
