//go:build e2e

package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// gatewayNode is how Envoy Gateway calls its rate limit service.
const gatewayNode = "envoy-ratelimit"

// gatewayRules are what Envoy Gateway makes of a BackendTrafficPolicy with one rule without a selector,
// and one for each value of a header.
func gatewayRules(all, each uint32) *ratelimitv3.RateLimitConfig {
	limit := func(n uint32) *ratelimitv3.RateLimitPolicy {
		return &ratelimitv3.RateLimitPolicy{Unit: ratelimitv3.RateLimitUnit_YEAR, RequestsPerUnit: n}
	}
	return &ratelimitv3.RateLimitConfig{Name: "edge", Domain: "edge", Descriptors: []*ratelimitv3.RateLimitDescriptor{{
		Key: "httproute/default/api/rule/0", Value: "httproute/default/api/rule/0",
		Descriptors: []*ratelimitv3.RateLimitDescriptor{
			{Key: "rule-0-match--1", Value: "rule-0-match--1", RateLimit: limit(all)},
			{Key: "rule-1-match-0", RateLimit: limit(each)},
		},
	}}}
}

// gatewayRoutes ask for them as Envoy Gateway has Envoy do it.
const gatewayRoutes = `              - match: { prefix: "/" }
                route: { cluster: app }
                typed_per_filter_config:
                  envoy.filters.http.ratelimit:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
                    rate_limits:
                    - actions:
                      - generic_key: { descriptor_key: httproute/default/api/rule/0, descriptor_value: httproute/default/api/rule/0 }
                      - generic_key: { descriptor_key: rule-0-match--1, descriptor_value: rule-0-match--1 }
                    - actions:
                      - generic_key: { descriptor_key: httproute/default/api/rule/0, descriptor_value: httproute/default/api/rule/0 }
                      - request_headers: { header_name: x-user, descriptor_key: rule-1-match-0 }
`

// dropIn is a ratelimitd that Envoy Gateway takes for envoyproxy/ratelimit.
type dropIn struct {
	server                  *testenv.Server
	grpcAddr, http, metrics string
	files                   *tlsFiles
}

// startDropIn runs the binary under the other's name, in a directory that nobody may write to, with the
// variables of Envoy Gateway 1.9.1 (internal/infrastructure/kubernetes/ratelimit). Only ports are others.
func startDropIn(tb testing.TB, xds string, files *tlsFiles) *dropIn {
	tb.Helper()
	dir := tb.TempDir()
	path := filepath.Join(dir, "ratelimit")
	body, err := os.ReadFile(build(tb))
	if err == nil {
		err = os.WriteFile(path, body, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	port := func() string { return strconv.Itoa(testenv.FreePort(tb)) }
	grpcPort, httpPort, metricsPort := port(), port(), port()
	d := &dropIn{
		grpcAddr: "127.0.0.1:" + grpcPort, http: "http://127.0.0.1:" + httpPort, metrics: "http://127.0.0.1:" + metricsPort, files: files,
	}
	d.server = testenv.StartServer(tb, []string{
		"RUNTIME_ROOT=/data", "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_IGNOREDOTFILES=true", "RUNTIME_WATCH_ROOT=false", "LOG_LEVEL=info", "USE_STATSD=false",
		"CONFIG_TYPE=GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL=" + xds, "CONFIG_GRPC_XDS_NODE_ID=" + gatewayNode,
		"GRPC_SERVER_USE_TLS=true", "GRPC_SERVER_TLS_CERT=" + files.path("server.crt"), "GRPC_SERVER_TLS_KEY=" + files.path("server.key"), "GRPC_SERVER_TLS_CA_CERT=" + files.path("ca"),
		"CONFIG_GRPC_XDS_SERVER_USE_TLS=true", "CONFIG_GRPC_XDS_CLIENT_TLS_CERT=" + files.path("server.crt"), "CONFIG_GRPC_XDS_CLIENT_TLS_KEY=" + files.path("server.key"),
		"CONFIG_GRPC_XDS_SERVER_TLS_CACERT=" + files.path("ca"), "FORCE_START_WITHOUT_INITIAL_CONFIG=true", "REDIS_SOCKET_TYPE=tcp", "REDIS_URL=redis.invalid:6379",
		"USE_PROMETHEUS=true", "PROMETHEUS_ADDR=:" + metricsPort, "PROMETHEUS_MAPPER_YAML=/etc/statsd-exporter/conf.yaml",
		"HOST=127.0.0.1", "PORT=" + httpPort, "GRPC_HOST=127.0.0.1", "GRPC_PORT=" + grpcPort, "DEBUG_PORT=" + port(),
		"TPS_DATA_DIR=/proc/nowhere", "TPS_LIMITS_FILE=/proc/nowhere.yaml", // as in a container that may write nothing
	}, path)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("ratelimitd has printed:\n%s", d.server.Output())
		}
	})
	return d
}

// healthcheck is the status of what Envoy Gateway's probes ask for.
func (d *dropIn) healthcheck(tb testing.TB, want int) {
	tb.Helper()
	testenv.Eventually(tb, 20*time.Second, "/healthcheck", func() error {
		if got, body, err := fetch(tb.Context(), nil, d.http+"/healthcheck"); err != nil || got != want {
			return fmt.Errorf("/healthcheck: %d %s, %w, want %d", got, body, err, want)
		}
		return nil
	})
}

// ratelimitd runs as the rate limit service of Envoy Gateway: its name, variables, certificates, probes,
// and limits over xDS, with a real Envoy in front.
func TestEnvoyGatewayDropIn(t *testing.T) {
	testenv.InOneWindow(t, testenv.Year)
	files := newTLSFiles(t)
	clients := x509.NewCertPool()
	clients.AddCert(files.authority.Cert)
	pair, err := tls.X509KeyPair(files.authority.Pair(t, "envoy-gateway", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	creds := grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}))
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	d := startDropIn(t, addr, files)
	d.healthcheck(t, http.StatusInternalServerError) // the server is away

	xds := testenv.StartXDS(t, addr, creds)
	xds.Set(t, gatewayNode, "1", gatewayRules(5, 2))
	d.healthcheck(t, http.StatusOK)
	health(t, d.grpcAddr, files.authority.Client(t, nil), healthpb.HealthCheckResponse_SERVING)

	s := &filesStack{stack: &stack{upstream: testenv.StartUpstream(t, nil), http1: newHTTP1(t)}}
	s.envoy = testenv.StartEnvoy(t, testenv.EnvoyConfig{File: "envoy.yaml", Ratelimitd: d.grpcAddr, Upstream: s.upstream.Addr, Edit: func(config string) string {
		return files.edit(t, withRoutes(t, gatewayRoutes)(config))
	}})
	want := func(status int, user string) {
		t.Helper()
		if got := s.send(t, http.MethodGet, "/", "x-user", user); got.status != status {
			t.Errorf("user %s: status %d, want %d", user, got.status, status)
		}
	}
	want(http.StatusOK, "ann")
	want(http.StatusOK, "ann")
	want(http.StatusTooManyRequests, "ann")
	want(http.StatusOK, "bob")
	want(http.StatusOK, "cid")
	want(http.StatusTooManyRequests, "dee") // all of them

	xds.Set(t, gatewayNode, "2", gatewayRules(1_000_000, 3))
	polls := 0
	testenv.Eventually(t, 10*time.Second, "the update", func() error { // what is refused counts too
		polls++
		if got := s.send(t, http.MethodGet, "/", "x-user", fmt.Sprintf("eve%d", polls)); got.status != http.StatusOK {
			return fmt.Errorf("status %d", got.status)
		}
		return nil
	})
	want(http.StatusOK, "bob")
	xds.Set(t, gatewayNode, "3", &ratelimitv3.RateLimitConfig{Name: "edge", Domain: "edge", Descriptors: []*ratelimitv3.RateLimitDescriptor{{}}})
	testenv.Eventually(t, 10*time.Second, "the refusal", func() error {
		_, body, err := fetch(t.Context(), nil, d.metrics+"/metrics")
		if err != nil || strings.Contains(body, `ratelimitd_xds_responses_total{result="nack"} 0`) {
			return fmt.Errorf("no response was refused: %w", err)
		}
		return nil
	})
	xds.Stop()
	want(http.StatusOK, "bob")
	want(http.StatusTooManyRequests, "bob")
	d.healthcheck(t, http.StatusOK)
	s.neverFailedOpen(t)
	for _, text := range []string{
		"TPS_CONFIG_XDS (from CONFIG_GRPC_XDS_SERVER_URL)", "TPS_TLS_PORTS (from GRPC_SERVER_USE_TLS)",
		"REDIS_URL: counters are in the memory of this process", "GRPC_SERVER_TLS_CA_CERT: GRPC_CLIENT_TLS_CACERT names the authority of clients",
	} {
		if !strings.Contains(d.server.Output(), text) {
			t.Errorf("the log does not say %q", text)
		}
	}
	d.server.Terminate()
	d.server.Wait(t, 40*time.Second)
	if d.server.ExitCode() != 0 {
		t.Errorf("it has ended with %d", d.server.ExitCode())
	}
}

// health asks for the state of the service by the name that a drop-in has to answer for.
func health(tb testing.TB, addr string, config *tls.Config, want healthpb.HealthCheckResponse_ServingStatus) {
	tb.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // of a test
	got, err := healthpb.NewHealthClient(conn).Check(tb.Context(), &healthpb.HealthCheckRequest{Service: "ratelimit"})
	if err != nil || got.GetStatus() != want {
		tb.Errorf("health of ratelimit: %v, %v, want %v", got, err, want)
	}
}
