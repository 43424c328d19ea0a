package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/meridian-mesh/meridian/demo"
	"github.com/meridian-mesh/meridian/test/envoytest"
)

// binaries is the folder with meridian and meridian-dp.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "../cmd/meridian",
		"../cmd/meridian-dp")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return dir
}

// scriptTime is when a script that hangs is ended.
const scriptTime = 2 * time.Minute

var networks atomic.Int32

func TestScripts(t *testing.T) {
	dir := binaries(t)
	base := os.Getpid() % 200
	testscript.Run(t, testscript.Params{
		Dir:      "testdata",
		Deadline: time.Now().Add(scriptTime),
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", dir+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			if path, ok := envoytest.Find(); ok {
				env.Setenv("ENVOY", path)
			}
			env.Setenv("NET", fmt.Sprintf("127.%d.%d", 20+networks.Add(1), base))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "envoy" {
				_, ok := envoytest.Find()
				return ok, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":      ready,
			"eventually": eventually,
			"truncate":   truncate,
			"garble":     garble,
			"page":       page,
		},
	})
}

// ready ADDRESS waits until the control plane at the address says that it is ready.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready ADDRESS")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		resp, err := client.Get("http://" + args[0] + ":5680/ready")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("%s is not ready: %v", args[0], err)
		case <-tick.C:
		}
	}
}

// eventually REGEXP COMMAND... runs a program again and again until its output matches.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP COMMAND...")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("%s does not match %q", strings.Join(args[1:], " "), args[0])
		case <-tick.C:
		}
	}
}

// truncate FILE leaves the first two and a half pages of a file.
func truncate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: truncate FILE")
	}
	path := ts.MkAbs(args[0])
	ts.Check(os.Truncate(path, 10_000))
}

// block is a fenced YAML document whose first line is a comment with the name of its file.
var block = regexp.MustCompile("(?ms)^```yaml\n# (\\S+\\.yaml)\n(.*?)^```$")

// page PAGE writes the documents of a page of docs into the folder, for the loopback network of the script.
func page(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: page PAGE")
	}
	text, err := os.ReadFile(filepath.Join("..", "docs", args[0]))
	ts.Check(err)
	found := block.FindAllSubmatch(text, -1)
	if len(found) == 0 {
		ts.Fatalf("%s has no document that begins with the name of its file", args[0])
	}
	for _, m := range found {
		doc := strings.ReplaceAll(string(m[2]), "127.0.0.1", ts.Getenv("NET")+".1")
		ts.Check(os.WriteFile(ts.MkAbs(string(m[1])), []byte(doc), 0o600))
	}
}

// garble FILE overwrites the end of a token.
func garble(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: garble FILE")
	}
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	head, _, ok := cutLast(string(data), ".")
	if !ok {
		ts.Fatalf("%s is not a token", path)
	}
	ts.Check(os.WriteFile(path, []byte(head+"."+strings.Repeat("A", 342)), 0o600))
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// TestDemo plays each scenario with real Envoys, the operator's once for each store.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes up to half a minute for each scenario")
	}
	envoy, dir := envoytest.Binary(t), binaries(t)
	for i, c := range []struct {
		scenario, store string
		checks          int
	}{{demo.Operations, "embedded", 30}, {demo.Operations, "postgres", 30},
		{demo.Resilience, "embedded", 20}} {
		t.Run(c.scenario+"-"+c.store, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			var out strings.Builder
			passed, failed, err := demo.Run(ctx, demo.Config{
				Meridian: filepath.Join(dir, "meridian"),
				Launcher: filepath.Join(dir, "meridian-dp"),
				Envoy:    envoy,
				Scenario: c.scenario,
				Dir:      filepath.Join(t.TempDir(), "demo"),
				Store:    c.store,
				Network:  fmt.Sprintf("127.%d", 200+10*i+os.Getpid()%10),
				Once:     true,
				Out:      &out,
			})
			if err != nil || failed > 0 || passed < c.checks {
				t.Errorf("%d passed, %d failed, %v\n%s", passed, failed, err, out.String())
			}
		})
	}
}
