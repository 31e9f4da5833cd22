package recorder

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons for which a transaction or an entry is not stored.
const (
	dropQueueFull = "queue_full" // no room in memory
	dropMalformed = "malformed"  // bytes that are no access-log entry
	dropRefused   = "refused"    // Postgres will never take the row
	dropShutdown  = "shutdown"   // still waiting at the end of the stop
)

type metrics struct {
	received    prometheus.Counter
	written     prometheus.Counter
	writeErrors prometheus.Counter
	maintenance prometheus.Counter
	dropped     *prometheus.CounterVec
	ignored     prometheus.Counter
	streams     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, queueLength func() int) (*metrics, error) {
	m := &metrics{
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_received_total", Help: "Transactions received, whether stored or lost later.",
		}),
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_written_total", Help: "Transactions written, by sink.", ConstLabels: prometheus.Labels{"sink": "postgres"},
		}),
		writeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_write_errors_total", Help: "Writes of transactions that failed; each is tried again until it succeeds.",
		}),
		maintenance: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_partition_errors_total", Help: "Attempts to make the partitions of tps_metrics that failed; they are repeated.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_dropped_total", Help: "Transactions lost, by reason: queue_full (no room in memory), malformed (bytes that are no entry), refused (Postgres will never take the row), shutdown (not written in time).",
		}, []string{"reason"}),
		ignored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_ignored_total", Help: "Access-log entries that are not the end of a request or connection.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_recorder_streams", Help: "Open access-log streams.",
		}),
	}
	queue := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ratelimitd_recorder_queue_length", Help: "Transactions in memory that wait to be written; TPS_MAX_QUEUE_SIZE is the bound.",
	}, func() float64 { return float64(queueLength()) })
	for _, c := range []prometheus.Collector{m.received, m.written, m.writeErrors, m.maintenance, m.dropped, m.ignored, m.streams, queue} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of the recorder: %w", err)
		}
	}
	for _, reason := range [...]string{dropQueueFull, dropMalformed, dropRefused, dropShutdown} {
		m.dropped.WithLabelValues(reason)
	}
	return m, nil
}
