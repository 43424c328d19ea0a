package cli_test

import (
	"bytes"
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/cli"
	"github.com/meridian-mesh/meridian/global"
	"github.com/meridian-mesh/meridian/internal/localapi"
	"github.com/meridian-mesh/meridian/role"
	"github.com/meridian-mesh/meridian/zone"
)

var update = flag.Bool("update", false, "write what the commands print to the transcripts in testdata")

// startTimeout bounds the start of a control plane.
const startTimeout = 30 * time.Second

// TestTranscripts runs the commands of every transcript in this process, against a control plane in this
// process, and compares what they print. The first line of a transcript names the control plane: "zone"
// (standalone), "locked" (one where callers on loopback are not administrators), "global" or "none".
// Files of the archive are written to $DIR first.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s := newSession(t, archive)
			want := string(archive.Comment)
			got := s.replay(want)
			if *update {
				archive.Comment = []byte(got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got; run with -update to accept)\n%s", path, diff)
			}
		})
	}
}

// TestEveryVerbHasATranscript: a new verb comes with a test.
func TestEveryVerbHasATranscript(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	var check func(cmd *cobra.Command, prefix string)
	check = func(cmd *cobra.Command, prefix string) {
		line := prefix + " " + cmd.Name()
		for _, sub := range cmd.Commands() {
			check(sub, line)
		}
		if cmd.Runnable() && !strings.Contains(all.String(), "\n$ "+line+" ") &&
			!strings.Contains(all.String(), "\n$ "+line+"\n") {
			t.Errorf("no transcript runs %q", line)
		}
	}
	for _, cmd := range append(cli.Verbs(), cli.Version("test")) {
		check(cmd, "meridian")
	}
}

// session is a folder, and a control plane that is called.
type session struct {
	t    *testing.T
	dir  string
	url  string
	file string // of the client
}

func newSession(t *testing.T, archive *txtar.Archive) *session {
	s := &session{t: t, dir: t.TempDir()}
	s.file = filepath.Join(s.dir, "client-config")
	for _, f := range archive.Files {
		path := filepath.Join(s.dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, _, _ := strings.Cut(string(archive.Comment), "\n")
	switch kind := strings.TrimPrefix(first, "# control plane: "); kind {
	case "zone", "locked":
		cfg := zone.Defaults()
		cfg.Name = "here"
		cfg.XDSAddr = "127.0.0.1:0"
		shared(t, &cfg.Config)
		z, err := cfg.Complete(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.url = start(t, z.ControlPlane)
		if kind == "locked" {
			// Callers have nothing that proves who they are.
			if err := os.Remove(filepath.Join(cfg.DataDir, localapi.SocketFile)); err != nil {
				t.Fatal(err)
			}
		}
	case "global":
		cfg := global.Defaults()
		cfg.KDSAddr = "127.0.0.1:0"
		shared(t, &cfg.Config)
		g, err := cfg.Complete(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.url = start(t, g.ControlPlane)
	case "none":
		s.url = "http://" + unused(t)
	default:
		t.Fatalf("the first line names no control plane: %q", first)
	}
	return s
}

func shared(t *testing.T, cfg *role.Config) {
	cfg.DataDir = t.TempDir()
	cfg.APIAddr = "127.0.0.1:0"
	cfg.APITLSAddr = "127.0.0.1:0"
	cfg.DiagnosticsAddr = "127.0.0.1:0"
	cfg.Instance = "test"
	cfg.Version = "v0"
	cfg.Logger = zap.NewNop()
}

// start runs a control plane until the test ends, and returns the URL of its API.
func start(t *testing.T, p *role.ControlPlane) string {
	t.Helper()
	if err := p.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-p.Ready():
	case <-time.After(startTimeout):
		t.Fatal("the control plane is not ready")
	}
	return "http://" + p.Addresses()[role.PortAPI]
}

// unused is an address on which nothing listens.
func unused(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// replay runs the commands of a transcript, and returns it with what they print now.
func (s *session) replay(transcript string) string {
	var out strings.Builder
	for line := range strings.Lines(transcript) {
		command, isCommand := strings.CutPrefix(line, "$ meridian ")
		switch {
		case isCommand:
			out.WriteString(line)
			out.WriteString(s.run(strings.TrimSpace(command)))
		case strings.HasPrefix(line, "#"):
			if out.Len() > 0 {
				out.WriteString("\n")
			}
			out.WriteString(line)
		}
	}
	return out.String()
}

// run runs one command; "< FILE" gives it standard input, "> FILE" takes its output.
func (s *session) run(command string) string {
	s.t.Helper()
	command, target, redirected := strings.Cut(command, " > ")
	command, source, _ := strings.Cut(command, " < ")
	var args []string
	for _, word := range strings.Fields(command) {
		word = strings.ReplaceAll(word, "$DIR", s.dir)
		args = append(args, strings.ReplaceAll(word, "$URL", s.url))
	}
	if args[0] != "config" && !slices.Contains(args, "--address") &&
		!slices.Contains(args, "--control-plane") {
		args = append(args, "--address", s.url)
	}
	args = append(args, "--client-config", s.file)

	root := &cobra.Command{Use: "meridian", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(append(cli.Verbs(), cli.Version("v0"))...)
	var stdout, stderr bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	if source != "" {
		data, err := os.ReadFile(filepath.Join(s.dir, source))
		if err != nil {
			s.t.Fatal(err)
		}
		root.SetIn(bytes.NewReader(data))
	}
	code := cli.Report(&stderr, root.ExecuteContext(s.t.Context()))

	if redirected {
		if err := os.WriteFile(filepath.Join(s.dir, target), stdout.Bytes(), 0o600); err != nil {
			s.t.Fatal(err)
		}
		stdout.Reset()
	}
	text := s.normal(stdout.String()) + s.prefixed("stderr: ", stderr.String())
	if code != 0 {
		text += "exit code " + string(rune('0'+code)) + "\n"
	}
	return text
}

func (s *session) prefixed(prefix, text string) string {
	var out strings.Builder
	for line := range strings.Lines(s.normal(text)) {
		out.WriteString(prefix + line)
	}
	return out.String()
}

// What differs from run to run, and what stands for it in a transcript.
var variable = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`eyJ[\w.-]+`), "TOKEN"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "TIME"},
	{regexp.MustCompile(`the socket, user \d+ *`), "SOCKET "},
	{regexp.MustCompile(`(SOCKET|-) +(put|issue|delete) +`), "${1} ${2} "},
	{regexp.MustCompile(`FROM +ACTION +`), "FROM ACTION "},
	{regexp.MustCompile(`new, \d+ *`), "new, N "},
	{regexp.MustCompile(`\b\d+ to \d+ *`), "N to N "},
	{regexp.MustCompile(`((?i:revision),?:? )\d+`), "${1}N"},
	{regexp.MustCompile(`("revision": )\d+`), "${1}N"},
	{regexp.MustCompile(`\(status \d+\)`), "(status N)"},
	{regexp.MustCompile(`is at \d+`), "is at N"},
	{regexp.MustCompile(`known kinds are .*`), "known kinds are KINDS"},
	{regexp.MustCompile(`\b\d+[smh] ago`), "AGE ago"},
	{regexp.MustCompile(`(?m)^((?:\S+ +){2,3})\d+s( |$)`), "${1}AGE${2}"},
	{regexp.MustCompile(`\b\d+\.\d+ m?s\b`), "TOOK"},
}

func (s *session) normal(text string) string {
	text = strings.ReplaceAll(text, s.dir, "$DIR")
	text = strings.ReplaceAll(text, s.url, "$URL")
	text = strings.ReplaceAll(text, strings.TrimPrefix(s.url, "http://"), "$HOST")
	for _, v := range variable {
		text = v.pattern.ReplaceAllString(text, v.text)
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// TestCompletion: the first word is a kind, the second a name that the control plane has.
func TestCompletion(t *testing.T) {
	t.Parallel()
	s := newSession(t, &txtar.Archive{Comment: []byte("# control plane: zone\n")})
	for line, want := range map[string]string{
		"get meshti":                     "meshtimeout",
		"get meshtimeout mesh-t":         "mesh-timeout-all-default",
		"describe mesh d":                "default",
		"delete meshtimeout mesh-t":      "mesh-timeout-all-default",
		"delete meshtimeout x":           "",
		"get gadget d":                   "",
		"get meshtimeout mesh-t extra m": "",
	} {
		words := strings.Fields(line)
		args := append([]string{"__complete", words[0], "--address", s.url}, words[1:]...)
		root := &cobra.Command{Use: "meridian", SilenceUsage: true, SilenceErrors: true}
		root.AddCommand(cli.Verbs()...)
		var out bytes.Buffer
		root.SetArgs(args)
		root.SetOut(&out)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		got, _, _ := strings.Cut(out.String(), ":")
		if strings.TrimSpace(got) != want {
			t.Errorf("%s offers %q, want %q", line, got, want)
		}
	}
}
