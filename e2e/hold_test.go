//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// arrivals notes the order and the times at which requests reach the upstream.
type arrivals struct {
	mu    sync.Mutex
	order []string // header x-request
	at    map[string]time.Time
}

func (a *arrivals) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == nil {
		a.at = map[string]time.Time{}
	}
	name := r.Header.Get("X-Request")
	a.order = append(a.order, name)
	a.at[name] = time.Now()
}

// awaitWaiters returns when so many requests are held.
func (s *stack) awaitWaiters(tb testing.TB, n float64) {
	tb.Helper()
	testenv.Eventually(tb, 10*time.Second, "the requests that wait", func() error {
		if got := s.daemon.metric(tb, "ratelimitd_waiters"); got != n {
			return fmt.Errorf("%g requests are held, want %g", got, n)
		}
		return nil
	})
}

// getNamed sends a request that the upstream can tell from others.
func (s *stack) getNamed(ctx context.Context, endpoint, name string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.envoy.Listener+"/", http.NoBody)
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("X-Endpoint", endpoint)
	req.Header.Set("X-Request", name)
	r := reply{endpoint: endpoint, sent: time.Now()}
	resp, err := s.http1.Do(req)
	if err != nil {
		return r, err
	}
	r.received, r.status, r.header = time.Now(), resp.StatusCode, resp.Header
	return r, resp.Body.Close()
}

// Held requests reach the upstream late, in the order in which they came, and are answered 200;
// the rows say how long each was held, and its duration is what Envoy measured less that.
func TestHeldRequestsArriveLateAndInOrder(t *testing.T) {
	upstream := &arrivals{}
	logPath := filepath.Join(t.TempDir(), "access.log")
	s := newStack(t, stackConfig{envoy: "envoy-hold.yaml", upstream: upstream, edit: fileLog(t, logPath, "%REQ(X-REQUEST)% %DURATION%")})
	const perSeconds, held = 3, 4 // each is at ratelimitd long before its turn
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, per_seconds, burst, max_wait_ms) VALUES ('gw-main', 'pay', 1, $1, 1, 60000)", perSeconds)

	var first reply
	var err error
	if first, err = s.getNamed(t.Context(), "pay", "r0"); err != nil || first.status != http.StatusOK {
		t.Fatalf("the first request: status %d, %v", first.status, err)
	}
	replies := make([]reply, held+1)
	replies[0] = first
	var clients sync.WaitGroup
	for i := 1; i <= held; i++ {
		clients.Go(func() {
			var err error
			if replies[i], err = s.getNamed(t.Context(), "pay", fmt.Sprintf("r%d", i)); err != nil {
				t.Errorf("request %d: %v", i, err)
			}
		})
		s.awaitReceived(t, float64(i+1))
	}
	clients.Wait()

	upstream.mu.Lock()
	defer upstream.mu.Unlock()
	for i := range held + 1 {
		if replies[i].status != http.StatusOK {
			t.Errorf("request %d: status %d, want 200", i, replies[i].status)
		}
		name := fmt.Sprintf("r%d", i)
		if upstream.order[i] != name {
			t.Errorf("the upstream saw %v, want them in the order in which they were sent", upstream.order)
			break
		}
		due := first.sent.Add(time.Duration(i*perSeconds) * time.Second)
		if at := upstream.at[name]; at.Before(due) {
			t.Errorf("request %d reached the upstream %s before its turn", i, due.Sub(at))
		}
	}
	s.awaitRows(t, held+1)
	assertWaitsAgree(t, s, readLog(t, s, logPath, held+1), replies)
	s.neverFailedOpen(t)
}

// awaitReceived returns when ratelimitd has received so many requests: the next one comes after
// them.
func (s *stack) awaitReceived(tb testing.TB, n float64) {
	tb.Helper()
	testenv.Eventually(tb, 10*time.Second, "the request at ratelimitd", func() error {
		if got := s.daemon.metrics(tb, "ratelimitd_requests_total")[`ratelimitd_requests_total{protocol="grpc"}`]; got < n {
			return fmt.Errorf("%g requests were received, want %g", got, n)
		}
		return nil
	})
}

func assertWaitsAgree(tb testing.TB, s *stack, logged map[string][]int, replies []reply) {
	tb.Helper()
	rows, err := s.conn.Query(tb.Context(), "SELECT duration_ms, waited_ms, success, throttled FROM tps_metrics ORDER BY timestamp")
	if err != nil {
		tb.Fatal(err)
	}
	type row struct {
		DurationMS, WaitedMS float64
		Success, Throttled   bool
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil || len(all) != len(replies) {
		tb.Fatalf("%d rows, %v, want %d", len(all), err, len(replies))
	}
	for i, r := range all {
		measured := float64(logged[fmt.Sprintf("r%d", i)][0])
		if math.Abs(r.DurationMS+r.WaitedMS-measured) > 1 {
			tb.Errorf("request %d: the row says %g ms and %g ms held, Envoy measured %g in all", i, r.DurationMS, r.WaitedMS, measured)
		}
		if seen := float64(replies[i].received.Sub(replies[i].sent)) / float64(time.Millisecond); r.WaitedMS > seen || (i == 0) != (r.WaitedMS == 0) {
			tb.Errorf("request %d: the row says %g ms held, its client waited %g in all", i, r.WaitedMS, seen)
		}
		if !r.Success || r.Throttled {
			tb.Errorf("request %d: success %t, throttled %t, want true and false", i, r.Success, r.Throttled)
		}
	}
}

// A client that goes away gives its turn to the next.
func TestHeldClientLeaves(t *testing.T) {
	upstream := &arrivals{}
	s := newStack(t, stackConfig{envoy: "envoy-hold.yaml", upstream: upstream})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, per_seconds, burst, max_wait_ms) VALUES ('gw-main', 'pay', 1, 10, 1, 60000)")
	if r, err := s.getNamed(t.Context(), "pay", "first"); err != nil || r.status != http.StatusOK {
		t.Fatalf("the first request: status %d, %v", r.status, err)
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.getNamed(ctx, "pay", "leaves")
		left <- err
	}()
	s.awaitWaiters(t, 1)
	stays := make(chan reply, 1)
	go func() {
		r, err := s.getNamed(t.Context(), "pay", "stays")
		if err != nil {
			t.Errorf("the request that stays: %v", err)
		}
		stays <- r
	}()
	s.awaitReceived(t, 3)
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the request that leaves ended with %v", err)
	}
	if r := <-stays; r.status != http.StatusOK {
		t.Errorf("the request that stays: status %d, want 200", r.status)
	}
	s.awaitWaiters(t, 0)
	upstream.mu.Lock()
	got := fmt.Sprint(upstream.order)
	upstream.mu.Unlock()
	if got != "[first stays]" {
		t.Errorf("the upstream saw %s, want [first stays]", got)
	}
	s.awaitRows(t, 3)
	const gone = "SELECT count(*) FROM tps_metrics WHERE status_code = 0 AND NOT success AND NOT throttled AND endpoint = 'pay'"
	if n := query[int](t, s, gone); n != 1 {
		t.Errorf("%d rows tell of a client that left, want 1", n)
	}
}

// Where the turn cannot come in time, the answer is 429 at once.
func TestTooLongAWaitIsRefusedAtOnce(t *testing.T) {
	s := newStack(t, stackConfig{envoy: "envoy-hold.yaml"})
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, burst, max_wait_ms) VALUES ('gw-main', 'pay', 1, 1, 100)")
	replies := send(t, s, "pay", 3)
	if n := tally(replies); n[http.StatusTooManyRequests] == 0 {
		t.Errorf("statuses %v, want some 429", n)
	}
	s.awaitRows(t, 3)
	if n := query[int](t, s, "SELECT count(*) FROM tps_metrics WHERE throttled AND waited_ms > 0"); n != 0 {
		t.Errorf("%d refused requests were held before, want 0", n)
	}
	s.neverFailedOpen(t)
}
