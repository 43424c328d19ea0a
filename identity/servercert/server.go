package servercert

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/identity/pki"
)

// Lifetimes of what a control plane makes for itself.
const (
	caValidity     = 20 * 365 * 24 * time.Hour
	serverValidity = 2 * 365 * 24 * time.Hour
	// serverRenew is the rest of life at which the server certificate is made again at the start.
	serverRenew = 90 * 24 * time.Hour
)

// Server is a control plane's own certificate.
type Server struct {
	// Certificate is what to serve; its chain includes the CA.
	Certificate tls.Certificate
	// CAPEM is the last certificate of the chain.
	CAPEM []byte
	// Pin of that certificate, for tokens.
	Pin string
}

// TLS is a server configuration with the certificate; callers may add to it.
func (s *Server) TLS() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{s.Certificate},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
}

// LoadOrCreate reads the control plane's own certificate from dir, or makes a CA and a certificate for
// hosts (names and IPs; localhost and this machine's name are always among them) and keeps them there. A
// present CA is never replaced: files that cannot be read are an error with the file's name.
func LoadOrCreate(dir string, hosts []string) (*Server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("certificate directory: %w", err)
	}
	ca, signer, err := loadOrCreateCA(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, err
	}

	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	hosts = serverHosts(hosts)
	s, err := Load(certFile, keyFile)
	switch {
	case err == nil && s.Pin == Pin(ca) && covers(s, hosts, time.Now().Add(serverRenew)):
		return s, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w; move it to have a new one made from the CA", err)
	}

	chain, key, err := signServer(ca, signer, hosts)
	if err != nil {
		return nil, err
	}
	// Key and certificate are replaced one after the other; a crash between them would be seen as a
	// mismatch, so the old certificate goes first.
	if err := os.Remove(certFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := writeFile(keyFile, key, 0o600); err != nil {
		return nil, fmt.Errorf("write server key: %w", err)
	}
	if err := writeFile(certFile, chain, 0o644); err != nil {
		return nil, fmt.Errorf("write server certificate: %w", err)
	}
	return newServer(chain, key)
}

func loadOrCreateCA(certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	cert, certErr := os.ReadFile(certFile)
	key, keyErr := os.ReadFile(keyFile)
	switch {
	case errors.Is(certErr, os.ErrNotExist) && errors.Is(keyErr, os.ErrNotExist):
		var err error
		if cert, key, err = pki.NewCA("Meridian control plane CA", caValidity, nil); err != nil {
			return nil, nil, err
		}
		// The key first: a crash between the two leaves a key without certificate, which is an error above.
		if err := writeFile(keyFile, key, 0o600); err != nil {
			return nil, nil, fmt.Errorf("write CA key: %w", err)
		}
		if err := writeFile(certFile, cert, 0o644); err != nil {
			return nil, nil, fmt.Errorf("write CA certificate: %w", err)
		}
	case certErr != nil:
		return nil, nil, halfCA(certErr, keyFile)
	case keyErr != nil:
		return nil, nil, halfCA(keyErr, certFile)
	}

	certs, err := pki.ParseCertificates(cert)
	if err != nil {
		return nil, nil, fmt.Errorf("control plane CA %s is damaged: %w; restore it from a backup",
			certFile, err)
	}
	signer, err := pki.ParseKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("control plane CA key %s is damaged: %w; restore it from a backup",
			keyFile, err)
	}
	return certs[0], signer, nil
}

// halfCA says that a file of the CA cannot be read while the other one exists.
func halfCA(err error, other string) error {
	return fmt.Errorf("control plane CA: %w; restore it from a backup, or move %s as well to have a new CA "+
		"made (tokens issued so far will no longer trust this control plane)", err, other)
}

// signServer makes a key and a certificate of the CA for hosts, and returns the chain with the CA.
func signServer(ca *x509.Certificate, signer crypto.Signer, hosts []string) (chain, key []byte, err error) {
	k, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	serial, err := pki.NewSerial()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Meridian control plane"},
		NotBefore:             now.Add(-pki.ClockSkew),
		NotAfter:              now.Add(serverValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, k.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("make server certificate: %w", err)
	}
	if key, err = pki.KeyPEM(k); err != nil {
		return nil, nil, err
	}
	return pki.CertificatePEM(der, ca.Raw), key, nil
}

// Load reads a certificate chain and its key from PEM files, for control planes with a configured
// certificate. The pin is that of the chain's last certificate; give the chain with
// its CA to let tokens pin it.
func Load(certFile, keyFile string) (*Server, error) {
	chain, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("server key: %w", err)
	}
	s, err := newServer(chain, key)
	if err != nil {
		return nil, fmt.Errorf("server certificate %s with key %s: %w", certFile, keyFile, err)
	}
	return s, nil
}

func newServer(chain, key []byte) (*Server, error) {
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		return nil, err
	}
	last := certs[len(certs)-1]
	return &Server{Certificate: cert, CAPEM: pki.CertificatePEM(last.Raw), Pin: Pin(last)}, nil
}

func serverHosts(hosts []string) []string {
	out := []string{"localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil && name != "" {
		out = append(out, name)
	}
	for _, h := range hosts {
		if h != "" && h != "0.0.0.0" && h != "::" {
			out = append(out, h)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func covers(s *Server, hosts []string, at time.Time) bool {
	leaf, err := x509.ParseCertificate(s.Certificate.Certificate[0])
	if err != nil || at.After(leaf.NotAfter) {
		return false
	}
	for _, h := range hosts {
		if leaf.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

// writeFile writes whole or not at all, and reaches the disk before it returns.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(f.Chmod(mode), write(f, data), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func write(f *os.File, data []byte) error {
	_, err := f.Write(data)
	return err
}
