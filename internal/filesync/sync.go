package filesync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
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
	cfg     Config
	clock   limits.Clock
	current *limits.Current
	stale   prometheus.Gauge
	errors  prometheus.Counter
	log     *slog.Logger

	mu    sync.Mutex // one reader or writer of the file at a time
	body  []byte     // what was read last, good or bad
	read  bool
	fault error // what is wrong with the file; nil = its limits are in force
	id    int64 // of the newest table or row; only grows
}

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
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_limits_load_errors_total", Help: "Faults in loading limits, by reason (file).", ConstLabels: prometheus.Labels{"reason": "file"},
		}),
	}
	for _, c := range []prometheus.Collector{s.stale, s.errors} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of filesync: %w", err)
		}
	}
	return s, nil
}

// Ready returns nil when the limits in force are those of the file, else what is wrong with it
// and what is served meanwhile.
func (s *Sync) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.read:
		return fmt.Errorf("%s has not been read yet", s.cfg.Path)
	case s.fault == nil:
		return nil
	case s.current.Load() == nil:
		return fmt.Errorf("no limits to serve: %w", s.fault)
	}
	return fmt.Errorf("the last good limits are served: %w", s.fault)
}

// Run follows the file until ctx ends, and returns nil then.
func (s *Sync) Run(ctx context.Context) error {
	s.check(ctx)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.WarnContext(ctx, "the limits file is only polled: no notifications from the system", slog.Any("error", err))
		s.poll(ctx, nil, nil)
		return nil
	}
	defer watcher.Close()
	dir := filepath.Dir(s.cfg.Path)
	if err := watcher.Add(dir); err != nil {
		s.log.WarnContext(ctx, "the limits file is only polled: its directory cannot be watched", slog.String("directory", dir), slog.Any("error", err))
	}
	s.poll(ctx, watcher.Events, watcher.Errors)
	return nil
}

// settle is how long a file is left alone after a notification, so that a write in several
// parts is read once.
const settle = 10 * time.Millisecond

// poll looks at the file after every notification about its directory (a rename or the swap of
// a symbolic link is one too), and from time to time.
func (s *Sync) poll(ctx context.Context, events <-chan fsnotify.Event, faults <-chan error) {
	ticker := time.NewTicker(s.cfg.PollInterval)
	defer ticker.Stop()
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-faults: // a queue of the system that ran over: the poll finds what was missed
		case <-events:
			if settled == nil {
				settled = time.After(settle)
			}
		case <-settled:
			settled = nil
			s.check(ctx)
		case <-ticker.C:
			s.check(ctx)
		}
	}
}

// check puts the file in force if it has changed.
func (s *Sync) check(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := s.readFile()
	if errors.Is(err, fs.ErrNotExist) && (!s.read || len(s.body) == 0 && s.fault == nil) {
		body, err = nil, nil // missing from the start: empty
	}
	if err == nil && s.read && s.fault == nil && bytes.Equal(body, s.body) {
		return
	}
	s.adopt(ctx, body, err)
}

func (s *Sync) readFile() ([]byte, error) {
	info, err := os.Stat(s.cfg.Path)
	if err != nil {
		return nil, err
	}
	if info.Size() > MaxFile {
		return nil, fmt.Errorf("%s has %d bytes: more than %d", s.cfg.Path, info.Size(), MaxFile)
	}
	return os.ReadFile(s.cfg.Path)
}

// adopt puts body in force, or notes what is wrong with it.
func (s *Sync) adopt(ctx context.Context, body []byte, err error) {
	var doc *document
	if err == nil {
		doc, err = parse(body)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", s.cfg.Path, err)
		news := s.fault == nil || s.fault.Error() != err.Error()
		s.fault, s.read, s.body = err, true, body
		if news {
			s.errors.Inc()
			s.stale.Set(1)
			s.log.ErrorContext(ctx, "the limits file is not used", slog.Any("error", err))
		}
		return
	}
	s.fault, s.read, s.body = s.putInForce(doc), true, body
}

func (s *Sync) putInForce(doc *document) error {
	s.id++
	for i := range doc.rows {
		s.id = max(s.id, doc.rows[i].Version)
	}
	t, err := limits.NewTable(s.current.Load(), doc.rows, limits.Stamp{ID: s.id, AtNS: s.clock.NowNS(), LoadedAt: time.Now()})
	if err != nil {
		return err
	}
	s.current.Store(t)
	s.stale.Set(0)
	return nil
}
