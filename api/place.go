package api

import (
	"net/http"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// place says which origin zone a resource of the kind gets that is written here, or why it is not
// written here.
func (a *API) place(info *mesh.KindInfo) (zone string, err error) {
	no := func(detail string, args ...any) (string, error) {
		p := problem(http.StatusMethodNotAllowed, "Method not allowed", detail, args...)
		p.allow = "GET"
		return "", p
	}
	switch {
	case info.Writers == mesh.ReadOnly:
		return no("a %s is written by control planes alone; it can only be read", info.Kind)
	case a.conf.Role == RoleGlobal:
		if info.Writers == mesh.ZoneOnly {
			return no("a %s belongs to a zone: apply it at the control plane of that zone", info.Kind)
		}
		return "", nil
	case a.conf.Federated:
		if info.Writers == mesh.GlobalOnly {
			return no("a %s is written at global alone: apply it at the global control plane, zone %s gets "+
				"it from there", info.Kind, a.conf.Zone)
		}
		return a.conf.Zone, nil
	case info.Writers == mesh.GlobalOnly:
		return "", nil // a standalone zone is its own global
	}
	return a.conf.Zone, nil
}

func (a *API) writable(info *mesh.KindInfo) bool {
	_, err := a.place(info)
	return err == nil
}

// remote says that global does not hold resources of the kind: zones are asked.
func (a *API) remote(info *mesh.KindInfo) bool {
	return a.conf.Role == RoleGlobal && info.Local() && info.Writers != mesh.GlobalOnly
}

func labelField(key string) string { return `labels["` + key + `"]` }

// checkLabels applies the label rules to what the user gave (rest-api 1.6) and returns the labels
// to store: the user's and the computed ones; what a label may be at all is validate.Resource's. old is
// nil for a new resource; immutable are the violations that concern only an update.
func (a *API) checkLabels(info *mesh.KindInfo, r, old *mesh.Resource,
	bad *mesh.ValidationError) (labels map[string]string, immutable *mesh.ValidationError) {
	given := r.Labels
	zoneOwned := r.Key.Zone != ""
	origin, hasOrigin := given[mesh.LabelOrigin]
	switch {
	case hasOrigin && origin != mesh.OriginGlobal && origin != mesh.OriginZone:
		// validate.Resource has said so
	case a.conf.Role == RoleGlobal && hasOrigin && origin != mesh.OriginGlobal:
		bad.Add(labelField(mesh.LabelOrigin),
			"is %q, must be %q on a global control plane: apply it at the zone if it is for one zone alone, "+
				"or leave the label out", origin, mesh.OriginGlobal)
	case a.conf.Federated && info.Writers == mesh.GlobalAndZone && !info.Flat && origin != mesh.OriginZone:
		bad.Add(labelField(mesh.LabelOrigin),
			"must be %q on the control plane of a zone: add the label kuma.io/origin: zone to keep this "+
				"%s to zone %s, or apply it at the global control plane to have it in every zone",
			mesh.OriginZone, info.Kind, a.conf.Zone)
	case a.conf.Role == RoleZone && zoneOwned && hasOrigin && origin != mesh.OriginZone:
		bad.Add(labelField(mesh.LabelOrigin),
			"is %q, but zone %s has no say over global's resources: leave the label out or set it to %q",
			origin, a.conf.Zone, mesh.OriginZone)
	}
	if z, ok := given[mesh.LabelZone]; ok && z != r.Key.Zone {
		if zoneOwned {
			bad.Add(labelField(mesh.LabelZone), "is %q, must be %q: this is the control plane of that zone",
				z, r.Key.Zone)
		} else {
			bad.Add(labelField(mesh.LabelZone),
				"is %q, but this resource belongs to no zone: leave the label out", z)
		}
	}
	if role, ok := given[mesh.LabelPolicyRole]; ok && info.Policy != nil && role != "system" {
		bad.Add(labelField(mesh.LabelPolicyRole), "is %q, must be %q: other roles exist on Kubernetes alone",
			role, "system")
	}

	labels = make(map[string]string, len(given)+4)
	for k, v := range given {
		labels[k] = v
	}
	if info.Scope == mesh.ScopeMesh {
		labels[mesh.LabelMesh] = r.Key.Mesh
	}
	switch {
	case zoneOwned:
		labels[mesh.LabelOrigin], labels[mesh.LabelZone], labels[mesh.LabelEnv] = mesh.OriginZone, r.Key.Zone,
			"universal"
	case a.conf.Role == RoleGlobal && info.Kind != mesh.KindMesh && info.Kind != mesh.KindZone:
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

	immutable = &mesh.ValidationError{}
	if old != nil {
		for _, key := range []string{mesh.LabelOrigin, mesh.LabelZone, mesh.LabelDisplayName} {
			was, had := old.Labels[key]
			is, has := labels[key]
			if key == mesh.LabelDisplayName && was == r.Key.Name {
				had = is != "" &&

					is != was // the label said what holds without it: who takes over from a generator may leave it out
			}
			switch {
			case had && !has:
				immutable.Add(labelField(key), "was %q and may not go away", was)
			case had && was != is:
				immutable.Add(labelField(key), "was %q and may not change (to %q): delete the resource first",
					was, is)
			}
		}
	}
	return labels, immutable
}

// checkKind applies the rules of single kinds that need more than the document (rest-api 1.6).
func checkKind(r, old *mesh.Resource, bad *mesh.ValidationError) {
	switch r.Key.Kind {
	case mesh.KindMesh:
		if old == nil {
			return
		}
		was, is := mesh.Spec[*meshv1.Mesh](old).GetMtls(), mesh.Spec[*meshv1.Mesh](r).GetMtls()
		if was.GetEnabledBackend() != "" && is.GetEnabledBackend() != "" &&
			was.GetEnabledBackend() != is.GetEnabledBackend() && !is.GetSkipValidation() {
			bad.Add("mtls.enabledBackend",
				"may not change from %q to %q while mTLS is on: set it to \"\" first",
				was.GetEnabledBackend(), is.GetEnabledBackend())
		}
	default:
		if r.Key.Zone != "" && len(r.Key.Zone)+1+len(r.Key.Name) >= 253 {
			bad.Add("name", "is too long: with the zone's name and a dot it must be shorter than 253")
		}
	}
}
