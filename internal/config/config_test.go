package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

type values struct {
	dir     string
	wait    time.Duration
	verbose bool
	hosts   []string
}

func flagSet(v *values) *pflag.FlagSet {
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.StringVar(&v.dir, "data-dir", "default", "")
	f.DurationVar(&v.wait, "drain-time", time.Second, "")
	f.BoolVar(&v.verbose, "tls-skip-verify", false, "")
	f.StringSliceVar(&v.hosts, "host", nil, "")
	AddFlag(f)
	return f
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := write(t, "dataDir: from-file\ndrain-time: 3s\ntlsSkipVerify: true\nhost: [a, b]\n")
	for _, tc := range []struct {
		name string
		args []string
		env  []string
		want string
	}{
		{"default", nil, nil, "default"},
		{"file", []string{"--config", file}, nil, "from-file"},
		{"environment beats file", []string{"--config", file}, []string{"T_DATA_DIR=from-env"}, "from-env"},
		{"flag beats all", []string{"--config", file, "--data-dir", "from-flag"},
			[]string{"T_DATA_DIR=from-env"}, "from-flag"},
		{"the file's name may come from the environment", nil, []string{"T_CONFIG=" + file}, "from-file"},
		{"an empty variable is a value", nil, []string{"T_DATA_DIR="}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var v values
			f := flagSet(&v)
			if err := f.Parse(tc.args); err != nil {
				t.Fatal(err)
			}
			if err := Load(f, Source{
				Prefix:  "T",
				Environ: append([]string{"PATH=x"}, tc.env...),
			}); err != nil {
				t.Fatal(err)
			}
			if v.dir != tc.want {
				t.Errorf("data-dir is %q, want %q", v.dir, tc.want)
			}
		})
	}
	var v values
	f := flagSet(&v)
	if err := f.Parse([]string{"--config", file}); err != nil {
		t.Fatal(err)
	}
	if err := Load(f, Source{Prefix: "T", Environ: []string{"A=b"}}); err != nil {
		t.Fatal(err)
	}
	if v.wait != 3*time.Second || !v.verbose || len(v.hosts) != 2 {
		t.Errorf("file values were not taken: %+v", v)
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name, file string
		env        []string
		want       []string
		not        string
	}{
		{
			name: "unknown key",
			file: "dataDri: x\n",
			want: []string{`:1: unknown key "dataDri"`, `did you mean "dataDir"?`},
		},
		{
			name: "far from any",
			file: "zebra: x\n",
			want: []string{`unknown key "zebra"`},
			not:  "did you mean",
		},
		{name: "bad value names its place, not itself", file: "dataDir: y\ndrainTime: hunter2\n",
			want: []string{":2: key", "--drain-time", "duration"}, not: "hunter2"},
		{name: "twice", file: "dataDir: x\ndata-dir: y\n", want: []string{"given already in line 1"}},
		{name: "nested", file: "dataDir: {a: b}\n", want: []string{"plain value"}},
		{name: "a list at the top", file: "- a\n", want: []string{"must be a map"}},
		{name: "not YAML", file: "a: [\n", want: []string{"not YAML"}},
		{
			name: "bad variable",
			env:  []string{"T_DRAIN_TIME=hunter2"},
			want: []string{"T_DRAIN_TIME", "duration"},
			not:  "hunter2",
		},
		{
			name: "near miss of a variable",
			env:  []string{"T_DATA_DIRS=x"},
			want: []string{"T_DATA_DIRS is unknown", "T_DATA_DIR?"},
		},
		{name: "several at once", file: "dataDri: x\ndrainTime: q\n", want: []string{"dataDri", "drainTime"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var v values
			f := flagSet(&v)
			var args []string
			if tc.file != "" {
				args = []string{"--config", write(t, tc.file)}
			}
			if err := f.Parse(args); err != nil {
				t.Fatal(err)
			}
			err := Load(f, Source{Prefix: "T", Environ: append([]string{"A=b"}, tc.env...)})
			if err == nil {
				t.Fatal("was accepted")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			if tc.not != "" && strings.Contains(err.Error(), tc.not) {
				t.Errorf("error %q says %q", err, tc.not)
			}
		})
	}
}

func TestEveryFlagHasAVariable(t *testing.T) {
	if got := EnvName("MERIDIAN", "data-dir"); got != "MERIDIAN_DATA_DIR" {
		t.Error(got)
	}
	var v values
	f := flagSet(&v)
	if err := f.Parse([]string{"--config", write(t, "")}); err != nil {
		t.Fatal(err)
	}
	if err := Load(f, Source{
		Prefix:  "T",
		Environ: []string{"T_HOST=a,b", "T_UNRELATED_THING=x"},
	}); err != nil {
		t.Fatalf("an empty file or an unrelated variable failed: %v", err)
	}
	if len(v.hosts) != 2 {
		t.Error(v.hosts)
	}
}
