package descsync

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
)

// metrics tell what is loaded, whatever it comes from.
type metrics struct {
	errors      prometheus.Counter // content that was refused
	stateErrors prometheus.Counter // reads and writes of the data directory that went wrong
	loads       prometheus.Counter
	domains     prometheus.Gauge
	limits      prometheus.Gauge
	bad         prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, ready func() error) (*metrics, error) {
	errs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_descriptor_errors_total",
		Help: "Faults with descriptor files, by reason: content (a file, directory or xDS response that was refused; what was in force stays), state_file (the last good content could not be read from the data directory, or written to it).",
	}, []string{"reason"})
	m := &metrics{
		errors: errs.WithLabelValues("content"), stateErrors: errs.WithLabelValues("state_file"),
		loads:   prometheus.NewCounter(prometheus.CounterOpts{Name: "ratelimitd_descriptor_loads_total", Help: "Times that other descriptor files or resources than before came into force."}),
		domains: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ratelimitd_descriptor_domains", Help: "Domains of descriptor files in force."}),
		limits:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "ratelimitd_descriptor_limits", Help: "Limits of descriptor files in force."}),
		bad:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "ratelimitd_descriptor_files_bad", Help: "Descriptor files that are not in force as they are: their last good limits are, or none."}),
	}
	stale := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ratelimitd_descriptors_stale", Help: "1 while what is in force of descriptor files may not be what their source says: a file is bad, the directory cannot be read, the xDS server is away, or its response was refused.",
	}, func() float64 {
		if ready() != nil {
			return 1
		}
		return 0
	})
	for _, c := range []prometheus.Collector{errs, stale, m.loads, m.domains, m.limits, m.bad} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of descriptor files: %w", err)
		}
	}
	return m, nil
}

// loaded notes what is in force now.
func (m *metrics) loaded(s *descriptors.Set) {
	bad := 0
	for src := range s.Sources() {
		if src.Err != nil {
			bad++
		}
	}
	m.loads.Inc()
	m.domains.Set(float64(s.Len()))
	m.limits.Set(float64(s.Rules()))
	m.bad.Set(float64(bad))
}
