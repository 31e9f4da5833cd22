//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// boundedVictim has the good limits in the domain of requests (what a common row names counts as
// invented in every domain), and one whose holds take ten minutes, so that only a client ends them.
func boundedVictim(t *testing.T, settings ...string) *victim {
	t.Helper()
	v := &victim{file: filepath.Join(t.TempDir(), "limits.yaml")}
	v.replaceFile(t, strings.ReplaceAll(goodFile, "{gateway", "{domain: edge, gateway")+"- {domain: edge, gateway: held, endpoint: slow, max_tps: 1, burst: 600, max_wait_ms: 1800000}\n")
	v.daemon = newDaemon(t, append(settings, "TPS_LIMITS_FILE="+v.file)...)
	v.start(t)
	v.begin(t)
	return v
}

// At TPS_MAX_BUCKETS the oldest buckets of invented names go, used ones are counted as such; rows
// keep theirs, and no answer changes.
func TestMaxBuckets(t *testing.T) {
	const most, invented = 10, 500
	v := boundedVictim(t, fmt.Sprintf("TPS_MAX_BUCKETS=%d", most), "TPS_DEFAULT_MAX_TPS=1")
	const full = `OK {OK "default" 1/SECOND, 0 left, reset 1s}`
	name := func(i int) string { return fmt.Sprintf("invented-%d", i) }
	for i := range invented {
		if got := v.ask(t, asks("edge", gateway(name(i)))); !strings.HasPrefix(got, full) {
			t.Fatalf("gateway %d: got %s, want %s", i, got, full)
		}
	}
	v.assertServes(t)
	bounded, evicted := v.metric(t, "ratelimitd_buckets_bounded"), v.metric(t, "ratelimitd_buckets_evicted_total")
	if bounded > most || bounded < 1 || evicted != invented-bounded {
		t.Errorf("%g buckets of invented names are left and %g were evicted, want at most %d and the rest of %d", bounded, evicted, most, invented)
	}
	if used := v.metrics(t, "ratelimitd_buckets_evicted_total")[`ratelimitd_buckets_evicted_total{state="used"}`]; used == 0 {
		t.Error("no used bucket was evicted, though each was charged just before")
	}
	if got := v.ask(t, asks("edge", gateway(name(0)))); !strings.HasPrefix(got, full) {
		t.Errorf("a name whose bucket was evicted: got %s, want a full bucket: %s", got, full)
	}
}

// At TPS_MAX_WAITERS a request is refused instead of held, with the time after which to come again;
// when a waiter has gone there is room for another.
func TestMaxWaiters(t *testing.T) {
	const most = 2
	v := boundedVictim(t, fmt.Sprintf("TPS_MAX_WAITERS=%d", most))
	slow := asks("edge", gateway("held", entry("endpoint", "slow"), hits(600)))
	if got := v.ask(t, slow); !strings.HasPrefix(got, `OK {OK "held/slow" 1/SECOND, 0 left`) {
		t.Fatalf("the first request: %s", got)
	}
	leave := v.hold(t, slow, most)
	v.awaitGauge(t, "ratelimitd_waiters", most)
	for i := 1; i <= 3; i++ {
		answer := make(chan string, 1)
		go func() { answer <- v.askFor(t.Context(), t, shouldRateLimit, slow) }() // nothing but the bound ends it
		v.awaitGauge(t, "ratelimitd_waiters_refused_total", float64(i))
		got, reset, after := <-answer, 0, 0
		_, err := fmt.Sscanf(got, `OVER_LIMIT {OVER_LIMIT "held/slow" 1/SECOND, 0 left, reset %ds} retry-after: "%d" domain="edge"`, &reset, &after)
		if err != nil || reset != after || reset < 1 || reset > 600*(most+1) {
			t.Errorf("beyond the bound: got %s, want a refusal with one time in both places", got)
		}
	}
	v.assertServes(t)
	leave()
	v.awaitGauge(t, "ratelimitd_waiters", 0)
	leave = v.hold(t, slow, 1)
	v.awaitGauge(t, "ratelimitd_waiters", 1)
	leave()
	v.assertServes(t)
}

// hold sends requests that wait until leave is called, which ends them all.
func (v *victim) hold(t *testing.T, message []byte, n int) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range n {
		waiting.Go(func() {
			if got := v.askFor(ctx, t, shouldRateLimit, message); got != "Canceled: context canceled" {
				t.Errorf("a request whose client leaves ends with %s", got)
			}
		})
	}
	return func() {
		cancel()
		waiting.Wait()
	}
}

func (v *victim) awaitGauge(t *testing.T, family string, want float64) {
	t.Helper()
	s := stack{daemon: v.daemon}
	s.awaitMetric(t, family, want)
}

// At TPS_MAX_SERIES what has no series of its own counts as other: nothing is lost in the sums.
func TestMaxSeries(t *testing.T) {
	const most, names = 5, 40
	v := boundedVictim(t, fmt.Sprintf("TPS_MAX_SERIES=%d", most))
	for i := range names {
		v.ask(t, asks("edge", gateway(fmt.Sprintf("series-%d", i))))
		v.log(t, httpLogs(httpEntry(fmt.Sprintf("series-%d", i))))
	}
	v.assertServes(t)
	const perSuccess = 3 // each name of transactions has a series for success, failure and refusal
	for family, c := range map[string]struct{ series, own, sum int }{
		"ratelimitd_decisions_total":                    {most + 2, most, names + 3}, // other: ok and over_limit; three requests are of good limits
		"ratelimitd_transactions_total":                 {perSuccess * (most + 1), perSuccess * most, names},
		"ratelimitd_transaction_duration_seconds_count": {most + 1, most, names},
	} {
		series, own, sum := v.metrics(t, family+"{"), 0, 0.0
		for name, value := range series {
			sum += value
			if !strings.Contains(name, `gateway="other"`) {
				own++
			}
		}
		if len(series) != c.series || own != c.own || sum != float64(c.sum) {
			t.Errorf("%s has %d series, %d of them of names, that count %g; want %d, %d and %d", family, len(series), own, sum, c.series, c.own, c.sum)
		}
	}
	if _, body, err := v.get(t.Context(), "/api/v1/stats"); err != nil || !strings.Contains(body, fmt.Sprintf(`"transactions":%d,`, names)) || strings.Count(body, `"gateway":`) != most+1 {
		t.Errorf("/api/v1/stats says %s, %v; want %d transactions of %d names and other", body, err, names, most)
	}
}

// log sends a message and waits for the end of the stream, at which it was recorded.
func (v *victim) log(t *testing.T, message []byte) {
	t.Helper()
	stream := v.logStream(t)
	if err := stream.SendMsg(message); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new([]byte)); err != nil {
		t.Fatal(err)
	}
}

// At TPS_SPOOL_MAX the oldest transactions are dropped and counted, and not without a trace; decisions go
// on, and what waited is written when Postgres is back.
func TestSpoolMax(t *testing.T) {
	const sent = 60_000 // of some 40 bytes
	postgres := testenv.NewPostgres(t)
	s := &stack{database: postgres.Database(t)}
	s.daemon = newDaemon(t, "TPS_DATABASE_URL="+s.database, "TPS_SPOOL_MAX=1MiB", "TPS_STREAM_MAX_AGE=0")
	s.conn = testenv.Connect(t, s.database)
	s.daemon.start(t)
	s.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, burst) VALUES "+goodRows)
	v := &victim{daemon: s.daemon, stack: s}
	v.begin(t)
	postgres.Hang()
	defer postgres.Continue()
	n := (&numbered{gateway: "numbered", size: 1000, every: 20 * time.Millisecond}).start(t, s.daemon.grpcAddr, sent)
	n.running.Wait()
	v.assertServes(t)
	lost := v.metrics(t, "ratelimitd_spool_lost_total")[`ratelimitd_spool_lost_total{reader="postgres",reason="spool_full"}`]
	if lost == 0 || lost >= sent {
		t.Errorf("%g of %d transactions were dropped, want some: a log of 1 MiB has no room for all", lost, sent)
	}
	if n := v.metric(t, "ratelimitd_transactions_total"); n != sent {
		t.Errorf("the figures tell of %g transactions, want all %d", n, sent)
	}
	postgres.Continue()
	s.daemon.awaitStored(t)
	stored := n.stored(t, s.conn)
	lost = v.metric(t, "ratelimitd_spool_lost_total")
	if float64(len(stored))+lost != sent || stored[sent] != 1 {
		t.Errorf("%d transactions are stored and %g lost, want %d together, and the last one stored", len(stored), lost, sent)
	}
	v.assertServes(t)
}
