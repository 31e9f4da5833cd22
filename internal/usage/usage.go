package usage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/atomicfile"
	"github.com/tps-agent/ratelimitd/internal/buckets"
)

// fileName is that of the file in the data directory: a line with a header, then one line for each
// bucket.
const fileName = "usage.json"

// saveShare bounds the time that is spent on writing: a write is followed by a pause of so many
// times what it took.
const saveShare = 20

// Config of a Store.
type Config struct {
	Dir   string        // the data directory
	Every time.Duration // between two writes; 0 = 5 s
	// Prepare makes the directory and keeps other processes out of it. It is called before each
	// write; nil = nothing is to be done.
	Prepare func() error
}

// Store keeps the usage of one Engine.
type Store struct {
	cfg     Config
	engine  *buckets.Engine
	log     *slog.Logger
	errors  prometheus.Counter
	saved   prometheus.Gauge
	failing bool
	written bool // there is a file, or may be
}

// New returns a Store that starts nothing.
func New(cfg Config, engine *buckets.Engine, reg prometheus.Registerer, log *slog.Logger) (*Store, error) {
	if cfg.Every <= 0 {
		cfg.Every = 5 * time.Second
	}
	s := &Store{
		cfg: cfg, engine: engine, log: log,
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_usage_errors_total", Help: "Times that the usage of long windows could not be read from the data directory, or written to it.",
		}),
		saved: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_usage_saved_buckets", Help: "Buckets of windows of a minute or longer whose usage was written last.",
		}),
	}
	for _, c := range []prometheus.Collector{s.errors, s.saved} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of usage: %w", err)
		}
	}
	return s, nil
}

// header is the first line of the file.
type header struct {
	Version int       `json:"version"`
	SavedAt time.Time `json:"saved_at"`
}

const fileVersion = 1

func (s *Store) path() string { return filepath.Join(s.cfg.Dir, fileName) }

// Load gives the engine what an earlier process has left. It is to be called before the first
// request. A file that cannot be read is logged and counted.
func (s *Store) Load(ctx context.Context) {
	atomicfile.RemoveLeft(s.path())
	all, err := s.read()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	s.written = true
	s.engine.Restore(all)
	if err != nil {
		s.errors.Inc()
		s.log.ErrorContext(ctx, "the usage of long windows cannot be read to its end", slog.Int("buckets", len(all)), slog.Any("error", err))
	}
}

// read returns what could be read, also with an error.
func (s *Store) read() (all []buckets.Usage, err error) {
	f, err := os.Open(s.path())
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	dec := json.NewDecoder(bufio.NewReaderSize(f, 1<<16))
	var h header
	if err := dec.Decode(&h); err != nil {
		return nil, fmt.Errorf("reading the head of %s: %w", s.path(), err)
	}
	if h.Version != fileVersion {
		return nil, fmt.Errorf("reading %s: it has version %d, this ratelimitd knows %d", s.path(), h.Version, fileVersion)
	}
	for {
		var u buckets.Usage
		switch err := dec.Decode(&u); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return all, fmt.Errorf("reading %s: bucket %d: %w", s.path(), len(all)+1, err)
		}
		all = append(all, u)
	}
}

// Run writes until ctx ends, and once more then. It returns nil.
func (s *Store) Run(ctx context.Context) error {
	pause := s.cfg.Every
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			s.save(context.WithoutCancel(ctx))
			return nil
		case <-timer.C:
		}
		began := time.Now()
		s.save(ctx)
		pause = max(s.cfg.Every, saveShare*time.Since(began))
	}
}

// save writes the file, if there is something to be kept or to be forgotten.
func (s *Store) save(ctx context.Context) {
	var all []buckets.Usage
	for u := range s.engine.Usage() {
		all = append(all, u)
	}
	if len(all) == 0 && !s.written {
		return
	}
	err := s.write(all)
	switch {
	case err == nil && s.failing:
		s.log.InfoContext(ctx, "the usage of long windows is written again")
	case err != nil:
		s.errors.Inc()
		if !s.failing {
			s.log.WarnContext(ctx, "the usage of long windows cannot be written to the data directory", slog.Any("error", err))
		}
	}
	s.failing = err != nil
	if err == nil {
		s.saved.Set(float64(len(all)))
		s.written = len(all) > 0
	}
}

func (s *Store) write(all []buckets.Usage) error {
	if s.cfg.Prepare != nil {
		if err := s.cfg.Prepare(); err != nil {
			return err
		}
	}
	return atomicfile.WriteFunc(s.path(), func(w io.Writer) error {
		out := bufio.NewWriterSize(w, 1<<16)
		enc := json.NewEncoder(out)
		err := enc.Encode(header{Version: fileVersion, SavedAt: time.Now().UTC()})
		for i := range all {
			if err != nil {
				return err
			}
			err = enc.Encode(&all[i])
		}
		return errors.Join(err, out.Flush())
	})
}
