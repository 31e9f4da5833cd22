package pgsync_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/pgsync"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// patience is how long a test waits for something that takes milliseconds.
const patience = 20 * time.Second

// never is a poll interval that does not come to pass in a test.
const never = time.Hour

// replica is a Sync that runs.
type replica struct {
	*pgsync.Sync
	current *limits.Current
	reg     *prometheus.Registry
	logs    *testenv.Logs
	stop    func() // returns when Run has returned; may be called twice
}

// idle returns a Sync that does not run yet.
func idle(tb testing.TB, cfg pgsync.Config) *replica {
	tb.Helper()
	r := &replica{current: new(limits.Current), reg: prometheus.NewRegistry(), logs: new(testenv.Logs), stop: func() {}}
	var err error
	r.Sync, err = pgsync.New(cfg, limits.NewClock(), r.current, r.reg, slog.New(slog.NewTextHandler(r.logs, nil)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("logs:\n%s", r.logs)
		}
	})
	return r
}

// start runs a Sync until the test ends or calls stop.
func start(tb testing.TB, cfg pgsync.Config) *replica {
	tb.Helper()
	r := idle(tb, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Run returned %v", err)
		}
	})
	tb.Cleanup(r.stop)
	return r
}

// follow runs a Sync and waits until it has what Postgres has.
func follow(tb testing.TB, cfg pgsync.Config) *replica {
	tb.Helper()
	r := start(tb, cfg)
	r.waitReady(tb)
	return r
}

func (r *replica) waitReady(tb testing.TB) {
	tb.Helper()
	testenv.Eventually(tb, patience, "following Postgres", r.Ready)
}

// waitFault waits until Ready says something with text in it.
func (r *replica) waitFault(tb testing.TB, text string) {
	tb.Helper()
	testenv.Eventually(tb, patience, "not being ready for "+text, func() error {
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), text) {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
}

// maxTPS is the limit in force of a gateway, -1 if there is none.
func (r *replica) maxTPS(gateway string) int64 {
	if t := r.current.Load(); t != nil {
		if l := t.Find(limits.Key{Gateway: gateway}); l != nil {
			return l.MaxTPS
		}
	}
	return -1
}

func (r *replica) waitMaxTPS(tb testing.TB, gateway string, want int64) {
	tb.Helper()
	testenv.Eventually(tb, patience, fmt.Sprintf("limiting %s to %d", gateway, want), func() error {
		if got := r.maxTPS(gateway); got != want {
			return fmt.Errorf("it is %d", got)
		}
		return nil
	})
}

// metric is the value of a counter or gauge; labels are name, value.
func (r *replica) metric(tb testing.TB, name string, labels ...string) float64 {
	tb.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name || (len(labels) > 0 && (m.GetLabel()[0].GetName() != labels[0] || m.GetLabel()[0].GetValue() != labels[1])) {
				continue
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	tb.Fatalf("there is no metric %s %v", name, labels)
	return 0
}

func (r *replica) wantMetric(tb testing.TB, want float64, name string, labels ...string) {
	tb.Helper()
	if got := r.metric(tb, name, labels...); got != want {
		tb.Errorf("%s%v is %v, want %v", name, labels, got, want)
	}
}

func exec(tb testing.TB, conn *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if len(args) == 0 {
		args = []any{pgx.QueryExecModeSimpleProtocol}
	}
	if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func queryInt(tb testing.TB, conn *pgx.Conn, sql string) (n int64) {
	tb.Helper()
	if err := conn.QueryRow(context.Background(), sql).Scan(&n); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return n
}

// rows are what a table holds, by key and without what is compiled.
func rows(t *limits.Table) []limits.Row {
	var out []limits.Row
	for _, l := range t.Sorted() {
		out = append(out, limits.RowOf(l))
	}
	return out
}

// sameAsFresh compares the limits in force with those of a replica that begins only now.
func (r *replica) sameAsFresh(tb testing.TB, cfg pgsync.Config) {
	tb.Helper()
	cfg.DataDir, cfg.Migrate = "", nil
	fresh := follow(tb, cfg)
	want := rows(fresh.current.Load())
	fresh.stop()
	if diff := cmp.Diff(want, rows(r.current.Load()), cmpopts.EquateEmpty()); diff != "" {
		tb.Fatalf("limits in force differ from a fresh load (-fresh +followed):\n%s", diff)
	}
}

// isUnavailable tells what the API answers with 503.
func isUnavailable(err error) bool {
	away, ok := errors.AsType[*pgsync.UnavailableError](err)
	return ok && away.Unavailable()
}
