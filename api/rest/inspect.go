package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/xds/compile"
)

// below are the paths under a resource that inspect it (rest-api 2.5 and 2.6); nil if there is nothing.
func (i item) below(p []string) handler {
	switch {
	case i.info.Kind == mesh.KindDataplane &&
		(p[0] == "_rules" || p[0] == "_config" || p[0] == "_layout" || p[0] == "_policies") && len(p) == 1,
		i.info.Kind == mesh.KindDataplane && p[0] == "_inbounds" && len(p) == 3,
		i.info.Kind == mesh.KindDataplane && p[0] == "_outbounds" && len(p) >= 3:
		return func(w http.ResponseWriter, r *http.Request) error { return i.view(w, r, p) }
	case i.info.Policy != nil && slices.Equal(p, []string{"_resources", "dataplanes"}):
		return i.selected
	case i.info.Kind == mesh.KindMeshService &&
		(slices.Equal(p, []string{"_resources", "dataplanes"}) || slices.Equal(p, []string{"_dataplanes"})):
		return i.members
	}
	return nil
}

func (i item) view(w http.ResponseWriter, r *http.Request, p []string) error {
	q := r.URL.Query()
	shadow, err := boolQuery(q, "shadow")
	if err != nil {
		return err
	}
	if p[0] != "_rules" && p[0] != "_config" {
		if err := i.exclusive(r); err != nil {
			return err
		}
	}
	if len(p) > 1 && !strings.HasPrefix(p[1], "kri_") {
		return badQuery("kri", strconv.Quote(p[1])+" is no KRI; one begins with kri_")
	}
	key := i.key()
	key.Zone = q.Get("zone")
	resp, err := (&inspector{api: i.api}).InspectView(r.Context(), &adminv1.InspectViewRequest{
		Key:    key.Proto(),
		Path:   p,
		Shadow: shadow,
	})
	if err != nil {
		return err
	}
	return answer(w, r, http.StatusOK, resp.GetJson())
}

// exclusive refuses meshes in which outbounds are not resources alone.
func (i item) exclusive(r *http.Request) error {
	m, err := i.api.get(r.Context(), mesh.Key{Kind: mesh.KindMesh, Name: i.mesh}, false, 0)
	if err != nil {
		return err
	}
	if mode := mesh.Spec[*meshv1.Mesh](m).GetMeshServices().GetMode(); mode != "Exclusive" {
		return problem(http.StatusBadRequest, titleInspect,
			"mesh %s has meshServices.mode %q; this view exists where it is Exclusive", i.mesh, mode)
	}
	return nil
}

// metaItem is a resource in short.
type metaItem struct {
	Type   string            `json:"type"`
	Mesh   string            `json:"mesh"`
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
}

type metaPage struct {
	Total int        `json:"total"`
	Items []metaItem `json:"items"`
	Next  string     `json:"next,omitempty"`
	// Warnings name the zones that could not be asked.
	Warnings []string `json:"warnings,omitempty"`
}

func (i item) answerMetas(w http.ResponseWriter, r *http.Request, all []metaItem, warnings []string) error {
	s, err := i.query(r)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(m metaItem) bool { return !strings.Contains(m.Name, s.name) })
	end := min(s.offset+s.size, len(all))
	page := metaPage{Total: len(all), Items: all[min(s.offset, len(all)):end], Warnings: warnings}
	if end < len(all) {
		page.Next = nextURL(r, end)
	}
	if page.Items == nil {
		page.Items = []metaItem{}
	}
	return answerValue(w, r, http.StatusOK, page)
}

// selected are the Dataplanes that the policy's top-level targetRef selects.
func (i item) selected(w http.ResponseWriter, r *http.Request) error {
	key := i.key()
	key.Zone = r.URL.Query().Get("zone")
	resp, err := (&inspector{api: i.api}).InspectPolicy(r.Context(), &adminv1.InspectPolicyRequest{
		Key:       key.Proto(),
		NamesOnly: true,
	})
	if err != nil {
		return err
	}
	var all []metaItem
	for _, z := range resp.GetZones() {
		for _, e := range z.GetEffects() {
			k := mesh.KeyFromProto(e.GetKey())
			all = append(all, metaItem{string(k.Kind), k.Mesh, k.Name, nonNil(e.GetLabels())})
		}
	}
	return i.answerMetas(w, r, all, resp.GetWarnings())
}

func nonNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// members are the Dataplanes of a MeshService.
func (i item) members(w http.ResponseWriter, r *http.Request) error {
	key := i.key()
	key.Zone = r.URL.Query().Get("zone")
	svc, err := i.api.get(r.Context(), key, key.Zone != "", 0)
	if err != nil {
		return err
	}
	info, _ := mesh.Lookup(mesh.KindDataplane)
	zone := svc.Key.Zone
	got, err := i.api.list(r.Context(), selection{
		kind: info,
		mesh: i.mesh,
		zone: &zone,
		size: int(^uint(0) >> 2),
		keep: func(dp *mesh.Resource) bool {
			return compile.NewInstance(dp, nil).Selected(mesh.Spec[*meshv1.MeshService](svc).GetSelector())
		},
	})
	if err != nil {
		return err
	}
	var all []metaItem
	for _, dp := range got.resources {
		all = append(all, metaItem{string(dp.Key.Kind), dp.Key.Mesh, dp.Key.Name, nonNil(dp.Labels)})
	}
	return i.answerMetas(w, r, all, got.warnings)
}
