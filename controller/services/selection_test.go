package services

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// A selector sees tags that are not written in the Dataplane and what follows from its key, as it does in
// the engine: a service that counts no instances gets no traffic from other zones.
func TestSelectorsSeeWhatFollowsFromTheKey(t *testing.T) {
	selectors := map[string]*meshv1.MeshService_Selector{
		"display-name": {DataplaneLabels: &meshv1.MeshService_DataplaneLabels{
			MatchLabels: map[string]string{mesh.LabelDisplayName: "web-1"},
		}},
		"zone-label": {DataplaneLabels: &meshv1.MeshService_DataplaneLabels{
			MatchLabels: map[string]string{mesh.LabelZone: zone},
		}},
		"zone-tag": {DataplaneTags: map[string]string{mesh.TagService: "web", mesh.TagZone: zone}},
	}
	for name, selector := range selectors {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.put(dataplane("web-1", inbound("web", 80)))
				w.put(&mesh.Resource{
					Key:    serviceKey(name),
					Labels: map[string]string{mesh.LabelDisplayName: name},
					Spec: &meshv1.MeshService{
						Selector: selector,
						Ports:    []*meshv1.ServicePort{{Port: 80}},
					},
				})
				if n := w.instances(name); n != 1 {
					t.Errorf("%d instances of a service that selects the one there is", n)
				}

				// The index must find the service again when its instance changes.
				w.remove(dataplane("web-1").Key)
				if n := w.instances(name); n != 0 {
					t.Errorf("%d instances after the last is gone", n)
				}
				w.settled()
			})
		})
	}
}

func (w *world) instances(service string) uint32 {
	w.t.Helper()
	return mesh.Status[*meshv1.MeshServiceStatus](w.get(serviceKey(service))).GetDataplaneProxies().GetTotal()
}

// A template that the API accepts renders: white space around it, such as the newline of a YAML
// block, is not part of the hostname.
func TestTemplateWithNewline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.put(hostnames("block", "MeshService", "{{ .Name }}.mesh\n"))
		w.put(dataplane("a", inbound("web", 80)))
		if got := w.address(serviceKey("web")).GetHostnames(); !slices.Equal(got, []string{"web.mesh"}) {
			t.Errorf("hostnames are %q", got)
		}
		generators := mesh.Status[*meshv1.MeshServiceStatus](w.get(serviceKey("web"))).GetHostnameGenerators()
		if reason := generators[0].GetConditions()[0].GetReason(); reason != "Generated" {
			t.Errorf("reason is %s", reason)
		}
		w.settled()
	})
}
