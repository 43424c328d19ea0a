// Package pki makes and checks the certificates of the project: a control plane's own server
// certificate and its pin, a client's TLS settings, and the authorities of a mesh (root at global,
// intermediate in a zone, leaf of a workload).
//
// # Server
//
// A control plane without a configured certificate makes its own CA and server certificate once, in
// its data directory: ca.crt, ca.key, tls.crt, tls.key, the keys with mode 0600. The CA is kept for
// ever; the server certificate is made anew from the same CA when it nears its end or lacks a host
// name. Damaged files are an error that names the file: nothing is recreated in their place, for
// tokens in the field carry the CA's pin.
//
// # Pins
//
// A pin is the hex SHA-256 of a certificate's SubjectPublicKeyInfo. Tokens carry the pins of the
// control plane that issued them. A client with pins accepts a server if a certificate of the chain
// that the server sent has one of them and signs (through the others) the server's own certificate,
// or is it. The host name is not compared then: who holds the pinned key is the control plane,
// whatever it is called.
//
// # Workloads
//
// All keys are ECDSA P-256. A root signs intermediates (path length 0), an intermediate signs
// leaves that carry SPIFFE URIs. [Authority] works with a root as well as with an intermediate, so
// a standalone zone needs no second way.
//
// # Concurrency
//
// Everything here is pure or reads files once; an [Authority] and a [Server] are safe for concurrent use.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
)

// Pin is the hex SHA-256 of the certificate's SubjectPublicKeyInfo.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}

func certPEM(der ...[]byte) []byte {
	var out []byte
	for _, d := range der {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
	}
	return out
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseCertificates reads every certificate of PEM data; none is an error.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM block of type CERTIFICATE")
	}
	return out, nil
}

// ParseKey reads a private key, PEM or DER, PKCS#8, PKCS#1 or SEC 1.
func ParseKey(data []byte) (crypto.Signer, error) {
	der := data
	if block, _ := pem.Decode(data); block != nil {
		der = block.Bytes
	}
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if s, ok := k.(crypto.Signer); ok {
			return s, nil
		}
		return nil, fmt.Errorf("private key of type %T cannot sign", k)
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	return nil, errors.New("no private key in PKCS#8, PKCS#1 or SEC 1 form")
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
