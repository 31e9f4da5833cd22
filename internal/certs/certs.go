package certs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/filewatch"
)

// Config names the files, all PEM.
type Config struct {
	Cert     string // the certificate, and those between it and its authority
	Key      string // of the certificate
	ClientCA string // authorities of clients; empty = clients are not asked for a certificate
	// ClientSAN is a name that a client's certificate must have; empty = any. As for a host, a DNS name may
	// be one of a wildcard; of URI, IP and e-mail it is the name itself.
	ClientSAN string
	Poll      time.Duration // files are looked at this often, beside notifications; 0 = 10 s
}

// Store holds what is in force.
type Store struct {
	cfg     Config
	log     *slog.Logger
	expiry  *prometheus.GaugeVec
	errors  prometheus.Counter
	current atomic.Pointer[loaded]
	fault   atomic.Pointer[fault]

	seen [sha256.Size]byte // of all files, as they were looked at last; of look alone
}

// loaded is one set of files that fit each other.
type loaded struct {
	cert      tls.Certificate
	clientCAs *x509.CertPool
	expires   time.Time // of the first certificate of cert
	caExpires time.Time // of the authority that expires first; zero where there are none
}

// fault is what is wrong with the files as they are.
type fault struct{ err error }

// New reads the files. An error names the file that cannot be used.
func New(cfg Config, reg prometheus.Registerer, log *slog.Logger) (*Store, error) {
	if cfg.Poll <= 0 {
		cfg.Poll = 10 * time.Second
	}
	s := &Store{
		cfg: cfg, log: log,
		expiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ratelimitd_tls_certificate_expiry_timestamp_seconds",
			Help: "Unix time at which what is in force expires: the certificate (use server), or the first of the clients' authorities (use client_ca).",
		}, []string{"use"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_tls_reload_errors_total", Help: "Changes of the TLS files that could not be put in force.",
		}),
	}
	for _, c := range []prometheus.Collector{s.expiry, s.errors} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of TLS: %w", err)
		}
	}
	files, err := s.read()
	if err != nil {
		return nil, err
	}
	l, err := s.parse(files)
	if err != nil {
		return nil, err
	}
	s.seen = files.hash()
	s.adopt(l)
	return s, nil
}

// Run follows the files until ctx ends, and returns nil then.
func (s *Store) Run(ctx context.Context) error {
	paths := []string{s.cfg.Cert, s.cfg.Key}
	if s.cfg.ClientCA != "" {
		paths = append(paths, s.cfg.ClientCA)
	}
	filewatch.Follow(ctx, filewatch.Config{What: "the TLS files", Paths: paths, Poll: s.cfg.Poll}, s.log, s.look)
	return nil
}

// Ready returns nil when what is in force is what the files say and has not expired.
func (s *Store) Ready() error {
	if f := s.fault.Load(); f != nil {
		return fmt.Errorf("the last good TLS files are in force: %w", f.err)
	}
	if expires := s.current.Load().expires; time.Now().After(expires) {
		return fmt.Errorf("the certificate %s has expired at %s", s.cfg.Cert, expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// Server returns the settings of a port that speaks protocols (ALPN). auth applies where clients
// are asked for a certificate.
func (s *Store) Server(auth tls.ClientAuthType, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols, // grpc-go and net/http look at it
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			l := s.current.Load()
			c := &tls.Config{
				MinVersion: tls.VersionTLS12, NextProtos: protocols, SessionTicketsDisabled: true,
				Certificates: []tls.Certificate{l.cert},
			}
			if l.clientCAs != nil {
				c.ClientCAs, c.ClientAuth, c.VerifyConnection = l.clientCAs, auth, s.verifyName
			}
			return c, nil
		},
	}
}

// verifyName refuses a client that shows a certificate without the name that it must have.
func (s *Store) verifyName(c tls.ConnectionState) error {
	if s.cfg.ClientSAN == "" || len(c.PeerCertificates) == 0 { // who has to show one is asked elsewhere
		return nil
	}
	cert := c.PeerCertificates[0]
	names := slices.Concat(cert.DNSNames, cert.EmailAddresses)
	for _, uri := range cert.URIs {
		names = append(names, uri.String())
	}
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if cert.VerifyHostname(s.cfg.ClientSAN) != nil && !slices.Contains(names, s.cfg.ClientSAN) {
		return fmt.Errorf("the client's certificate has the names %q, not TPS_TLS_CLIENT_SAN=%q", names, s.cfg.ClientSAN)
	}
	return nil
}

// look puts the files in force if they have changed.
func (s *Store) look(ctx context.Context) {
	files, err := s.read()
	if err != nil {
		s.seen = [sha256.Size]byte{}
		s.reject(ctx, err)
		return
	}
	hash := files.hash()
	if hash == s.seen {
		return
	}
	s.seen = hash
	l, err := s.parse(files)
	if err != nil {
		s.reject(ctx, err)
		return
	}
	s.adopt(l)
	s.log.InfoContext(ctx, "the TLS files are in force", slog.String("cert", s.cfg.Cert), slog.Time("expires", l.expires))
}

// reject keeps what is in force, and says why; the same reason only once.
func (s *Store) reject(ctx context.Context, err error) {
	defer s.fault.Store(&fault{err}) // last: who waits for Ready finds the rest done
	if was := s.fault.Load(); was != nil && was.err.Error() == err.Error() {
		return
	}
	s.errors.Inc()
	s.log.ErrorContext(ctx, "the TLS files are not used; the last good ones stay in force", slog.Any("error", err))
}

func (s *Store) adopt(l *loaded) {
	s.expiry.WithLabelValues("server").Set(float64(l.expires.Unix()))
	if s.cfg.ClientCA != "" {
		s.expiry.WithLabelValues("client_ca").Set(float64(l.caExpires.Unix()))
	}
	s.current.Store(l)
	s.fault.Store(nil)
}

// files are the bytes of cert, key and client CA.
type files [3][]byte

func (f files) hash() [sha256.Size]byte {
	var all []byte
	for _, body := range f {
		sum := sha256.Sum256(body)
		all = append(all, sum[:]...)
	}
	return sha256.Sum256(all)
}

// read returns what the files hold.
func (s *Store) read() (f files, err error) {
	for i, path := range [...]string{s.cfg.Cert, s.cfg.Key, s.cfg.ClientCA} {
		if path == "" {
			continue // no client CA
		}
		if f[i], err = os.ReadFile(path); err != nil { //nolint:gosec // the operator names the file
			return f, fmt.Errorf("reading %s: %w", variables[i], err)
		}
	}
	return f, nil
}

// variables name the files in errors, in the order of files.
var variables = [...]string{"TPS_TLS_CERT", "TPS_TLS_KEY", "TPS_TLS_CLIENT_CA"} //nolint:gochecknoglobals // a constant list

// parse checks that the files are what they should be and fit each other.
func (s *Store) parse(f files) (*loaded, error) {
	l := &loaded{}
	var err error
	if l.cert, err = tls.X509KeyPair(f[0], f[1]); err != nil {
		return nil, fmt.Errorf("TPS_TLS_CERT=%q with TPS_TLS_KEY=%q: %w", s.cfg.Cert, s.cfg.Key, err)
	}
	l.expires = l.cert.Leaf.NotAfter
	if s.cfg.ClientCA == "" {
		return l, nil
	}
	authorities, err := parseAll(f[2])
	if err != nil {
		return nil, fmt.Errorf("TPS_TLS_CLIENT_CA=%q: %w", s.cfg.ClientCA, err)
	}
	l.clientCAs = x509.NewCertPool()
	for _, ca := range authorities {
		l.clientCAs.AddCert(ca)
		if l.caExpires.IsZero() || ca.NotAfter.Before(l.caExpires) {
			l.caExpires = ca.NotAfter
		}
	}
	return l, nil
}

// parseAll returns every certificate, of which there must be one. A pool's own reader passes
// over what it cannot use, and would leave a client's authority out without a word.
func parseAll(body []byte) (all []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, body = pem.Decode(body); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s, want certificates alone", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	switch {
	case len(all) == 0:
		return nil, errors.New("holds no certificate")
	case len(bytes.TrimSpace(body)) > 0:
		return nil, errors.New("holds something after the last certificate")
	}
	return all, nil
}
