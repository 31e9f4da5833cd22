package recorder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tps-agent/ratelimitd/internal/recorder"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// awaitQuery waits until a connection runs SQL that begins like this, and waits for a lock.
func awaitQuery(tb testing.TB, s *store, begin string) {
	tb.Helper()
	testenv.Eventually(tb, patience, begin+" that waits for a lock", func() error {
		if n := query[int](tb, s.conn, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND starts_with(query, $1)", begin); n == 0 {
			return errors.New("there is none")
		}
		return nil
	})
}

// distinct are the endpoints that Postgres has, each once.
func distinct(tb testing.TB, address string) []string {
	tb.Helper()
	got, err := endpoints(tb.Context(), testenv.Connect(tb, address))
	if err != nil {
		tb.Fatal(err)
	}
	var once []string
	for i, e := range got {
		if i == 0 || e != got[i-1] {
			once = append(once, e)
		}
	}
	return once
}

// outages are tests of one server.
type outages struct{ server *testenv.Postgres }

func TestOutages(t *testing.T) {
	o := &outages{testenv.NewPostgres(t)}
	t.Run("killed in the middle of a batch", o.killedInABatch)
	t.Run("hung", o.hung)
	t.Run("hung for longer than a write may take", o.hungTooLong)
	t.Run("restarted under load", o.restarted)
	t.Run("stopped while it is away", o.stoppedWhileAway)
}

// The batch that was cut off and what came meanwhile arrive when Postgres is back, in one piece
// each: nothing was committed.
func (o *outages) killedInABatch(t *testing.T) {
	address := o.server.Database(t)
	s := openStore(t, address)
	s.maintain(t)
	if _, err := testenv.Connect(t, address).Exec(t.Context(), "BEGIN; LOCK TABLE tps_metrics IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	r := run(t, config(), s.Postgres)
	r.record(numbered(0, 10)...)
	awaitQuery(t, s, "copy")
	o.server.Kill()
	r.record(numbered(10, 15)...)
	r.awaitMetric(t, 1, "ratelimitd_recorder_write_errors_total")
	assertMetric(t, r.reg, 25, "ratelimitd_recorder_queue_length")
	o.server.Start(t)
	r.awaitMetric(t, 10, "ratelimitd_recorder_written_total")
	r.stop() // writes the five that are no full batch
	assertEndpoints(t, testenv.Connect(t, address), numbered(0, 25))
	assertMetric(t, r.reg, 0, "ratelimitd_recorder_dropped_total")
	assertMetric(t, r.reg, 25, "ratelimitd_recorder_written_total")
}

// What has no room while Postgres hangs is the newest, and is counted.
func (o *outages) hung(t *testing.T) {
	s := openStore(t, o.server.Database(t))
	cfg := config()
	cfg.BatchSize, cfg.MaxQueue = 1, 30
	r := run(t, cfg, s.Postgres)
	r.record(numbered(0, 10)...)
	assertEndpoints(t, s.conn, numbered(0, 10))
	r.awaitMetric(t, 10, "ratelimitd_recorder_written_total")
	o.server.Hang()
	defer o.server.Continue() // also when the test has failed before
	r.record(numbered(10, 45)...)
	assertMetric(t, r.reg, 30, "ratelimitd_recorder_queue_length")
	assertMetric(t, r.reg, 15, "ratelimitd_recorder_dropped_total", "reason", "queue_full")
	o.server.Continue()
	assertEndpoints(t, s.conn, numbered(0, 40))
	r.record(numbered(40, 10)...) // there is room again
	assertEndpoints(t, s.conn, numbered(0, 50))
	assertMetric(t, r.reg, 15, "ratelimitd_recorder_dropped_total")
}

// Write and Maintain end with their context, though nothing answers, and blame no row.
func (o *outages) hungTooLong(t *testing.T) {
	s := openStore(t, o.server.Database(t))
	s.maintain(t)
	o.server.Hang()
	defer o.server.Continue()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func() error{
		"Write":    func() error { return s.Write(ctx, transactionsOf("pay")) },
		"Maintain": func() error { return s.Maintain(ctx) },
	} {
		err := call()
		if _, refused := errors.AsType[*recorder.RefusedError](err); refused || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v, want the end of its context", name, err)
		}
	}
	o.server.Continue()
	if err := s.Write(t.Context(), transactionsOf("later")); err != nil {
		t.Errorf("writing afterwards: %v", err)
	}
}

// Nothing is lost of what is recorded before, during and after a restart. Where the server ends
// between commit and answer, rows come twice.
func (o *outages) restarted(t *testing.T) {
	address := o.server.Database(t)
	s := openStore(t, address)
	r := run(t, config(), s.Postgres)
	const goroutines, each = 4, 500
	var all sync.WaitGroup
	restart := make(chan struct{})
	for g := range goroutines {
		all.Go(func() {
			r.record(numbered(g*each, each/2)...)
			<-restart
			r.record(numbered(g*each+each/2, each/2)...)
		})
	}
	r.awaitMetric(t, 10, "ratelimitd_recorder_written_total")
	close(restart)
	o.server.Restart(t)
	all.Wait()
	r.record(numbered(goroutines*each, 10)...)
	r.awaitMetric(t, goroutines*each, "ratelimitd_recorder_written_total")
	r.stop()
	if diff := cmp.Diff(numbered(0, goroutines*each+10), distinct(t, address)); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	assertMetric(t, r.reg, 0, "ratelimitd_recorder_dropped_total")
}

// At the stop nothing waits for a Postgres that is away longer than it may.
func (o *outages) stoppedWhileAway(t *testing.T) {
	s := openStore(t, o.server.Database(t))
	o.server.Kill()
	cfg := config()
	cfg.FlushTimeout = 50 * time.Millisecond
	r := run(t, cfg, s.Postgres)
	r.record(numbered(0, 25)...)
	r.awaitMetric(t, 1, "ratelimitd_recorder_write_errors_total")
	r.stop()
	assertMetric(t, r.reg, 25, "ratelimitd_recorder_dropped_total", "reason", "shutdown")
	assertMetric(t, r.reg, 0, "ratelimitd_recorder_written_total")
}

// forgetful is a connection that breaks when Postgres says that a COPY was committed.
type forgetful struct {
	net.Conn
	armed *atomic.Bool
}

func (c *forgetful) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if bytes.Contains(b[:n], []byte("COPY 10\x00")) && c.armed.CompareAndSwap(true, false) {
		return 0, fmt.Errorf("the answer is lost: %w", net.ErrClosed)
	}
	return n, err
}

// A batch whose commit got no answer is written again: its rows come twice rather than never.
func TestAnAnswerThatIsLost(t *testing.T) {
	var armed atomic.Bool
	armed.Store(true)
	s := openStoreWith(t, testenv.Database(t), func(cfg *pgxpool.Config) {
		dial := cfg.ConnConfig.DialFunc
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &forgetful{conn, &armed}, nil
		}
	})
	r := run(t, config(), s.Postgres)
	r.record(numbered(0, 10)...)
	var twice []string
	for _, e := range numbered(0, 10) {
		twice = append(twice, e, e)
	}
	assertEndpoints(t, s.conn, twice)
	r.awaitMetric(t, 10, "ratelimitd_recorder_written_total")
	r.stop()
	assertMetric(t, r.reg, 1, "ratelimitd_recorder_write_errors_total")
	assertMetric(t, r.reg, 10, "ratelimitd_recorder_written_total")
	assertMetric(t, r.reg, 0, "ratelimitd_recorder_dropped_total")
}
