package servercert

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

func handshake(t *testing.T, server *Server, client *tls.Config) error {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	var g errgroup.Group
	g.Go(func() error {
		defer a.Close()
		return tls.Server(a, server.TLS()).Handshake()
	})
	err := tls.Client(b, client).Handshake()
	b.Close()
	_ = g.Wait()
	return err
}

func TestServerIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tls")
	one, err := LoadOrCreate(dir, []string{"cp.example"})
	if err != nil {
		t.Fatal(err)
	}
	two, err := LoadOrCreate(dir, []string{"cp.example"})
	if err != nil {
		t.Fatal(err)
	}
	if one.Pin != two.Pin || !bytes.Equal(one.Certificate.Certificate[0], two.Certificate.Certificate[0]) {
		t.Error("a second start made other certificates")
	}
	three, err := LoadOrCreate(dir, []string{"cp.example", "other.example"})
	if err != nil {
		t.Fatal(err)
	}
	if one.Pin != three.Pin {
		t.Error("a new host name changed the pin")
	}
	if bytes.Equal(one.Certificate.Certificate[0], three.Certificate.Certificate[0]) {
		t.Error("a new host name is not in the certificate")
	}
	for _, f := range []string{"ca.key", "tls.key"} {
		if info, err := os.Stat(filepath.Join(dir, f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, error %v, want 0600", f, info.Mode(), err)
		}
	}
}

func TestDamagedFilesAreNamedAndKept(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ca.crt", "ca.key", "tls.crt"} {
		for _, how := range []string{"damaged", "missing"} {
			if how == "missing" && name == "tls.crt" {
				continue // made again from the CA
			}
			t.Run(name+" "+how, func(t *testing.T) {
				dir := t.TempDir()
				if _, err := LoadOrCreate(dir, nil); err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(dir, name)
				if how == "damaged" {
					if err := os.WriteFile(file, []byte("junk"), 0o600); err != nil {
						t.Fatal(err)
					}
				} else if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				_, err := LoadOrCreate(dir, nil)
				if err == nil || !strings.Contains(err.Error(), name) {
					t.Fatalf("error = %v, want one that names %s", err, name)
				}
				if data, err := os.ReadFile(file); how == "damaged" &&
					(err != nil || string(data) != "junk") {
					t.Errorf("%s was replaced: %q, %v", name, data, err)
				}
			})
		}
	}
}

func TestClientTrust(t *testing.T) {
	t.Parallel()
	ours, err := LoadOrCreate(t.TempDir(), []string{"cp.example"})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := LoadOrCreate(t.TempDir(), []string{"cp.example"})
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ours.CAPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(ours.Certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	// A stranger who shows our CA behind a certificate that it did not sign.
	stranger := &Server{Certificate: theirs.Certificate}
	stranger.Certificate.Certificate = [][]byte{theirs.Certificate.Certificate[0],
		ours.Certificate.Certificate[1]}

	for _, c := range []struct {
		name   string
		server *Server
		o      ClientOptions
		good   bool
	}{
		{"pin of the CA", ours, ClientOptions{Pins: []string{"00", ours.Pin}, ServerName: "whatever"}, true},
		{"pin in upper case", ours, ClientOptions{
			Pins:       []string{strings.ToUpper(ours.Pin)},
			ServerName: "x",
		}, true},
		{"pin of the server's own certificate", ours, ClientOptions{
			Pins:       []string{Pin(leaf)},
			ServerName: "x",
		}, true},
		{"pin of another", theirs, ClientOptions{Pins: []string{ours.Pin}, ServerName: "cp.example"}, false},
		{"pinned CA shown by a stranger", stranger, ClientOptions{
			Pins:       []string{ours.Pin},
			ServerName: "cp.example",
		}, false},
		{"CA file", ours, ClientOptions{CAFile: caFile, ServerName: "cp.example"}, true},
		{"CA file beats pins", theirs, ClientOptions{
			CAFile:     caFile,
			Pins:       []string{theirs.Pin},
			ServerName: "cp.example",
		}, false},
		{"CA file and another name", ours, ClientOptions{CAFile: caFile, ServerName: "evil.example"}, false},
		{"system roots", ours, ClientOptions{CAFile: "system", ServerName: "cp.example"}, false},
		{"nothing given", ours, ClientOptions{ServerName: "cp.example"}, false},
		{"no verification", theirs, ClientOptions{
			SkipVerify: true,
			Pins:       []string{ours.Pin},
			ServerName: "x",
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf, err := ClientTLS(c.o)
			if err != nil {
				t.Fatal(err)
			}
			if err := handshake(t, c.server, conf); (err == nil) != c.good {
				t.Errorf("handshake: %v, want success %v", err, c.good)
			}
		})
	}
	conf, _ := ClientTLS(ClientOptions{Pins: []string{ours.Pin}, ServerName: "cp.example"})
	var pe *PinError
	if err := handshake(t, theirs, conf); !errors.As(err, &pe) ||
		!strings.Contains(err.Error(), "--ca-file") {
		t.Errorf("error = %v, want a PinError that says what to do", err)
	}
	if _, err := ClientTLS(ClientOptions{CAFile: "/nonexistent"}); err == nil {
		t.Error("a missing CA file is accepted")
	}
}

func TestTokenPins(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "a.b", "a.!.c", "a.bm90anNvbg.c"} {
		if _, err := TokenPins(bad); err == nil {
			t.Errorf("TokenPins(%q) is accepted", bad)
		}
	}
}
