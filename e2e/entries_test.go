//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// recorded is what a row of tps_metrics says of a request, but for its times.
type recorded struct {
	Domain, Gateway, Endpoint string
	Status                    int
	Success, Throttled, Held  bool
}

// logged is a row of the table: what a client and an upstream do, and what becomes of the entry
// that Envoy logs of it.
type logged struct {
	endpoint string // "" = a request without the header
	do       func(tb testing.TB, s *stack, endpoint string)
	want     recorded
}

// decidedAs is a row whose names come from the decision.
func decidedAs(endpoint string, status int, success bool) recorded {
	return recorded{Domain: "edge", Gateway: "gw-main", Endpoint: endpoint, Status: status, Success: success}
}

// undecided is a row of a request of which ratelimitd has told nothing: its names are the custom
// tags of Envoy's configuration.
func undecided(endpoint string, status int, success bool) recorded {
	return recorded{Gateway: "gw-main", Endpoint: endpoint, Status: status, Success: success}
}

func throttledAs(endpoint string, status int) recorded {
	r := decidedAs(endpoint, status, false)
	r.Throttled = true
	return r
}

func heldAs(endpoint string) recorded {
	r := decidedAs(endpoint, http.StatusOK, true)
	r.Held = true
	return r
}

var httpEntries = []logged{
	{"ok", answers(200), decidedAs("ok", 200, true)},
	{"own-429", answers(429), decidedAs("own-429", 429, false)},
	{"not-found", answers(404), decidedAs("not-found", 404, true)},
	{"own-500", answers(500), decidedAs("own-500", 500, false)},
	{"closed", answers(429), throttledAs("closed", 429)},
	{"held", answers(200), heldAs("held")},
	{"grpc-limited", callsGRPC, throttledAs("grpc-limited", 200)},
	{"grpc-trailer-13", callsGRPC, decidedAs("grpc-trailer-13", 200, false)},
	{"grpc-trailer-0", callsGRPC, decidedAs("grpc-trailer-0", 200, true)},
	{"grpc-header-14", callsGRPC, decidedAs("grpc-header-14", 200, false)},
	{"grpc-cut", callsGRPC, decidedAs("grpc-cut", 200, false)},
	{"grpc-refused", callsGRPC, decidedAs("grpc-refused", 200, false)},
	{"grpc-no-route", callsGRPC, undecided("grpc-no-route", 200, false)},
	{"idle-cut", answers(200), decidedAs("idle-cut", 200, false)},
	{"cut-before", answers(503), decidedAs("cut-before", 503, false)},
	{"cut-within", answers(200), decidedAs("cut-within", 200, false)},
	{"refused", answers(503), decidedAs("refused", 503, false)},
	{"too-late", answers(504), decidedAs("too-late", 504, false)},
	{"left-working", leaves(overHTTP1), decidedAs("left-working", 0, false)},
	{"reset-working", leaves(overHTTP2), decidedAs("reset-working", 0, false)},
	{"left-held", leaves(overHTTP1), undecided("left-held", 0, false)},
	{"reset-held", leaves(overHTTP2), undecided("reset-held", 0, false)},
	{"no-route", answers(404), undecided("no-route", 404, true)},
	{"", sendsNoHTTP, undecided("", 400, true)},
}

// entriesEnvoy is envoy.yaml with an upstream that refuses, one that speaks HTTP/2, a route that
// ends, and one on which silence ends a response.
func entriesEnvoy(tb testing.TB, config string) string {
	tb.Helper()
	config = replaceOnce(tb, config, "timeout: 30s  ", "timeout: 1s  ")
	config = replaceOnce(tb, config, `              - name: api                       # the route_name of access logs
                match: { prefix: "/" }
`, `              - { name: gone, match: { prefix: "/", headers: [{ name: x-endpoint, string_match: { suffix: refused } }] }, route: { cluster: gone, rate_limits: &limits [
                  { stage: 0, actions: [{ generic_key: { descriptor_key: gateway, descriptor_value: gw-main } }, { request_headers: { header_name: x-endpoint, descriptor_key: endpoint } }] }] } }
              - { name: grpc, match: { prefix: "/", headers: [{ name: x-endpoint, string_match: { prefix: grpc- } }, &routed { name: x-endpoint, string_match: { suffix: no-route }, invert_match: true }] }, route: { cluster: h2, rate_limits: *limits } }
              - { name: idle, match: { prefix: "/", headers: [{ name: x-endpoint, string_match: { exact: idle-cut } }] }, route: { cluster: app, idle_timeout: 0.5s, rate_limits: *limits } }
              - name: api
                match: { prefix: "/", headers: [*routed] }
`)
	_, app, _ := strings.Cut(config, "  - name: app ")
	app = "  - name: app " + app
	h2 := strings.ReplaceAll(strings.ReplaceAll(app, "name: app", "name: h2"), "connect_timeout: 1s", `connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }`)
	gone := fmt.Sprintf(`
  - { name: gone, type: STATIC, connect_timeout: 1s, load_assignment: { cluster_name: gone, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: %d } } } }] }] } }
`, testenv.FreePort(tb))
	return config + h2 + gone
}

// misbehaving is an upstream whose answer depends on the endpoint.
func misbehaving(w http.ResponseWriter, r *http.Request) {
	switch r.Header.Get("X-Endpoint") {
	case "own-429":
		w.WriteHeader(http.StatusTooManyRequests)
	case "not-found":
		w.WriteHeader(http.StatusNotFound)
	case "own-500":
		w.WriteHeader(http.StatusInternalServerError)
	case "cut-before":
		panic(http.ErrAbortHandler)
	case "cut-within", "grpc-cut":
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = io.WriteString(w, "half") // the client may be gone
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "idle-cut":
		w.Header().Set("Content-Length", "8")
		_, _ = io.WriteString(w, "half") // the client may be gone
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case "too-late", "left-working", "reset-working":
		<-r.Context().Done()
	case "grpc-trailer-13":
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "13")
	case "grpc-trailer-0":
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	case "grpc-header-14":
		w.Header().Set("Grpc-Status", "14")
	}
}

// answers sends a request that is answered, wholly or in part, with this status.
func answers(status int) func(testing.TB, *stack, string) {
	return func(tb testing.TB, s *stack, endpoint string) {
		tb.Helper()
		assertStatus(tb, overHTTP1, s, endpoint, status)
	}
}

func callsGRPC(tb testing.TB, s *stack, endpoint string) {
	tb.Helper()
	assertStatus(tb, overHTTP2, s, endpoint, http.StatusOK)
}

func assertStatus(tb testing.TB, client func(testing.TB) *http.Client, s *stack, endpoint string, want int) {
	tb.Helper()
	resp, err := client(tb).Do(entryRequest(tb.Context(), tb, s, endpoint))
	if err != nil {
		tb.Fatalf("endpoint %q: %v", endpoint, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // some are cut
	if resp.StatusCode != want {
		tb.Errorf("endpoint %q: status %d, want %d", endpoint, resp.StatusCode, want)
	}
}

// entryRequest is one of gRPC where the endpoint says so.
func entryRequest(ctx context.Context, tb testing.TB, s *stack, endpoint string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.envoy.Listener+"/", http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("X-Endpoint", endpoint)
	if strings.HasPrefix(endpoint, "grpc-") {
		req.Header.Set("Content-Type", "application/grpc")
	}
	return req
}

func overHTTP1(tb testing.TB) *http.Client { tb.Helper(); return newHTTP1(tb) }

func overHTTP2(tb testing.TB) *http.Client {
	tb.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// leaves is a client that goes away once its request is held, or has reached the upstream.
func leaves(client func(testing.TB) *http.Client) func(testing.TB, *stack, string) {
	return func(tb testing.TB, s *stack, endpoint string) {
		tb.Helper()
		ctx, leave := context.WithCancel(tb.Context())
		defer leave()
		before, left := s.upstream.Requests(), make(chan error, 1)
		go func() {
			resp, err := client(tb).Do(entryRequest(ctx, tb, s, endpoint))
			if err == nil {
				_ = resp.Body.Close()
			}
			left <- err
		}()
		testenv.Eventually(tb, 10*time.Second, "a request on its way", func() error {
			if s.upstream.Requests() == before && s.daemon.metric(tb, "ratelimitd_waiters") == 0 {
				return errors.New("is neither held nor at the upstream")
			}
			return nil
		})
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			tb.Errorf("endpoint %q: %v, want a client that has left", endpoint, err)
		}
		s.awaitWaiters(tb, 0)
	}
}

// sendsNoHTTP is a client of some other protocol.
func sendsNoHTTP(tb testing.TB, s *stack, _ string) {
	tb.Helper()
	conn, err := net.DialTimeout("tcp", s.envoy.Listener, rawTimeout)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // all that matters was read
	if _, err := io.WriteString(conn, "EHLO test\r\n\r\n"); err != nil {
		tb.Fatal(err)
	}
	answer, _ := io.ReadAll(conn) // the end may be a reset
	if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		tb.Errorf("answered %q, want 400", answer)
	}
}

// What Envoy logs of every way a request can end, and the row that it becomes.
func TestEntriesOfHTTP(t *testing.T) {
	s := newStack(t, stackConfig{
		envoy: "envoy-hold.yaml", upstream: http.HandlerFunc(misbehaving),
		edit: func(config string) string { return entriesEnvoy(t, config) },
	})
	s.setLimits(t, `INSERT INTO tps_limits (gateway, endpoint, max_tps, burst, max_wait_ms) VALUES
		('gw-main', '*', 1000, 1000, 0), ('gw-main', 'closed', 0, NULL, 0), ('gw-main', 'grpc-limited', 0, NULL, 0),
		('gw-main', 'held', 10, 1, 10000), ('gw-main', 'left-held', 1, 1, 1000000), ('gw-main', 'reset-held', 1, 1, 1000000)`)
	s.assertEntries(t, httpEntries)
}

// Where Envoy does not log grpc-status, its flags tell of what it answered itself, and nothing
// tells of the upstream's own errors.
func TestEntriesWithoutGRPCStatus(t *testing.T) {
	s := newStack(t, stackConfig{
		envoy: "envoy-hold.yaml", upstream: http.HandlerFunc(misbehaving),
		edit: func(config string) string {
			config = replaceOnce(t, config, "additional_response_headers_to_log: [grpc-status]", "")
			return entriesEnvoy(t, replaceOnce(t, config, "additional_response_trailers_to_log: [grpc-status]", ""))
		},
	})
	s.assertEntries(t, []logged{
		{"grpc-refused", callsGRPC, decidedAs("grpc-refused", 200, false)},
		{"grpc-no-route", callsGRPC, undecided("grpc-no-route", 200, false)},
		{"grpc-cut", callsGRPC, decidedAs("grpc-cut", 200, false)},
		{"idle-cut", answers(200), decidedAs("idle-cut", 200, false)},
		{"grpc-trailer-0", callsGRPC, decidedAs("grpc-trailer-0", 200, true)},
		{"grpc-trailer-13", callsGRPC, decidedAs("grpc-trailer-13", 200, true)},
		{"grpc-header-14", callsGRPC, decidedAs("grpc-header-14", 200, true)},
	})
}

// assertEntries does what entries say, and compares the rows.
func (s *stack) assertEntries(tb testing.TB, entries []logged) {
	tb.Helper()
	for _, e := range entries {
		if strings.HasSuffix(e.endpoint, "held") { // one that takes the room
			s.charge(tb, e.endpoint)
		}
		e.do(tb, s, e.endpoint)
	}
	s.awaitRows(tb, len(entries))
	for _, e := range entries {
		got := queryRecorded(tb, s, "endpoint = $1", e.endpoint)
		if diff := cmp.Diff([]recorded{e.want}, got); diff != "" {
			tb.Errorf("endpoint %q (-want +got):\n%s", e.endpoint, diff)
		}
	}
	s.neverFailedOpen(tb)
}

// charge takes so many hits of an endpoint that the next request has to wait, though not through
// Envoy, which would log it.
func (s *stack) charge(tb testing.TB, endpoint string) {
	tb.Helper()
	body := fmt.Sprintf(`{"domain":"edge","descriptors":[{"entries":[{"key":"gateway","value":"gw-main"},{"key":"endpoint","value":%q}]}]}`, endpoint)
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://"+s.daemon.httpAddr+"/json", strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := s.http1.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		tb.Fatalf("charging %q: status %d, want 200", endpoint, resp.StatusCode)
	}
}

// queryRecorded returns the rows that meet a condition, in the order of their times.
func queryRecorded(tb testing.TB, s *stack, condition string, args ...any) []recorded {
	tb.Helper()
	rows, err := s.conn.Query(tb.Context(), "SELECT domain, gateway, endpoint, status_code AS status, success, throttled, waited_ms > 0 AS held FROM tps_metrics WHERE "+condition+" ORDER BY timestamp", args...)
	if err != nil {
		tb.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[recorded])
	if err != nil {
		tb.Fatal(err)
	}
	return all
}
