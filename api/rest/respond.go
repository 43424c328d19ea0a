package rest

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

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/mesh/codec"
)

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
	_, _ = w.Write(b.Bytes()) // it fails only if the caller has closed the connection
	return nil
}

// answerObject is answer for what is not JSON yet.
func answerObject(w http.ResponseWriter, r *http.Request, status int, o *codec.Object) error {
	if form, _ := acceptable(r); form == typeYAML {
		raw, err := o.MarshalJSON()
		if err != nil {
			return err
		}
		return answer(w, r, status, raw)
	}
	text, err := o.IndentedJSON()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // it fails only if the caller has closed the connection
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
		return nil, problem.New(http.StatusUnsupportedMediaType, "Unsupported Media Type",
			"the header Content-Type is missing: send application/json or application/yaml")
	default:
		return nil, problem.New(http.StatusUnsupportedMediaType, "Unsupported Media Type",
			"the header Content-Type is %q: send application/json or application/yaml",
			r.Header.Get("Content-Type"))
	}
	data, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, problem.New(http.StatusRequestEntityTooLarge, "Request Entity Too Large",
			"the body is larger than %d bytes", large.Limit)
	case err != nil:
		return nil, unreadable(err)
	}
	return data, nil
}

// unreadable is the problem of a body that cannot be read.
func unreadable(err error) *problem.Problem {
	return problem.New(http.StatusBadRequest, problem.TitleBadRequest, "the body cannot be read: %v", err)
}

func badQuery(field, reason string) *problem.Problem {
	return problem.Invalid(problem.TitleBadRequest, mesh.Violation{Field: field, Reason: reason})
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
		return false, badQuery(key, "is "+strconv.Quote(q.Get(key))+", must be true or false")
	}
	return v, nil
}

// answerMessage writes a message of the management API, or returns err.
func answerMessage(w http.ResponseWriter, r *http.Request, m proto.Message, err error) error {
	if err != nil {
		return err
	}
	raw, err := codec.MarshalAnswer(m)
	if err != nil {
		return err
	}
	return answer(w, r, http.StatusOK, raw)
}
