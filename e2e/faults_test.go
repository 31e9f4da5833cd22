//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// awaitMetric returns when a metric has a value.
func (s *stack) awaitMetric(tb testing.TB, family string, want float64) {
	tb.Helper()
	testenv.Eventually(tb, 40*time.Second, family, func() error {
		if got := s.daemon.metric(tb, family); got != want {
			return fmt.Errorf("%s is %g, want %g", family, got, want)
		}
		return nil
	})
}

// faultStack is a stack over a Postgres of its own, which the test may hurt.
func faultStack(t *testing.T) (*stack, *testenv.Postgres) {
	t.Helper()
	postgres := testenv.NewPostgres(t)
	s := newStack(t, stackConfig{database: postgres.Database(t), env: []string{"TPS_MAX_QUEUE_SIZE=1000000", "TPS_POLL_INTERVAL=500ms"}})
	s.setLimits(t, trafficLimits)
	return s, postgres
}

// Whatever becomes of Postgres, requests are decided by the limits as they were, and what was
// measured meanwhile arrives when it is back.
func TestPostgresFaultsUnderTraffic(t *testing.T) {
	faults := map[string]func(tb testing.TB, s *stack, p *testenv.Postgres){
		"killed": func(tb testing.TB, s *stack, p *testenv.Postgres) {
			tb.Helper()
			p.Kill()
			s.awaitMetric(tb, "ratelimitd_postgres_up", 0)
			p.Start(tb)
		},
		"stopped": func(tb testing.TB, s *stack, p *testenv.Postgres) {
			tb.Helper()
			p.Hang()
			s.awaitMetric(tb, "ratelimitd_postgres_up", 0)
			p.Continue()
		},
		"restarted": func(tb testing.TB, _ *stack, p *testenv.Postgres) {
			tb.Helper()
			p.Restart(tb)
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, postgres := faultStack(t)
			tr := startTraffic(s)
			fault(t, s, postgres)
			s.awaitMetric(t, "ratelimitd_postgres_up", 1)
			sent := tr.stop(t)

			s.conn = testenv.Connect(t, s.database) // the first one was cut off
			s.setLimits(t, "UPDATE tps_limits SET max_tps = 1000 WHERE endpoint = 'closed'")
			if r := s.mustGet(t, "closed"); r.status != http.StatusOK {
				t.Errorf("after a change the status is %d, want 200", r.status)
			}
			s.assertRowsArrived(t, sent+1)
			s.neverFailedOpen(t)
		})
	}
}

// assertRowsArrived wants a row for each request that was sent, once.
func (s *stack) assertRowsArrived(tb testing.TB, sent int) {
	tb.Helper()
	s.awaitRows(tb, sent)
	if n := s.daemon.metric(tb, "ratelimitd_recorder_dropped_total") + s.daemon.metric(tb, "ratelimitd_spool_lost_total"); n != 0 {
		tb.Errorf("%g transactions were lost: %v", n, s.daemon.metrics(tb, "ratelimitd_spool_lost_total"))
	}
	assertRollups(tb, s.conn)
}

// A start while Postgres is down serves the last good limits, says so, and goes over to Postgres by
// itself when that is back.
func TestStartWithoutPostgres(t *testing.T) {
	s, postgres := faultStack(t)
	s.daemon.stop(t) // which writes what it knows
	postgres.Kill()
	s.daemon.start(t)

	tr := startTraffic(s)
	status, body, err := s.daemon.get(t.Context(), "/readyz")
	if err != nil || status != http.StatusOK || !strings.Contains(body, `"degraded"`) || !strings.Contains(body, "connect") {
		t.Errorf("/readyz is answered with %d %s, %v; want 200, degraded, and why", status, body, err)
	}
	if n := s.daemon.metric(t, "ratelimitd_limits_stale"); n != 1 {
		t.Errorf("ratelimitd_limits_stale is %g, want 1", n)
	}
	if n := s.daemon.metric(t, "ratelimitd_limits"); n != 2 {
		t.Errorf("%g limits are in force, want 2", n)
	}
	postgres.Start(t)
	s.awaitMetric(t, "ratelimitd_limits_stale", 0)
	tr.stop(t)

	conn, err := pgx.Connect(t.Context(), s.database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	s.conn = conn
	s.setLimits(t, "UPDATE tps_limits SET max_tps = 1000 WHERE endpoint = 'closed'")
	if r := s.mustGet(t, "closed"); r.status != http.StatusOK {
		t.Errorf("after a change the status is %d, want 200", r.status)
	}
	s.neverFailedOpen(t)
}

// A stop while Postgres hangs and rows wait to be written ends within the drain time, and they come after the next start; the generous
// patience is far below the 15 s that pgx would give each connection.
func TestStopWhilePostgresHangs(t *testing.T) {
	postgres := testenv.NewPostgres(t)
	s := newStack(t, stackConfig{database: postgres.Database(t), env: []string{"TPS_DRAIN_DELAY=0", "TPS_DRAIN_TIME=5s", "TPS_FLUSH_INTERVAL=1s"}})
	s.setLimits(t, trafficLimits)
	send(t, s, "open", 5)
	s.awaitRows(t, 5)
	postgres.Hang()
	defer postgres.Continue()
	send(t, s, "open", 5)
	s.envoy.FlushLogs(t, 10)
	testenv.Eventually(t, 10*time.Second, "the transactions that wait", func() error {
		if n := s.daemon.metric(t, "ratelimitd_spool_waiting"); n != 5 {
			return fmt.Errorf("%g transactions wait, want 5", n)
		}
		return nil
	})
	s.daemon.server.Terminate()
	s.daemon.server.Wait(t, 10*time.Second)
	if out := s.daemon.server.Output(); !strings.Contains(out, "transactions stay in the log") {
		t.Errorf("the log does not tell that transactions wait:\n%s", out)
	}
	postgres.Continue()
	s.daemon.start(t)
	s.awaitRows(t, 10) // once each
}
