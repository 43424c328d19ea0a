package role

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/store"
)

func namesIn(t *testing.T, path string) (names []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var e store.AuditEntry
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		names = append(names, e.Name)
	}
	return names
}

// TestAuditFile: rows are lines; a file that was moved keeps what it has and the next row goes to a new
// one, also when the directory was missing for a while; SIGHUP harms nothing; others may not read it.
func TestAuditFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	path := filepath.Join(dir, "audit.jsonl")
	if _, err := openAuditFile(path); err == nil {
		t.Error("a directory that is not there was no error")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a, err := openAuditFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	listening := make(chan struct{})
	go func() { ended <- a.follow(ctx, func() { close(listening) }) }()
	<-listening
	add := func(name string) {
		t.Helper()
		if err := a.Append(store.AuditEntry{Who: "alice", Action: "put", Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(path string, names ...string) {
		t.Helper()
		if diff := cmp.Diff(names, namesIn(t, path)); diff != "" {
			t.Errorf("%s: %s", filepath.Base(path), diff)
		}
	}

	add("a")
	add("b")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add("c")
	want(path+".1", "a", "b")
	want(path, "c")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	add("d")
	want(path, "c", "d")
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := a.Append(store.AuditEntry{}); err == nil {
		t.Error("a row that went nowhere was no error")
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	add("e")
	want(path, "c", "d", "e")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	cancel()
	<-ended
}
