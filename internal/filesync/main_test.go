package filesync_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/filesync"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	// patience is how long a test waits for something that takes milliseconds.
	patience = 20 * time.Second
	// never is a poll interval that does not come to pass in a test.
	never = time.Hour
)

// store is a Sync over a file in a directory of its own.
type store struct {
	*filesync.Sync
	path    string
	current *limits.Current
	reg     *prometheus.Registry
	logs    *testenv.Logs
	stop    func() // returns when Run has returned; may be called twice
}

// idle returns a Sync that does not run, over a path.
func idle(tb testing.TB, cfg filesync.Config) *store {
	tb.Helper()
	s := &store{path: cfg.Path, current: new(limits.Current), reg: prometheus.NewRegistry(), logs: new(testenv.Logs)}
	var err error
	s.Sync, err = filesync.New(cfg, limits.NewClock(), s.current, s.reg, slog.New(slog.NewTextHandler(s.logs, nil)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("logs:\n%s", s.logs)
		}
	})
	return s
}

// start runs a Sync until the test ends or calls stop. It returns when the file was read once.
func start(tb testing.TB, cfg filesync.Config) *store {
	tb.Helper()
	s := idle(tb, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Run returned %v", err)
		}
	})
	tb.Cleanup(s.stop)
	testenv.Eventually(tb, patience, "reading the file", func() error {
		if err := s.Ready(); err != nil && strings.Contains(err.Error(), "not been read yet") {
			return err
		}
		return nil
	})
	return s
}

// notified runs a Sync that has to rely on notifications, over a file that holds body.
func notified(tb testing.TB, body string) *store {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "limits.yaml")
	write(tb, path, body)
	return start(tb, filesync.Config{Path: path, PollInterval: never})
}

func write(tb testing.TB, path, body string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// replace writes a file as careful programs do.
func replace(tb testing.TB, path, body string) {
	tb.Helper()
	write(tb, path+".new", body)
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

func (s *store) read(tb testing.TB) string {
	tb.Helper()
	body, err := os.ReadFile(s.path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

// want compares what is in force, as `key=max_tps`.
func (s *store) want(rows ...string) error {
	t := s.current.Load()
	if t == nil {
		return errors.New("nothing is in force")
	}
	var got []string
	for _, l := range t.Sorted() {
		got = append(got, fmt.Sprintf("%s=%d", l.Label(), l.MaxTPS))
	}
	if !slices.Equal(got, rows) {
		return fmt.Errorf("in force is %v, want %v", got, rows)
	}
	return nil
}

// wait waits until exactly these rows are in force, and nothing is wrong.
func (s *store) wait(tb testing.TB, rows ...string) {
	tb.Helper()
	testenv.Eventually(tb, patience, fmt.Sprintf("limiting %v", rows), func() error {
		return errors.Join(s.want(rows...), s.Ready())
	})
	s.wantStale(tb, 0)
}

// waitFault waits until Ready names every text.
func (s *store) waitFault(tb testing.TB, texts ...string) {
	tb.Helper()
	testenv.Eventually(tb, patience, fmt.Sprintf("not being ready for %q", texts), func() error {
		err := s.Ready()
		for _, text := range texts {
			if err == nil || !strings.Contains(err.Error(), text) {
				return fmt.Errorf("it says: %w", err)
			}
		}
		return nil
	})
	s.wantStale(tb, 1)
}

func (s *store) wantStale(tb testing.TB, want float64) {
	tb.Helper()
	if got := s.metric(tb, "ratelimitd_limits_stale"); got != want {
		tb.Errorf("ratelimitd_limits_stale is %v, want %v", got, want)
	}
}

// metric is the value of a counter or gauge without variable labels.
func (s *store) metric(tb testing.TB, name string) float64 {
	tb.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	tb.Fatalf("there is no metric %s", name)
	return 0
}

func (s *store) put(tb testing.TB, l limits.Limit) limits.Limit {
	tb.Helper()
	stored, err := s.Put(context.Background(), l, "test")
	if err != nil {
		tb.Fatal(err)
	}
	return stored
}

func gateway(name string, maxTPS int64) limits.Limit {
	return limits.Limit{Key: limits.Key{Gateway: name}, MaxTPS: maxTPS, Enabled: true}
}

// isUnavailable tells what the API answers with 503.
func isUnavailable(err error) bool {
	away, ok := errors.AsType[*filesync.UnavailableError](err)
	return ok && away.Unavailable()
}

// rowsOf are all rows in force.
func rowsOf(s *store) []limits.Row {
	var rows []limits.Row
	for _, l := range s.current.Load().Sorted() {
		rows = append(rows, limits.RowOf(l))
	}
	return rows
}

// wantSameAsFresh compares what is in force with what a Sync reads that begins only now.
func (s *store) wantSameAsFresh(tb testing.TB) {
	tb.Helper()
	fresh := start(tb, filesync.Config{Path: s.path, PollInterval: never})
	defer fresh.stop()
	if diff := cmp.Diff(rowsOf(fresh), rowsOf(s)); diff != "" {
		tb.Errorf("in force differs from the file (-file +in force):\n%s", diff)
	}
}
