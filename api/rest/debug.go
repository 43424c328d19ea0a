package rest

import (
	"net/http"
	"strconv"

	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
)

// envoyPaths are the words for Envoy's admin interface below a proxy, as Kuma has them.
var envoyPaths = map[string]adminv1.AdminQuestion{
	"xds":      adminv1.AdminQuestion_ADMIN_QUESTION_CONFIG_DUMP,
	"stats":    adminv1.AdminQuestion_ADMIN_QUESTION_STATS,
	"clusters": adminv1.AdminQuestion_ADMIN_QUESTION_CLUSTERS,
}

// zoned is the key of an item in the zone that the query names.
func (c collection) zoned(r *http.Request, p params) mesh.Key {
	k := c.key(p)
	k.Zone, k.Namespace = r.URL.Query().Get("zone"), r.URL.Query().Get("namespace")
	return k
}

// proxyDelivery shows what a proxy has and what it should have.
func (c collection) proxyDelivery(w http.ResponseWriter, r *http.Request, p params) error {
	resp, err := c.core.DebugProxy(r.Context(), &adminv1.DebugProxyRequest{Key: c.zoned(r, p).Proto()})
	return answerMessage(w, r, resp, err)
}

// envoy shows what the admin interface of a proxy's Envoy answers, which is always JSON.
func (c collection) envoy(question adminv1.AdminQuestion) handler {
	return func(w http.ResponseWriter, r *http.Request, p params) error {
		resp, err := c.core.ProxyAdmin(r.Context(), &adminv1.ProxyAdminRequest{
			Key:      c.zoned(r, p).Proto(),
			Question: question,
			Filter:   r.URL.Query().Get("filter"),
		})
		if err != nil {
			return err
		}
		return answer(w, r, http.StatusOK, resp.GetBody())
	}
}

// change is GET /changes/{revision}.
func (h *Handler) change(w http.ResponseWriter, r *http.Request, p params) error {
	n, err := strconv.ParseUint(p.last, 10, 64)
	if err != nil {
		return badQuery("revision", strconv.Quote(p.last)+" is not a revision, which is a number from 1")
	}
	q := r.URL.Query()
	ofGlobal, err := boolQuery(q, "ofGlobal")
	if err != nil {
		return err
	}
	resp, err := h.core.DebugChange(r.Context(), &adminv1.DebugChangeRequest{
		Revision: n,
		Zone:     q.Get("zone"),
		OfGlobal: ofGlobal,
	})
	return answerMessage(w, r, resp, err)
}
