package pki_test

import (
	"crypto/x509"
	"fmt"
	"log"
	"time"

	"github.com/meridian-mesh/meridian/identity/pki"
)

// The chain of a mesh: global signs a zone's request with the root, and the zone signs the
// certificate of a workload.
func Example() {
	rootCert, rootKey, err := pki.NewRoot("default", 365*24*time.Hour)
	if err != nil {
		log.Fatal(err)
	}

	csr, zoneKey, err := pki.NewCSR("default", "us-east")
	if err != nil {
		log.Fatal(err)
	}
	chain, err := pki.SignIntermediate(rootCert, rootKey, csr, 30*24*time.Hour)
	if err != nil {
		log.Fatal(err)
	}

	zone, err := pki.LoadAuthority(chain, zoneKey)
	if err != nil {
		log.Fatal(err)
	}
	leafChain, _, _, err := zone.IssueLeaf([]string{"spiffe://default/web"}, 24*time.Hour, time.Now())
	if err != nil {
		log.Fatal(err)
	}

	certs, err := pki.ParseCertificates(leafChain)
	if err != nil {
		log.Fatal(err)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(zone.Root())
	intermediates.AddCert(certs[1])
	_, err = certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates})
	fmt.Println(len(certs), certs[0].URIs[0], err)
	// Output:
	// 2 spiffe://default/web <nil>
}
