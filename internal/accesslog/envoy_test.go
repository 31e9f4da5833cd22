package accesslog

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rls"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// moreLoggers is put after the logger of envoy.yaml: the same requests by OTLP, and as lines of JSON.
const moreLoggers = `
          - name: envoy.access_loggers.open_telemetry
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig
              common_config: { log_name: otlp, transport_api_version: V3, buffer_flush_interval: 1s, grpc_service: { envoy_grpc: { cluster_name: ratelimitd_als } } }
              resource_attributes: { values: [{ key: service.name, value: { string_value: edge } }] }
              custom_tags:
              - { tag: gateway, literal: { value: gw-main } }
              - { tag: endpoint, request_header: { name: x-endpoint, default_value: "-" } }
              attributes: { values: [
                { key: http.request.method, value: { string_value: "%REQ(:METHOD)%" } },
                { key: url.path, value: { string_value: "%REQ(:PATH)%" } },
                { key: http.response.status_code, value: { string_value: "%RESPONSE_CODE%" } },
                { key: response_flags, value: { string_value: "%RESPONSE_FLAGS%" } },
                { key: duration, value: { string_value: "%DURATION%" } },
                { key: upstream_cluster, value: { string_value: "%UPSTREAM_CLUSTER%" } },
                { key: route_name, value: { string_value: "%ROUTE_NAME%" } },
                { key: metadata, value: { kvlist_value: { values: [{ key: envoy.filters.http.ratelimit, value: { string_value: "%DYNAMIC_METADATA(envoy.filters.http.ratelimit)%" } }] } } } ] }
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: LOGFILE
              log_format: { json_format: {
                start_time: "%START_TIME%", duration: "%DURATION%", response_code: "%RESPONSE_CODE%", response_flags: "%RESPONSE_FLAGS_LONG%", method: "%REQ(:METHOD)%",
                path: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", authority: "%REQ(:AUTHORITY)%", route_name: "%ROUTE_NAME%", upstream_cluster: "%UPSTREAM_CLUSTER%",
                access_log_type: "%ACCESS_LOG_TYPE%", user_agent: "%REQ(USER-AGENT)%", grpc_status: "%GRPC_STATUS%", gateway: gw-main, endpoint: "%REQ(X-ENDPOINT)%",
                ratelimit: "%DYNAMIC_METADATA(envoy.filters.http.ratelimit)%" } }
`

// limiter is a rate limit service with a limit of 0 for the endpoint `closed`.
func limiter(tb testing.TB) *rls.Service {
	tb.Helper()
	clock, current := limits.NewClock(), &limits.Current{}
	table, err := limits.NewTable(nil, []limits.Limit{{Key: limits.Key{Gateway: "gw-main", Endpoint: "closed"}, Enabled: true}}, limits.Stamp{ID: 1, AtNS: clock.NowNS()})
	if err != nil {
		tb.Fatal(err)
	}
	current.Store(table)
	s, err := rls.New(rls.Config{GatewayKeys: []string{"gateway"}, EndpointKeys: []string{"endpoint"}, MaxSeries: 100}, buckets.New(buckets.Config{}, clock, current), prometheus.NewRegistry())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// listen serves decisions and access logs as ratelimitd does, and takes what Envoy tells: by ALS first,
// by OTLP second.
func listen(tb testing.TB) (addr string, als, otlp *service) {
	tb.Helper()
	als, otlp = &service{}, &service{}
	server := grpc.NewServer(grpc.ForceServerCodecV2(rls.Codec{}))
	for _, s := range []*service{als, otlp} {
		var err error
		s.Service, err = New(Config{}, Deps{Record: s.record, Malformed: func(err error) { tb.Errorf("malformed: %v", err) }}, prometheus.NewRegistry())
		if err != nil {
			tb.Fatal(err)
		}
	}
	als.Register(only{server, "envoy.service.accesslog.v3.AccessLogService"})
	otlp.Register(only{server, "opentelemetry.proto.collector.logs.v1.LogsService"})
	limiter(tb).Register(server)
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	tb.Cleanup(func() {
		server.Stop()
		if err := <-ended; err != nil {
			tb.Errorf("serving: %v", err)
		}
	})
	return l.Addr().String(), als, otlp
}

// only registers one of the services.
type only struct {
	grpc.ServiceRegistrar

	name string
}

func (o only) RegisterService(desc *grpc.ServiceDesc, srv any) {
	if desc.ServiceName == o.name {
		o.ServiceRegistrar.RegisterService(desc, srv)
	}
}

// Whatever way Envoy tells of a request, it is the same transaction.
func TestEnvoyTellsTheSameInAllWays(t *testing.T) {
	addr, als, otlp := listen(t)
	logFile := filepath.Join(t.TempDir(), "access.log")
	upstream := testenv.StartUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	envoy := testenv.StartEnvoy(t, testenv.EnvoyConfig{File: "envoy.yaml", Ratelimitd: addr, Upstream: upstream.Addr, Edit: func(config string) string {
		return strings.Replace(config, "\n          http_filters:", strings.ReplaceAll(moreLoggers, "LOGFILE", logFile)+"          http_filters:", 1)
	}})
	requests := []string{
		"GET /users/42?x=1 HTTP/1.1\r\nx-endpoint: pay", "POST /broken HTTP/1.1\r\ncontent-length: 0", "GET / HTTP/1.1\r\nx-endpoint: closed", "GET / HTTP/1.1\r\nx-endpoint: caf\xe9",
		"GET http://shop.test/a%2fb?c#d HTTP/1.1", "BAD",
	}
	for _, r := range requests {
		ask(t, envoy.Listener, r)
	}
	const fill = 20 // Envoy writes its file when it has 64 KiB for it, or after 10 s
	for range fill {
		ask(t, envoy.Listener, "GET / HTTP/1.1\r\nuser-agent: "+strings.Repeat("x", 4096))
	}
	als.awaitRecorded(t, len(requests)+fill)
	otlp.awaitRecorded(t, len(requests)+fill)
	lines := awaitLines(t, logFile, len(requests))
	alike := cmp.Options{cmpopts.EquateApproxTime(3 * time.Millisecond), cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() < 2*time.Millisecond })}
	want := als.transactions()[:len(requests)]
	for name, got := range map[string][]traffic.Transaction{"OTLP": otlp.transactions(), "JSON": lines} {
		if diff := cmp.Diff(want, got[:len(requests)], alike); diff != "" {
			t.Errorf("-ALS +%s:\n%s", name, diff)
		}
	}
}

// ask sends a request as it stands, and waits for the answer.
func ask(tb testing.TB, addr, request string) {
	tb.Helper()
	conn, err := new(net.Dialer).DialContext(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "%s\r\nhost: Shop.test:80\r\n\r\n", request); err != nil {
		tb.Fatal(err)
	}
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		tb.Fatalf("request %q: %v", request, err)
	}
}

// awaitLines waits for so many lines of the log, and reads them.
func awaitLines(tb testing.TB, path string, n int) (all []traffic.Transaction) {
	tb.Helper()
	var lines []string
	testenv.Eventually(tb, patience, "lines of the access log", func() error {
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if lines = strings.SplitAfter(string(body), "\n"); len(lines) <= n {
			return fmt.Errorf("%d lines, want %d", len(lines)-1, n)
		}
		return nil
	})
	for _, line := range lines[:n] {
		got, counted, err := defaultMapping.Line([]byte(line), time.Now())
		if err != nil || !counted {
			tb.Errorf("line %s: counted %t, error %v", line, counted, err)
		}
		all = append(all, got)
	}
	return all
}
