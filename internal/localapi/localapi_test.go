package localapi_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/internal/localapi"
)

// open listens in dir, and accepts and closes until the test ends.
func open(t *testing.T, dir, address string) *localapi.Listener {
	t.Helper()
	l, err := localapi.Open(dir, address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-ended })
	return l
}

// TestFind: whatever its data directory is called and however long its path, a control plane is found by the
// user who started it, and no longer when it has ended.
func TestFind(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	deep := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	byDefault := filepath.Join(home, ".meridian", "zone-here")
	for _, dir := range []string{deep, byDefault} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// A process that was killed left its socket behind.
	dead := open(t, deep, "127.0.0.1:1")
	if err := dead.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	if found, _ := localapi.Find(""); len(found) > 0 {
		t.Fatalf("found %v", found)
	}
	l := open(t, deep, "127.0.0.1:5681")
	open(t, byDefault, "127.0.0.1:6681")
	found, denied := localapi.Find("")
	if len(found) != 2 || len(denied) > 0 {
		t.Fatalf("found %v, denied %v", found, denied)
	}
	if found, _ := localapi.Find(deep); len(found) != 1 || found[0] != (localapi.ControlPlane{
		Dir:     deep,
		Address: "127.0.0.1:5681",
	}) {
		t.Errorf("found %v", found)
	}
	info, err := os.Stat(filepath.Join(deep, localapi.SocketFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(deep); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if found, _ := localapi.Find(""); len(found) != 1 || found[0].Dir != byDefault {
		t.Errorf("found %v", found)
	}
}

func TestPeer(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	dir := t.TempDir()
	l, err := localapi.Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := localapi.Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	if uid, ok := localapi.Peer(server); !ok || int(uid) != os.Getuid() {
		t.Errorf("peer is %d, %v", uid, ok)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	other, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if _, ok := localapi.Peer(other); ok {
		t.Error("a TCP connection says who its user is")
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		address, url string
		want         bool
	}{
		{"127.0.0.1:5681", "http://localhost:5681", true},
		{"127.0.0.1:5681", "http://localhost", true},
		{"127.0.0.1:5681", "http://127.0.0.1:5681", true},
		{"127.0.0.2:5681", "http://localhost:5681", false},
		{"[::1]:5681", "http://localhost:5681", true},
		{"127.0.0.2:5681", "http://127.0.0.1:5681", false},
		{"127.0.0.1:5681", "http://localhost:5691", false},
		{"127.0.0.1:5681", "https://localhost:5681", false},
		{"[::]:5681", "http://127.0.0.1:5681", true},
		{"[::]:5681", "http://10.0.0.1:5681", false},
		{"10.0.0.1:5681", "http://10.0.0.1:5681", true},
		{"", "http://localhost:5681", false},
	} {
		if got := (localapi.ControlPlane{Address: c.address}).Serves(c.url); got != c.want {
			t.Errorf("%s at %q: %v", c.url, c.address, got)
		}
	}
}

func TestWriteToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, localapi.TokenFile)
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := localapi.WriteToken(dir, "new"); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		info, _ := os.Stat(path)
		if err != nil || string(data) != "new\n" || info.Mode().Perm() != 0o600 {
			t.Errorf("%q, %v, %v", data, info.Mode(), err)
		}
	}
}
