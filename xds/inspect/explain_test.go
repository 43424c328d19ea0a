package inspect

import (
	"errors"
	"testing"

	adminv1 "github.com/meridian-mesh/meridian/proto/meridian/admin/v1"
	"github.com/meridian-mesh/meridian/store/replica"
	"github.com/meridian-mesh/meridian/xds"
)

// TestExplainOneDestinationAtTwoAddresses: what is the same at each address is one answer; two ports of a
// service are two.
func TestExplainOneDestinationAtTwoAddresses(t *testing.T) {
	t.Parallel()

	const service = "type: MeshService\nmesh: default\nname: backend\nspec: {selector: {dataplaneTags: " +
		"{kuma.io/service: backend}}, ports: [{port: 80, targetPort: 8080, appProtocol: http}, " +
		"{port: 81, targetPort: 8080, appProtocol: http}]}\n---\n"
	caller := func(second string) string {
		return "type: Mesh\nname: default\n---\n" + service +
			"type: Dataplane\nmesh: default\nname: backend\nnetworking: {address: 192.0.2.1, inbound: " +
			"[{port: 8080, " +
			"tags: {kuma.io/service: backend, kuma.io/protocol: http}}]}\n---\n" +
			"type: Dataplane\nmesh: default\nname: web\nnetworking: {address: 192.0.2.2, inbound: [{port: " +
			"8080, tags: " +
			"{kuma.io/service: web, kuma.io/protocol: http}}], outbound: [{port: 1, backendRef: {kind: " +
			"MeshService, " +
			"name: backend, port: 80}}, {port: 2, backendRef: {kind: MeshService, name: backend, port: " +
			second + "}}]}\n"
	}
	explain := func(text string) (*adminv1.ExplainResponse, error) {
		view := replica.NewView(1, decode(t, text)...)
		return Explain(xds.NewStatic(zone, view), view, zone, &adminv1.ExplainRequest{
			Mesh: "default",
			From: "web",
			To:   "backend",
		})
	}
	if got, err := explain(caller("80")); err != nil || !got.GetOk() {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := explain(caller("81")); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("two ports: %v", err)
	}
}
