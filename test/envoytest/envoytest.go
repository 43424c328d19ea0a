// Package envoytest finds the real Envoy that tests run.
//
// It is the one that the environment variable MERIDIAN_ENVOY names, or else .tools/envoy in the folder of
// the module that is tested, where make tools puts the pinned version.
//
// No example: it needs an Envoy and a test.
package envoytest

import (
	"os"
	"path/filepath"
	"testing"
)

// Environment names the variable with the path of an Envoy to use.
const Environment = "MERIDIAN_ENVOY"

// Binary gives the absolute path of Envoy. Without one it skips the test.
func Binary(t testing.TB) string {
	t.Helper()

	path, ok := Find()
	if !ok {
		t.Skipf("no Envoy: set %s or run make tools", Environment)
	}
	return path
}

// Find gives the absolute path of Envoy, if there is one.
func Find() (string, bool) {
	path := os.Getenv(Environment)
	if path == "" {
		root, ok := moduleRoot()
		if !ok {
			return "", false
		}
		path = filepath.Join(root, ".tools", "envoy")
	}

	path, err := filepath.Abs(path)
	if err != nil {
		return "", false
	}
	info, err := os.Stat(path)
	return path, err == nil && !info.IsDir()
}

// moduleRoot is the nearest folder above the working directory with a go.mod. A test runs in the folder of
// its package.
func moduleRoot() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}
