package validate

import "testing"

func TestValidateCore(t *testing.T) {
	t.Parallel()

	mesh := func(s string) string { return "type: Mesh\nname: a\n" + s }
	mtls := func(s string) string { return mesh("mtls: {enabledBackend: ca, backends: [" + s + "]}") }
	dp := func(s string) string {
		return "type: Dataplane\nname: a\nnetworking: {address: 10.0.0.1, " + s + "}"
	}
	in := func(s string) string { return dp("inbound: [" + s + "]") }
	svc := func(s string) string {
		return "type: MeshService\nname: a\nspec: {selector: {dataplaneTags: {a: b}}, ports: [" + s + "]}"
	}
	mz := func(s string) string { return "type: MeshMultiZoneService\nname: a\nspec: " + s }
	hg := func(s string) string { return "type: HostnameGenerator\nname: a\nspec: " + s }
	template := func(s string) string { return hg("{selector: {meshService: {}}, template: '" + s + "'}") }
	for _, tt := range []refused{
		{"mesh", mtls("{name: ca, type: builtin, dpCert: {rotation: {expiration: 1d12h}}}"), nil},
		{"enabled backend", mesh("mtls: {enabledBackend: ca}"),
			[]string{"mtls.enabledBackend: names no backend of mtls.backends"}},
		{"two backends", mtls("{name: ca, type: builtin}, {name: ca, type: builtin}"),
			[]string{"mtls.backends: must have at most one item",
				"mtls.backends[1].name: is given to two backends"}},
		{"backend type", mtls("{name: ca, type: vault}"),
			[]string{"mtls.backends[0].type: must be one of builtin, provided"}},
		{"backend mode", mtls("{name: ca, type: builtin, mode: strict}"),
			[]string{"mtls.backends[0].mode: must be one of STRICT, PERMISSIVE"}},
		{"expiration", mtls("{name: ca, type: builtin, dpCert: {}, conf: {caCert: {expiration: 5x}}}"),
			[]string{
				"mtls.backends[0].dpCert.rotation.expiration: is required if dpCert is given, such as 24h",

				`mtls.backends[0].conf.caCert.expiration: "5x" is not a lifetime: use numbers with the ` +
					`units y, w, d, h, m, s or ms`}},
		{"provided", mtls("{name: ca, type: provided, conf: {cert: {secret: a, inlineString: b}}}"), []string{
			"mtls.backends[0].conf.cert: needs exactly one of secret, inline, inlineString and file",
			"mtls.backends[0].conf.key: is required"}},
		{"egress", mesh("routing: {zoneEgress: true, defaultForbidMeshExternalServiceAccess: true}"),
			[]string{"routing.zoneEgress: is not supported yet: traffic would leave the mesh without " +
				"an egress; " +
				"remove it",
				"routing.defaultForbidMeshExternalServiceAccess: is not supported yet: nothing would be " +
					"forbidden; " +
					"remove it"}},
		{"constraints", mesh("constraints: {dataplaneProxy: {requirements: [{tags: {a: '*'}}, {tags: {}}]}}"),
			[]string{"constraints.dataplaneProxy.requirements[1].tags: must have at least one pair"}},
		{"mode", mesh("meshServices: {mode: exclusive}"),
			[]string{"meshServices.mode: must be one of Disabled, Everywhere, ReachableBackends, Exclusive"}},

		{"dataplane", in("{port: 80, servicePort: 8080, name: http, protocol: http, tags: " +
			"{kuma.io/service: web}}"), nil},
		{"no networking", "type: Dataplane\nname: a", []string{"networking: is required"}},
		{"no address", "type: Dataplane\nname: a\nnetworking: {}",
			[]string{"networking.address: is required"}},
		{"any address", "type: Dataplane\nname: a\nnetworking: {address: '::', advertisedAddress: a_b}",
			[]string{
				"networking.address: must be an address that others can dial, not ::",
				"networking.advertisedAddress: must be an IP address or a DNS name"}},
		{"inbound", in("{port: 0, address: host, protocol: udp, state: ready, tags: {a: ''}}"), []string{
			"networking.inbound[0].port: must be a number from 1 to 65535",
			"networking.inbound[0].address: must be an IP address",
			"networking.inbound[0].protocol: must be one of tcp, http, http2, grpc, kafka",
			"networking.inbound[0].state: must be one of Ready, NotReady, Ignored",
			`networking.inbound[0].tags["a"]: must not be empty`,
			`networking.inbound[0].tags["kuma.io/service"]: is required if there are tags`}},
		{"loop", in("{port: 80, serviceAddress: 10.0.0.1}"),
			[]string{"networking.inbound[0].serviceAddress: with servicePort is the inbound's own " +
				"address and " +
				"port: traffic would come back to the proxy"}},
		{"names", dp("inbound: [{port: 80, name: a}, {port: 81, name: a}], listeners: [{type: ZoneIngress, " +
			"port: 82, name: a}, {type: ZoneEgress, port: 82}]"), []string{
			"networking.inbound[1].name: is the name of networking.inbound[0] too",
			"networking.listeners[0].name: is the name of networking.inbound[0] too",
			"networking.listeners[1].port: is listened at twice"}},
		{"outbound", dp("outbound: [{port: 1}, {port: 2, tags: {a: b}}, {port: 3, backendRef: {kind: " +
			"MeshService, name: a}, tags: {kuma.io/service: a}}, {port: 4, backendRef: {kind: MeshService, " +
			"labels: {a: b}, name: c}}, {port: 5, backendRef: {kind: MeshExternalService, name: d}}]"),
			[]string{
				"networking.outbound[0]: needs backendRef or tags",
				`networking.outbound[1].tags["kuma.io/service"]: is required`,
				"networking.outbound[2].tags: cannot be combined with backendRef",
				"networking.outbound[3].backendRef.labels: cannot be combined with name",
				"networking.outbound[3].backendRef.port: is required"}},
		{"gateway", dp("gateway: {tags: {kuma.io/protocol: http}}, inbound: [{port: 80}]"), []string{
			`networking.gateway.tags["kuma.io/service"]: is required`,
			`networking.gateway.tags["kuma.io/protocol"]: must be tcp`,
			"networking.inbound: must not be given for a gateway"}},
		{"admin", dp("admin: {port: 80}, inbound: [{port: 80}]"),
			[]string{"networking.admin.port: is the port of networking.inbound[0] too"}},
		{"reachable", dp("transparentProxying: {reachableBackends: {refs: [{kind: MeshService}, {kind: " +
			"MeshService, name: a, labels: {b: c}}]}}"), []string{
			"networking.transparentProxying.reachableBackends.refs[0]: needs a name or labels",
			"networking.transparentProxying.reachableBackends.refs[1].labels: cannot be combined with name " +
				"or namespace"}},
		{"probe", in("{port: 80, serviceProbe: {interval: 0s, timeout: -1s}}"), []string{
			"networking.inbound[0].serviceProbe.interval: must be longer than 0",
			"networking.inbound[0].serviceProbe.timeout: must be longer than 0"}},

		{"service", svc("{port: 80, targetPort: 8080, appProtocol: http}, {port: 81, name: b, " +
			"targetPort: web}"), nil},
		{"service selectors",
			"type: MeshService\nname: a\nspec: {selector: {dataplaneTags: {a: b}, dataplaneRef: {}}}",
			[]string{
				"spec.selector: must have at most one of dataplaneTags, dataplaneRef and dataplaneLabels",
				"spec.selector.dataplaneRef.name: is required"}},
		{"service ports", svc("{port: 80, targetPort: 0}, {port: 80, name: X, targetPort: ''}, {port: 81, " +
			"name: '80', targetPort: 1, appProtocol: udp}"), []string{
			"spec.ports[0].targetPort: must be a number from 1 to 65535 or the name of an inbound",
			"spec.ports[1].port: is given twice with protocol tcp",
			`spec.ports[1].name: must be lower-case letters, digits and "-", at most 63`,
			"spec.ports[1].targetPort: must be a number from 1 to 65535 or the name of an inbound",
			`spec.ports[2].name: "80" is the name of another port too`,
			"spec.ports[2].appProtocol: must be one of tcp, http, http2, grpc, kafka"}},
		{"multi-zone", mz("{selector: {meshService: {matchLabels: {a: b}}}, ports: [{port: 80}]}"), nil},
		{"multi-zone nothing", mz("{}"),
			[]string{"spec.selector: is required", "spec.ports: must have at least one item"}},
		{"multi-zone empty", mz("{selector: {meshService: {}}, ports: [{port: 80, name: a}, {port: " +
			"80, name: a}]}"), []string{
			"spec.selector.meshService.matchLabels: must have at least one pair",
			"spec.ports[1].port: is given twice", `spec.ports[1].name: "a" is the name of another port too`}},

		{"generator", template(`{{ .DisplayName }}.{{ .Namespace }}.svc.{{ label "a/b" }}.{{ .Zone ` +
			`}}.mesh.local`), nil},
		{"generator without selector", hg("{template: a}"),
			[]string{"spec.selector: needs exactly one of meshService, meshExternalService and " +
				"meshMultiZoneService"}},
		{"generator with two", hg("{template: a, selector: {meshService: {}, meshMultiZoneService: {}}}"),
			[]string{"spec.selector: needs exactly one of meshService, meshExternalService and " +
				"meshMultiZoneService"}},
		{"no template", hg("{selector: {meshService: {}}}"), []string{"spec.template: is required"}},
		{"not a template", template("{{ .Name "),
			[]string{"spec.template: not a template: hostname:1: unclosed action"}},
		{"no host", template("{{ .Name }}_a"),
			[]string{`spec.template: gives "name_a", which is not a DNS name`}},
		{"unknown value", template("{{ .Cluster }}"),

			[]string{`spec.template: cannot be rendered: hostname:1:3: executing "hostname" at ` +
				`<.Cluster>: can't evaluate field Cluster in type hostname.Input`}},
		{"zone", "type: Zone\nname: a\nenabled: false", nil},
		{"ingress", "type: ZoneIngress\nname: a\nnetworking: {address: 0.0.0.0, port: 10001, " +
			"advertisedAddress: in.example.com, advertisedPort: 10001}", nil},
		{"ingress half", "type: ZoneIngress\nname: a\nnetworking: {port: 10001, advertisedAddress: 0.0.0.0}",
			[]string{
				"networking.advertisedAddress: must be an address that others can dial, not 0.0.0.0",
				"networking.advertisedPort: is required with advertisedAddress"}},
	} {
		tt.run(t)
	}
}
