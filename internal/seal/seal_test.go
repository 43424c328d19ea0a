package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestSealOpens(t *testing.T) {
	s, err := New(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	plain, context := []byte("a secret"), []byte("Secret/default///x")
	sealed, err := s.Seal(plain, context)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, plain) {
		t.Fatal("the sealed value shows the secret")
	}
	got, err := s.Open(sealed, context)
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("Open = %q, %v", got, err)
	}
	if _, err := s.Open(sealed, []byte("Secret/default///y")); err == nil {
		t.Error("a value opened under another resource's key")
	}
	for i := range sealed {
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		if _, err := s.Open(altered, context); err == nil {
			t.Errorf("a value opened with byte %d altered", i)
		}
		if _, err := s.Open(sealed[:i], context); err == nil {
			t.Errorf("a value cut to %d bytes opened", i)
		}
	}
	other, err := New(bytes.Repeat([]byte{8}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(sealed, context); err == nil {
		t.Error("another key opened the value")
	}
	if other.Fingerprint() == s.Fingerprint() {
		t.Error("two keys have one fingerprint")
	}
}

func TestLoadOrCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "encryption.key")
	if _, err := LoadOrCreate(path, false); err == nil {
		t.Fatal("a missing key was made though create is false")
	}
	// Several processes at once end up with one key.
	var wg sync.WaitGroup
	prints := make([]string, 8)
	for i := range prints {
		wg.Go(func() {
			s, err := LoadOrCreate(path, true)
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = s.Fingerprint()
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] {
			t.Fatalf("fingerprints differ: %q", prints)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %o, want 600", info.Mode().Perm())
	}
	for name, change := range map[string]func() error{
		"readable by all": func() error { return os.Chmod(path, 0o644) },
		"cut off":         func() error { return os.WriteFile(path, []byte("AAAA\n"), 0o600) },
		"empty":           func() error { return os.WriteFile(path, nil, 0o600) },
		"not base64":      func() error { return os.WriteFile(path, []byte("%%%\n"), 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreate(path, true); err == nil {
			t.Errorf("%s: loaded", name)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
