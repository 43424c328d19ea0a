package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// trustDomain is the trust domain's URI, spiffe://<mesh>.
func trustDomain(meshName string) *url.URL { return &url.URL{Scheme: "spiffe", Host: meshName} }

// NewRoot makes the self-signed root of a mesh; it may sign intermediates.
func NewRoot(meshName string, validity time.Duration) (cert, key []byte, err error) {
	return NewCA(meshName, validity, func(c *x509.Certificate) { c.URIs = []*url.URL{trustDomain(meshName)} })
}

// NewCA makes a self-signed CA; edit, unless nil, may change the template.
func NewCA(name string, validity time.Duration, edit func(*x509.Certificate)) (cert, key []byte, err error) {
	k, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	serial, err := NewSerial()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Meridian"}, CommonName: name},
		NotBefore:             now.Add(-ClockSkew),
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
	if key, err = KeyPEM(k); err != nil {
		return nil, nil, err
	}
	return CertificatePEM(der), key, nil
}

// NewCSR makes a key and a request (DER) for the intermediate of a zone in a mesh. The key stays
// with the caller.
func NewCSR(meshName, zone string) (csrDER, key []byte, err error) {
	k, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	csrDER, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{
			Organization:       []string{"Meridian"},
			OrganizationalUnit: []string{zone},
			CommonName:         meshName + " in " + zone,
		},
		URIs: []*url.URL{trustDomain(meshName)},
	}, k)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	key, err = KeyPEM(k)
	return csrDER, key, err
}

// SignIntermediate signs a request with a mesh's root and returns the chain: the intermediate, then
// the root. The intermediate may sign workloads only, and ends no later than the root. It fails if
// the request is damaged or asks for another mesh than the root's, or if the root may not sign
// intermediates.
func SignIntermediate(rootCert, rootKey, csrDER []byte, validity time.Duration) (chain []byte, err error) {
	root, err := LoadAuthority(rootCert, rootKey)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	ca := root.chain[0]
	if ca.MaxPathLenZero {
		return nil, errors.New("the root may not sign intermediates (its path length is 0)")
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if len(ca.URIs) > 0 {
		if len(csr.URIs) != 1 || csr.URIs[0].String() != ca.URIs[0].String() {
			return nil, fmt.Errorf("certificate request is for %v, but the root is of %s", csr.URIs,
				ca.URIs[0])
		}
	}
	serial, err := NewSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               csr.Subject,
		URIs:                  csr.URIs,
		NotBefore:             now.Add(-ClockSkew),
		NotAfter:              earlier(now.Add(validity), ca.NotAfter),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, csr.PublicKey, root.key)
	if err != nil {
		return nil, fmt.Errorf("sign intermediate: %w", err)
	}
	return CertificatePEM(append([][]byte{der}, raw(root.chain)...)...), nil
}

// Authority signs the certificates of workloads; it is a root or an intermediate with its chain.
type Authority struct {
	chain []*x509.Certificate
	key   crypto.Signer
	// intermediates are the PEM certificates that a leaf carries behind itself: the chain without
	// the self-signed root.
	intermediates []byte
	root          []byte
}

// LoadAuthority reads a chain (the signing certificate first) and the key that belongs to its first
// certificate.
func LoadAuthority(chainPEM, keyData []byte) (*Authority, error) {
	chain, err := ParseCertificates(chainPEM)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(keyData)
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(chain[0].PublicKey) {
		return nil, errors.New("the key does not belong to the first certificate of the chain")
	}
	if !chain[0].IsCA || chain[0].KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("the first certificate of the chain is not a CA that may sign certificates")
	}
	a := &Authority{chain: chain, key: key}
	for i, c := range chain {
		if i+1 < len(chain) {
			if err := c.CheckSignatureFrom(chain[i+1]); err != nil {
				return nil, fmt.Errorf("certificate %d of the chain is not signed by the next: %w", i+1, err)
			}
		}
		if bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil {
			a.root = CertificatePEM(c.Raw)
			break
		}
		a.intermediates = append(a.intermediates, CertificatePEM(c.Raw)...)
	}
	return a, nil
}

// Root is the self-signed certificate at the chain's end as PEM, or nil if the chain lacks it.
func (a *Authority) Root() []byte { return a.root }

// NotBefore is the start of the signing certificate.
func (a *Authority) NotBefore() time.Time { return a.chain[0].NotBefore }

// NotAfter is the end of the signing certificate.
func (a *Authority) NotAfter() time.Time { return a.chain[0].NotAfter }

// IssueLeaf makes a workload's key and certificate with the given URIs; the chain is the leaf and
// the intermediates, without the root. The leaf ends no later than the authority; notAfter says
// when. It fails if the authority has ended.
func (a *Authority) IssueLeaf(uris []string, validity time.Duration,
	now time.Time) (chainPEM, keyData []byte, notAfter time.Time, err error) {
	if now.After(a.NotAfter()) {
		return nil, nil, time.Time{},
			fmt.Errorf("the signing certificate ended at %s", a.NotAfter().Format(time.RFC3339))
	}
	if len(uris) == 0 {
		return nil, nil, time.Time{}, errors.New("a workload certificate needs at least one URI")
	}
	serial, err := NewSerial()
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	notAfter = earlier(now.Add(validity), a.NotAfter())
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-ClockSkew),
		NotAfter:     notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment |
			x509.KeyUsageKeyAgreement,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil || parsed.Scheme == "" {
			return nil, nil, time.Time{}, fmt.Errorf("workload URI %q is not a URI", u)
		}
		tmpl.URIs = append(tmpl.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.chain[0], key.Public(), a.key)
	if err != nil {
		return nil, nil, time.Time{}, fmt.Errorf("sign workload certificate: %w", err)
	}
	keyData, err = KeyPEM(key)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	return append(CertificatePEM(der), a.intermediates...), keyData, notAfter.Truncate(time.Second), nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func raw(certs []*x509.Certificate) [][]byte {
	out := make([][]byte, len(certs))
	for i, c := range certs {
		out[i] = c.Raw
	}
	return out
}
