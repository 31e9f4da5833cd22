//go:build e2e

package e2e_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// tlsFiles are the certificates of a ratelimitd and its Envoy, in a directory.
type tlsFiles struct {
	dir       string
	authority *testenv.Authority
}

func newTLSFiles(tb testing.TB) *tlsFiles {
	tb.Helper()
	f := &tlsFiles{dir: tb.TempDir(), authority: testenv.NewAuthority(tb, "mesh")}
	f.write(tb, "ca", f.authority.PEM)
	f.pair(tb, f.authority, "envoy", "envoy")
	f.pair(tb, f.authority, "server", "server-1")
	return f
}

func (f *tlsFiles) path(name string) string { return filepath.Join(f.dir, name) }

// write replaces a file as a whole, as those do who rotate certificates.
func (f *tlsFiles) write(tb testing.TB, name string, body []byte) {
	tb.Helper()
	if err := os.WriteFile(f.path(name+".new"), body, 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(f.path(name+".new"), f.path(name)); err != nil {
		tb.Fatal(err)
	}
}

func (f *tlsFiles) pair(tb testing.TB, signer *testenv.Authority, file, name string) {
	tb.Helper()
	cert, key := signer.Pair(tb, name, time.Hour)
	f.write(tb, file+".key", key)
	f.write(tb, file+".crt", cert)
}

func (f *tlsFiles) env() []string {
	return []string{"TPS_TLS_CERT=" + f.path("server.crt"), "TPS_TLS_KEY=" + f.path("server.key"), "TPS_TLS_CLIENT_CA=" + f.path("ca")}
}

// edit gives both clusters of ratelimitd the transport socket that docs/operations.md tells of.
func (f *tlsFiles) edit(tb testing.TB, config string) string {
	tb.Helper()
	socket := fmt.Sprintf(`    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          tls_certificates: [{ certificate_chain: { filename: %q }, private_key: { filename: %q } }]
          validation_context: { trusted_ca: { filename: %q }, match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: localhost } }] }
`, f.path("envoy.crt"), f.path("envoy.key"), f.path("ca"))
	for _, cluster := range []string{"ratelimitd", "ratelimitd_als"} {
		before, after, ok := strings.Cut(config, "  - name: "+cluster)
		head, rest, okLine := strings.Cut(after, "\n")
		if !ok || !okLine {
			tb.Fatalf("the configuration has no cluster %s", cluster)
		}
		config = before + "  - name: " + cluster + head + "\n" + socket + rest
	}
	return config
}

// reconnecting makes Envoy leave each connection to ratelimitd after a second.
func reconnecting(tb testing.TB, config string) string {
	tb.Helper()
	const options = "        explicit_http_config: { http2_protocol_options:"
	if n := strings.Count(config, options); n != 2 {
		tb.Fatalf("the configuration has %d clusters with options of HTTP/2, want 2", n)
	}
	return strings.ReplaceAll(config, options, "        common_http_protocol_options: { max_connection_duration: 1s }\n"+options)
}

// Envoy and ratelimitd over mTLS: a certificate that is rotated under load, while Envoy connects anew
// each second, costs no request.
func TestMutualTLS(t *testing.T) {
	files := newTLSFiles(t)
	trusted := files.authority.Client(t, files.authority)
	s := newStack(t, stackConfig{env: files.env(), tls: trusted, edit: func(config string) string { return reconnecting(t, files.edit(t, config)) }})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, burst) VALUES ('gw-main', 'few', 1, 5)")
	assertAdmitted(t, "few", send(t, s, "few", 20), 5, 1)

	s.setLimits(t, trafficLimits)
	tr := startTraffic(s)
	files.pair(t, files.authority, "server", "server-2")
	for _, addr := range []string{s.daemon.httpAddr, s.daemon.grpcAddr} {
		testenv.Eventually(t, 20*time.Second, "the new certificate", func() error {
			return shows(addr, trusted, "server-2")
		})
	}
	taken := s.handshakes(t)
	testenv.Eventually(t, 20*time.Second, "Envoy's new connections", func() error {
		if n := s.handshakes(t); n < taken+2 { // the first may have begun before
			return fmt.Errorf("Envoy has shaken hands %d times, and %d times just after the rotation", n, taken)
		}
		return nil
	})
	sent := tr.stop(t)
	s.neverFailedOpen(t)
	s.awaitRows(t, 20+sent)
	t.Logf("%d requests over %d handshakes", sent, s.handshakes(t))
	if expiry := s.daemon.metric(t, "ratelimitd_tls_certificate_expiry_timestamp_seconds"); expiry == 0 {
		t.Error("the expiry of the certificate is not told")
	}
	for name, n := range s.envoy.Stats(t, `^cluster\.ratelimitd(_als)?\.(ssl\.(connection_error|fail_.*)|upstream_cx_connect_fail)$`) {
		if n != 0 {
			t.Errorf("Envoy's %s is %d, want 0", name, n)
		}
	}
}

// shows dials a port, and fails where its certificate has another name.
func shows(addr string, trusted *tls.Config, want string) error {
	conn, err := tls.Dial("tcp", addr, trusted)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if name := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; name != want {
		return fmt.Errorf("the certificate of %s is %s, want %s", addr, name, want)
	}
	return nil
}

// handshakes is how often Envoy has shaken hands for decisions. The stream of access logs keeps its
// connection as long as it lasts.
func (s *stack) handshakes(tb testing.TB) int64 {
	tb.Helper()
	const name = "cluster.ratelimitd.ssl.handshake"
	n := s.envoy.Stats(tb, "^"+strings.ReplaceAll(name, ".", `\.`)+"$")
	if n[name] == 0 {
		tb.Fatalf("Envoy's %s are %v", name, n)
	}
	return n[name]
}

// Who has no certificate of the authority gets no answer, but to probes.
func TestWrongAuthorityIsRefused(t *testing.T) {
	files := newTLSFiles(t)
	other := testenv.NewAuthority(t, "another mesh")
	files.pair(t, other, "envoy", "intruder")
	trusted := files.authority.Client(t, files.authority)
	s := newStack(t, stackConfig{env: files.env(), tls: trusted, unhealthy: true, edit: func(config string) string { return files.edit(t, config) }})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('gw-main', 0)")
	for range 5 {
		if r := s.mustGet(t, "any"); r.status != http.StatusOK {
			t.Errorf("an Envoy that ratelimitd does not know got an answer: status %d", r.status)
		}
	}
	if n := s.daemon.metric(t, "ratelimitd_requests_total"); n != 0 {
		t.Errorf("%g requests of an unknown Envoy were decided", n)
	}
	if allowed, _ := s.envoy.FailedOpen(t); allowed != 5 {
		t.Errorf("Envoy let %d requests through undecided, want 5", allowed)
	}
	s.daemon.tls = files.authority.Client(t, nil)
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/healthcheck": 200, "/metrics": 403, "/api/v1/limits": 403} {
		if status, body, err := s.daemon.get(t.Context(), path); err != nil || status != want {
			t.Errorf("GET %s without a certificate: %d %s, %v; want %d", path, status, body, err, want)
		}
	}
	s.daemon.tls = files.authority.Client(t, other)
	if status, _, err := s.daemon.get(t.Context(), "/metrics"); err != nil || status != http.StatusForbidden {
		t.Errorf("GET /metrics of a client of another authority: %d, %v; want 403", status, err) // it holds its certificate back
	}
}
