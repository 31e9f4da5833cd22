//go:build e2e

package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

// hostileValues are what an attacker puts where a header's value belongs.
var hostileValues = map[string]string{
	"invalid byte":            "\xff",
	"invalid bytes within":    "a\x80\xfe\xc3(b",
	"surrogate":               "\xed\xa0\x80",
	"overlong slash":          "\xc0\xaf",
	"cut rune":                "caf\xc3",
	"beyond Unicode":          "\xf4\x90\x80\x80",
	"C1 controls":             "\xc2\x80\xc2\x9f",
	"U+FFFD":                  "\xef\xbf\xbd",
	"quote and backslash":     `"; name="x\`,
	"percent":                 "%0d%0ax-evil: 1",
	"pattern":                 "*",
	"comma and semicolon":     "a, 1;w=1;name=b",
	"255 bytes":               strings.Repeat("n", 255),
	"256 bytes":               strings.Repeat("n", 256),
	"runes cut at 255":        strings.Repeat("é", 200),
	"50 KB":                   strings.Repeat("x", 50_000),
	"50 KB of invalid bytes":  strings.Repeat("\xff", 50_000),
	"empty":                   "",
	"JSON":                    `{"domain":"edge"}`,
	"SQL":                     `'; DROP TABLE tps_metrics; --`,
	"as a metric's label":     "a\",code=\"ok\"} 1e9",
	"a number for max_wait":   "max_wait_ms",
	"Unicode line separators": "a\u2028b\u2029c\u0085d",
}

// refusedValues break HTTP itself; Envoy may refuse the request, and nothing else may happen.
var refusedValues = map[string]string{
	"CR LF and a header":  "a\r\nx-evil: 1",
	"CR LF and an answer": "a\r\n\r\nHTTP/1.1 200 OK\r\nx-evil: 1\r\n\r\n",
	"CR alone":            "a\rx-evil: 1",
	"LF alone":            "a\nx-evil: 1",
	"folded line":         "a\r\n x-evil: 1",
	"NUL":                 "a\x00b",
	"DEL and ESC":         "a\x7f\x1b[31mb",
}

// hostileRequest is a request that carries a hostile value somewhere.
type hostileRequest struct {
	rawRequest
	where string
	// refusable says that Envoy may refuse the request itself, with 400, 431, a reset or the end of
	// the connection. Where it is false, the request must be decided like any other.
	refusable bool
}

// requestsOf are all the places that a value can be sent in.
func requestsOf(value string, refusable bool) []hostileRequest {
	long := len(value) > 30_000 // twice that is more than Envoy takes
	request := func(where, path string, refusable bool, fields ...[2]string) hostileRequest {
		r := hostileRequest{rawRequest{path: path, fields: fields}, where, refusable}
		if refusable {
			r.patience = time.Second // Envoy may wait for the rest of what it takes for another request
		}
		return r
	}
	return []hostileRequest{
		request("x-endpoint", "/", refusable, [2]string{"x-endpoint", value}),
		request("x-endpoint twice", "/", refusable, [2]string{"x-endpoint", value}, [2]string{"x-endpoint", "second"}),
		request("x-request-id", "/", refusable, [2]string{"x-request-id", value}, [2]string{"x-endpoint", "id"}),
		request("user-agent", "/", refusable || long, [2]string{"user-agent", value}, [2]string{"x-forwarded-for", value}, [2]string{"x-endpoint", "agent"}),
		request("path", "/"+value, true, [2]string{"x-endpoint", "path"}),
	}
}

// hostileEnvoys are the configurations that requests are tried on: the file as it stands, and
// with more of what clients send copied into access logs and descriptors.
var hostileEnvoys = map[string]func(testing.TB, string) string{
	"as it stands": func(tb testing.TB, config string) string { tb.Helper(); return config },
	"custom tags and request ids of clients": func(tb testing.TB, config string) string {
		tb.Helper()
		config = replaceOnce(tb, config, "use_remote_address: true", "use_remote_address: false")
		return replaceOnce(tb, config, "custom_tags: ", `custom_tags:
                - { tag: id, request_header: { name: x-request-id } }
                - { tag: path, request_header: { name: ":path" } } #`)
	},
	"path as endpoint": func(tb testing.TB, config string) string {
		tb.Helper()
		return replaceOnce(tb, config, "request_headers: { header_name: x-endpoint, descriptor_key: endpoint, skip_if_absent: true }",
			`request_headers: { header_name: ":path", descriptor_key: endpoint, skip_if_absent: true }`)
	},
}

func TestHostileRequests(t *testing.T) {
	for name, edit := range hostileEnvoys {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, stackConfig{edit: func(config string) string { return edit(t, config) }})
			// Every name that nobody wrote out has room for one request.
			s.setLimits(t, `INSERT INTO tps_limits (gateway, endpoint, max_tps, burst) VALUES
				('gw-main', '*', 1, 1), ('gw-main', 'before', 1, 5), ('gw-main', '/before', 1, 5), ('gw-main', 'after', 1, 5), ('gw-main', '/after', 1, 5)`)
			before := sendGood(t, s, "before", 8)
			answered := sendHostile(t, s)
			after := sendGood(t, s, "after", 8)
			assertAdmitted(t, "another limit, before", before, 5, 1)
			assertAdmitted(t, "another limit, after", after, 5, 1)

			s.assertEveryTransactionIsARow(t, answered+len(before)+len(after))
			s.neverFailedOpen(t)
			if s.daemon.metric(t, "ratelimitd_request_errors_total") != 0 {
				t.Errorf("requests were answered with errors: %v", s.daemon.metrics(t, "ratelimitd_request_errors_total"))
			}
			if s.daemon.metric(t, "ratelimitd_recorder_dropped_total") != 0 {
				t.Errorf("transactions were dropped: %v", s.daemon.metrics(t, "ratelimitd_recorder_dropped_total"))
			}
			if !s.daemon.server.Running() {
				t.Error("ratelimitd has ended")
			}
		})
	}
}

// sendGood asks for an endpoint by header and by path.
func sendGood(tb testing.TB, s *stack, endpoint string, n int) []reply {
	tb.Helper()
	var replies []reply
	for range n {
		r := reply{endpoint: endpoint, sent: time.Now()}
		raw, err := sendHTTP1(s.envoy.Listener, rawRequest{path: "/" + endpoint, fields: [][2]string{{"x-endpoint", endpoint}}})
		if err != nil {
			tb.Fatal(err)
		}
		r.status, r.received = raw.status, time.Now()
		replies = append(replies, r)
	}
	return replies
}

// sendHostile sends everything, by both protocols and twice, and returns how many requests had
// an answer. Envoy leaves a connection that it refuses open for a second, so many are sent at once.
func sendHostile(t *testing.T, s *stack) int {
	t.Helper()
	var answered atomic.Int64
	var sending errgroup.Group
	sending.SetLimit(32)
	for protocol, client := range rawClients {
		for what, request := range everyHostileRequest() {
			for range 2 {
				sending.Go(func() error {
					r, err := client(s.envoy.Listener, request.rawRequest)
					answered.Add(int64(assertHarmless(t, protocol+", "+what, request, r, err)))
					return nil
				})
			}
		}
	}
	_ = sending.Wait() // faults are the test's
	return int(answered.Load())
}

// everyHostileRequest returns all requests by what they are.
func everyHostileRequest() map[string]hostileRequest {
	all := map[string]hostileRequest{}
	for i, values := range [2]map[string]string{hostileValues, refusedValues} {
		for what, value := range values {
			for _, r := range requestsOf(value, i == 1) {
				all[what+" as "+r.where] = r
			}
		}
	}
	many := hostileRequest{rawRequest: rawRequest{path: "/", fields: [][2]string{{"x-endpoint", "many"}}}}
	for i := range 90 { // Envoy takes 100, with those that it adds
		many.fields = append(many.fields, [2]string{fmt.Sprintf("x-header-%d", i), strings.Repeat("\xfe", 100)})
	}
	all["100 headers"] = many
	return all
}

// expectedFields are the headers that an answer may have.
var expectedFields = []string{
	"connection", "content-length", "content-type", "date", "retry-after", "server", "x-envoy-ratelimited", "x-envoy-upstream-service-time",
	"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "transfer-encoding",
}

// assertHarmless checks one answer and returns 1 if there is one.
func assertHarmless(tb testing.TB, what string, request hostileRequest, r rawReply, err error) int {
	tb.Helper()
	if r.status == 0 {
		if !request.refusable {
			tb.Errorf("%s: no answer: %v", what, err)
		}
		return 0
	}
	if err != nil {
		tb.Errorf("%s: %v", what, err)
	}
	allowed := []int{http.StatusOK, http.StatusTooManyRequests}
	if request.refusable {
		allowed = append(allowed, http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge, http.StatusUpgradeRequired) // a line without HTTP/1.1
	}
	if !slices.Contains(allowed, r.status) {
		tb.Errorf("%s: status %d, want one of %v", what, r.status, allowed)
	}
	seen := map[string]bool{}
	for _, f := range r.fields {
		if !slices.Contains(expectedFields, f[0]) || seen[f[0]] {
			tb.Errorf("%s: the answer has an unexpected header %q: %q", what, f[0], f[1])
		}
		seen[f[0]] = true
		if strings.ContainsFunc(f[1], func(c rune) bool { return c < ' ' || c > '~' }) {
			tb.Errorf("%s: header %s is not printable ASCII: %q", what, f[0], f[1])
		}
	}
	if r.status == http.StatusTooManyRequests && r.get("retry-after") != "1" {
		tb.Errorf("%s: refused with retry-after %q, want 1", what, r.get("retry-after"))
	}
	return 1
}

// assertEveryTransactionIsARow compares tps_metrics with what Envoy says to have logged, which is
// at least what was answered.
func (s *stack) assertEveryTransactionIsARow(tb testing.TB, answered int) {
	tb.Helper()
	s.envoy.FlushLogs(tb, int64(answered))
	logged := int(s.envoy.Stats(tb, "logs_written")["access_logs.grpc_access_log.logs_written"])
	s.awaitRows(tb, logged)
	rows, err := s.conn.Query(tb.Context(), "SELECT DISTINCT gateway, endpoint FROM tps_metrics")
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	replaced := 0
	for rows.Next() {
		var gateway, endpoint string
		if err := rows.Scan(&gateway, &endpoint); err != nil {
			tb.Fatal(err)
		}
		if gateway != "gw-main" || len(endpoint) > 255 || !utf8.ValidString(endpoint) {
			tb.Errorf("a row names gateway %q, endpoint %q", gateway, endpoint)
		}
		if strings.ContainsRune(endpoint, utf8.RuneError) {
			replaced++
		}
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	if replaced == 0 {
		tb.Error("no row shows an endpoint with U+FFFD, though endpoints of invalid UTF-8 were sent")
	}
}

// What an operator wrote into a row gets into headers only as printable ASCII.
func TestNameOfRowIsSafeInHeaders(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('gw-main', $1, 5)", `a"b\c é%`)
	for protocol, client := range rawClients {
		r, err := client(s.envoy.Listener, rawRequest{path: "/", fields: [][2]string{{"x-endpoint", `a"b\c é%`}}})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := r.get("x-ratelimit-limit"), `5, 5;w=1;name="gw-main/a%22b%5Cc %C3%A9%25"`; got != want {
			t.Errorf("%s: x-ratelimit-limit is %q, want %q", protocol, got, want)
		}
	}
	s.neverFailedOpen(t)
}

// Invented endpoints take bounded memory, and no room from others.
func TestInventedEndpoints(t *testing.T) {
	const maxSeries, maxBuckets, invented = 50, 100, 1000
	s := newStack(t, stackConfig{env: []string{fmt.Sprintf("TPS_MAX_SERIES=%d", maxSeries), fmt.Sprintf("TPS_MAX_BUCKETS=%d", maxBuckets)}})
	s.setLimits(t, "INSERT INTO tps_limits (domain, gateway, endpoint, max_tps, burst) VALUES ('', 'gw-main', '*', 1, 1), ('edge', 'gw-main', 'good', 1, 5)")
	replies := send(t, s, "good", 3)
	for i := range invented {
		if r := s.mustGet(t, fmt.Sprintf("invented-%d", i)); r.status != http.StatusOK {
			t.Errorf("endpoint %d: status %d, want 200", i, r.status)
		}
	}
	replies = append(replies, send(t, s, "good", 5)...)
	assertAdmitted(t, "the limit of others", replies, 5, 1)
	s.awaitRows(t, invented+len(replies))
	if n := query[int](t, s, "SELECT count(DISTINCT endpoint) FROM tps_metrics"); n != invented+1 {
		t.Errorf("tps_metrics names %d endpoints, want %d", n, invented+1)
	}
	for family, most := range map[string]int{"ratelimitd_decisions_total": maxSeries + 2, "ratelimitd_transactions_total": 4 * (maxSeries + 1)} {
		series := s.daemon.metrics(t, family)
		if len(series) > most || len(series) < maxSeries {
			t.Errorf("%s has %d series, want %d to %d", family, len(series), maxSeries, most)
		}
		if !slices.ContainsFunc(keys(series), func(name string) bool { return strings.Contains(name, `endpoint="other"`) }) {
			t.Errorf("%s counts nothing as other", family)
		}
	}
	if n := s.daemon.metric(t, "ratelimitd_buckets_evicted_total"); n < invented-maxBuckets-maxBuckets {
		t.Errorf("%g buckets were evicted, want about %d", n, invented-maxBuckets)
	}
	s.neverFailedOpen(t)
}

func keys[V any](m map[string]V) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	return all
}
