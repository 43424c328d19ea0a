package admission

import (
	"fmt"
	"maps"
	"net/http"

	"github.com/meridian-mesh/meridian/api/problem"
	"github.com/meridian-mesh/meridian/mesh"
	"github.com/meridian-mesh/meridian/policy"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// Owner says which origin zone a resource of the kind gets that is written here, or why it is not
// written here.
func (a *Admission) Owner(info *mesh.KindInfo) (zone string, err error) {
	no := func(detail string, args ...any) (string, error) {
		p := problem.New(http.StatusMethodNotAllowed, problem.TitleMethod, detail, args...)
		p.Allow = "GET"
		return "", p
	}
	switch {
	case info.Writers == mesh.ReadOnly:
		return no("a %s is written by control planes alone; it can only be read", info.Kind)
	case a.cfg.Global:
		if info.Writers == mesh.ZoneOnly {
			return no("a %s belongs to a zone: apply it at the control plane of that zone", info.Kind)
		}
		return "", nil
	case a.cfg.Federated:
		if info.Writers == mesh.GlobalOnly {
			return no("a %s is written at global alone: apply it at the global control plane, zone %s gets "+
				"it from there", info.Kind, a.cfg.Zone)
		}
		return a.cfg.Zone, nil
	case info.Writers == mesh.GlobalOnly:
		return "", nil // a standalone zone is its own global
	}
	return a.cfg.Zone, nil
}

// elsewhere is the problem of a write to what another control plane owns.
func elsewhere(title string, info *mesh.KindInfo, owner, act string) *problem.Problem {
	where, whose := "at the global control plane", "global"
	if owner != "" {
		where, whose = "at the control plane of zone "+owner, "zone "+owner
	}
	p := problem.New(http.StatusBadRequest, title, "this %s belongs to %s: %s it %s", info.Kind, whose, act,
		where)
	p.Violations = []mesh.Violation{{Field: "zone", Reason: p.Detail}}
	return p
}

func labelField(key string) string { return `labels["` + key + `"]` }

// labels applies the label rules to what the user gave and returns the labels to store: the user's
// and the computed ones; what a label may be at all is mesh.Validate's. old is nil for a new
// resource; immutable are the violations that concern only an update.
func (a *Admission) labels(info *mesh.KindInfo, r, old *mesh.Resource,
	bad *mesh.ValidationError) (labels map[string]string, immutable *mesh.ValidationError) {
	a.checkOrigin(info, r, bad)
	if info.Policy != nil && !a.cfg.Global && r.Key.Zone == "" && old == nil {
		bad.Add(labelField(mesh.LabelOrigin),
			"is %q, but zone %s does not write global's resources: leave the label out or set it to %q",
			r.Labels[mesh.LabelOrigin], a.cfg.Zone, mesh.OriginZone)
	}
	labels = a.computed(info, r)
	return labels, checkImmutable(r, old, labels)
}

// leaveOut removes what only says in which cluster a document was written, as documents that were read from
// one carry it, with a warning for each.
func (a *Admission) leaveOut(info *mesh.KindInfo, r *mesh.Resource) (warnings []string) {
	if (info.Kind == mesh.KindDataplane || info.Kind == mesh.KindZoneIngress) && r.Key.Namespace != "" {
		// As when the proxy brings the document itself: both are one resource.
		warnings = append(
			warnings,
			fmt.Sprintf("metadata.namespace: %q is left out: on hosts, a proxy is known by "+
				"its name", r.Key.Namespace),
		)
		r.Key.Namespace = ""
		delete(r.Labels, mesh.LabelNamespace)
	}
	if info.Policy == nil {
		return warnings
	}
	if zone, ok := r.Labels[mesh.LabelZone]; ok && a.cfg.Global {
		delete(r.Labels, mesh.LabelZone)
		warnings = append(warnings, fmt.Sprintf("%s: %q is left out: a policy of global belongs to no zone",
			labelField(mesh.LabelZone), zone))
	}
	if role, ok := r.Labels[mesh.LabelPolicyRole]; ok && role != policy.RoleSystem {
		delete(r.Labels, mesh.LabelPolicyRole)
		warnings = append(
			warnings,
			fmt.Sprintf("%s: %q is left out: it is %s, as there are namespaces on Kubernetes "+
				"alone", labelField(mesh.LabelPolicyRole), role, policy.RoleSystem),
		)
	}
	return warnings
}

// checkOrigin compares the labels of origin and zone with where the resource belongs.
func (a *Admission) checkOrigin(info *mesh.KindInfo, r *mesh.Resource, bad *mesh.ValidationError) {
	zoneOwned := r.Key.Zone != ""
	origin, hasOrigin := r.Labels[mesh.LabelOrigin]
	switch {
	case hasOrigin && origin != mesh.OriginGlobal && origin != mesh.OriginZone:
		// mesh.Validate has reported it
	case a.cfg.Global && hasOrigin && origin != mesh.OriginGlobal:
		bad.Add(labelField(mesh.LabelOrigin),
			"is %q, must be %q on a global control plane: apply it at the zone if it is for one zone alone, "+
				"or leave the label out", origin, mesh.OriginGlobal)
	case a.cfg.Federated && info.Writers == mesh.GlobalAndZone && !info.Flat && origin != mesh.OriginZone:
		bad.Add(labelField(mesh.LabelOrigin),
			"must be %q on the control plane of a zone: add the label kuma.io/origin: zone to keep this "+
				"%s to zone %s, or apply it at the global control plane to have it in every zone",
			mesh.OriginZone, info.Kind, a.cfg.Zone)
	case !a.cfg.Global && zoneOwned && hasOrigin && origin != mesh.OriginZone:
		bad.Add(labelField(mesh.LabelOrigin),
			"is %q, but zone %s does not write global's resources: leave the label out or set it to %q",
			origin, a.cfg.Zone, mesh.OriginZone)
	}

	zone, hasZone := r.Labels[mesh.LabelZone]
	switch {
	case !hasZone || zone == r.Key.Zone:
	case zoneOwned:
		bad.Add(labelField(mesh.LabelZone), "is %q, must be %q: this is the control plane of that zone",
			zone, r.Key.Zone)
	default:
		bad.Add(labelField(mesh.LabelZone),
			"is %q, but this resource belongs to no zone: leave the label out", zone)
	}
}

// computed are the labels to store.
func (a *Admission) computed(info *mesh.KindInfo, r *mesh.Resource) map[string]string {
	labels := make(map[string]string, len(r.Labels)+4)
	maps.Copy(labels, r.Labels)
	if info.Scope == mesh.ScopeMesh {
		labels[mesh.LabelMesh] = r.Key.Mesh
	}
	switch {
	case r.Key.Zone != "":
		labels[mesh.LabelOrigin] = mesh.OriginZone
		labels[mesh.LabelZone] = r.Key.Zone
		labels[mesh.LabelEnv] = "universal"
	case a.cfg.Global && info.Kind != mesh.KindMesh:
		labels[mesh.LabelOrigin] = mesh.OriginGlobal
	}
	switch r.Key.Kind {
	case mesh.KindDataplane:
		labels[mesh.LabelProxyType] = "sidecar"
		if mesh.Spec[*meshv1.Dataplane](r).GetNetworking().GetGateway() != nil {
			labels[mesh.LabelProxyType] = "gateway"
		}
	case mesh.KindZoneIngress:
		labels[mesh.LabelProxyType] = "zoneingress"
	}
	return labels
}

// checkImmutable compares the labels that may not change once they are there.
func checkImmutable(r, old *mesh.Resource, labels map[string]string) *mesh.ValidationError {
	bad := &mesh.ValidationError{}
	if old == nil {
		return bad
	}
	for _, key := range []string{mesh.LabelOrigin, mesh.LabelZone, mesh.LabelDisplayName} {
		was, had := old.Labels[key]
		is, has := labels[key]
		if key == mesh.LabelDisplayName && was == r.Key.Name {
			// The label said what holds without it: a writer that takes over from a generator may omit it.
			had = is != "" && is != was
		}
		switch {
		case had && !has:
			bad.Add(labelField(key), "was %q and may not be removed", was)
		case had && was != is:
			bad.Add(labelField(key), "was %q and may not change (to %q): delete the resource first", was, is)
		}
	}
	return bad
}
