package validate

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
)

// wordsOf are the items that the proto has for retryOn.
func wordsOf(m proto.Message) string {
	fd := m.ProtoReflect().Descriptor().Fields().ByName("retry_on")
	return strings.Join(mesh.DocumentOptions(fd).GetWords(), ", ")
}

func TestValidateRetry(t *testing.T) {
	t.Parallel()

	to := func(s string) string {
		return policyDoc(mesh.KindMeshRetry, "to: [{targetRef: {kind: Mesh}, default: {"+s+"}}]")
	}
	httpWords, grpcWords := wordsOf(&meshv1.MeshRetry_Http{}), wordsOf(&meshv1.MeshRetry_Grpc{})
	d := "spec.to[0].default"
	h, g := d+".http", d+".grpc"
	items := "must be a status code of HTTP in quotes or one of " + httpWords
	for _, tt := range []refused{
		{"all", to("tcp: {maxConnectAttempt: 1}, http: {numRetries: 0, perTryTimeout: 0s, backOff: " +
			"{baseInterval: 25ms, maxInterval: 25ms}, rateLimitedBackOff: {resetHeaders: [{name: " +
			"retry-after, " +
			"format: Seconds}], maxInterval: 1s}, retryOn: [" + httpWords +
			", '503'], " +
			"retriableResponseHeaders: [{name: a, value: b}], retriableRequestHeaders: [{name: a, type: " +
			"Prefix, value: ''}], hostSelection: [{predicate: OmitPreviousHosts}, {predicate: " +
			"OmitHostsWithTags, tags: {a: b}}, {predicate: OmitPreviousPriorities, updateFrequency: 1}], " +
			"hostSelectionMaxAttempts: 3}, " +
			"grpc: {numRetries: 1, perTryTimeout: 1s, backOff: {maxInterval: 1s}, rateLimitedBackOff: " +
			"{resetHeaders: [{name: a, format: UnixTimestamp}]}, retryOn: [" +
			grpcWords + "]}"), nil},
		{"nothing", to(""), []string{d + ": needs at least one of http, grpc and tcp"}},
		{"empty parts", to("tcp: {}, http: {hostSelectionMaxAttempts: 1}, grpc: {}"),
			[]string{d + ".tcp: needs maxConnectAttempt",
				h + ": needs at least one of numRetries, perTryTimeout, backOff, " +
					"rateLimitedBackOff, retryOn, " +
					"retriableRequestHeaders, retriableResponseHeaders and hostSelection",
				g + ": needs at least one of numRetries, perTryTimeout, backOff, rateLimitedBackOff " +
					"and retryOn"}},
		{"tcp", to("tcp: {maxConnectAttempt: 0}"),
			[]string{d + ".tcp.maxConnectAttempt: must be a number from 1 to 100"}},
		{"back-off", to("http: {backOff: {}, rateLimitedBackOff: {}}, grpc: {backOff: {baseInterval: 2s, " +
			"maxInterval: 1s}, rateLimitedBackOff: {resetHeaders: [], maxInterval: 0s}}"), []string{
			h + ".backOff: needs at least one of baseInterval and maxInterval",
			h + ".rateLimitedBackOff.resetHeaders: is required",
			g + ".backOff.maxInterval: must not be shorter than baseInterval",
			g + ".rateLimitedBackOff.resetHeaders: is required",
			g + ".rateLimitedBackOff.maxInterval: must be longer than 0"}},
		{"back-off signs", to("http: {perTryTimeout: -1s, backOff: {baseInterval: 0s, maxInterval: -1s}}"),
			[]string{h + ".perTryTimeout: must not be negative; 0 turns it off",
				h + ".backOff.baseInterval: must be longer than 0",
				h + ".backOff.maxInterval: must be longer than 0"}},
		{"reset headers", to("http: {rateLimitedBackOff: {resetHeaders: [{name: A, format: seconds}, {}]}}"),
			[]string{h + ".rateLimitedBackOff.resetHeaders[0].name: must be a header name in lower case",
				h + ".rateLimitedBackOff.resetHeaders[0].format: must be one of Seconds, UnixTimestamp",
				h + ".rateLimitedBackOff.resetHeaders[1].name: is required",
				h + ".rateLimitedBackOff.resetHeaders[1].format: is required: one of Seconds, " +
					"UnixTimestamp"}},
		{"retry on", to("http: {retryOn: [5xx, teapot, '599', '4xx', '']}"),
			[]string{h + ".retryOn[1]: " + items, h + ".retryOn[2]: " + items, h + ".retryOn[3]: " + items,
				h + ".retryOn[4]: " + items}},
		{"retry on of grpc", to("grpc: {retryOn: [Canceled, 5xx]}"),
			[]string{g + ".retryOn[1]: must be one of Canceled, DeadlineExceeded, Internal, " +
				"ResourceExhausted, " +
				"Unavailable"}},
		{"header matches", to("http: {retriableResponseHeaders: [{name: A}, {name: a, type: " +
			"Present, value: " +
			"b}], retriableRequestHeaders: [{name: a, type: RegularExpression, value: '('}, {name: a, " +
			"type: Like}]}"), []string{
			h + ".retriableResponseHeaders[0].name: must be a header name in lower case",
			h + ".retriableResponseHeaders[1].value: must not be given with type Present",
			h + ".retriableRequestHeaders[0].value: is not a regular expression in RE2 syntax: missing " +
				"closing ): `(`",
			h + ".retriableRequestHeaders[1].type: must be one of Exact, Present, RegularExpression, " +
				"Absent, Prefix"}},
		{"hosts", to("http: {hostSelection: [{predicate: OmitHostsWithTags}, {predicate: " +
			"OmitPreviousPriorities, updateFrequency: 0}, {predicate: OmitPreviousPriorities}, " +
			"{predicate: All}, {}]}"), []string{
			h + ".hostSelection[0].tags: is required for OmitHostsWithTags",
			h + ".hostSelection[1].updateFrequency: must be a number from 1 to 100",
			h + ".hostSelection[2].predicate: OmitPreviousPriorities is given twice",
			h + ".hostSelection[3].predicate: must be one of OmitPreviousHosts, OmitHostsWithTags, " +
				"OmitPreviousPriorities",
			h + ".hostSelection[4].predicate: is required: one of OmitPreviousHosts, OmitHostsWithTags, " +
				"OmitPreviousPriorities"}},
	} {
		tt.run(t)
	}
}

// TestPerTryTimeoutThatEndsTheRequest: a try whose time is up is tried again only on some conditions.
func TestPerTryTimeoutThatEndsTheRequest(t *testing.T) {
	t.Parallel()

	for conf, warns := range map[string]bool{
		"http: {perTryTimeout: 1s, retryOn: [ConnectFailure, RefusedStream]}": true,
		"http: {perTryTimeout: 1s, retryOn: [ConnectFailure, HttpMethodGet]}": true,
		"http: {perTryTimeout: 1s, retryOn: [ConnectFailure, Reset]}":         false,
		"http: {perTryTimeout: 1s, retryOn: [5xx]}":                           false,

		"http: {perTryTimeout: 1s, retryOn: [HttpMethodGet, " +
			"'503']}": false, // with the default conditions
		"http: {perTryTimeout: 1s}":                                           false,
		"http: {perTryTimeout: 0s, retryOn: [ConnectFailure]}":                false,
		"http: {retryOn: [ConnectFailure]}":                                   false,
		"grpc: {perTryTimeout: 1s, retryOn: [Unavailable]}":                   true,
		"grpc: {perTryTimeout: 1s, retryOn: [Unavailable, DeadlineExceeded]}": false,
		"grpc: {perTryTimeout: 1s}":                                           false,
	} {
		doc := policyDoc(mesh.KindMeshRetry, "to: [{targetRef: {kind: Mesh}, default: {"+conf+"}}]")
		warnings, err := Resource(decodeOne(t, doc).Resource)
		if err != nil || (len(warnings) == 1) != warns {
			t.Errorf("%s: %q, %v", conf, warnings, err)
		}
	}
}
