package pgsync

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	up         prometheus.Gauge
	stale      prometheus.Gauge
	loadErrors *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_postgres_up", Help: "1 while the limits are followed in Postgres.",
		}),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_limits_stale", Help: "1 while the limits in force may be older than their source: Postgres is away, or the limits file is bad.",
		}),
		loadErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_limits_load_errors_total", Help: "Faults in loading limits, by reason: connection, query, older, emptied, invalid_row, state_file (Postgres), file (limits file).",
		}, []string{"reason"}),
	}
	for _, c := range []prometheus.Collector{m.up, m.stale, m.loadErrors} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of pgsync: %w", err)
		}
	}
	for _, r := range [...]string{"connection", "query", "older", "emptied", "invalid_row", "state_file"} {
		m.loadErrors.WithLabelValues(r)
	}
	return m, nil
}

// reason is the label of a fault.
func reason(err error) string {
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	_, refused := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, errOlder):
		return "older"
	case errors.Is(err, errEmptied):
		return "emptied"
	case refused && !connecting:
		return "query"
	default:
		return "connection"
	}
}
