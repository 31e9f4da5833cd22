package filesync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Config names the file.
type Config struct {
	Path         string
	PollInterval time.Duration // the file is looked at this often, beside notifications; 0 = 1 s
}

// Sync keeps the limits in force equal to the file, and writes to it.
type Sync struct {
	cfg        Config
	clock      limits.Clock
	current    *limits.Current
	stale      prometheus.Gauge
	loadErrors prometheus.Counter
	log        *slog.Logger

	state atomic.Pointer[state] // what Ready tells without waiting for a reader; nil = not read yet

	mu   sync.Mutex // one reader or writer of the file at a time
	seen *content   // what was read last, good or bad, without its bytes
	rows int        // in force
	id   int64      // of the newest table or row; only grows while the process lives
}

// state is how the last look at the file ended.
type state struct{ fault error }

// New returns a Sync over the file; it does not read it yet.
func New(cfg Config, clock limits.Clock, current *limits.Current, reg prometheus.Registerer, log *slog.Logger) (*Sync, error) {
	if cfg.Path == "" {
		return nil, errors.New("configuring the limits file: its path is empty")
	}
	if cfg.PollInterval <= 0 {
		cfg.PollInterval = time.Second
	}
	s := &Sync{
		cfg: cfg, clock: clock, current: current, log: log,
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_limits_stale", Help: "1 while the limits in force may be older than their source: Postgres is away, or the limits file is bad.",
		}),
		loadErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_limits_load_errors_total", Help: "Faults in loading limits, by reason (file).", ConstLabels: prometheus.Labels{"reason": "file"},
		}),
	}
	for _, c := range []prometheus.Collector{s.stale, s.loadErrors} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of filesync: %w", err)
		}
	}
	return s, nil
}

// Ready returns nil when the limits in force are those of the file, else what is wrong with it
// and what is served meanwhile. It never waits.
func (s *Sync) Ready() error {
	state := s.state.Load()
	switch {
	case state == nil:
		return fmt.Errorf("the limits file %s has not been read yet", s.cfg.Path)
	case state.fault == nil:
		return nil
	case s.current.Load() == nil:
		return fmt.Errorf("no limits are served: %w", state.fault)
	}
	return fmt.Errorf("the last good limits are served: %w", state.fault)
}

// Run follows the file until ctx ends, and returns nil then.
func (s *Sync) Run(ctx context.Context) error {
	s.check(ctx)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.WarnContext(ctx, "the limits file is only polled: no notifications from the system", slog.Any("error", err))
		s.follow(ctx, nil)
		return nil
	}
	defer watcher.Close() //nolint:errcheck // it only frees what the process had
	if err := s.watch(watcher); err != nil {
		s.log.WarnContext(ctx, "the limits file is only polled: its directory cannot be watched", slog.Any("error", err))
	}
	s.follow(ctx, watcher)
	return nil
}

// watch asks for notifications about the directory that has the name by now: it may have been
// removed and made again, or mounted over.
func (s *Sync) watch(watcher *fsnotify.Watcher) error {
	return watcher.Add(filepath.Dir(s.cfg.Path))
}

// A notification is followed by a look at the file when it was left alone for settle, so that a
// write in several parts is read once, and in a busy directory at the latest after settleMost.
const (
	settle     = 10 * time.Millisecond
	settleMost = 100 * time.Millisecond
)

// follow looks at the file after notifications about its directory (a rename or the swap of a
// symbolic link is one too), and from time to time. Without a watcher, only the latter.
func (s *Sync) follow(ctx context.Context, watcher *fsnotify.Watcher) {
	ticker := time.NewTicker(s.cfg.PollInterval)
	defer ticker.Stop()
	var events <-chan fsnotify.Event
	var faults <-chan error
	if watcher != nil {
		events, faults = watcher.Events, watcher.Errors
	}
	var settled <-chan time.Time
	var latest time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-faults: // a queue of the system that ran over: the poll finds what was missed
			s.log.DebugContext(ctx, "notifications about the limits file were lost", slog.Any("error", err))
		case <-events:
			if settled == nil {
				latest = time.Now().Add(settleMost)
			}
			settled = time.After(min(settle, time.Until(latest)))
		case <-settled:
			settled = nil
			s.check(ctx)
		case <-ticker.C:
			if watcher != nil {
				_ = s.watch(watcher) // a fault was logged at the start, and the poll does without
			}
			if settled == nil { // else somebody is writing
				s.check(ctx)
			}
		}
	}
}
