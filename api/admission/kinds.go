package admission

import (
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// maxZonedName bounds zone, dot and name together: global stores them as one name of DNS.
const maxZonedName = 253

// checkKind applies the rules of single kinds that need more than the document.
func checkKind(r, old *mesh.Resource, bad *mesh.ValidationError) {
	if r.Key.Kind == mesh.KindMesh {
		checkMesh(r, old, bad)
		return
	}
	if r.Key.Zone != "" && len(r.Key.Zone)+1+len(r.Key.Name) >= maxZonedName {
		bad.Add("name", "is too long: with the zone's name and a dot it must be shorter than %d",
			maxZonedName)
	}
}

// checkMesh keeps mTLS from changing its authority while proxies use it.
func checkMesh(r, old *mesh.Resource, bad *mesh.ValidationError) {
	if old == nil {
		return
	}
	mtls := mesh.Spec[*meshv1.Mesh](r).GetMtls()
	was, is := mesh.Spec[*meshv1.Mesh](old).GetMtls().GetEnabledBackend(), mtls.GetEnabledBackend()
	if was != "" && is != "" && was != is && !mtls.GetSkipValidation() {
		bad.Add("mtls.enabledBackend", "may not change from %q to %q while mTLS is on: set it to \"\" first",
			was, is)
	}
}
