package pki

import (
	"bytes"
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
)

// Lifetimes of what a control plane makes for itself.
const (
	caValidity     = 20 * 365 * 24 * time.Hour
	serverValidity = 2 * 365 * 24 * time.Hour
	// serverRenew is the rest of life at which the server certificate is made anew at start.
	serverRenew = 90 * 24 * time.Hour
	clockSkew   = 5 * time.Minute
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

// LoadOrCreateServer reads the control plane's own certificate from dir, or makes a CA and a
// certificate for hosts (names and IPs; localhost and this machine's name are always among them)
// and keeps them there. A present CA is never replaced: files that cannot be read are an error with
// the file's name.
func LoadOrCreateServer(dir string, hosts []string) (*Server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("certificate directory: %w", err)
	}
	caCertFile, caKeyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	hosts = serverHosts(hosts)

	caCert, caErr := os.ReadFile(caCertFile)
	caKey, keyErr := os.ReadFile(caKeyFile)
	switch {
	case errors.Is(caErr, os.ErrNotExist) && errors.Is(keyErr, os.ErrNotExist):
		var err error
		if caCert, caKey, err = newCA("Meridian control plane CA", caValidity, nil); err != nil {
			return nil, err
		}
		// The key first: a crash between the two leaves a key without certificate, which is reported below.
		if err := writeFile(caKeyFile, caKey, 0o600); err != nil {
			return nil, fmt.Errorf("write CA key: %w", err)
		}
		if err := writeFile(caCertFile, caCert, 0o644); err != nil {
			return nil, fmt.Errorf("write CA certificate: %w", err)
		}
	case caErr != nil:
		return nil, fmt.Errorf("control plane CA: %w; restore it from a backup, or move %s away too to "+
			"make a new CA "+
			"(tokens issued so far will no longer trust this control plane)", caErr, caKeyFile)
	case keyErr != nil:
		return nil, fmt.Errorf("control plane CA: %w; restore it from a backup, or move %s away too to "+
			"make a new CA "+
			"(tokens issued so far will no longer trust this control plane)", keyErr, caCertFile)
	}
	ca, err := ParseCertificates(caCert)
	if err != nil {
		return nil, fmt.Errorf("control plane CA %s is damaged: %w; restore it from a backup", caCertFile,
			err)
	}
	signer, err := ParseKey(caKey)
	if err != nil {
		return nil, fmt.Errorf("control plane CA key %s is damaged: %w; restore it from a backup", caKeyFile,
			err)
	}

	if s, err := LoadServer(certFile, keyFile); err == nil && s.Pin == Pin(ca[0]) &&
		covers(s, hosts, time.Now().Add(serverRenew)) {
		return s, nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; it can be moved away: a new one is made from the CA", err)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Meridian control plane"},
		NotBefore:             now.Add(-clockSkew),
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
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca[0], key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make server certificate: %w", err)
	}
	keyData, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	chain := certPEM(der, ca[0].Raw)
	// Key and certificate are replaced one after the other; a crash between them is seen as a
	// mismatch, so the old certificate goes first.
	if err := os.Remove(certFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := writeFile(keyFile, keyData, 0o600); err != nil {
		return nil, fmt.Errorf("write server key: %w", err)
	}
	if err := writeFile(certFile, chain, 0o644); err != nil {
		return nil, fmt.Errorf("write server certificate: %w", err)
	}
	return newServer(chain, keyData)
}

// LoadServer reads a certificate chain and its key from PEM files, for control planes with a
// certificate of their own. The pin is that of the chain's last certificate; give the chain with
// its CA to let tokens pin it.
func LoadServer(certFile, keyFile string) (*Server, error) {
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
	certs, err := ParseCertificates(chain)
	if err != nil {
		return nil, err
	}
	last := certs[len(certs)-1]
	return &Server{Certificate: cert, CAPEM: certPEM(last.Raw), Pin: Pin(last)}, nil
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

// newCA makes a self-signed CA; edit may change the template.
func newCA(name string, validity time.Duration, edit func(*x509.Certificate)) (cert, key []byte, err error) {
	k, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Meridian"}, CommonName: name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		return nil, nil, fmt.Errorf("make CA %q: %w", name, err)
	}
	if key, err = keyPEM(k); err != nil {
		return nil, nil, err
	}
	return bytes.Clone(certPEM(der)), key, nil
}
