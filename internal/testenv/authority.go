package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

// Authority signs certificates for tests.
type Authority struct {
	Cert *x509.Certificate
	PEM  []byte // of Cert

	key *ecdsa.PrivateKey
}

// NewAuthority makes one that is valid for a day.
func NewAuthority(tb testing.TB, name string) *Authority {
	tb.Helper()
	a := &Authority{}
	a.Cert, a.key = sign(tb, name, nil, 24*time.Hour)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})
	return a
}

// Pair returns a certificate for localhost and 127.0.0.1, good for servers and clients, and its key,
// as PEM files hold them. A negative valid makes one that has expired.
func (a *Authority) Pair(tb testing.TB, name string, valid time.Duration) (cert, key []byte) {
	tb.Helper()
	c, private := sign(tb, name, a, valid)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Client returns the settings of a client that trusts a alone, and shows a certificate signed by
// signer; none where that is nil.
func (a *Authority) Client(tb testing.TB, signer *Authority) *tls.Config {
	tb.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
	cfg.RootCAs.AddCert(a.Cert)
	if signer == nil {
		return cfg
	}
	pair, err := tls.X509KeyPair(signer.Pair(tb, "client", time.Hour))
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg
}

// sign makes a certificate, signed by a, or by itself.
func sign(tb testing.TB, name string, a *Authority, valid time.Duration) (*x509.Certificate, *ecdsa.PrivateKey) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(valid),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if a != nil {
		parent, signer = a.Cert, a.key
	} else {
		template.IsCA, template.BasicConstraintsValid = true, true
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert, key
}
