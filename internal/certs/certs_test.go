package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tps-agent/ratelimitd/internal/certs"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const patience = 20 * time.Second // for what takes milliseconds

// port is a TLS port over a Store; every connection is told the server's view of the client.
type port struct {
	*certs.Store
	dir, addr string
	reg       *prometheus.Registry
	logs      *testenv.Logs
}

func write(tb testing.TB, dir string, files map[string][]byte) {
	tb.Helper()
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

func config(dir string) certs.Config {
	return certs.Config{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), ClientCA: filepath.Join(dir, "ca"), Poll: time.Hour}
}

// start runs a Store over files in dir, and a port that echoes.
func start(tb testing.TB, dir string) *port {
	tb.Helper()
	return startFor(tb, dir, "")
}

// startFor is start for clients of a name.
func startFor(tb testing.TB, dir, name string) *port {
	tb.Helper()
	p := &port{dir: dir, reg: prometheus.NewRegistry(), logs: new(testenv.Logs)}
	var err error
	c := config(dir)
	c.ClientSAN = name
	if p.Store, err = certs.New(c, p.reg, slog.New(slog.NewTextHandler(p.logs, nil))); err != nil {
		tb.Fatal(err)
	}
	lis, err := tls.Listen("tcp", "127.0.0.1:0", p.Server(tls.RequireAndVerifyClientCert, "h2"))
	if err != nil {
		tb.Fatal(err)
	}
	p.addr = lis.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	running.Go(func() { accept(&running, lis) })
	tb.Cleanup(func() {
		cancel()
		_ = lis.Close()
		running.Wait()
	})
	return p
}

func accept(running *sync.WaitGroup, lis net.Listener) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer func() { _ = conn.Close() }()
			_, _ = io.Copy(conn, conn)
		})
	}
}

// dial makes a connection that is known to be accepted, and returns the server's certificate. The
// client trusts roots, and shows a certificate of signer, none where that is nil.
func (p *port) dial(tb testing.TB, roots, signer *testenv.Authority) (*tls.Conn, string, error) {
	tb.Helper()
	cfg := roots.Client(tb, signer)
	cfg.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", p.addr, cfg)
	if err != nil {
		return nil, "", err
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn, conn.ConnectionState().PeerCertificates[0].Subject.CommonName, echo(conn)
}

// echo tells whether the server answers; with TLS 1.3 a client learns only then that its
// certificate was refused.
func echo(conn *tls.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "x"); err != nil {
		return err
	}
	got := make([]byte, 1)
	_, err := io.ReadFull(conn, got)
	return err
}

func TestHandshakes(t *testing.T) {
	ours, theirs := testenv.NewAuthority(t, "ours"), testenv.NewAuthority(t, "theirs")
	dir := t.TempDir()
	cert, key := ours.Pair(t, "server", time.Hour)
	write(t, dir, map[string][]byte{"cert": cert, "key": key, "ca": ours.PEM})
	p := start(t, dir)
	tests := []struct {
		name   string
		roots  *testenv.Authority
		signer *testenv.Authority // of the client's certificate
		want   string             // in the error; empty = taken
	}{
		{"a client of ours", ours, ours, ""},
		{"no certificate", ours, nil, "certificate required"},
		{"a client of another authority", ours, theirs, "certificate"},
		{"a client that trusts another authority", theirs, ours, "certificate signed by unknown authority"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, name, err := p.dial(t, tt.roots, tt.signer)
			switch {
			case tt.want == "" && (err != nil || name != "server"):
				t.Errorf("got certificate %q and %v, want server", name, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// A client's certificate must have the name that is asked for, whoever has signed it.
func TestNameOfTheClient(t *testing.T) {
	authority := testenv.NewAuthority(t, "mesh")
	dir := t.TempDir()
	cert, key := authority.Pair(t, "server", time.Hour)
	write(t, dir, map[string][]byte{"cert": cert, "key": key, "ca": authority.PEM})
	for name, taken := range map[string]bool{"localhost": true, "127.0.0.1": true, "envoy": false, "LOCALHOST": true, "local": false} {
		_, _, err := startFor(t, dir, name).dial(t, authority, authority)
		if (err == nil) != taken {
			t.Errorf("asked for %s: %v, want it taken: %t", name, err, taken)
		}
	}
}

// A rotation is seen by new connections, and not by old ones: also where the authority changes.
func TestRotation(t *testing.T) {
	before, after := testenv.NewAuthority(t, "before"), testenv.NewAuthority(t, "after")
	dir := t.TempDir()
	for version, a := range map[string]*testenv.Authority{"v1": before, "v2": after} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		cert, key := a.Pair(t, version, 2*time.Hour)
		write(t, filepath.Join(dir, version), map[string][]byte{"cert": cert, "key": key, "ca": a.PEM})
	}
	link := func(target, name string) {
		t.Helper()
		if err := errors.Join(os.Symlink(target, filepath.Join(dir, ".new")), os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "..data")
	for _, name := range []string{"cert", "key", "ca"} {
		link("..data/"+name, name) // as Kubernetes mounts a Secret
	}
	p := start(t, dir)
	old, name, err := p.dial(t, before, before)
	if err != nil || name != "v1" {
		t.Fatalf("before the rotation the certificate is %q, %v", name, err)
	}
	link("v2", "..data")
	testenv.Eventually(t, patience, "the new certificate", func() error {
		_, name, err := p.dial(t, after, after)
		if err == nil && name != "v2" {
			err = fmt.Errorf("the certificate is %q", name)
		}
		return err
	})
	if err := echo(old); err != nil {
		t.Errorf("the old connection broke: %v", err)
	}
	if _, _, err := p.dial(t, after, before); err == nil {
		t.Error("a client of the old authority is still taken")
	}
	if err := p.Ready(); err != nil {
		t.Errorf("Ready says %v", err)
	}
}

// What the files may hold after a good start, and what is said of it; the last good ones stay.
func TestBadFilesKeepTheLastGoodOnes(t *testing.T) {
	ours := testenv.NewAuthority(t, "ours")
	cert, key := ours.Pair(t, "good", time.Hour)
	otherCert, otherKey := ours.Pair(t, "other", time.Hour)
	tests := []struct {
		name, file string
		body       []byte // nil = removed
		want       string
	}{
		{"another's key", "key", otherKey, "private key does not match public key"},
		{"another's certificate", "cert", otherCert, "private key does not match public key"},
		{"an empty certificate", "cert", []byte{}, "failed to find any PEM data in certificate input"},
		{"half a key", "key", key[:len(key)/2], "failed to find any PEM data in key input"},
		{"no certificate", "cert", nil, "reading TPS_TLS_CERT: open "},
		{"no authorities", "ca", []byte("\n"), "holds no certificate"},
		{"a key for an authority", "ca", key, "holds a PRIVATE KEY, want certificates alone"},
		{"a cut list of authorities", "ca", append(bytes.Clone(ours.PEM), ours.PEM[:40]...), "holds something after the last certificate"},
		{"rubbish in an authority", "ca", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "certificate 1: x509: malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			good := map[string][]byte{"cert": cert, "key": key, "ca": ours.PEM}
			write(t, dir, good)
			p := start(t, dir)
			if tt.body == nil {
				if err := os.Remove(filepath.Join(dir, tt.file)); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, dir, map[string][]byte{tt.file: tt.body})
			}
			testenv.Eventually(t, patience, "the fault", func() error {
				if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "the last good TLS files are in force") || !strings.Contains(err.Error(), tt.want) {
					return fmt.Errorf("readiness is %w, want %q", errors.Join(err), tt.want)
				}
				return nil
			})
			if _, name, err := p.dial(t, ours, ours); err != nil || name != "good" {
				t.Errorf("the certificate is %q, %v; want the last good one", name, err)
			}
			if !strings.Contains(p.logs.String(), tt.want) {
				t.Errorf("logs are %s, want %q", p.logs, tt.want)
			}
			write(t, dir, good)
			testenv.Eventually(t, patience, "the end of the fault", p.Ready)
			if n := testutil.ToFloat64(counter(t, p.reg)); n < 1 {
				t.Errorf("%v errors are counted", n)
			}
			if _, err := certs.New(config(writeBad(t, good, tt.file, tt.body)), prometheus.NewRegistry(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("a start gives %v, want %q", err, tt.want)
			}
		})
	}
}

// writeBad returns a directory with good files, but for one.
func writeBad(tb testing.TB, good map[string][]byte, file string, body []byte) string {
	tb.Helper()
	dir := tb.TempDir()
	write(tb, dir, good)
	if body == nil {
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			tb.Fatal(err)
		}
		return dir
	}
	write(tb, dir, map[string][]byte{file: body})
	return dir
}

// counter finds the counter of errors by registering it again.
func counter(tb testing.TB, reg *prometheus.Registry) prometheus.Collector {
	tb.Helper()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "ratelimitd_tls_reload_errors_total", Help: "Changes of the TLS files that could not be put in force."})
	already, ok := errors.AsType[prometheus.AlreadyRegisteredError](reg.Register(c))
	if !ok {
		tb.Fatal("there is no counter of errors")
	}
	return already.ExistingCollector
}

func TestExpiry(t *testing.T) {
	ours := testenv.NewAuthority(t, "ours")
	dir := t.TempDir()
	cert, key := ours.Pair(t, "server", -time.Hour)
	write(t, dir, map[string][]byte{"cert": cert, "key": key, "ca": ours.PEM})
	reg := prometheus.NewRegistry()
	s, err := certs.New(config(dir), reg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "has expired at ") {
		t.Errorf("Ready says %v", err)
	}
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`# HELP ratelimitd_tls_certificate_expiry_timestamp_seconds Unix time at which what is in force expires: the certificate (use server), or the first of the clients' authorities (use client_ca).
# TYPE ratelimitd_tls_certificate_expiry_timestamp_seconds gauge
ratelimitd_tls_certificate_expiry_timestamp_seconds{use="client_ca"} %d
ratelimitd_tls_certificate_expiry_timestamp_seconds{use="server"} %d
`, ours.Cert.NotAfter.Unix(), leaf.NotAfter.Unix())
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "ratelimitd_tls_certificate_expiry_timestamp_seconds"); err != nil {
		t.Error(err)
	}
}
