package filesync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/filewatch"
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
	s := &Sync{
		cfg: cfg, clock: clock, current: current, log: log,
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_limits_stale", Help: "1 while the limits in force may be older than their source: Postgres is away, or the limits file is bad.",
		}),
		loadErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_limits_load_errors_total", Help: "Faults in loading limits, by reason: connection, query, older, emptied, invalid_row, state_file (Postgres), file (limits file).", ConstLabels: prometheus.Labels{"reason": "file"},
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
	filewatch.Follow(ctx, filewatch.Config{What: "the limits file", Paths: []string{s.cfg.Path}, Poll: s.cfg.PollInterval}, s.log, s.check)
	return nil
}
