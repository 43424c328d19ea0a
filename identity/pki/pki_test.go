package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"
)

func TestWorkloadChain(t *testing.T) {
	t.Parallel()
	rootPEM, rootKey, err := NewRoot("default", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	csr, zoneKey, err := NewCSR("default", "east")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := SignIntermediate(rootPEM, rootKey, csr, 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := LoadAuthority(chain, zoneKey)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(authority.Root(), rootPEM) {
		t.Error("the authority's root is not the root")
	}
	roots, _ := ParseCertificates(rootPEM)
	if authority.NotAfter().After(roots[0].NotAfter) {
		t.Error("the intermediate outlives the root")
	}
	uris := []string{"spiffe://default/web", "kuma://kuma.io/service/web"}
	leafPEM, leafKey, notAfter, err := authority.IssueLeaf(uris, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(leafPEM, leafKey); err != nil {
		t.Fatal(err)
	}
	certs, _ := ParseCertificates(leafPEM)
	if len(certs) != 2 {
		t.Fatalf("the leaf's chain has %d certificates, want leaf and intermediate", len(certs))
	}
	if !certs[0].NotAfter.Equal(notAfter) {
		t.Errorf("notAfter %s, certificate says %s", notAfter, certs[0].NotAfter)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(roots[0])
	between.AddCert(certs[1])
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := certs[0].Verify(x509.VerifyOptions{
			Roots:         pool,
			Intermediates: between,
			KeyUsages:     []x509.ExtKeyUsage{use},
		}); err != nil {
			t.Errorf("verify: %v", err)
		}
	}
	for i, u := range certs[0].URIs {
		if u.String() != uris[i] {
			t.Errorf("URI %d = %s, want %s", i, u, uris[i])
		}
	}

	// An intermediate must not make intermediates, and a root none for another mesh.
	if _, err := SignIntermediate(chain, zoneKey, csr, time.Hour); err == nil {
		t.Error("an intermediate signed an intermediate")
	}
	foreign, _, _ := NewCSR("other", "east")
	if _, err := SignIntermediate(rootPEM, rootKey, foreign, time.Hour); err == nil {
		t.Error("the root of one mesh signed for another")
	}
	if _, err := LoadAuthority(rootPEM, zoneKey); err == nil {
		t.Error("a key of another certificate is accepted")
	}
	block, _ := pem.Decode(leafPEM)
	if _, err := LoadAuthority(pem.EncodeToMemory(block), leafKey); err == nil {
		t.Error("a leaf is accepted as authority")
	}
	if _, _, _, err := authority.IssueLeaf(uris, time.Hour,
		authority.NotAfter().Add(time.Second)); err == nil {
		t.Error("an ended authority signs")
	}
	own, err := LoadAuthority(rootPEM, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	if leafPEM, _, _, err = own.IssueLeaf(uris, time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	if certs, _ := ParseCertificates(leafPEM); len(certs) != 1 {
		t.Errorf("a root's leaf carries %d certificates, want itself alone", len(certs))
	}
}
