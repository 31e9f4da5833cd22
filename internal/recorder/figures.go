package recorder

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// figures are the counts of transactions since the start by name, in memory and for Prometheus.
type figures struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	waited   *prometheus.CounterVec
	names    *rollup.Names
	received atomic.Uint64

	mu     sync.RWMutex
	byName map[rollup.Key]*series
}

// Outcomes of a transaction. One that was refused by a limit is no success.
const (
	outcomeSuccess = iota
	outcomeFailure
	outcomeThrottled
	outcomeKinds
)

func outcome(t *traffic.Transaction) int {
	switch {
	case t.Throttled:
		return outcomeThrottled
	case t.Success:
		return outcomeSuccess
	}
	return outcomeFailure
}

// series are the figures of one name.
type series struct {
	key       rollup.Key
	total     [outcomeKinds]prometheus.Counter
	duration  prometheus.Observer
	waited    prometheus.Counter
	requests  atomic.Uint64
	failed    atomic.Uint64
	throttled atomic.Uint64
	held      atomic.Uint64
	totalUS   atomic.Int64 // microseconds: nanoseconds overflow after 11 days of 10,000 a second that take a second each
}

func newFigures(names *rollup.Names, reg prometheus.Registerer) (*figures, error) {
	f := &figures{
		names: names,
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_transactions_total", Help: "Transactions, that is requests or connections that ended, by success and by throttled (refused by a limit). Beyond TPS_MAX_SERIES names count as other.",
		}, []string{"domain", "gateway", "endpoint", "success", "throttled"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ratelimitd_transaction_duration_seconds", Help: "Duration of transactions that were not throttled as Envoy measured it, less what they were held.",
			Buckets:                     []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, []string{"domain", "gateway", "endpoint"}),
		waited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_transaction_waited_seconds_total", Help: "Time that transactions were held by a limit.",
		}, []string{"domain", "gateway", "endpoint"}),
		byName: make(map[rollup.Key]*series),
	}
	for _, c := range []prometheus.Collector{f.total, f.duration, f.waited} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of transactions: %w", err)
		}
	}
	return f, nil
}

// add counts t, and returns the names that it counts by.
func (f *figures) add(t *traffic.Transaction) rollup.Key {
	key := f.names.Bounded(t.Domain, t.Gateway, t.Endpoint)
	f.received.Add(1)
	s := f.series(key)
	s.requests.Add(1)
	s.total[outcome(t)].Inc()
	if !t.Success {
		s.failed.Add(1)
	}
	if t.Throttled {
		s.throttled.Add(1)
	} else {
		s.totalUS.Add(t.Duration.Microseconds())
		s.duration.Observe(t.Duration.Seconds())
	}
	if t.Waited > 0 {
		s.held.Add(1)
		s.waited.Add(t.Waited.Seconds())
	}
	return key
}

// series returns that of names which are bounded.
func (f *figures) series(key rollup.Key) *series {
	f.mu.RLock()
	s := f.byName[key]
	f.mu.RUnlock()
	if s != nil {
		return s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.byName[key]; s != nil {
		return s
	}
	s = f.newSeries(key)
	f.byName[key] = s
	return s
}

func (f *figures) newSeries(key rollup.Key) *series {
	s := &series{
		key:      key,
		duration: f.duration.WithLabelValues(key.Domain, key.Gateway, key.Endpoint),
		waited:   f.waited.WithLabelValues(key.Domain, key.Gateway, key.Endpoint),
	}
	for i := range s.total {
		s.total[i] = f.total.WithLabelValues(key.Domain, key.Gateway, key.Endpoint,
			strconv.FormatBool(i == outcomeSuccess), strconv.FormatBool(i == outcomeThrottled))
	}
	return s
}

// Stats are the figures since the start.
type Stats struct {
	Transactions uint64          `json:"transactions"` // received
	Endpoints    []EndpointStats `json:"endpoints"`    // by domain, gateway, endpoint
}

// EndpointStats are the figures of one endpoint of one gateway. Endpoint is empty for requests
// that name none; beyond TPS_MAX_SERIES all three names are `other`.
type EndpointStats struct {
	Domain       string  `json:"domain"`
	Gateway      string  `json:"gateway"`
	Endpoint     string  `json:"endpoint"`
	Transactions uint64  `json:"transactions"`
	Failed       uint64  `json:"failed"`
	Throttled    uint64  `json:"throttled"`
	Held         uint64  `json:"held"`
	MeanMS       float64 `json:"mean_duration_ms"` // of those not throttled
}

func (f *figures) stats() Stats {
	all := f.all()
	st := Stats{Transactions: f.received.Load(), Endpoints: make([]EndpointStats, 0, len(all))}
	for _, s := range all {
		throttled, n := s.throttled.Load(), s.requests.Load() // in this order, so that none is of more than all
		st.Endpoints = append(st.Endpoints, EndpointStats{
			Domain: s.key.Domain, Gateway: s.key.Gateway, Endpoint: s.key.Endpoint,
			Transactions: n, Failed: s.failed.Load(), Throttled: throttled, Held: s.held.Load(),
			MeanMS: float64(s.totalUS.Load()) / float64(max(n-throttled, 1)) / 1000,
		})
	}
	slices.SortFunc(st.Endpoints, func(a, b EndpointStats) int {
		return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	return st
}

// all returns every series, in no order. Sorting them takes long, and would keep new names out.
func (f *figures) all() []*series {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Collect(maps.Values(f.byName))
}
