//go:build e2e

package e2e_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"
)

// A change is in force within 100 ms of its COMMIT, without the poll: p99 of 200 changes over one open
// connection, seen by a client of Envoy.
func TestUpdateIsInForceWithin100Milliseconds(t *testing.T) {
	s := newStack(t, stackConfig{env: []string{"TPS_POLL_INTERVAL=1h"}})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('gw-main', 'pay', 1000000)")
	const changes, bound = 200, 100 * time.Millisecond
	var delays []time.Duration
	for i := range changes {
		limit := 1_000_001 + i
		s.sql(t, "UPDATE tps_limits SET max_tps = $1 WHERE endpoint = 'pay'", limit)
		committed := time.Now()
		delays = append(delays, s.awaitLimit(t, limit).Sub(committed))
	}
	slices.Sort(delays)
	p50, p99 := delays[changes/2-1], delays[changes*99/100-1]
	t.Logf("COMMIT to force over %d changes: p50 %s, p99 %s, longest %s", changes, p50, p99, delays[changes-1])
	if p99 > bound {
		t.Errorf("p99 is %s, want at most %s", p99, bound)
	}
	s.neverFailedOpen(t)
}

// awaitLimit asks until an answer shows the limit, and returns when that answer came.
func (s *stack) awaitLimit(tb testing.TB, limit int) time.Time {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	for {
		r, err := s.get(ctx, "pay")
		if err != nil {
			tb.Fatalf("waiting for the limit %d: %v", limit, err)
		}
		if headerInt(tb, r, "X-Ratelimit-Limit") == limit {
			return r.received
		}
	}
}

// A raise lets through at once what it adds, a cut forgets nothing that was used.
func TestUpdateKeepsWhatWasUsed(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, burst) VALUES ('gw-main', 'pay', 1, 5)")
	replies := send(t, s, "pay", 8)
	assertAdmitted(t, "before", replies, 5, 1)

	s.setLimits(t, "UPDATE tps_limits SET burst = 20 WHERE endpoint = 'pay'")
	replies = append(replies, send(t, s, "pay", 20)...)
	assertAdmitted(t, "after the raise, in all", replies, 20, 1)

	s.setLimits(t, "UPDATE tps_limits SET burst = 2 WHERE endpoint = 'pay'")
	atCut := send(t, s, "pay", 1)[0]
	if atCut.status == http.StatusOK && time.Since(replies[0].sent) < time.Second {
		t.Error("a cut has made room")
	}
	s.setLimits(t, "DELETE FROM tps_limits")
	if r := s.mustGet(t, "pay"); r.status != http.StatusOK || r.header.Get("X-Ratelimit-Limit") != `1000, 1000;w=1;name="default"` {
		t.Errorf("without any row: status %d, limit %q, want 200 and the default", r.status, r.header.Get("X-Ratelimit-Limit"))
	}
	s.neverFailedOpen(t)
}
