// Package pki makes and reads X.509 material: keys, certificate authorities, and the chain of a mesh from
// its root at global over the intermediate of a zone to the leaf of a workload.
//
// All keys are ECDSA P-256. A root signs intermediates (path length 0), an intermediate signs leaves that
// carry SPIFFE URIs. An [Authority] is a root or an intermediate, so a standalone zone, which signs with
// its root, needs no second way. No certificate outlives the one that signed it.
//
// Certificates and keys come and go as PEM. Everything here is pure; an [Authority] is safe for concurrent
// use.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ClockSkew is how long before now a certificate begins to be valid, for clocks that are behind.
const ClockSkew = 5 * time.Minute

// NewKey makes a private key.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// NewSerial makes a random serial number.
func NewSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}

// CertificatePEM encodes certificates, given as DER, one after the other.
func CertificatePEM(der ...[]byte) []byte {
	var out []byte
	for _, d := range der {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
	}
	return out
}

// KeyPEM encodes a private key as PKCS#8.
func KeyPEM(key crypto.Signer) ([]byte, error) {
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
