package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/api"
	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// collection is the paths of a kind.
type collection struct {
	*Handler
	info *mesh.KindInfo
	// overview joins resources with what is known of their liveness.
	overview bool
}

// query reads the filters and the page of a list.
func (c collection) query(r *http.Request, p params) (api.Selection, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return api.Selection{}, badQuery("", "the query cannot be read: "+err.Error())
	}
	s := api.Selection{
		Kind: c.info,
		Mesh: p.mesh,
		Size: api.MaxPage,
		Name: q.Get("name"),
	}
	if q.Has("size") {
		n, err := strconv.Atoi(q.Get("size"))
		if err != nil || n < 1 || n > api.MaxPage {
			return s, problem.Invalid(problem.TitleList, mesh.Violation{
				Field:  "size",
				Reason: "is " + strconv.Quote(q.Get("size")) + ", must be a number from 1 to 1000",
			})
		}
		s.Size = n
	}
	if q.Has("zone") {
		zone := q.Get("zone")
		s.Zone = &zone
	}
	for key, values := range q {
		filter, ok := strings.CutPrefix(key, "filter[")
		if !ok {
			continue
		}
		label, ok := strings.CutPrefix(strings.TrimSuffix(filter, "]"), "labels.")
		if !ok || !strings.HasSuffix(filter, "]") || label == "" || strings.ContainsAny(label, "[]") {
			return s, problem.Invalid(problem.TitleList, mesh.Violation{
				Field:  key,
				Reason: "is not a filter; there is filter[labels.KEY]=VALUE, and name=TEXT",
			})
		}
		if s.Labels == nil {
			s.Labels = map[string]string{}
		}
		s.Labels[label] = values[len(values)-1]
	}
	if q.Has("offset") {
		n, err := strconv.ParseUint(q.Get("offset"), 10, 31)
		if err != nil {
			return s, problem.New(http.StatusBadRequest, problem.TitleList,
				"invalid: offset is %q, must be a number from 0", q.Get("offset"))
		}
		s.Offset = int(n)
	}
	if q.Has("after") {
		after, ok := parseAfter(c.info.Kind, q.Get("after"))
		if !ok {
			return s, problem.Invalid(problem.TitleList, mesh.Violation{
				Field:  "after",
				Reason: "must be as next has it",
			})
		}
		s.After = after
	}
	if c.info.Kind == mesh.KindDataplane {
		s.Keep, err = dataplaneFilter(q)
	}
	return s, err
}

// dataplaneFilter reads gateway= and tag=.
func dataplaneFilter(q url.Values) (func(*mesh.Resource) bool, error) {
	var keep []func(*meshv1.Dataplane_Networking) bool
	if q.Has("gateway") {
		switch strings.ToLower(q.Get("gateway")) {
		case "true":
			keep = append(keep, func(n *meshv1.Dataplane_Networking) bool { return n.GetGateway() != nil })
		case "false":
			keep = append(keep, func(n *meshv1.Dataplane_Networking) bool { return n.GetGateway() == nil })
		case "builtin":
			keep = append(keep,
				func(n *meshv1.Dataplane_Networking) bool { return n.GetGateway().GetType() == "BUILTIN" })
		case "delegated":
			keep = append(keep, func(n *meshv1.Dataplane_Networking) bool {
				return n.GetGateway() != nil && n.GetGateway().GetType() != "BUILTIN"
			})
		default:
			return nil, problem.Invalid(problem.TitleList, mesh.Violation{
				Field: "gateway",
				Reason: "is " + strconv.Quote(q.Get("gateway")) +
					", must be true, false, builtin or delegated",
			})
		}
	}
	var tags [][2]string
	for _, t := range q["tag"] {
		if k, v, ok := strings.Cut(t, ":"); ok {
			tags = append(tags, [2]string{k, v})
		}
	}
	if len(tags) > 0 {
		carries := func(has map[string]string) bool {
			for _, t := range tags {
				v, ok := has[t[0]]
				if !ok || t[1] != "*" && !strings.Contains(v, t[1]) {
					return false
				}
			}
			return true
		}
		keep = append(keep, func(n *meshv1.Dataplane_Networking) bool {
			return n.GetGateway() != nil && carries(n.GetGateway().GetTags()) ||
				slices.ContainsFunc(n.GetInbound(),
					func(in *meshv1.Dataplane_Inbound) bool { return carries(in.GetTags()) })
		})
	}
	if len(keep) == 0 {
		return nil, nil
	}
	return func(r *mesh.Resource) bool {
		n := mesh.Spec[*meshv1.Dataplane](r).GetNetworking()
		for _, f := range keep {
			if !f(n) {
				return false
			}
		}
		return true
	}, nil
}

func (c collection) list(w http.ResponseWriter, r *http.Request, p params) error {
	s, err := c.query(r, p)
	if err != nil {
		return err
	}
	watch, err := boolQuery(r.URL.Query(), "watch")
	if err != nil {
		return err
	}
	if watch {
		return c.watch(w, r, s)
	}
	got, err := c.core.List(r.Context(), s)
	if err != nil {
		return err
	}
	items, err := c.items(r.Context(), got.Resources)
	if err != nil {
		return err
	}
	out := &codec.Object{}
	out.Set("total", got.Total)
	out.Set("items", items)
	out.Set("next", nil)
	switch end := s.Offset + len(got.Resources); {
	case got.Next != nil:
		out.Set("next", nextURL(r, end, afterText(*got.Next)))
	case s.After == nil && len(got.Resources) > 0 && end < got.Total:
		out.Set("next", nextURL(r, end, ""))
	}
	if len(got.Warnings) > 0 {
		out.Set("warnings", got.Warnings)
	}
	w.Header().Set("X-Meridian-Revision", strconv.FormatUint(got.Revision, 10))
	return answerObject(w, r, http.StatusOK, out)
}

// items are the documents of a page.
func (c collection) items(ctx context.Context, rs []*mesh.Resource) ([]any, error) {
	items := make([]any, 0, len(rs))
	if c.overview {
		overviews, err := c.overviews(ctx, rs)
		for _, o := range overviews {
			items = append(items, o)
		}
		return items, err
	}
	for _, res := range rs {
		o, err := codec.Encode(res)
		if err != nil {
			return nil, err
		}
		items = append(items, o)
	}
	return items, nil
}

// afterText is a key within its kind, as the query has it; parseAfter reads it.
func afterText(k mesh.Key) string {
	return strings.Join([]string{k.Mesh, k.Name, k.Zone, k.Namespace}, "/")
}

func parseAfter(kind mesh.Kind, text string) (*mesh.Key, bool) {
	parts := strings.Split(text, "/")
	if len(parts) != 4 {
		return nil, false
	}
	return &mesh.Key{
		Kind:      kind,
		Mesh:      parts[0],
		Name:      parts[1],
		Zone:      parts[2],
		Namespace: parts[3],
	}, true
}

// nextURL is absolute: the connection's scheme, the request's host, all query keys kept but those of the
// page. An after counts before the offset, which stands for clients that read it.
func nextURL(r *http.Request, offset int, after string) string {
	u := url.URL{
		Scheme:  "http",
		Host:    r.Host,
		Path:    r.URL.Path,
		RawPath: r.URL.RawPath,
	}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	q := r.URL.Query()
	q.Set("offset", strconv.Itoa(offset))
	if q.Del("after"); after != "" {
		q.Set("after", after)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// watchLine is one line of a watch.
type watchLine struct {
	Type     string          `json:"type"` // "upsert", "delete" or "bookmark"
	Revision uint64          `json:"revision"`
	Resource json.RawMessage `json:"resource,omitempty"`
	Key      *watchKey       `json:"key,omitempty"`
}

type watchKey struct {
	Type string `json:"type"`
	Mesh string `json:"mesh,omitempty"`
	Zone string `json:"zone,omitempty"`
	Name string `json:"name"`
}

// watch answers with JSON lines: the state, a bookmark, and each change; with since=R only the
// changes after R.
func (c collection) watch(w http.ResponseWriter, r *http.Request, s api.Selection) error {
	q := r.URL.Query()
	ctl := http.NewResponseController(w)
	send := func(e api.Event) error {
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(http.StatusOK)
		}
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, res := range e.Upserts {
			raw, err := codec.EncodeJSON(res)
			if err != nil {
				return err
			}
			if err := enc.Encode(watchLine{Type: "upsert", Revision: e.Revision, Resource: raw}); err != nil {
				return err
			}
		}
		for _, k := range e.Deletes {
			if err := enc.Encode(watchLine{
				Type:     "delete",
				Revision: e.Revision,
				Key:      &watchKey{string(k.Kind), k.Mesh, k.Zone, k.Name},
			}); err != nil {
				return err
			}
		}
		if e.Bookmark {
			if err := enc.Encode(watchLine{Type: "bookmark", Revision: e.Revision}); err != nil {
				return err
			}
		}
		return ctl.Flush()
	}
	matches := func(res *mesh.Resource) bool {
		return (s.Mesh == "" || res.Key.Mesh == s.Mesh) && s.Matches(res)
	}
	if since := q.Get("since"); since != "" {
		n, err := strconv.ParseUint(since, 10, 64)
		if err != nil {
			return badQuery("since",
				"is "+strconv.Quote(since)+"; must be a revision, such as the X-Meridian-Revision of a list")
		}
		return c.core.WatchSince(r.Context(), n, c.info, matches, send)
	}
	return c.core.Watch(r.Context(), []mesh.Kind{c.info.Kind}, matches, send)
}
