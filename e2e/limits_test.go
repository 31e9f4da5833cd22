//go:build e2e

package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// One bucket of the endpoint and one of its gateway, both with a token a second: the endpoint
// refuses after its burst, which charges the gateway nothing for the refused ones.
func TestRefusesAfterTheBurstOfEachLevel(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, burst) VALUES ('gw-main', NULL, 1, 30), ('gw-main', 'pay', 1, 10)")

	pay := send(t, s, "pay", 25)
	assertAdmitted(t, "endpoint pay", pay, 10, 1)
	other := send(t, s, "other", 40)
	// What pay was granted is gone from the gateway; what it was refused is not.
	granted := tally(pay)[http.StatusOK]
	least, most := admitted(append(slices.Clone(pay), other...), 30, 1)
	if got := granted + tally(other)[http.StatusOK]; got < least || got > most {
		t.Errorf("the gateway admitted %d requests, the model says %d to %d", got, least, most)
	}

	assertHeaders(t, pay, "gw-main/pay", 10)
	for _, r := range other {
		if r.status == http.StatusTooManyRequests && r.header.Get("X-Ratelimit-Limit") != `1, 1;w=1;name="gw-main"` {
			t.Errorf("a refused request to another endpoint names the limit %q", r.header.Get("X-Ratelimit-Limit"))
		}
	}
	if got, want := s.upstream.Requests(), int64(granted+tally(other)[http.StatusOK]); got != want {
		t.Errorf("%d requests have reached the upstream, want %d", got, want)
	}
	s.awaitRows(t, 65)
	assertRowsAgree(t, s, slices.Concat(pay, other))
	s.neverFailedOpen(t)
}

// send makes n requests, one after the other.
func send(tb testing.TB, s *stack, endpoint string, n int) []reply {
	tb.Helper()
	var replies []reply
	for range n {
		replies = append(replies, s.mustGet(tb, endpoint))
	}
	return replies
}

func assertAdmitted(tb testing.TB, what string, replies []reply, burst int, tps float64) {
	tb.Helper()
	least, most := admitted(replies, burst, tps)
	n := tally(replies)
	if got := n[http.StatusOK]; got < least || got > most {
		tb.Errorf("%s: %d of %d requests were admitted, the model says %d to %d", what, got, len(replies), least, most)
	}
	if n[http.StatusOK]+n[http.StatusTooManyRequests] != len(replies) {
		tb.Errorf("%s: statuses %v, want 200 and 429 only", what, n)
	}
}

// assertHeaders checks what Envoy makes of the statuses, and retry-after, which is ours.
func assertHeaders(tb testing.TB, replies []reply, name string, burst int) {
	tb.Helper()
	for i, r := range replies {
		if want := fmt.Sprintf(`1, 1;w=1;name=%q`, name); r.header.Get("X-Ratelimit-Limit") != want {
			tb.Errorf("request %d: x-ratelimit-limit is %q, want %q", i, r.header.Get("X-Ratelimit-Limit"), want)
		}
		refused := r.status == http.StatusTooManyRequests
		switch retry := r.header.Get("Retry-After"); {
		case refused && retry != "1":
			tb.Errorf("request %d was refused with retry-after %q, want 1", i, retry)
		case !refused && retry != "":
			tb.Errorf("request %d was admitted with retry-after %q", i, retry)
		}
		remaining := headerInt(tb, r, "X-Ratelimit-Remaining")
		_, most := admitted(replies[:i+1], burst, 1)
		if left := burst - 1 - i; i < burst && (remaining < left || remaining > most-1-i) { // what has come meanwhile is there too
			tb.Errorf("request %d: x-ratelimit-remaining is %d, want %d to %d", i, remaining, left, most-1-i)
		}
		if reset := headerInt(tb, r, "X-Ratelimit-Reset"); reset < 1 || reset > burst {
			tb.Errorf("request %d: x-ratelimit-reset is %d, want 1 to %d", i, reset, burst)
		}
	}
}

// outcome is what a row says and a client can see.
type outcome struct {
	Domain, Gateway, Endpoint string
	Status                    int
	Success, Throttled        bool
}

// assertRowsAgree compares tps_metrics with what the clients have seen, request for request.
func assertRowsAgree(tb testing.TB, s *stack, replies []reply) {
	tb.Helper()
	want := map[outcome]int{}
	for _, r := range replies {
		refused := r.status == http.StatusTooManyRequests
		want[outcome{"edge", "gw-main", r.endpoint, r.status, !refused, refused}]++
	}
	rows, err := s.conn.Query(tb.Context(), "SELECT domain, gateway, endpoint, status_code, success, throttled FROM tps_metrics")
	if err != nil {
		tb.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[outcome])
	if err != nil {
		tb.Fatal(err)
	}
	got := map[outcome]int{}
	for _, o := range all {
		got[o]++
	}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("what the clients have seen (-) is not what tps_metrics says (+):\n%s", diff)
	}
}

// Many clients at once, more than the limit gives: the count is that of the model over the
// whole time.
func TestSaturatedLimitAdmitsExactly(t *testing.T) {
	const tps, burst = 23, 7 // less than half of what a slow machine passes on
	s := newStack(t, stackConfig{})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, burst) VALUES ('gw-main', 'pay', $1, $2)", tps, burst)
	var (
		mu      sync.Mutex
		replies []reply
		clients sync.WaitGroup
	)
	end := time.Now().Add(3 * time.Second)
	for range 6 {
		clients.Go(func() {
			for time.Now().Before(end) {
				r, err := s.get(t.Context(), "pay")
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
				mu.Lock()
				replies = append(replies, r)
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	n := tally(replies)
	if n[http.StatusTooManyRequests] < n[http.StatusOK] {
		t.Errorf("statuses %v: the limit was hardly saturated, which proves little", n)
	}
	least, most := admitted(replies, burst, tps)
	t.Logf("%d requests, %d admitted, the model says %d to %d", len(replies), n[http.StatusOK], least, most)
	assertAdmitted(t, "endpoint pay", replies, burst, tps)
	s.awaitRows(t, len(replies))
	assertRowsAgree(t, s, replies)
	s.neverFailedOpen(t)
}

// A limited gRPC client sees 200 with a grpc-status, and yet the row says throttled.
func TestRefusedGRPCClient(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('gw-main', 'closed', 0)")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.envoy.Listener+"/service/Method", strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("X-Endpoint", "closed")
	resp, err := s.http1.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	const resourceExhausted = "8"
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Grpc-Status") != resourceExhausted {
		t.Errorf("status %d, grpc-status %q, want 200 and 8", resp.StatusCode, resp.Header.Get("Grpc-Status"))
	}
	if retry, there := resp.Header["Retry-After"]; there {
		t.Errorf("retry-after is %q for a limit that can never be passed, want none", retry)
	}
	s.awaitRows(t, 1)
	want := outcome{"edge", "gw-main", "closed", http.StatusOK, false, true}
	rows, err := s.conn.Query(t.Context(), "SELECT domain, gateway, endpoint, status_code, success, throttled FROM tps_metrics")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[outcome])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the row of a refused gRPC call, want -, got +:\n%s", diff)
	}
	s.neverFailedOpen(t)
}

// fileLog adds a second access log to Envoy, which says in a file what Envoy measured.
func fileLog(tb testing.TB, path, format string) func(string) string {
	tb.Helper()
	return func(config string) string {
		return replaceOnce(tb, config, "          access_log:\n", fmt.Sprintf(`          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: %q
              log_format: { text_format_source: { inline_string: "%s\n" } }
`, path, format))
	}
}

func replaceOnce(tb testing.TB, s, old, replacement string) string {
	tb.Helper()
	if n := strings.Count(s, old); n != 1 {
		tb.Fatalf("%q comes %d times in the configuration of Envoy, want once", old, n)
	}
	return strings.Replace(s, old, replacement, 1)
}

// The duration of a row is what Envoy measured, in the same words of its own log, and the
// upstream's answers are told apart from refusals.
func TestRowsSayWhatEnvoyMeasured(t *testing.T) {
	logPath := filepath.Join(t.TempDir(), "access.log")
	s := newStack(t, stackConfig{
		edit: fileLog(t, logPath, "%REQ(X-ENDPOINT)% %DURATION% %RESPONSE_CODE%"),
		upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name, value, _ := strings.Cut(r.Header.Get("X-Endpoint"), "-")
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Errorf("endpoint %q: %v", r.Header.Get("X-Endpoint"), err)
			}
			if name == "status" {
				w.WriteHeader(n)
				return
			}
			select {
			case <-time.After(time.Duration(n) * time.Millisecond):
			case <-r.Context().Done():
			}
		}),
	})
	endpoints := []string{"wait-0", "wait-20", "wait-50", "wait-120", "wait-300", "status-201", "status-404", "status-429", "status-500", "status-503"}
	for _, e := range endpoints {
		s.mustGet(t, e)
	}
	s.awaitRows(t, len(endpoints))

	logged := readLog(t, s, logPath, len(endpoints))
	for _, endpoint := range endpoints {
		durationMS, status := logged[endpoint][0], logged[endpoint][1]
		var row struct {
			DurationMS, WaitedMS float64
			Status               int
			Success, Throttled   bool
		}
		rows, err := s.conn.Query(t.Context(), "SELECT duration_ms, waited_ms, status_code, success, throttled FROM tps_metrics WHERE endpoint = $1", endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if row, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[struct {
			DurationMS, WaitedMS float64
			Status               int
			Success, Throttled   bool
		}]); err != nil {
			t.Fatalf("endpoint %s: %v", endpoint, err)
		}
		if row.DurationMS < float64(durationMS) || row.DurationMS >= float64(durationMS+1) { // Envoy's text is cut to whole milliseconds
			t.Errorf("endpoint %s: the row says %g ms, Envoy measured %d", endpoint, row.DurationMS, durationMS)
		}
		if wait, ok := strings.CutPrefix(endpoint, "wait-"); ok {
			if least, _ := strconv.Atoi(wait); row.DurationMS < float64(least) {
				t.Errorf("endpoint %s: the row says %g ms, the upstream took %d", endpoint, row.DurationMS, least)
			}
		}
		if row.Status != status {
			t.Errorf("endpoint %s: the row has status %d, Envoy's log %d", endpoint, row.Status, status)
		}
		if want := status < 500 && status != http.StatusTooManyRequests; row.Success != want || row.Throttled || row.WaitedMS != 0 {
			t.Errorf("endpoint %s: success %t, throttled %t, waited %g ms, want %t, false and 0", endpoint, row.Success, row.Throttled, row.WaitedMS, want)
		}
	}
	s.neverFailedOpen(t)
}

// readLog returns the numbers of each line by its first word, once n lines are there.
func readLog(tb testing.TB, s *stack, path string, n int) map[string][]int {
	tb.Helper()
	logged := map[string][]int{}
	s.envoy.FlushFiles(tb)
	testenv.Eventually(tb, 20*time.Second, "Envoy's log in a file", func() error {
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if lines := strings.Count(string(body), "\n"); lines < n {
			return fmt.Errorf("%d lines, want %d", lines, n)
		}
		for line := range strings.Lines(string(body)) {
			words := strings.Fields(line)
			logged[words[0]] = nil
			for _, w := range words[1:] {
				v, err := strconv.Atoi(w)
				if err != nil {
					return fmt.Errorf("line %q: %w", line, err)
				}
				logged[words[0]] = append(logged[words[0]], v)
			}
		}
		return nil
	})
	return logged
}
