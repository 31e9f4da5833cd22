//go:build e2e

package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// withReplica adds a second ratelimitd to both clusters.
func withReplica(tb testing.TB, config, addr string) string {
	tb.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	endpoints := regexp.MustCompile(`(cluster_name: ratelimitd(?:_als)?, endpoints: \[\{ lb_endpoints: \[[^]]*)\]`)
	if n := len(endpoints.FindAllString(config, -1)); n != 2 {
		tb.Fatalf("the configuration has %d clusters of ratelimitd, want 2", n)
	}
	return endpoints.ReplaceAllString(config, fmt.Sprintf("$1, { endpoint: { address: { socket_address: { address: %s, port_value: %s } } } }]", host, port))
}

// Ten restarts under load, always of one of two replicas, cost no request. Access-log streams end between
// two messages, so that nearly all transactions become rows: Envoy forgets what it sends to a
// connection that is closing just then. What a replica has received becomes a row, and only one: every
// request has an endpoint of its own.
func TestRollingRestarts(t *testing.T) {
	const restarts = 10
	settings := []string{"TPS_DRAIN_DELAY=2s"} // longer than two health checks of Envoy
	database := testenv.Database(t)
	second := newDaemon(t, append(settings, "TPS_DATABASE_URL="+database, "TPS_SERVER_ID=second")...)
	second.start(t)
	s := newStack(t, stackConfig{database: database, env: settings, edit: func(config string) string { return withReplica(t, config, second.grpcAddr) }})
	s.awaitHealthy(t, 2)
	s.setLimits(t, namedLimits)
	tr := startNamedTraffic(s, func(endpoint string, n int) string { return fmt.Sprintf("%s-%d", endpoint, n) })
	received := 0
	for i := range restarts {
		replica := [...]*daemon{s.daemon, second}[i%2] // in turns, so that the stream of logs moves for sure
		received += replica.stopCounting(t)
		s.awaitHealthy(t, 1)
		replica.start(t)
		s.awaitHealthy(t, 2)
	}
	sent := tr.stop(t)
	s.neverFailedOpen(t)
	if n := s.envoy.Stats(t, `^http\.ingress\.downstream_rq_5xx$`)["http.ingress.downstream_rq_5xx"]; n != 0 {
		t.Errorf("%d requests were answered with 5xx", n)
	}

	s.envoy.FlushLogs(t, int64(sent))
	least := sent - sent/1000
	testenv.Eventually(t, 30*time.Second, "the rows in tps_metrics", func() error {
		if rows := query[int](t, s, "SELECT count(*) FROM tps_metrics"); rows < least {
			return fmt.Errorf("%d rows of %d requests, want at least %d", rows, sent, least)
		}
		return nil
	})
	received += second.stopCounting(t) + s.daemon.stopCounting(t)
	rows := query[int](t, s, "SELECT count(*) FROM tps_metrics")
	if endpoints := query[int](t, s, "SELECT count(DISTINCT endpoint) FROM tps_metrics"); endpoints != rows || rows < received || received < rows/2 {
		t.Errorf("%d rows of %d requests, want one of each of the %d that were received", rows, endpoints, received)
	}
	bySecond := query[int](t, s, "SELECT count(*) FROM tps_metrics WHERE server_id = 'second'")
	refused := query[int](t, s, "SELECT count(*) FROM tps_metrics WHERE throttled AND status_code = $1", http.StatusTooManyRequests)
	t.Logf("%d requests over %d restarts, %d seen as received, %d rows (%.3f %%), %d of them by the second replica", sent, restarts, received, rows, 100*float64(rows)/float64(sent), bySecond)
	if rows > sent || rows < least {
		t.Errorf("%d rows of %d requests, want %d to %d", rows, sent, least, sent)
	}
	if bySecond == 0 || bySecond == rows || refused < rows/2-sent/1000-1 {
		t.Errorf("%d rows are by the second replica, %d are refusals; want some, not all, and half", bySecond, refused)
	}
}

// stopCounting stops a replica, and returns how many transactions it has received in its life, as far
// as /metrics tells: it is asked until it no longer answers, and what comes after that is not counted.
func (d *daemon) stopCounting(tb testing.TB) (received int) {
	tb.Helper()
	d.server.Terminate()
	for {
		_, body, err := d.get(tb.Context(), "/metrics")
		if err != nil {
			break
		}
		n := regexp.MustCompile(`(?m)^ratelimitd_recorder_received_total (\S+)$`).FindStringSubmatch(body)
		if n == nil {
			tb.Fatalf("/metrics has no transactions received:\n%s", body)
		}
		count, err := strconv.ParseFloat(n[1], 64)
		if err != nil {
			tb.Fatal(err)
		}
		received = int(count)
		select {
		case <-d.server.Exited():
		case <-time.After(5 * time.Millisecond):
		}
	}
	d.stop(tb)
	return received
}

// awaitHealthy returns when Envoy's health checks see so many replicas in both clusters.
func (s *stack) awaitHealthy(tb testing.TB, want int64) {
	tb.Helper()
	testenv.Eventually(tb, 30*time.Second, "Envoy's health checks", func() error {
		stats := s.envoy.Stats(tb, `^cluster\.ratelimitd(_als)?\.membership_healthy$`)
		for name, n := range stats {
			if n != want {
				return fmt.Errorf("%s is %d, want %d", name, n, want)
			}
		}
		return nil
	})
}
