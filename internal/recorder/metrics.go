package recorder

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/spool"
)

// Reasons for which a transaction or an entry is not stored, beside those of the log.
const (
	dropMalformed  = "malformed"  // bytes that are no access-log entry
	dropRefused    = "refused"    // a sink will never take the row
	dropUnreadable = "unreadable" // bytes in the log that are of a later release
)

type metrics struct {
	received    prometheus.Counter
	repeated    prometheus.Counter
	written     *prometheus.CounterVec
	writeErrors *prometheus.CounterVec
	maintenance prometheus.Counter
	dropped     *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, sinks []NamedSink, log *spool.Log) (*metrics, error) {
	m := &metrics{
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_received_total", Help: "Transactions received, whether stored or lost later.",
		}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_repeated_total", Help: "Transactions that came again with a key or from a collector's client, and were stored already.",
		}),
		written: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_written_total", Help: "Transactions written, by sink.",
		}, []string{"sink"}),
		writeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_write_errors_total", Help: "Writes of transactions that failed, by sink; each is tried again until it succeeds.",
		}, []string{"sink"}),
		maintenance: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_partition_errors_total", Help: "Attempts to make and drop partitions that failed; they are repeated.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_dropped_total", Help: "Transactions lost outside of the log, by reason: malformed (bytes that are no entry), refused (a sink will never take the row), unreadable (bytes in the log that are of a later release). ratelimitd_spool_lost_total has those that the log had no room for.",
		}, []string{"reason"}),
	}
	pending := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ratelimitd_recorder_queue_length", Help: "Transactions in memory that wait to be written to the log on disk; TPS_MAX_QUEUE_SIZE is the bound.",
	}, func() float64 {
		if log == nil {
			return 0
		}
		return float64(log.Pending())
	})
	for _, c := range []prometheus.Collector{m.received, m.repeated, m.written, m.writeErrors, m.maintenance, m.dropped, pending} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of the recorder: %w", err)
		}
	}
	for _, reason := range [...]string{dropMalformed, dropRefused, dropUnreadable} {
		m.dropped.WithLabelValues(reason)
	}
	for _, s := range sinks {
		m.written.WithLabelValues(s.Name)
		m.writeErrors.WithLabelValues(s.Name)
	}
	return m, nil
}
