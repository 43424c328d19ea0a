package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meridian-mesh/meridian/identity/tokens"
	"github.com/meridian-mesh/meridian/internal/adminjson"
	"github.com/meridian-mesh/meridian/mesh"
)

// peerVersion is what the index tells the peer's client: it warns on every command if the version
// is not its own, unless the text has "preview" in it.
const peerVersion = "2.14.3-preview.meridian"

func (a *API) index(w http.ResponseWriter, r *http.Request) error {
	return answerValue(w, r, http.StatusOK, struct {
		Product      string `json:"product"`
		Version      string `json:"version"`
		Hostname     string `json:"hostname"`
		InstanceID   string `json:"instanceId"`
		ClusterID    string `json:"clusterId"`
		GUI          string `json:"gui"`
		BasedOnKuma  string `json:"basedOnKuma"`
		MeridianInfo any    `json:"meridian"`
	}{"Meridian", peerVersion, a.hostname, a.conf.Instance, a.conf.Store.ID(), "", "2.14.3",
		struct {
			Version   string `json:"version"`
			Role      string `json:"role"`
			Zone      string `json:"zone,omitempty"`
			Federated bool   `json:"federated"`
		}{a.conf.Version, a.conf.Role, a.conf.Zone, a.conf.Federated}})
}

// system finds the handlers of single words.
func (a *API) system(word string) handler {
	switch word {
	case "who-am-i":
		return a.whoAmI
	case "status":
		return a.getStatus
	case "config":
		return a.getConfig
	case "policies":
		return a.policies
	case "_resources", "-resources":
		return a.resources
	}
	return nil
}

func (a *API) whoAmI(w http.ResponseWriter, r *http.Request) error {
	c, err := callerOf(r.Context())
	if err != nil {
		return err
	}
	return answerValue(w, r, http.StatusOK, struct {
		Name   string   `json:"name"`
		Groups []string `json:"groups"`
	}{c.Name, c.Groups})
}

func (a *API) getStatus(w http.ResponseWriter, r *http.Request) error {
	resp, err := (&service{api: a}).GetStatus(r.Context(), nil)
	if err != nil {
		return err
	}
	raw, err := adminjson.Marshal(resp)
	if err != nil {
		return err
	}
	return answer(w, r, http.StatusOK, raw)
}

func (a *API) getConfig(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.authorize(r.Context(), verbRead, nil); err != nil {
		return err
	}
	if a.conf.ProcessConfig == nil {
		return problem(http.StatusNotFound, "Could not answer",
			"this process was started without a configuration to show")
	}
	raw, err := a.conf.ProcessConfig()
	if err != nil {
		return err
	}
	return answer(w, r, http.StatusOK, raw)
}

type policyRow struct {
	Name                string `json:"name"`
	ReadOnly            bool   `json:"readOnly"`
	Path                string `json:"path"`
	SingularDisplayName string `json:"singularDisplayName"`
	PluralDisplayName   string `json:"pluralDisplayName"`
	IsExperimental      bool   `json:"isExperimental"`
	IsTargetRefBased    bool   `json:"isTargetRefBased"`
	IsInbound           bool   `json:"isInbound"`
	IsOutbound          bool   `json:"isOutbound"`
}

func (a *API) policies(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.authorize(r.Context(), verbRead, nil); err != nil {
		return err
	}
	rows := []policyRow{}
	for _, k := range sortedKinds() {
		if k.Policy == nil {
			continue
		}
		name := displayName(k.Kind)
		rows = append(rows, policyRow{
			Name:                string(k.Kind),
			ReadOnly:            !a.writable(k),
			Path:                k.Plural,
			SingularDisplayName: name,
			PluralDisplayName:   name + "s",
			IsTargetRefBased:    true,
			IsInbound:           k.Policy.HasFrom || k.Policy.HasRules,
			IsOutbound:          k.Policy.HasTo,
		})
	}
	return answerValue(w, r, http.StatusOK, map[string]any{"policies": rows})
}

type resourceRow struct {
	Name                string          `json:"name"`
	Path                string          `json:"path"`
	Scope               string          `json:"scope"`
	ReadOnly            bool            `json:"readOnly"`
	ShortName           string          `json:"shortName"`
	SingularDisplayName string          `json:"singularDisplayName"`
	PluralDisplayName   string          `json:"pluralDisplayName"`
	IncludeInFederation bool            `json:"includeInFederation"`
	Policy              *resourcePolicy `json:"policy,omitempty"`
}

type resourcePolicy struct {
	HasToTargetRef    bool `json:"hasToTargetRef"`
	HasFromTargetRef  bool `json:"hasFromTargetRef"`
	HasRulesTargetRef bool `json:"hasRulesTargetRef"`
	IsTargetRef       bool `json:"isTargetRef"`
	IsFromAsRules     bool `json:"isFromAsRules"`
}

func (a *API) resources(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.authorize(r.Context(), verbRead, nil); err != nil {
		return err
	}
	rows := []resourceRow{}
	for _, k := range sortedKinds() {
		name := displayName(k.Kind)
		row := resourceRow{
			Name:                string(k.Kind),
			Path:                k.Plural,
			Scope:               "Global",
			ReadOnly:            !a.writable(k),
			ShortName:           k.Short,
			SingularDisplayName: name,
			PluralDisplayName:   name + "s",
			IncludeInFederation: k.SyncDown && k.Writers != mesh.ReadOnly,
		}
		if k.Scope == mesh.ScopeMesh {
			row.Scope = "Mesh"
		}
		if p := k.Policy; p != nil {
			row.Policy = &resourcePolicy{
				HasToTargetRef:    p.HasTo,
				HasFromTargetRef:  p.HasFrom,
				HasRulesTargetRef: p.HasRules,
				IsTargetRef:       true,
				IsFromAsRules:     p.HasFrom && p.HasRules && k.Kind == mesh.KindMeshTimeout,
			}
		}
		rows = append(rows, row)
	}
	return answerValue(w, r, http.StatusOK, map[string]any{"resources": rows})
}

func sortedKinds() []*mesh.KindInfo {
	kinds := slices.Clone(mesh.Kinds)
	slices.SortFunc(kinds, func(x, y *mesh.KindInfo) int { return cmp.Compare(x.Kind, y.Kind) })
	return kinds
}

// displayName splits "MeshHTTPRoute" into "Mesh HTTP Route".
func displayName(k mesh.Kind) string {
	var b strings.Builder
	upper := func(i int) bool { return i >= 0 && i < len(k) && k[i] >= 'A' && k[i] <= 'Z' }
	for i := range len(k) {
		if i > 0 && upper(i) && (!upper(i-1) || i+1 < len(k) && !upper(i+1)) {
			b.WriteByte(' ')
		}
		b.WriteByte(k[i])
	}
	return b.String()
}

// tokenHandler is POST /tokens/{what}.
func (a *API) tokenHandler(what string) handler {
	issue := map[string]func(r *http.Request, t tokenRequest, d *time.Duration) (string, error){
		"dataplane": func(r *http.Request, t tokenRequest, d *time.Duration) (string, error) {
			return a.issueDataplane(r.Context(), tokens.DataplaneClaims{
				Mesh:     t.Mesh,
				Name:     t.Name,
				Tags:     t.Tags,
				Type:     t.Type,
				Workload: t.Workload,
			}, d)
		},
		"zone": func(r *http.Request, t tokenRequest, d *time.Duration) (string, error) {
			return a.issueZone(r.Context(), tokens.ZoneClaims{Zone: t.Zone, Scope: t.Scope}, d)
		},
		"user": func(r *http.Request, t tokenRequest, d *time.Duration) (string, error) {
			return a.issueUser(r.Context(), tokens.UserClaims{Name: t.Name, Groups: t.Groups}, d)
		},
	}[what]
	if issue == nil {
		return nil
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		// Rights come before the body.
		if c, err := a.authorize(r.Context(), verbIssue, nil); err != nil {
			a.auditIssue(c, what, nil, err)
			return err
		}
		t, d, err := readTokenRequest(r)
		if err != nil {
			return err
		}
		token, err := issue(r, t, d)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write([]byte(token))
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
			return t, nil, problem(http.StatusBadRequest, "Bad Request",
				"the body is neither JSON nor YAML of a token request")
		}
		if data, err = json.Marshal(v); err != nil {
			return t, nil, problem(http.StatusBadRequest, "Bad Request", "the body cannot be read: %v", err)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&t); err != nil {
		return t, nil, problem(http.StatusBadRequest, "Bad Request", "the body cannot be read: %v", err)
	}
	if t.ValidFor == nil || *t.ValidFor == "" {
		return t, nil, nil
	}
	d, err := time.ParseDuration(*t.ValidFor)
	if err != nil {
		return t, nil, invalid(titleTokenRequest, []mesh.Violation{{
			Field:  "validFor",
			Reason: "is " + *t.ValidFor + ", want a duration such as 24h",
		}})
	}
	return t, &d, nil
}
