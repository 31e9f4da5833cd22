//go:build e2e

package e2e_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// stack is everything between a client and its rows.
type stack struct {
	daemon   *daemon
	database string // address
	conn     *pgx.Conn
	envoy    *testenv.Envoy
	upstream *testenv.Upstream
	http1    *http.Client
}

// stackConfig says what differs between stacks; zero values are what most tests want.
type stackConfig struct {
	database  string                     // address; empty = a fresh one on the shared server
	envoy     string                     // file of envoy/; empty = envoy.yaml
	edit      func(config string) string // what the test changes in it beyond addresses
	upstream  http.Handler               // nil = 200 to everything
	env       []string                   // more settings of ratelimitd
	unhealthy bool                       // Envoy's health checks will not find ratelimitd
	tls       *tls.Config                // of this test's own calls, where env asks for TLS
}

func newStack(tb testing.TB, cfg stackConfig) *stack {
	tb.Helper()
	s := &stack{database: cfg.database, upstream: testenv.StartUpstream(tb, cfg.upstream)}
	if s.database == "" {
		s.database = testenv.Database(tb)
	}
	s.conn = testenv.Connect(tb, s.database)
	s.daemon = newDaemon(tb, append([]string{"TPS_DATABASE_URL=" + s.database}, cfg.env...)...)
	s.daemon.tls = cfg.tls
	s.daemon.start(tb)
	file := cfg.envoy
	if file == "" {
		file = "envoy.yaml"
	}
	s.envoy = testenv.StartEnvoy(tb, testenv.EnvoyConfig{File: file, Ratelimitd: s.daemon.grpcAddr, Upstream: s.upstream.Addr, Edit: cfg.edit, Unhealthy: cfg.unhealthy})
	s.http1 = newHTTP1(tb)
	return s
}

// newHTTP1 returns a client that keeps its connections, which end with the test.
func newHTTP1(tb testing.TB) *http.Client {
	tb.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// reply is what a client has got for a request, and when.
type reply struct {
	endpoint string
	status   int
	header   http.Header
	sent     time.Time
	received time.Time
}

// get sends a request to an endpoint through Envoy, "" for one without the header.
func (s *stack) get(ctx context.Context, endpoint string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.envoy.Listener+"/", http.NoBody)
	if err != nil {
		return reply{}, err
	}
	if endpoint != "" {
		req.Header.Set("X-Endpoint", endpoint)
	}
	r := reply{endpoint: endpoint, sent: time.Now()}
	resp, err := s.http1.Do(req)
	if err != nil {
		return r, err
	}
	r.received = time.Now()
	r.status, r.header = resp.StatusCode, resp.Header
	return r, resp.Body.Close()
}

func (s *stack) mustGet(tb testing.TB, endpoint string) reply {
	tb.Helper()
	r, err := s.get(tb.Context(), endpoint)
	if err != nil {
		tb.Fatalf("endpoint %q: %v", endpoint, err)
	}
	return r
}

// sql runs a statement.
func (s *stack) sql(tb testing.TB, statement string, args ...any) {
	tb.Helper()
	if _, err := s.conn.Exec(tb.Context(), statement, args...); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}

// query returns the one value of a query.
func query[T any](tb testing.TB, s *stack, statement string, args ...any) T {
	tb.Helper()
	var v T
	if err := s.conn.QueryRow(tb.Context(), statement, args...).Scan(&v); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
	return v
}

// setLimits changes tps_limits by a statement, and returns when that is in force.
func (s *stack) setLimits(tb testing.TB, statement string, args ...any) {
	tb.Helper()
	s.sql(tb, statement, args...)
	want := query[int64](tb, s, "SELECT max(id) FROM tps_limits_history")
	testenv.Eventually(tb, 10*time.Second, "a change of tps_limits", func() error {
		if got := int64(s.daemon.metric(tb, "ratelimitd_snapshot_id")); got < want {
			return fmt.Errorf("snapshot %d is in force, want %d", got, want)
		}
		return nil
	})
}

// awaitRows returns when Envoy has logged exactly n requests and tps_metrics has as many rows.
func (s *stack) awaitRows(tb testing.TB, n int) {
	tb.Helper()
	s.envoy.FlushLogs(tb, int64(n))
	testenv.Eventually(tb, 30*time.Second, "the rows in tps_metrics", func() error {
		if rows := query[int](tb, s, "SELECT count(*) FROM tps_metrics"); rows < n {
			return fmt.Errorf("%d rows, want %d", rows, n)
		}
		return nil
	})
	if rows := query[int](tb, s, "SELECT count(*) FROM tps_metrics"); rows != n {
		tb.Errorf("tps_metrics has %d rows, want %d", rows, n)
	}
}

// neverFailedOpen fails the test where Envoy let a request through for want of an answer, or
// where a call of ratelimitd failed.
func (s *stack) neverFailedOpen(tb testing.TB) {
	tb.Helper()
	if allowed, failed := s.envoy.FailedOpen(tb); allowed != 0 || failed != 0 {
		tb.Errorf("Envoy's failure_mode_allowed is %d and its error %d, want 0 and 0", allowed, failed)
	}
	if !s.envoy.Running() {
		tb.Errorf("Envoy has ended:\n%s", s.envoy.Output())
	}
}

// tally counts replies by status.
func tally(replies []reply) map[int]int {
	n := map[int]int{}
	for _, r := range replies {
		n[r.status]++
	}
	return n
}

// admitted returns the least and the most requests that a bucket can have admitted of those
// that got these replies, where it was full at the first. Both are the same where the last was
// refused, unless a token fell due just while that or the first request was on its way.
func admitted(replies []reply, burst int, tps float64) (least, most int) {
	bySent := func(a, b reply) int { return a.sent.Compare(b.sent) }
	first := slices.MinFunc(replies, bySent)
	var end time.Time
	var granted, refused []reply
	for _, r := range replies {
		if r.received.After(end) {
			end = r.received
		}
		if r.status == http.StatusOK {
			granted = append(granted, r)
		} else {
			refused = append(refused, r)
		}
	}
	if len(refused) > 0 { // it was short of tokens then
		came := tps * slices.MaxFunc(refused, bySent).sent.Sub(first.received).Seconds()
		least = burst + int(max(came-overflow(granted, first.sent, tps), 0))
	}
	return least, burst + int(tps*end.Sub(first.sent).Seconds())
}

// overflow is how many tokens at most found the bucket full since an instant, as it was then: where
// clients are slow, more come than they take.
func overflow(granted []reply, since time.Time, tps float64) (lost float64) {
	slices.SortFunc(granted, func(a, b reply) int { return a.received.Compare(b.received) })
	for i, r := range granted[min(1, len(granted)):] {
		lost = max(lost, tps*r.received.Sub(since).Seconds()-float64(i+1))
	}
	return lost
}

// headerInt reads the number that a header begins with.
func headerInt(tb testing.TB, r reply, name string) int {
	tb.Helper()
	text, _, _ := strings.Cut(r.header.Get(name), ",")
	n, err := strconv.Atoi(text)
	if err != nil {
		tb.Fatalf("endpoint %q, status %d: header %s is %q, want one that begins with a number", r.endpoint, r.status, name, r.header.Get(name))
	}
	return n
}
