package recorder

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config bounds the recorder.
type Config struct {
	BatchSize     int           // a write starts at this many waiting transactions; at least 1
	FlushInterval time.Duration // or when the oldest has waited for this time; above 0
	MaxQueue      int           // most transactions in memory; what comes then is dropped and counted
	MaxSeries     int           // names in figures and metrics before the rest counts as `other`
	FlushTimeout  time.Duration // for what still waits at the stop; 0 = 5 s
	Prometheus    bool          // also show transactions as metrics
}

const defaultFlushTimeout = 5 * time.Second

// validate returns every fault.
func (c *Config) validate() error {
	var errs []error
	for _, f := range [...]struct {
		name  string
		value int64
	}{{"batch size", int64(c.BatchSize)}, {"flush interval", int64(c.FlushInterval)}, {"max queue", int64(c.MaxQueue)}, {"max series", int64(c.MaxSeries)}} {
		if f.value < 1 {
			errs = append(errs, fmt.Errorf("%s %d: is not above 0", f.name, f.value))
		}
	}
	if c.FlushTimeout < 0 {
		errs = append(errs, fmt.Errorf("flush timeout %s: is below 0", c.FlushTimeout))
	}
	return errors.Join(errs...)
}

// Recorder turns access logs into transactions. Its methods may be called by any number of
// goroutines.
type Recorder struct {
	cfg     Config
	figures *figures
	metrics *metrics
	queue   *queue
	sink    Sink // nil = figures only
	log     *slog.Logger
	closing chan struct{} // closed when streams are to end
	close   sync.Once

	mu       sync.Mutex
	loggedAt map[string]time.Time // by message
}

// New returns a Recorder that starts nothing. sink may be nil: then there are figures and
// metrics, and nothing is stored. The error joins all faults of cfg.
func New(cfg Config, sink Sink, reg prometheus.Registerer, log *slog.Logger) (*Recorder, error) {
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
	f, err := newFigures(cfg.MaxSeries, shown)
	if err != nil {
		return nil, err
	}
	q := newQueue(cfg.MaxQueue, cfg.BatchSize)
	m, err := newMetrics(reg, q.length)
	if err != nil {
		return nil, err
	}
	return &Recorder{
		cfg: cfg, figures: f, metrics: m, queue: q, sink: sink, log: log,
		closing: make(chan struct{}), loggedAt: make(map[string]time.Time),
	}, nil
}

// Stats returns the figures since the start.
func (r *Recorder) Stats() Stats { return r.figures.stats() }

// Record takes one transaction. It never blocks: without room in the queue the transaction is
// dropped and counted, after it has gone into the figures. It may be called before Run, and after.
func (r *Recorder) Record(t *Transaction) {
	r.metrics.received.Inc()
	r.figures.add(t)
	if r.sink == nil {
		return
	}
	if reason, ok := r.queue.put(t); !ok {
		r.metrics.dropped.WithLabelValues(reason).Inc()
	}
}
