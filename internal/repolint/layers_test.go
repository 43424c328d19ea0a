package repolint

import (
	"slices"
	"strings"
	"testing"
)

// layers has a row for each package: what of this repository it may import, besides proto. Arrows
// only point down (docs/architecture.md), because a package that knows its users cannot be widened
// without them. A tree stands for all packages below it; "!" ends a package that stands for itself
// alone. Tests may import any fake.
var layers = []struct {
	pkg string
	may []string
	why string
}{
	{"internal/backoff", nil, "infrastructure"},
	{"internal/gcpace", nil, "infrastructure"},
	{"internal/hint", nil, "names of verbs and flags, for every package"},
	{"internal/child", nil, "infrastructure"},
	{"internal/config", []string{"internal/suggest"}, "infrastructure"},
	{"internal/intern", nil, "infrastructure"},
	{"internal/kindgen", []string{"mesh!"}, "writes the tables of kinds; no program has it"},
	{"internal/listen", nil, "infrastructure"},
	{"internal/localapi", nil, "shared with every client on the machine"},
	{"internal/obs", nil, "infrastructure"},
	{"internal/pgserver", nil, "infrastructure"},
	{"internal/repolint", nil, "infrastructure"},
	{"internal/suggest", nil, "infrastructure"},
	{"internal/seal", nil, "stores seal secrets with it, and launchers what they keep"},
	{"internal/wire", nil, "infrastructure"},

	{"mesh", []string{"internal/suggest"}, "the vocabulary of all others"},
	{"mesh/selector", []string{"mesh!"}, "one answer to which Dataplanes a service selects"},
	{"mesh/hostname", []string{"mesh!"}, "validation and the controller render the same"},
	{"mesh/secrets", []string{"mesh!"}, "one table of the secrets of control planes"},
	{"mesh/codec", []string{"mesh!", "internal/suggest"}, "the launcher reads resources without validating"},
	{"mesh/validate", []string{"mesh"}, "rules; the only package that links the expression language"},
	{"mesh/destination", []string{"mesh!", "mesh/selector"}, "rows on top of the vocabulary"},
	{"policy", []string{"mesh"}, "a pure function of resources"},
	{"policy/defaults", []string{"mesh"}, "documents"},

	{"store", []string{"mesh"}, "the contract"},
	{"store/embedded", []string{"mesh", "store!", "store/txn"}, "one implementation knows no other"},
	{"store/postgres", []string{"mesh", "store!", "store/txn", "internal/backoff"},
		"one implementation knows no other"},
	{"store/txn", []string{"mesh", "store!", "internal/intern"}, "shared by the implementations"},
	{"store/replica", []string{"mesh", "store!", "internal"}, "reads any implementation"},
	{"store/reconcile", []string{"mesh", "store!", "store/replica", "internal"},
		"runs on any implementation"},
	{"store/retention", []string{"store!", "internal"}, "works on any implementation"},
	{"store/storetest", []string{"mesh", "store!", "store/replica"}, "tests any implementation"},

	{"kds", []string{"mesh", "store!", "internal/hint"}, "the core of the protocol has no transport"},
	{"kds/kdsrpc", []string{"mesh", "store!", "store/replica", "kds!", "internal"}, "the transport"},
	{"kds/kdstest", []string{"mesh", "store", "kds"}, "a simulation of the protocol"},

	{"xds/graph", []string{"internal/intern"}, "incremental computation knows nothing of xDS"},
	{"xds/ir", []string{"mesh", "internal/intern"}, "what compile says to translate"},
	{"xds/compile", []string{"mesh", "policy", "xds/ir", "internal/intern"}, "a pure function of a view"},
	{"xds/translate", []string{"mesh", "xds/ir"}, "Envoy's types end here"},
	{"xds/delta", []string{"mesh", "internal"}, "the protocol knows no resources"},
	{"xds", []string{"mesh", "policy", "store!", "store/replica", "xds", "internal"}, "the engine"},
	{"xds/inspect", []string{"mesh", "policy", "store!", "store/replica", "xds"}, "asks the engine"},
	{"xds/trial", []string{"mesh", "policy", "xds/compile", "xds/ir", "xds/translate"}, "makes no views"},
	{"xds/references", nil, "reads Envoy's messages alone"},
	{"xds/xdstest", []string{"mesh", "xds/delta", "xds/references", "internal/wire"},
		"a client of the protocol"},

	{"identity/pki", nil, "keys and certificates know no resources"},
	{"identity/tokens", []string{"mesh", "store!", "store/replica", "internal/hint"},
		"secrets are resources"},
	{"identity/ca", []string{"mesh", "store!", "store/replica", "identity/pki"}, "secrets are resources"},
	{"identity/servercert", []string{"identity/pki", "internal/hint"}, "shared with every client"},
	{"identity/issuer", []string{"mesh", "policy", "store!", "store/replica", "store/reconcile", "identity",
		"xds/ir"},
		"a zone's part"},

	{"controller/delivery", []string{"mesh", "store", "internal"}, "a plan on a replica"},
	{"controller/members", []string{"mesh", "store", "internal"}, "a plan on a replica"},
	{"controller/roots", []string{"mesh", "store", "identity/ca", "identity/pki", "internal"},
		"a plan on a replica"},
	{"controller/services", []string{"mesh", "store", "internal"}, "a plan on a replica"},
	{"controller/zones", []string{"mesh", "store", "kds", "controller/delivery", "internal"},
		"what global records of a zone's connection"},

	{"dataplane/bootstrap", nil, "renders a file"},
	{"dataplane/relay", []string{"internal"}, "carries messages and does not know what is in them"},
	{"dataplane/launcher", []string{"mesh!", "mesh/codec", "mesh/selector", "dataplane",
		"identity/servercert", "internal"},
		"runs beside every workload: what it imports, each of them pays for"},

	{"api/client", []string{"mesh", "identity/servercert", "internal"}, "a client knows no server"},
	{"api/problem", []string{"mesh", "store!", "identity/tokens", "internal"}, "below the service"},
	{"api/authn", []string{"identity/tokens"}, "below the service"},
	{"api/authz", []string{"mesh", "identity/tokens", "api/authn", "api/problem", "internal/hint"},
		"below the service"},
	{"api/fanout", []string{"api/problem"}, "below the service"},
	{
		"api/admission",
		[]string{"mesh", "policy", "store", "xds/trial", "api/problem", "internal/suggest"},
		"below the service",
	},
	{"api/rest", []string{"mesh", "identity/tokens", "api!", "api/admission", "api/authn", "api/problem",
		"internal"}, "one face of the service"},
	{"api/server", []string{"api", "internal"}, "the port of both faces"},
	{"api", []string{"mesh", "policy", "store", "xds", "identity/tokens", "api/admission", "api/authn",
		"api/authz", "api/fanout", "api/problem", "internal"},
		"one service for both roles; it knows neither, nor its faces"},
	{"cli", []string{"mesh", "api", "xds/delta", "internal"}, "clients of the API"},

	{"role", []string{"mesh", "policy/defaults", "store", "identity", "controller", "api", "internal"},
		"what both roles share"},
	{"zone/universal", []string{"mesh", "store", "identity", "xds", "internal"}, "one kind of platform"},
	{"zone", []string{"mesh", "policy", "store", "kds", "xds", "identity", "controller", "api", "role",
		"zone", "internal"}, "wiring"},
	{"global", []string{"mesh", "policy", "store", "kds", "identity", "controller", "api", "role",
		"internal"}, "wiring; global has no proxies"},

	{"demo", []string{"mesh", "api/client", "internal"}, "starts the programs and uses them from outside"},
	{"bench", []string{"mesh", "policy", "store", "kds", "xds", "identity", "controller", "api", "role",
		"zone", "global", "dataplane", "bench", "internal"}, "measures all of them"},

	{"bench/envoybench", []string{"mesh", "api/client", "dataplane", "bench/controlplane",
		"internal"}, "measures Envoy's start"},
	{"bench/apibench", []string{"mesh", "store", "role", "zone", "global", "api", "identity",
		"bench/controlplane", "internal"}, "measures the API"},
	{"bench/kdsbench", []string{"mesh", "api/client", "bench/standin", "bench/controlplane", "internal"},
		"measures the sync"},
	{"bench/controlplane", []string{"internal/child"}, "waits for what is measured, and asks it"},
	{"bench/standin", []string{"xds/references", "internal/wire"},
		"stands in for Envoys, for all measurements"},

	{"cmd/meridian-dp", []string{"dataplane", "mesh!", "internal"}, "flags to a config"},
	{"cmd/meridian", []string{"cli", "zone", "global", "demo", "bench", "internal"}, "flags to configs"},

	{"test/envoytest", nil, "finds a program"},
	{"test/pgtest", []string{"internal/pgserver"}, "PostgreSQL for tests"},
	{"test/roletest", []string{"mesh", "store", "identity", "role", "zone", "global"},
		"both roles in the process of a test"},
	{"test/meshtest", []string{"mesh", "identity", "api/client", "role", "zone", "global", "dataplane",
		"test/envoytest", "test/roletest"}, "whole meshes, with Envoy"},

	{"e2e", nil, "tests alone"},
	{"e2e/churn", nil, "tests alone"},
	{"e2e/grpcclients", nil, "tests alone"},
	{"e2e/inprocess", nil, "tests alone"},
	{"e2e/traffic", nil, "tests alone"},
}

func TestLayers(t *testing.T) {
	t.Parallel()

	may := map[string][]string{}
	for _, row := range layers {
		may[row.pkg] = append(row.may, row.pkg+"!")
	}

	found := findings{}
	for _, f := range source(t) {
		if f.test || f.generated {
			continue
		}
		allowed, ok := may[f.dir]
		if !ok {
			found.add(f.dir, "%s: package %s has no row in layers; add one that says what it may import",
				f.path, f.dir)
			continue
		}
		for _, imp := range imports(f) {
			own, ok := strings.CutPrefix(imp, module+"/")
			if ok && !under(own, "proto") && !under(own, allowed...) {
				found.add(f.dir, "%s imports %s; %s may import only proto and %v",
					f.path, own, f.dir, allowed)
			}
		}
	}

	all := packages(t)
	for _, row := range layers {
		if !slices.Contains(all, row.pkg) {
			found.add(row.pkg, "layers has a row for %s, which is not a package", row.pkg)
		}
	}
	report(t, found)
}

// testPackages are for tests alone, though they are not test files: other packages' tests use them.
var testPackages = []string{"store/storetest", "kds/kdstest", "xds/xdstest", "test"}

// foreign keeps the big dependencies in the packages that they belong to, so that a change of library is
// a change of one package, and pure packages stay testable without a network.
var foreign = []struct {
	prefix string
	only   []string
	why    string
}{
	{"github.com/jackc/pgx", []string{"store/postgres", "internal/pgserver", "test/pgtest"},
		"SQL is behind store.Store"},
	{"go.etcd.io/bbolt", []string{"store/embedded"}, "files are behind store.Store"},
	{"github.com/envoyproxy/go-control-plane",
		[]string{"xds", "bench", "zone", "test"}, "Envoy's types end at xds"},
	{"google.golang.org/grpc", []string{"kds/kdsrpc", "xds", "zone", "global", "role", "api", "cli",
		"controller", "dataplane", "identity", "internal", "demo", "bench", "cmd", "test"},
		"the model, the policies, the stores and the core of kds know no transport"},
	{"github.com/spf13/cobra", []string{"cmd", "cli", "demo", "bench", "role", "internal/config"},
		"commands are the edge"},
	{"buf.build/go/protovalidate", []string{"mesh/validate"}, "meridian-dp decodes and does not validate"},
	{"testing!", testPackages, "programs do not carry test code"},
}

func TestForeignImports(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, f := range source(t) {
		if f.test || f.generated {
			continue
		}
		for _, imp := range imports(f) {
			for _, r := range foreign {
				if under(imp, r.prefix) && !under(f.dir, r.only...) {
					found.add(f.dir, "%s imports %s, which only %v may: %s", f.path, imp, r.only, r.why)
				}
			}
		}
	}
	report(t, found)
}
