package spool

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons for which records are lost.
const (
	lostQueueFull = "queue_full" // no room in memory
	lostDisk      = "disk"       // a write failed
	lostSpoolFull = "spool_full" // Config.Max
	lostDamaged   = "damaged"    // a file does not say any more what was written to it
	lostRemoved   = "removed"    // a reader of an earlier life is not in Config.Readers
)

// allReaders is the label value for what is lost to all readers: it was never written.
const allReaders = "all"

type metrics struct {
	lost            *prometheus.CounterVec
	queueFull, disk prometheus.Counter

	writeErrors, syncErrors, cursorErrors, readErrors prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, bytes func() int64, readers []*Reader) (*metrics, error) {
	lost := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_spool_lost_total", Help: "Records lost to a reader (all = every one), by reason: queue_full (no room in memory), disk (could not be written), spool_full (TPS_SPOOL_MAX), damaged (the file has changed), removed (the sink is no longer configured).",
	}, []string{"reader", "reason"})
	failed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_spool_errors_total", Help: "Operations on the files of the log that failed: write, sync, cursor, read.",
	}, []string{"operation"})
	all := []prometheus.Collector{lost, failed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ratelimitd_spool_bytes", Help: "Size of all segments of the log on disk; TPS_SPOOL_MAX is the bound.",
	}, func() float64 { return float64(bytes()) })}
	for _, r := range readers {
		r.spoolFull, r.damaged = lost.WithLabelValues(r.name, lostSpoolFull), lost.WithLabelValues(r.name, lostDamaged)
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ratelimitd_spool_waiting", Help: "Records in the log that a reader has not dealt with yet.", ConstLabels: prometheus.Labels{"reader": r.name},
		}, func() float64 { return float64(r.Waiting()) }))
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of the spool: %w", err)
		}
	}
	return &metrics{
		lost:      lost,
		queueFull: lost.WithLabelValues(allReaders, lostQueueFull), disk: lost.WithLabelValues(allReaders, lostDisk),
		writeErrors: failed.WithLabelValues("write"), syncErrors: failed.WithLabelValues("sync"),
		cursorErrors: failed.WithLabelValues("cursor"), readErrors: failed.WithLabelValues("read"),
	}, nil
}

// quiet is how long a fault that may come with every write is not logged again.
const quiet = 10 * time.Second

// rarely logs each of this package's messages at most every ten seconds.
type rarely struct {
	log *slog.Logger

	mu sync.Mutex
	at map[string]time.Time
}

func newRarely(log *slog.Logger) *rarely { return &rarely{log: log, at: map[string]time.Time{}} }

func (r *rarely) warn(message string, attrs ...any) {
	r.mu.Lock()
	at, logged := r.at[message]
	due := !logged || time.Since(at) >= quiet
	if due {
		r.at[message] = time.Now()
	}
	r.mu.Unlock()
	if due {
		r.log.Warn(message, attrs...) //nolint:sloglint // each caller's message is a constant
	}
}
