package servercert

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/identity/pki"
	"github.com/meridian-mesh/meridian/internal/hint"
)

// ClientOptions say which servers a client trusts.
type ClientOptions struct {
	// CAFile holds PEM certificates; "system" means the system's roots. It overrides Pins.
	CAFile string
	// SkipVerify accepts any server.
	SkipVerify bool
	// Pins of certificates (see the package comment).
	Pins []string
	// ServerName is compared with the certificate when CAFile is used, and sent as SNI.
	ServerName string
}

// ClientTLS makes a client's TLS settings. With nothing given the system's roots are used. It fails
// if the file cannot be read or holds no certificate.
func ClientTLS(o ClientOptions) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	switch {
	case o.SkipVerify:
		conf.InsecureSkipVerify = true
	case o.CAFile == "system", o.CAFile == "" && len(o.Pins) == 0:
	case o.CAFile != "":
		data, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		certs, err := pki.ParseCertificates(data)
		if err != nil {
			return nil, fmt.Errorf("CA file %s: %w", o.CAFile, err)
		}
		conf.RootCAs = x509.NewCertPool()
		for _, c := range certs {
			conf.RootCAs.AddCert(c)
		}
	default:
		pins := make(map[string]bool, len(o.Pins))
		for _, p := range o.Pins {
			pins[strings.ToLower(p)] = true
		}
		// The name is not compared, so the standard check is replaced, not left out.
		// VerifyConnection also runs on resumed sessions.
		conf.InsecureSkipVerify = true
		conf.VerifyConnection = func(cs tls.ConnectionState) error {
			return verifyPinned(cs.PeerCertificates, pins, time.Now())
		}
	}
	return conf, nil
}

// Pin is the hex SHA-256 of the certificate's SubjectPublicKeyInfo.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// PinError says that a server's certificate does not end in any pinned certificate.
type PinError struct {
	// Got are the pins of the certificates that the server sent.
	Got []string
	// Err is set if a pinned certificate was there but the chain to it does not hold.
	Err error
}

func (e *PinError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the server's certificate does not hold against the CA that the token pins: %v",
			e.Err)
	}
	return fmt.Sprintf("the server's certificate ends in no CA that the token pins (it has %s): %s",
		strings.Join(short(e.Got), ", "), hint.ServerCA)
}

func (e *PinError) Unwrap() error { return e.Err }

func short(pins []string) []string {
	out := make([]string, len(pins))
	for i, p := range pins {
		out[i] = p[:min(len(p), 16)]
	}
	return out
}

func verifyPinned(chain []*x509.Certificate, pins map[string]bool, now time.Time) error {
	if len(chain) == 0 {
		return &PinError{Err: errors.New("the server sent no certificate")}
	}
	fail := &PinError{}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for i, c := range chain {
		pin := Pin(c)
		fail.Got = append(fail.Got, pin)
		if pins[pin] {
			roots.AddCert(c)
			found = true
			if i == 0 {
				if now.After(c.NotAfter) {
					return &PinError{Err: fmt.Errorf("it expired at %s", c.NotAfter.Format(time.RFC3339))}
				}
				return nil
			}
		} else if i > 0 {
			between.AddCert(c)
		}
	}
	if !found {
		return fail
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: between,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		fail.Err = err
		return fail
	}
	return nil
}

// TokenPins reads the pins out of a token without verifying it; that is the client's side, which
// holds the token and has no key. A token without pins gives none.
func TokenPins(token string) ([]string, error) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return nil, errors.New("this is not a token: it must be three parts joined by dots")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("this is not a token: %w", err)
	}
	var claims struct {
		CA []string `json:"ca"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, fmt.Errorf("this is not a token: %w", err)
	}
	return claims.CA, nil
}
