package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func get(tb testing.TB, url string) (code int, body string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func dial(tb testing.TB, addr string) *grpc.ClientConn {
	tb.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestThreeLinesSayWhereAndHow(t *testing.T) {
	d := start(t)
	want := fmt.Sprintf(`Envoy:   point rate_limit_service and the gRPC access log at %s (examples in envoy/)
API:     %s/api/v1/limits   metrics: %s/metrics   readiness: %s/readyz
Try it:  ratelimitd limits set --server %s --gateway demo --max-tps 5 && ratelimitd check --server %s gateway=demo
`, d.grpcAddr, d.api, d.api, d.api, d.api, d.api)
	if got := d.stdout.String(); got != want {
		t.Errorf("printed\n%swant\n%s", got, want)
	}
	for path, text := range map[string]string{"/api/v1/limits": `{"limits":[]}`, "/metrics": "ratelimitd_limits 0", "/readyz": "", "/healthz": "", "/healthcheck": ""} {
		if code, body := get(t, d.api+path); code != http.StatusOK || !strings.Contains(body, text) {
			t.Errorf("%s: %d %s, want 200 with %q", path, code, body, text)
		}
	}
	// What the last line says is tried, word by word.
	_, line, _ := strings.Cut(d.stdout.String(), "Try it:  ")
	for try := range strings.SplitSeq(line, "&&") {
		command(t.Context(), nil, strings.Fields(try)[1:]...).wants(t, 0, "", "")
	}
}

// TestLinesNameAPlace: an address that means every interface is none that Envoy could be pointed at.
func TestLinesNameAPlace(t *testing.T) {
	for _, host := range []string{"", "0.0.0.0", "[::]"} {
		d := start(t, "TPS_GRPC_ADDR="+host+":0", "TPS_HTTP_ADDR="+host+":0")
		if !strings.HasPrefix(d.grpcAddr, "localhost:") || !strings.HasPrefix(d.api, "http://localhost:") {
			t.Errorf("on host %q the lines are\n%s", host, d.stdout)
		}
		if code, _ := get(t, d.api+"/healthz"); code != http.StatusOK {
			t.Errorf("host %q: %s answers %d", host, d.api, code)
		}
	}
}

// logged waits for a message in a JSON log, and returns its attributes.
func logged(tb testing.TB, log *output, message string) map[string]any {
	tb.Helper()
	var found map[string]any
	testenv.Eventually(tb, patience, "logging", func() error {
		for line := range strings.Lines(log.String()) {
			entry := map[string]any{}
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				tb.Fatalf("no JSON: %q: %v", line, err)
			}
			if entry[slog.MessageKey] == message {
				found = entry
				return nil
			}
		}
		return fmt.Errorf("%q is not in\n%s", message, log)
	})
	return found
}

func TestServices(t *testing.T) {
	d := start(t)
	stream, err := reflectionpb.NewServerReflectionClient(dial(t, d.grpcAddr)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range answer.GetListServicesResponse().GetService() {
		names[s.GetName()] = true
	}
	for _, want := range []string{"envoy.service.ratelimit.v3.RateLimitService", "envoy.service.accesslog.v3.AccessLogService", "grpc.health.v1.Health"} {
		if !names[want] {
			t.Errorf("%s is not served, only %v", want, names)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // gRPC promises io.EOF itself
		t.Errorf("the stream ended with %v", err)
	}
}

func TestDebugPort(t *testing.T) {
	d := start(t)
	d.ratelimitd(t, "limits", "set", "--domain=d", "--gateway=shop", "--max-tps=5").wants(t, 0, "", "")
	debug, _ := logged(t, d.stderr, "serving")["debug"].(string)
	code, body := get(t, "http://"+debug+"/rlconfig")
	want := "snapshot 2: 1 limits\n\"d\" shop: max_tps=5 per_seconds=1 algorithm=token_bucket burst=5 max_wait_ms=0 enabled=true shadow=false\n"
	if code != http.StatusOK || body != want {
		t.Errorf("/rlconfig: %d %q, want %q", code, body, want)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=1"} {
		if code, body := get(t, "http://"+debug+path); code != http.StatusOK || body == "" {
			t.Errorf("%s: %d", path, code)
		}
		if code, _ := get(t, d.api+path); code != http.StatusNotFound {
			t.Errorf("%s on the port of the API: %d, want 404", path, code)
		}
	}
}

// TestDebugIsLoopbackOnly listens where the default says.
func TestDebugIsLoopbackOnly(t *testing.T) {
	cfg, err := resolve(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(cfg.debugAddr)
	if ip := net.ParseIP(host); err != nil || !ip.IsLoopback() {
		t.Errorf("the debug port is at %q by default, want loopback", cfg.debugAddr)
	}
	d := start(t)
	addr, _ := logged(t, d.stderr, "serving")["debug"].(string)
	if host, _, err = net.SplitHostPort(addr); err != nil || host != "127.0.0.1" {
		t.Errorf("it listens at %q, want 127.0.0.1", addr)
	}
}

func TestPortInUse(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	addrs := map[string]string{"TPS_GRPC_ADDR": "127.0.0.1:0", "TPS_HTTP_ADDR": "127.0.0.1:0", "TPS_DEBUG_ADDR": "127.0.0.1:0"}
	for name := range addrs {
		env := []string{"TPS_LIMITS_FILE=" + filepath.Join(t.TempDir(), "f")}
		for other, addr := range addrs {
			if other == name {
				addr = taken.Addr().String()
			}
			env = append(env, other+"="+addr)
		}
		got := command(t.Context(), env)
		want := fmt.Sprintf("ratelimitd: %s=%q: listen tcp %s: bind: address already in use\n", name, taken.Addr(), taken.Addr())
		if got.code != 1 || got.stdout != "" || got.stderr != want {
			t.Errorf("%s: %+v, want %s", name, got, want)
		}
	}
}

func TestWarnsOfUnknownVariables(t *testing.T) {
	d := start(t, "TPS_GRPC_ADDRS=s3cret", "TPS_DB_PORT_5432_TCP=tcp://10.0.0.1:5432")
	log := d.stderr.String()
	if got := strings.Count(log, "a variable has no meaning"); got != 2 || strings.Contains(log, "s3cret") {
		t.Errorf("%d warnings, want 2 without values:\n%s", got, log)
	}
	if !strings.Contains(log, `"warning":"TPS_GRPC_ADDRS is no setting of ratelimitd"`) || !regexp.MustCompile(`TPS_DB_PORT_5432_TCP is no setting.*enableServiceLinks: false`).MatchString(log) {
		t.Errorf("the warnings are\n%s", log)
	}
}

func TestLogFormat(t *testing.T) {
	d := start(t, "TPS_LOG_FORMAT=text")
	testenv.Eventually(t, patience, "logging", func() error {
		if log := d.stderr.String(); !strings.Contains(log, "level=INFO msg=serving") {
			return fmt.Errorf("text: %s", log)
		}
		return nil
	})
	logged(t, start(t).stderr, "serving") // JSON where there is no terminal
	if log := start(t, "TPS_LOG_LEVEL=error").stderr.String(); log != "" {
		t.Errorf("of errors only: %s", log)
	}
}

// TestDataDirIsForOneProcess needs no Postgres: the directory comes first.
func TestDataDirIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	env := []string{"TPS_DATABASE_URL=postgres://u:s3cret@127.0.0.1:1/d", "TPS_DATA_DIR=" + filepath.Join(dir, "a", "b")}
	first := start(t, env...)
	second := func() result {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // what does start ends at once
		return command(ctx, append(env, "TPS_GRPC_ADDR=127.0.0.1:0", "TPS_HTTP_ADDR=127.0.0.1:0", "TPS_DEBUG_ADDR=127.0.0.1:0", "TPS_DRAIN_DELAY=0"))
	}
	want := fmt.Sprintf("ratelimitd: TPS_DATA_DIR=%q: another ratelimitd uses it; each process needs its own\n", filepath.Join(dir, "a", "b"))
	if got := second(); got.code != 1 || got.stderr != want || got.stdout != "" {
		t.Errorf("beside the first: %+v, want %s", got, want)
	}
	first.stop()
	if code := first.wait(); code != 0 {
		t.Errorf("the first ended with %d", code)
	}
	if got := second(); got.code != 0 {
		t.Errorf("after the first: %+v", got)
	}
	if shown := first.stdout.String() + first.stderr.String(); strings.Contains(shown, "s3cret") {
		t.Errorf("the password is in\n%s", shown)
	}
	file := filepath.Join(dir, "a", "b", "lock")
	command(t.Context(), append(env, "TPS_DATA_DIR="+file)).wants(t, 1, "", fmt.Sprintf("ratelimitd: TPS_DATA_DIR=%q: mkdir", file))
}

// TestStopBeforeServing: a signal may come before the servers have begun.
func TestStopBeforeServing(t *testing.T) {
	dir := t.TempDir()
	cfg, err := resolve(t, nil, []string{
		"TPS_GRPC_ADDR=127.0.0.1:0", "TPS_HTTP_ADDR=127.0.0.1:0", "TPS_DEBUG_ADDR=127.0.0.1:0", "TPS_LIMITS_FILE=" + dir + "/f", "TPS_DRAIN_DELAY=0",
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.stopNow()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.run(ctx, io.Discard); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

// TestAFailedPartEndsTheRest: it is better to be started again than to serve half of it.
func TestAFailedPartEndsTheRest(t *testing.T) {
	dir := t.TempDir()
	cfg, err := resolve(t, nil, []string{"TPS_GRPC_ADDR=127.0.0.1:0", "TPS_HTTP_ADDR=127.0.0.1:0", "TPS_DEBUG_ADDR=127.0.0.1:0", "TPS_LIMITS_FILE=" + dir + "/f"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.listeners.http.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.run(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "serving HTTP: ") {
		t.Errorf("got %v, want what has failed", err)
	}
}

// The first start on a database without tables finds nothing wrong.
func TestServeOnAnEmptyDatabase(t *testing.T) {
	database := testenv.EmptyDatabase(t)
	conn := testenv.Connect(t, database)
	d := start(t, "TPS_DATABASE_URL="+database)
	testenv.Eventually(t, patience, "making partitions", func() error {
		var n int
		err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('tps_metrics')").Scan(&n)
		if err == nil && n < 8 {
			err = fmt.Errorf("there are %d", n)
		}
		return err
	})
	if log := d.stderr.String(); strings.Contains(log, `"WARN"`) || strings.Contains(log, `"ERROR"`) || !strings.Contains(log, `"INFO"`) {
		t.Errorf("the first start has logged\n%s", log)
	}
}
