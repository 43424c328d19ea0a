package rest

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/api/authn"
	"github.com/meridian-mesh/meridian/mesh"
)

// kumaVersion is what the index tells Kuma's client: it warns on every command if the version
// is not its own, unless the text has "preview" in it.
const kumaVersion = "2.14.3-preview.meridian"

func (h *Handler) index(w http.ResponseWriter, r *http.Request, _ params) error {
	type meridian struct {
		Version   string `json:"version"`
		Role      string `json:"role"`
		Zone      string `json:"zone,omitempty"`
		Federated bool   `json:"federated"`
	}
	info := h.core.Info()
	return answerValue(w, r, http.StatusOK, struct {
		Product      string   `json:"product"`
		Version      string   `json:"version"`
		Hostname     string   `json:"hostname"`
		InstanceID   string   `json:"instanceId"`
		ClusterID    string   `json:"clusterId"`
		GUI          string   `json:"gui"`
		BasedOnKuma  string   `json:"basedOnKuma"`
		MeridianInfo meridian `json:"meridian"`
	}{
		Product:     "Meridian",
		Version:     kumaVersion,
		Hostname:    info.Hostname,
		InstanceID:  info.Instance,
		ClusterID:   info.StoreID,
		BasedOnKuma: "2.14.3",
		MeridianInfo: meridian{
			Version:   info.Version,
			Role:      info.Role,
			Zone:      info.Zone,
			Federated: info.Federated,
		},
	})
}

func (h *Handler) whoAmI(w http.ResponseWriter, r *http.Request, _ params) error {
	c, err := authn.From(r.Context())
	if err != nil {
		return err
	}
	return answerValue(w, r, http.StatusOK, struct {
		Name   string   `json:"name"`
		Groups []string `json:"groups"`
	}{c.Name, c.Groups})
}

func (h *Handler) getStatus(w http.ResponseWriter, r *http.Request, _ params) error {
	resp, err := h.core.Status(r.Context())
	return answerMessage(w, r, resp, err)
}

func (h *Handler) getConfig(w http.ResponseWriter, r *http.Request, _ params) error {
	raw, err := h.core.ProcessConfig(r.Context())
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

func (h *Handler) policies(w http.ResponseWriter, r *http.Request, _ params) error {
	if err := h.core.MayListKinds(r.Context()); err != nil {
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
			ReadOnly:            !h.core.Writable(k),
			Path:                k.Plural,
			SingularDisplayName: name,
			PluralDisplayName:   name + "s",
			IsTargetRefBased:    true,
			IsInbound:           k.Policy.HasFrom() || k.Policy.HasRules,
			IsOutbound:          k.Policy.HasTo(),
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

func (h *Handler) resources(w http.ResponseWriter, r *http.Request, _ params) error {
	if err := h.core.MayListKinds(r.Context()); err != nil {
		return err
	}
	rows := []resourceRow{}
	for _, k := range sortedKinds() {
		name := displayName(k.Kind)
		row := resourceRow{
			Name:                string(k.Kind),
			Path:                k.Plural,
			Scope:               "Global",
			ReadOnly:            !h.core.Writable(k),
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
				HasToTargetRef:    p.HasTo(),
				HasFromTargetRef:  p.HasFrom(),
				HasRulesTargetRef: p.HasRules,
				IsTargetRef:       true,
				IsFromAsRules:     p.HasFrom() && p.HasRules && k.Kind == mesh.KindMeshTimeout,
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
