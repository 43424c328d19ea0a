package repolint

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// programs says what a program must not link, however deep below its own imports.
var programs = []struct {
	pkg   string
	never []string
	why   string
}{
	{"cmd/meridian-dp", []string{module + "/store", module + "/kds", module + "/xds", module + "/api",
		module + "/zone", module + "/global", module + "/controller"},
		"it runs beside every workload and asks a zone for everything"},
	{"cmd/meridian-dp", []string{"github.com/jackc/pgx", "go.etcd.io/bbolt"},
		"it stores nothing"},
	{"cmd/meridian-dp", []string{"k8s.io", "sigs.k8s.io"}, "it runs on plain machines too"},
	{"cmd/meridian-dp", []string{"buf.build/go/protovalidate", "cel.dev/cel-go", "cel.dev/expr",
		"github.com/google/cel-go", "github.com/antlr4-go/antlr/v4", module + "/mesh/validate"},
		"the zone validates: the expression language costs 14 MB of program and 7 MB of memory"},
	{"cmd/meridian-dp", []string{"github.com/envoyproxy/go-control-plane"},
		"one document in JSON is not worth 9 MB of program and 5 MB of memory"},
	{"cmd/meridian-dp", []string{"testing", "net/http/httptest", module + "/test"},
		"it carries no test code"},
	{"cmd/meridian", []string{"testing", "net/http/httptest", module + "/test", module + "/e2e",
		module + "/store/storetest", module + "/kds/kdstest", module + "/xds/xdstest"},
		"it carries no test code, which would also register the flags of go test"},
	{"cmd/meridian", []string{"k8s.io", "sigs.k8s.io"}, "Kubernetes is in zone/kube alone"},
}

// TestProgramsLink follows the imports of both programs as the build does.
func TestProgramsLink(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, name := range []string{"cmd/meridian", "cmd/meridian-dp"} {
		graph := deps(t, name)
		for _, rule := range programs {
			if rule.pkg != name {
				continue
			}
			for _, never := range rule.never {
				if chain := reach(graph, module+"/"+name, never); chain != nil {
					found.add(name, "%s links %s: %s\n\tthrough %s", name, never, rule.why,
						strings.Join(chain, "\n\t     -> "))
				}
			}
		}
	}
	report(t, found)
}

// TestProgramRules: a rule on a package of ours that does not exist forbids nothing.
func TestProgramRules(t *testing.T) {
	t.Parallel()

	found := findings{}
	for _, rule := range programs {
		for _, never := range rule.never {
			if own, ok := strings.CutPrefix(never, module+"/"); ok && !exists(own) {
				found.add(own, "programs has a rule on %s, which is not a package", own)
			}
		}
	}
	report(t, found)
}

// deps gives the imports of each package that a program links, as built for Linux.
func deps(t *testing.T, program string) map[string][]string {
	t.Helper()

	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,ImportMap", "./"+program)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}

	graph := map[string][]string{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p struct {
			ImportPath string
			Imports    []string
			ImportMap  map[string]string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return graph
		} else if err != nil {
			t.Fatal(err)
		}
		for i, imp := range p.Imports {
			if vendored, ok := p.ImportMap[imp]; ok {
				p.Imports[i] = vendored
			}
		}
		graph[p.ImportPath] = p.Imports
	}
}

// reach gives a shortest chain of imports from a package to one below tree, or nil.
func reach(graph map[string][]string, from, tree string) []string {
	via := map[string]string{from: ""}
	queue := []string{from}
	for len(queue) > 0 {
		pkg := queue[0]
		queue = queue[1:]

		// The standard library's testing stands for itself: testing/fstest and others may be linked.
		if pkg == tree || tree != "testing" && under(pkg, tree) {
			var chain []string
			for p := pkg; p != ""; p = via[p] {
				chain = append(chain, p)
			}
			slices.Reverse(chain)
			return chain
		}

		for _, imp := range graph[pkg] {
			if _, seen := via[imp]; !seen {
				via[imp] = pkg
				queue = append(queue, imp)
			}
		}
	}
	return nil
}
