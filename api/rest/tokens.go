package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/mesh"
)

// tokenRequest is the body of POST /tokens/*.
type tokenRequest struct {
	Mesh     string              `json:"mesh"`
	Name     string              `json:"name"`
	Tags     map[string][]string `json:"tags"`
	Type     string              `json:"type"`
	Workload string              `json:"workload"`
	Zone     string              `json:"zone"`
	Scope    []string            `json:"scope"`
	Groups   []string            `json:"groups"`
	ValidFor *string             `json:"validFor"`
}

type issueFunc func(ctx context.Context, t tokenRequest, validFor *time.Duration) (string, error)

// issuers are the words of POST /tokens/{word}.
func (h *Handler) issuers() map[string]issueFunc {
	return map[string]issueFunc{
		"dataplane": func(ctx context.Context, t tokenRequest, validFor *time.Duration) (string, error) {
			return h.core.IssueDataplane(ctx, tokens.DataplaneClaims{
				Mesh:     t.Mesh,
				Name:     t.Name,
				Tags:     t.Tags,
				Type:     t.Type,
				Workload: t.Workload,
			}, validFor)
		},
		"zone": func(ctx context.Context, t tokenRequest, validFor *time.Duration) (string, error) {
			return h.core.IssueZone(ctx, tokens.ZoneClaims{Zone: t.Zone, Scope: t.Scope}, validFor)
		},
		"user": func(ctx context.Context, t tokenRequest, validFor *time.Duration) (string, error) {
			return h.core.IssueUser(ctx, tokens.UserClaims{Name: t.Name, Groups: t.Groups}, validFor)
		},
	}
}

func (h *Handler) issue(what string, issue issueFunc) handler {
	return func(w http.ResponseWriter, r *http.Request, _ params) error {
		// Rights come before the body.
		if err := h.core.MayIssue(r.Context(), what); err != nil {
			return err
		}
		t, validFor, err := readTokenRequest(r)
		if err != nil {
			return err
		}
		token, err := issue(r.Context(), t, validFor)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write([]byte(token)) // it fails only if the caller has closed the connection
		return nil
	}
}

func readTokenRequest(r *http.Request) (tokenRequest, *time.Duration, error) {
	var t tokenRequest
	data, err := body(r)
	if err != nil {
		return t, nil, err
	}
	if !json.Valid(data) { // YAML, then
		var v map[string]any
		if err := yaml.Unmarshal(data, &v); err != nil || v == nil {
			return t, nil, problem.New(http.StatusBadRequest, problem.TitleBadRequest,
				"the body is neither JSON nor YAML of a token request")
		}
		if data, err = json.Marshal(v); err != nil {
			return t, nil, unreadable(err)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&t); err != nil {
		return t, nil, unreadable(err)
	}
	if t.ValidFor == nil || *t.ValidFor == "" {
		return t, nil, nil
	}
	d, err := time.ParseDuration(*t.ValidFor)
	if err != nil {
		return t, nil, problem.Invalid(problem.TitleTokenRequest, mesh.Violation{
			Field:  "validFor",
			Reason: "is " + *t.ValidFor + ", must be a duration such as 24h",
		})
	}
	return t, &d, nil
}
