package envoytest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "a", "b")
	for _, dir := range []string{deep, filepath.Join(root, ".tools")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pinned := filepath.Join(root, ".tools", "envoy")
	other := filepath.Join(root, "other")
	for _, file := range []string{filepath.Join(root, "go.mod"), other} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(deep)

	t.Setenv(Environment, "")
	if path, ok := Find(); ok {
		t.Errorf("found %s, want none", path)
	}

	if err := os.WriteFile(pinned, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if path, ok := Find(); !ok || path != pinned {
		t.Errorf("got %s, %v, want %s", path, ok, pinned)
	}

	t.Setenv(Environment, other)
	if path, ok := Find(); !ok || path != other {
		t.Errorf("got %s, %v, want %s", path, ok, other)
	}

	t.Setenv(Environment, root)
	if path, ok := Find(); ok {
		t.Errorf("found the folder %s, want none", path)
	}
}
