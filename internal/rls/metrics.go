package rls

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/tps-agent/ratelimitd/internal/buckets"
)

// metrics count decisions. Names in labels are a client's, so their number is bounded.
type metrics struct {
	decisions *prometheus.CounterVec
	duration  prometheus.Histogram
	hold      prometheus.Histogram
	grpc      prometheus.Counter
	json      prometheus.Counter
	errors    *prometheus.CounterVec

	series     bounded[seriesKey]
	fileSeries bounded[seriesKey] // of domains that files name
	hits       bounded[hitsKey]   // of rules whose series the file names
	valueHits  bounded[hitsKey]   // of rules with values of requests in theirs
}

// bounded are the series of names that clients choose: most of them at most, what comes then counts as
// other.
type bounded[K comparable] struct {
	most   int
	mu     sync.RWMutex
	series map[K]prometheus.Counter
	make   func(K) prometheus.Counter
	other  func(K) prometheus.Counter
	keep   func(K) K // with names of its own
}

// seriesKey is a series by its names as [shown] makes them.
type seriesKey struct {
	domain, gateway, endpoint string
	code                      string
}

// otherName stands for every name beyond the bound.
const otherName = "other"

func newMetrics(maxSeries int, engine *buckets.Engine, reg prometheus.Registerer) (*metrics, error) {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_requests_total", Help: "RateLimitRequests received, by protocol (grpc, json).",
	}, []string{"protocol"})
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_decisions_total",
			Help: "Decisions by what was asked and the answer (ok, over_limit, shadow: let through, though a limit in shadow mode would have refused). Beyond TPS_MAX_SERIES names count as other, domains of descriptor files and all others by themselves.",
		}, []string{"domain", "gateway", "endpoint", "code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ratelimitd_decision_duration_seconds", Help: "Time that ratelimitd took for a decision, without what the request was held.",
			Buckets:                     []float64{1e-6, 2.5e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3, 1},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}),
		hold: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ratelimitd_hold_duration_seconds", Help: "Time that held requests waited, granted and refused ones.",
			Buckets:                     []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 600, 1800},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_request_errors_total", Help: "Requests answered with an error instead of a decision, by gRPC code. After InvalidArgument and Unavailable Envoy lets the request through; Canceled and DeadlineExceeded are callers that went away while they were held.",
		}, []string{"code"}),
		grpc: requests.WithLabelValues("grpc"),
		json: requests.WithLabelValues("json"),
	}
	m.series.most, m.fileSeries.most = maxSeries, maxSeries*int(outcomes)
	for _, b := range []*bounded[seriesKey]{&m.series, &m.fileSeries} {
		b.series = make(map[seriesKey]prometheus.Counter)
		b.make = func(k seriesKey) prometheus.Counter {
			return m.decisions.WithLabelValues(k.domain, k.gateway, k.endpoint, k.code)
		}
		b.other = func(k seriesKey) prometheus.Counter {
			return m.decisions.WithLabelValues(otherName, otherName, otherName, k.code)
		}
		b.keep = func(k seriesKey) seriesKey {
			return seriesKey{strings.Clone(k.domain), strings.Clone(k.gateway), strings.Clone(k.endpoint), k.code}
		}
	}
	hits := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_descriptor_hits_total",
		Help: "Hits that the limits of descriptor files have counted, each in one result: within_limit, near_limit (above TPS_NEAR_LIMIT_RATIO of the limit), over_limit, shadow (beyond a limit in shadow mode). Beyond TPS_MAX_SERIES limits they count as other, and so does what is beyond as many series of limits with values of requests in their names.",
	}, []string{"domain", "limit", "result"})
	m.hits.most, m.valueHits.most = maxSeries*int(results), maxSeries
	for _, b := range []*bounded[hitsKey]{&m.hits, &m.valueHits} {
		b.series = make(map[hitsKey]prometheus.Counter)
		b.make = func(k hitsKey) prometheus.Counter { return hits.WithLabelValues(k.domain, k.limit, k.result.String()) }
		b.other = func(k hitsKey) prometheus.Counter {
			return hits.WithLabelValues(k.domain, otherName, k.result.String())
		}
		b.keep = func(k hitsKey) hitsKey { return hitsKey{strings.Clone(k.domain), strings.Clone(k.limit), k.result} }
	}
	collectors := append(engineCollectors(engine), requests, m.decisions, hits, m.duration, m.hold, m.errors)
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of the rate limit service: %w", err)
		}
	}
	for _, code := range [...]codes.Code{codes.InvalidArgument, codes.Unavailable, codes.Canceled, codes.DeadlineExceeded} {
		m.errors.WithLabelValues(code.String())
	}
	return m, nil
}

func engineCollectors(engine *buckets.Engine) []prometheus.Collector {
	gauge := func(name, help string, v func(buckets.Stats) int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(v(engine.Stats())) })
	}
	counter := func(name, help string, labels prometheus.Labels, v func(buckets.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(v(engine.Stats())) })
	}
	const evicted = "Buckets evicted at TPS_MAX_BUCKETS, by state: full (nothing is lost) or used (its usage is forgotten)."
	return []prometheus.Collector{
		gauge("ratelimitd_waiters", "Requests that are held at this instant; TPS_MAX_WAITERS is the bound.", func(s buckets.Stats) int64 { return s.Waiters }),
		gauge("ratelimitd_buckets", "Buckets in memory: limits in use, one for each concrete name.", func(s buckets.Stats) int64 { return s.Buckets }),
		gauge("ratelimitd_buckets_bounded", "Of these the ones of names that no row writes out; TPS_MAX_BUCKETS is their bound.", func(s buckets.Stats) int64 { return s.Bounded }),
		counter("ratelimitd_buckets_evicted_total", evicted, prometheus.Labels{"state": "full"}, func(s buckets.Stats) uint64 { return s.EvictedFull }),
		counter("ratelimitd_buckets_evicted_total", evicted, prometheus.Labels{"state": "used"}, func(s buckets.Stats) uint64 { return s.EvictedUsed }),
		counter("ratelimitd_waiters_refused_total", "Requests refused instead of held, because TPS_MAX_WAITERS or the size of one request was reached.", nil, func(s buckets.Stats) uint64 { return s.WaitersRefused }),
	}
}

func (m *metrics) failed(code codes.Code) { m.errors.WithLabelValues(code.String()).Inc() }

// decided counts one decision. took includes the time that the request was held.
func (m *metrics) decided(c *call, took time.Duration) {
	r, d := &c.request, &c.decision
	if d.Held {
		m.hold.Observe(time.Duration(d.WaitedNS).Seconds())
	}
	m.duration.Observe(max(took-time.Duration(d.WaitedNS), 0).Seconds())
	kind := outcomeOf(d, c.matched.shadowed)
	if c.matched.domain != nil {
		m.decidedByFile(c.matched.domain, kind)
		return
	}
	key := seriesKey{domain: shown(r.Domain), code: kind.String()}
	switch i := describing(r, d); {
	case i >= 0:
		key.gateway, key.endpoint = shown(r.Descriptors[i].Gateway), shown(r.Descriptors[i].Endpoint)
	case c.service.cfg.Files.Required: // neither a file nor a row knows anything of it
		key.domain = otherName
	}
	m.series.get(key).Inc()
}

// decidedByFile is decided for a domain whose requests name neither gateway nor endpoint.
func (m *metrics) decidedByFile(domain *fileDomain, kind outcome) {
	kept := &domain.decisions[kind]
	series := kept.Load()
	if series == nil {
		series = new(m.fileSeries.get(seriesKey{domain: shown(domain.Name()), code: kind.String()}))
		kept.Store(series)
	}
	(*series).Inc()
}

// outcome is what has become of a request.
type outcome uint8

const (
	admitted outcome = iota
	refused
	shadowOnly // let through, though a limit in shadow mode would have refused

	outcomes
)

func (o outcome) String() string { return [outcomes]string{"ok", "over_limit", "shadow"}[o] }

// outcomeOf tells the outcome; shadowed says that all limits are in shadow mode, and one has refused.
func outcomeOf(d *buckets.Decision, shadowed bool) outcome {
	switch {
	case d.Code == buckets.OverLimit:
		return refused
	case shadowed || shadowRefused(d):
		return shadowOnly
	}
	return admitted
}

func shadowRefused(d *buckets.Decision) bool {
	for i := range d.Statuses {
		if d.Statuses[i].ShadowRefused {
			return true
		}
	}
	return false
}

// get returns the series of a key, whose names are as they are shown, so that there are no more series
// than keys. It does not keep the key's strings.
func (b *bounded[K]) get(key K) prometheus.Counter {
	b.mu.RLock()
	c, full := b.series[key], len(b.series) >= b.most
	b.mu.RUnlock()
	switch {
	case c != nil:
		return c
	case full:
		return b.other(key)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.series[key]; c != nil {
		return c
	}
	if len(b.series) >= b.most {
		return b.other(key)
	}
	key = b.keep(key)
	c = b.make(key)
	b.series[key] = c
	return c
}
