package launcher

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/meridian-mesh/meridian/identity/servercert"
)

// trust is how the zone's certificate is checked, and the CA that was found doing so: Envoy gets it
// as the only root for its own connection to the zone.
type trust struct {
	caFile string
	skip   bool
	pins   map[string]bool
	conf   *tls.Config

	mu       sync.Mutex
	ca       []byte // PEM, of the last handshake that held
	mismatch error  // of the last handshake: the server is not the token's control plane
}

func (t *trust) setPins(pins []string) {
	t.pins = map[string]bool{}
	for _, p := range pins {
		t.pins[strings.ToLower(p)] = true
	}
}

// wrap keeps conf and notes the pinned certificates of every handshake that conf accepts.
func (t *trust) wrap(conf *tls.Config) {
	t.conf = conf.Clone()
	verify := conf.VerifyConnection
	t.conf.VerifyConnection = func(cs tls.ConnectionState) error {
		if verify != nil {
			err := verify(cs)
			t.mu.Lock()
			t.mismatch = err
			t.mu.Unlock()
			if err != nil {
				return err
			}
		}
		var ca bytes.Buffer
		for _, c := range cs.PeerCertificates {
			if t.pins[servercert.Pin(c)] {
				_ = pem.Encode(&ca, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
			}
		}
		if ca.Len() > 0 {
			t.mu.Lock()
			t.ca = ca.Bytes()
			t.mu.Unlock()
		}
		return nil
	}
}

// foreign is why the server that answered is not the control plane that the token is of, or nil.
func (t *trust) foreign() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mismatch
}

// systemRoots are where distributions keep their bundle.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// envoyCA is the PEM that Envoy verifies the zone with; nil means that it verifies nothing
// (--tls-skip-verify).
func (t *trust) envoyCA() ([]byte, error) {
	switch {
	case t.skip:
		return nil, nil
	case t.caFile == "system":
		for _, p := range systemRoots {
			if data, err := os.ReadFile(p); err == nil {
				return data, nil
			}
		}
		return nil, errors.New("--ca-file system: no bundle of certificates found; give the file's path")
	case t.caFile != "":
		data, err := os.ReadFile(t.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		return data, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ca) == 0 {
		return nil, errors.New("no handshake with the zone has held yet")
	}
	return t.ca, nil
}
