package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// Client returns what a client needs for TLS, as its PEM files are now: the authorities of the server's
// certificate (empty = those of the system), and a certificate and key to show (both empty = none).
// Errors name the file.
func Client(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		body, err := os.ReadFile(ca) //nolint:gosec // the operator names the file
		if err != nil {
			return nil, fmt.Errorf("reading the authority: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(body) {
			return nil, fmt.Errorf("reading the authority: %s holds no certificate", ca)
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate %q and key %q: %w", cert, key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
