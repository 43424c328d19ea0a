package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/mesh"
)

// handler answers a request or returns why not; it has written nothing if it returns an error.
type handler func(w http.ResponseWriter, r *http.Request) error

// route is what a path offers.
type route struct {
	title string
	verbs map[string]handler
	// open: anonymous callers may, and a bad token is not looked at.
	open bool
}

// aliases of plurals that the peer's clients use.
var aliases = map[string]string{"globalsecrets": "global-secrets", "zone-ingresses": "zoneingresses"}

func lookupPlural(plural string) (*mesh.KindInfo, bool) {
	if p, ok := aliases[plural]; ok {
		plural = p
	}
	return mesh.LookupPlural(plural)
}

// segments of a path, unescaped; empty ones do not count, so that a trailing slash does no harm.
func segments(u *url.URL) ([]string, error) {
	var out []string
	for s := range strings.SplitSeq(u.EscapedPath(), "/") {
		if s == "" {
			continue
		}
		text, err := url.PathUnescape(s)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

// find is the router: the grammar is small and its second half depends on the table of kinds.
func (a *API) find(p []string) *route {
	if len(p) == 0 {
		return &route{title: "Could not answer", verbs: map[string]handler{"GET": a.index}, open: true}
	}
	if len(p) == 1 {
		if h := a.system(p[0]); h != nil {
			return &route{title: "Could not answer", verbs: map[string]handler{"GET": h}}
		}
	}
	if len(p) == 2 && p[0] == "tokens" {
		if h := a.tokenHandler(p[1]); h != nil {
			return &route{title: titleToken, verbs: map[string]handler{"POST": h}}
		}
		return nil
	}
	if len(p) == 2 && p[0] == "changes" {
		return &route{title: titleDebug, verbs: map[string]handler{"GET": a.change(p[1])}}
	}
	meshName := ""
	if len(p) >= 3 && p[0] == "meshes" && p[2] != "_overview" {
		meshName = p[1]
		p = p[2:]
	}
	plural := p[0]
	overview := false
	if base, ok := strings.CutSuffix(plural, "+insights"); ok {
		plural, overview = base, true
	}
	info, ok := lookupPlural(plural)
	if !ok || (meshName != "") != (info.Scope == mesh.ScopeMesh) &&
		(meshName != "" || len(p) > 1 && p[1] != "_overview") {
		return nil
	}
	p = p[1:]
	if n := len(p); n > 0 && p[n-1] == "_overview" {
		if overview {
			return nil
		}
		overview = true
		p = p[:n-1]
	}
	if overview && overviewOf(info.Kind) == nil {
		return nil
	}
	c := collection{
		api:      a,
		info:     info,
		mesh:     meshName,
		overview: overview,
	}
	switch len(p) {
	case 0:
		return &route{title: titleList, verbs: map[string]handler{"GET": c.list}}
	case 1:
		i := item{collection: c, name: p[0]}
		verbs := map[string]handler{"GET": i.get}
		if !overview {
			verbs["PUT"], verbs["DELETE"] = i.put, i.delete
		}
		return &route{title: titleGet, verbs: verbs}
	}
	if h := (item{collection: c, name: p[0]}).below(p[1:]); h != nil && !overview {
		return &route{title: titleInspect, verbs: map[string]handler{"GET": h}}
	}
	if h := (item{collection: c, name: p[0]}).live(p[1:]); h != nil && !overview {
		return &route{title: titleDebug, verbs: map[string]handler{"GET": h}}
	}
	return nil
}

// serveREST is the edge of REST.
func (a *API) serveREST(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rw := &recorder{ResponseWriter: w}
	title := "Could not answer"
	err := func() (err error) {
		defer a.recovered(&err, r.Method+" "+r.URL.Path)
		p, err := segments(r.URL)
		if err != nil {
			return problem(http.StatusBadRequest, "Bad Request", "the path cannot be read: %v", err)
		}
		rt := a.find(p)
		if rt == nil {
			return problem(http.StatusNotFound, "Page Not Found", "there is nothing at %s", r.URL.Path)
		}
		title = rt.title
		if !rt.open {
			if _, err := callerOf(r.Context()); err != nil {
				return err
			}
		}
		h, ok := rt.verbs[r.Method]
		if !ok {
			p := problem(http.StatusMethodNotAllowed, "Method not allowed", "%s is not possible at %s",
				r.Method, r.URL.Path)
			var allow []string
			for _, m := range []string{"GET", "PUT", "POST", "DELETE"} {
				if rt.verbs[m] != nil {
					allow = append(allow, m)
				}
			}
			p.allow = strings.Join(allow, ", ")
			return p
		}
		if _, ok := acceptable(r); !ok && r.Method != http.MethodPost {
			return problem(http.StatusNotAcceptable, "Not Acceptable",
				"the header Accept is %q; there is application/json and application/yaml",
				r.Header.Get("Accept"))
		}
		r.Body = http.MaxBytesReader(rw, r.Body, maxBody)
		return h(rw, r)
	}()
	if err != nil {
		p := a.asProblem(err, title)
		if rw.status != 0 { // too late for an answer: break the connection so that the caller sees that it is not whole
			a.log.Sugar().Debugf("answer broken off: %v", p)
			panic(http.ErrAbortHandler)
		}
		p.write(rw)
	}
	verb := r.Method
	if q := r.URL.Query(); q.Get("watch") != "" || q.Get("wait") != "" {
		verb = ""
	}
	a.observe(verb, rw.status, start)
}

// observe counts an answer; an empty verb is one whose time says nothing.
func (a *API) observe(verb string, status int, start time.Time) {
	switch verb {
	case "":
		return
	case "GET", "PUT", "POST", "DELETE", "grpc":
	default:
		verb = "other"
	}
	result := "ok"
	if status >= 500 {
		result = "failed"
	} else if status >= 400 {
		result = "refused"
	}
	a.metrics.duration.WithLabelValues(verb, result).Observe(time.Since(start).Seconds())
}

// recorder notes whether an answer has begun.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach Flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

const (
	typeJSON = "application/json"
	typeYAML = "application/yaml"
)

// acceptable is the form to answer in.
func acceptable(r *http.Request) (string, bool) {
	accept := r.Header.Get("Accept")
	if accept == "" {
		return typeJSON, true
	}
	for part := range strings.SplitSeq(accept, ",") {
		t, _, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		switch t {
		case typeJSON, "*/*", "application/*", "application/problem+json", "application/x-ndjson",
			"text/plain":
			return typeJSON, true
		case typeYAML, "text/yaml", "application/x-yaml":
			return typeYAML, true
		}
	}
	return "", false
}

// answer writes JSON, indented by one space, or the same as YAML if the caller asked for that.
func answer(w http.ResponseWriter, r *http.Request, status int, raw []byte) error {
	form, _ := acceptable(r)
	var b bytes.Buffer
	if form == typeYAML {
		text, err := jsonToYAML(raw)
		if err != nil {
			return err
		}
		b.Write(text)
	} else {
		if err := json.Indent(&b, raw, "", " "); err != nil {
			return err
		}
		b.WriteByte('\n')
	}
	w.Header().Set("Content-Type", form)
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the caller went away
	return nil
}

func answerValue(w http.ResponseWriter, r *http.Request, status int, v any) error {
	raw, err := marshal(v)
	if err != nil {
		return err
	}
	return answer(w, r, status, raw)
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// jsonToYAML keeps the order of fields.
func jsonToYAML(raw []byte) ([]byte, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(raw, &n); err != nil {
		return nil, err
	}
	block(&n)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&n); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

func block(n *yaml.Node) {
	if len(n.Content) > 0 {
		n.Style = 0
	} else if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = 0 // the encoder quotes what needs it
	}
	for _, c := range n.Content {
		block(c)
	}
}

// body reads a request's document; only JSON and YAML are taken.
func body(r *http.Request) ([]byte, error) {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err == nil && (t == typeJSON || t == typeYAML || t == "text/yaml" || t == "application/x-yaml"):
	case r.Header.Get("Content-Type") == "":
		return nil, problem(http.StatusUnsupportedMediaType, "Unsupported Media Type",
			"the header Content-Type is missing: send application/json or application/yaml")
	default:
		return nil, problem(http.StatusUnsupportedMediaType, "Unsupported Media Type",
			"the header Content-Type is %q: send application/json or application/yaml",
			r.Header.Get("Content-Type"))
	}
	data, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, problem(http.StatusRequestEntityTooLarge, "Request Entity Too Large",
			"the body is larger than %d bytes", large.Limit)
	case err != nil:
		return nil, problem(http.StatusBadRequest, "Bad Request", "the body cannot be read: %v", err)
	}
	return data, nil
}

func badQuery(field, reason string) *Problem {
	return invalid("Bad Request", []mesh.Violation{{Field: field, Reason: reason}})
}

// boolQuery reads a query key that is a switch; absent is false, present and empty true.
func boolQuery(q url.Values, key string) (bool, error) {
	if !q.Has(key) {
		return false, nil
	}
	if q.Get(key) == "" {
		return true, nil
	}
	v, err := strconv.ParseBool(q.Get(key))
	if err != nil {
		return false, badQuery(key, "is "+strconv.Quote(q.Get(key))+", want true or false")
	}
	return v, nil
}
