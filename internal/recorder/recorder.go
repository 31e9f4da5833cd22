package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/spool"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// Config says how a Recorder counts and when it writes.
type Config struct {
	ServerID      string        // names this process in what it stores
	BatchSize     int           // a write starts at this many waiting transactions; at least 1
	FlushInterval time.Duration // or when the oldest has waited for this time; above 0
	FlushTimeout  time.Duration // for what still waits at the stop; 0 = 5 s
	Prometheus    bool          // also show transactions as metrics
}

const defaultFlushTimeout = 5 * time.Second

// validate returns every fault.
func (c *Config) validate() error {
	var errs []error
	if c.BatchSize < 1 {
		errs = append(errs, fmt.Errorf("batch size %d: is not above 0", c.BatchSize))
	}
	if c.FlushInterval <= 0 {
		errs = append(errs, fmt.Errorf("flush interval %s: is not above 0", c.FlushInterval))
	}
	if c.FlushTimeout < 0 {
		errs = append(errs, fmt.Errorf("flush timeout %s: is below 0", c.FlushTimeout))
	}
	return errors.Join(errs...)
}

// Deps are what a Recorder works with.
type Deps struct {
	Names *rollup.Names // bounds the names that are counted by
	Log   *spool.Log    // nil where there are no sinks; its readers are the names of the sinks
	Sinks []NamedSink
}

// Recorder takes transactions. Its methods may be called by any number of goroutines.
type Recorder struct {
	cfg     Config
	figures *figures
	windows *rollup.Windows
	metrics *metrics
	spool   *spool.Log // nil = nothing is kept
	feeds   []*feed
	keyed   *keyed
	log     *slog.Logger
	encoded sync.Pool // *[]byte
}

// New returns a Recorder that starts nothing. The error joins all faults of cfg.
func New(cfg Config, deps Deps, reg prometheus.Registerer, log *slog.Logger) (*Recorder, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the recorder: %w", err)
	}
	if cfg.FlushTimeout == 0 {
		cfg.FlushTimeout = defaultFlushTimeout
	}
	var shown prometheus.Registerer = prometheus.NewRegistry() // which nobody reads
	if cfg.Prometheus {
		shown = reg
	}
	f, err := newFigures(deps.Names, shown)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(reg, deps.Sinks, deps.Log)
	if err != nil {
		return nil, err
	}
	r := &Recorder{cfg: cfg, figures: f, windows: rollup.NewWindows(deps.Names), metrics: m, spool: deps.Log, log: log, keyed: newKeyed()}
	r.encoded.New = func() any { return new([]byte) }
	for _, s := range deps.Sinks {
		r.feeds = append(r.feeds, newFeed(s, r))
	}
	return r, nil
}

// Stats returns the figures since the start.
func (r *Recorder) Stats() Stats { return r.figures.stats() }

// Windows are the figures of the last hour.
func (r *Recorder) Windows() *rollup.Windows { return r.windows }

// Record takes transactions, usually those of one message, and does not keep the slice. It never
// waits for a disk or a sink. False says that the log has no room for them: they were counted in the
// figures, and are lost for the sinks, which the log counts. It may be called before Run, and after.
func (r *Recorder) Record(ts []traffic.Transaction) bool {
	if len(ts) == 0 {
		return true
	}
	r.count(ts, r.windows.Add)
	if r.spool == nil {
		return true
	}
	kept := true
	for frame := range slices.Chunk(ts, r.mostInFrame()) {
		kept = r.append(frame) && kept
	}
	return kept
}

// Offer takes transactions that can be offered again, and returns once they are in the log, where they
// survive the end of the process. After an error they are not counted in the figures: a *TooManyError
// says that there never will be room for so many, ErrBusy that there may be, any other error that some
// of them, or all, could not be written; with ctx they may be yet.
func (r *Recorder) Offer(ctx context.Context, ts []traffic.Transaction) error {
	if r.spool != nil {
		if len(ts) > r.spool.MaxPending() {
			return &TooManyError{len(ts), r.spool.MaxPending()}
		}
		var frames []spool.Frame
		for part := range slices.Chunk(ts, r.mostInFrame()) {
			frames = append(frames, spool.Frame{Payload: encode(nil, part), N: len(part)})
		}
		err := r.spool.Store(ctx, frames)
		switch {
		case errors.Is(err, spool.ErrNoRoom):
			return ErrBusy
		case err != nil:
			return fmt.Errorf("taking %d transactions: %w", len(ts), err)
		}
	}
	r.count(ts, r.windows.AddTold)
	return nil
}

// TooManyError says that there can never be room for so many transactions at once.
type TooManyError struct{ Got, Most int }

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%d transactions at once: there is never room for more than %d, which is TPS_MAX_QUEUE_SIZE", e.Got, e.Most)
}

// TooMany tells that a later try is of no use.
func (e *TooManyError) TooMany() bool { return true }

// mostInFrame keeps frames of the log far below their bound of 16 MiB, since a transaction has at most
// some 800 bytes, and below what may wait.
func (r *Recorder) mostInFrame() int {
	const usual = 1000
	return min(usual, r.spool.MaxPending())
}

func encode(b []byte, ts []traffic.Transaction) []byte {
	for i := range ts {
		b = traffic.AppendBinary(b, &ts[i])
	}
	return b
}

func (r *Recorder) append(ts []traffic.Transaction) bool {
	buf := r.encoded.Get().(*[]byte)
	b := encode((*buf)[:0], ts)
	kept := r.spool.Append(b, len(ts))
	*buf = b
	r.encoded.Put(buf)
	return kept
}

// count brings transactions into everything that is counted in memory, into the windows by add.
func (r *Recorder) count(ts []traffic.Transaction, add func(time.Time, *traffic.Transaction, rollup.Key)) {
	r.metrics.received.Add(float64(len(ts)))
	now := time.Now()
	for i := range ts {
		add(now, &ts[i], r.figures.add(&ts[i]))
	}
}

// Malformed counts an entry, or the rest of a message, that cannot be read.
func (r *Recorder) Malformed(err error) {
	r.metrics.dropped.WithLabelValues(dropMalformed).Inc()
	r.log.Debug("an access-log entry cannot be read", slog.Any("error", err))
}
