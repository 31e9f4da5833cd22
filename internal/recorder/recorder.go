package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxBatch is the most transactions that are written at once.
const maxBatch = 10_000

// Config bounds the recorder.
type Config struct {
	BatchSize     int           // a write starts at this many waiting transactions; at least 1
	FlushInterval time.Duration // or after this time
	MaxQueue      int           // most transactions in memory; what comes then is dropped and counted
	MaxSeries     int           // names in figures and metrics before the rest counts as `other`
	FlushTimeout  time.Duration // of what still waits at the stop; 0 = 5 s
	Prometheus    bool          // also show transactions as metrics
}

func (c *Config) validate() error {
	var errs []error
	for _, f := range []struct {
		name  string
		value int64
	}{{"batch size", int64(c.BatchSize)}, {"flush interval", int64(c.FlushInterval)}, {"max queue", int64(c.MaxQueue)}, {"max series", int64(c.MaxSeries)}} {
		if f.value < 1 {
			errs = append(errs, fmt.Errorf("%s %d: is not above 0", f.name, f.value))
		}
	}
	return errors.Join(errs...)
}

// Sink stores transactions for good.
type Sink interface {
	// Maintain is called at the start, and every hour.
	Maintain(ctx context.Context) error
	// Write stores a batch, all of it or nothing. A *RefusedError says that the batch itself is
	// at fault and will never be taken.
	Write(ctx context.Context, batch []Transaction) error
}

// RefusedError says that a sink will not take a batch however often it is tried.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the sink's own words.
func (e *RefusedError) Unwrap() error { return e.Err }

// Recorder turns access logs into transactions.
type Recorder struct {
	cfg     Config
	figures *figures
	metrics *metrics
	sink    Sink // nil = figures only
	log     *slog.Logger
	closing chan struct{}
	close   sync.Once
	full    chan struct{} // a batch waits

	mu       sync.Mutex
	waiting  []Transaction
	since    time.Time // when the first of them came
	loggedAt time.Time
}

// New returns a Recorder. sink may be nil: then there are figures and metrics, and nothing is
// stored.
func New(cfg Config, sink Sink, reg prometheus.Registerer, log *slog.Logger) (*Recorder, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the recorder: %w", err)
	}
	if cfg.FlushTimeout <= 0 {
		cfg.FlushTimeout = 5 * time.Second
	}
	var shown prometheus.Registerer = prometheus.NewRegistry() // which nobody reads
	if cfg.Prometheus {
		shown = reg
	}
	f, err := newFigures(cfg.MaxSeries, shown)
	if err != nil {
		return nil, err
	}
	r := &Recorder{cfg: cfg, figures: f, sink: sink, log: log, closing: make(chan struct{}), full: make(chan struct{}, 1)}
	r.metrics, err = newMetrics(reg, r.queueLength)
	return r, err
}

// Stats returns the figures since the start.
func (r *Recorder) Stats() Stats { return r.figures.stats() }

// Record takes one transaction. It never blocks: without room it is dropped and counted.
func (r *Recorder) Record(t *Transaction) {
	r.metrics.received.Inc()
	r.figures.add(t)
	if r.sink == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) >= r.cfg.MaxQueue {
		r.metrics.dropped.WithLabelValues(dropQueueFull).Inc()
		return
	}
	if len(r.waiting) == 0 {
		r.since = time.Now()
	}
	r.waiting = append(r.waiting, *t)
	if len(r.waiting) >= r.cfg.BatchSize {
		select {
		case r.full <- struct{}{}:
		default:
		}
	}
}

func (r *Recorder) queueLength() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}

// Run writes batches until ctx ends, then what still waits, for at most Config.FlushTimeout, and
// returns nil. What could not be written by then is counted as dropped.
func (r *Recorder) Run(ctx context.Context) error {
	if r.sink == nil {
		<-ctx.Done()
		return nil
	}
	maintained := make(chan struct{})
	go func() {
		defer close(maintained)
		r.maintain(ctx)
	}()
	flush := time.NewTicker(min(r.cfg.FlushInterval, time.Second))
	defer flush.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.full:
			r.drain(ctx, r.cfg.BatchSize)
		case <-flush.C:
			if r.oldestIsDue() {
				r.drain(ctx, 1)
			}
		}
	}
	<-maintained
	r.flushLast(ctx)
	return nil
}

func (r *Recorder) oldestIsDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting) > 0 && time.Since(r.since) >= r.cfg.FlushInterval
}

// maintain looks after the sink every hour, sooner after an error.
func (r *Recorder) maintain(ctx context.Context) {
	retry := 500 * time.Millisecond // the schema may be on its way
	for {
		next := time.Hour
		if err := r.sink.Maintain(ctx); err != nil && ctx.Err() == nil {
			retry = min(2*retry, time.Minute)
			next = retry
			r.metrics.maintenance.Inc()
			r.logRarely(ctx, "partitions of tps_metrics could not be made; rows go to the default partition", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// drain writes all that waits while it is at least so much.
func (r *Recorder) drain(ctx context.Context, least int) {
	for {
		batch := r.head()
		if len(batch) < least || ctx.Err() != nil {
			return
		}
		if !r.writeUntilDone(ctx, batch) {
			return
		}
	}
}

// head returns the oldest that wait, which stay in the queue until they are written.
func (r *Recorder) head() []Transaction {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting[:min(len(r.waiting), maxBatch)]
}

// remove takes the oldest n out of the queue.
func (r *Recorder) remove(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := r.waiting[n:]
	r.since = time.Now()
	if len(rest) == 0 {
		r.waiting = nil
		return
	}
	r.waiting = append(make([]Transaction, 0, max(len(rest), r.cfg.BatchSize)), rest...)
}

// writeUntilDone tries again and again until the batch is written or ctx ends.
func (r *Recorder) writeUntilDone(ctx context.Context, batch []Transaction) bool {
	const first, most = 100 * time.Millisecond, 5 * time.Second
	for backoff := first; ; backoff = min(2*backoff, most) {
		err := r.write(ctx, batch)
		if err == nil {
			r.remove(len(batch))
			return true
		}
		r.metrics.writeErrors.Inc()
		r.logRarely(ctx, "transactions could not be written; they wait", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(backoff/2 + rand.N(backoff)): //nolint:gosec // spreads replicas, no secret
		}
	}
}

// write stores a batch. One that is refused is split, until only the rows at fault are left
// over; these are dropped and counted.
func (r *Recorder) write(ctx context.Context, batch []Transaction) error {
	err := r.sink.Write(ctx, batch)
	var refused *RefusedError
	switch {
	case err == nil:
		r.metrics.written.Add(float64(len(batch)))
		return nil
	case !errors.As(err, &refused):
		return err
	case len(batch) == 1:
		r.metrics.dropped.WithLabelValues(dropRefused).Inc()
		r.logRarely(ctx, "a transaction was refused by the database and is lost", err)
		return nil
	}
	half := len(batch) / 2
	if err := r.write(ctx, batch[:half]); err != nil {
		return err
	}
	return r.write(ctx, batch[half:])
}

func (r *Recorder) flushLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.FlushTimeout)
	defer cancel()
	r.drain(ctx, 1)
	if left := r.queueLength(); left > 0 {
		r.metrics.dropped.WithLabelValues(dropShutdown).Add(float64(left))
		r.log.ErrorContext(ctx, "transactions are lost: they could not be written before the stop", slog.Int("lost", left))
		r.remove(left)
	}
}

// logRarely logs a fault that may come with every batch, at most every ten seconds.
func (r *Recorder) logRarely(ctx context.Context, message string, err error) {
	r.mu.Lock()
	quiet := time.Since(r.loggedAt) < 10*time.Second
	if !quiet {
		r.loggedAt = time.Now()
	}
	r.mu.Unlock()
	if !quiet {
		r.log.WarnContext(ctx, message, slog.Any("error", err)) //nolint:sloglint // each caller's message is a constant
	}
}
