package rest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// view shows one of the documents about a Dataplane; name is the first segment below the item.
func (c collection) view(name string) handler {
	return func(w http.ResponseWriter, r *http.Request, p params) error {
		path := append([]string{name}, p.tail...)
		if name == "_inbounds" && len(path) != 3 || name == "_outbounds" && len(path) < 3 {
			return problem.New(http.StatusNotFound, "Page Not Found", "there is nothing at %s", r.URL.Path)
		}
		return c.inspectView(w, r, p, path)
	}
}

func (c collection) inspectView(w http.ResponseWriter, r *http.Request, p params, path []string) error {
	q := r.URL.Query()
	shadow, err := boolQuery(q, "shadow")
	if err != nil {
		return err
	}
	if path[0] != "_rules" && path[0] != "_config" {
		if err := c.exclusive(r, p); err != nil {
			return err
		}
	}
	if len(path) > 1 && !strings.HasPrefix(path[1], "kri_") {
		return badQuery("kri", strconv.Quote(path[1])+" is not a KRI, which begins with kri_")
	}
	resp, err := c.core.InspectView(r.Context(), &adminv1.InspectViewRequest{
		Key:    c.zoned(r, p).Proto(),
		Path:   path,
		Shadow: shadow,
	})
	if err != nil {
		return err
	}
	return answer(w, r, http.StatusOK, resp.GetJson())
}

// exclusive rejects meshes in which outbounds are not resources alone.
func (c collection) exclusive(r *http.Request, p params) error {
	m, err := c.core.Get(r.Context(), mesh.Key{Kind: mesh.KindMesh, Name: p.mesh}, false, 0)
	if err != nil {
		return err
	}
	if mode := mesh.Spec[*meshv1.Mesh](m).GetMeshServices().GetMode(); mode != "Exclusive" {
		return problem.New(http.StatusBadRequest, problem.TitleInspect,
			"mesh %s has meshServices.mode %q; this view exists where it is Exclusive", p.mesh, mode)
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

func (c collection) answerMetas(w http.ResponseWriter, r *http.Request, p params, all []metaItem,
	warnings []string) error {
	s, err := c.query(r, p)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(m metaItem) bool { return !strings.Contains(m.Name, s.Name) })
	end := min(s.Offset+s.Size, len(all))
	page := metaPage{Total: len(all), Items: all[min(s.Offset, len(all)):end], Warnings: warnings}
	if end < len(all) {
		page.Next = nextURL(r, end, "")
	}
	if page.Items == nil {
		page.Items = []metaItem{}
	}
	return answerValue(w, r, http.StatusOK, page)
}

// selected are the Dataplanes that the policy's top-level targetRef selects.
func (c collection) selected(w http.ResponseWriter, r *http.Request, p params) error {
	resp, err := c.core.InspectPolicy(r.Context(), &adminv1.InspectPolicyRequest{
		Key:       c.zoned(r, p).Proto(),
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
	return c.answerMetas(w, r, p, all, resp.GetWarnings())
}

func nonNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// members are the Dataplanes that a destination selects.
func (c collection) members(w http.ResponseWriter, r *http.Request, p params) error {
	key := c.zoned(r, p)
	got, err := c.core.Members(r.Context(), key)
	if err != nil {
		return err
	}
	var all []metaItem
	for _, dp := range got.Resources {
		all = append(all, metaItem{string(dp.Key.Kind), dp.Key.Mesh, dp.Key.Name, nonNil(dp.Labels)})
	}
	return c.answerMetas(w, r, p, all, got.Warnings)
}
