package rls

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/buckets"
)

// result is what has become of hits that a rule of a descriptor file counts.
type result uint8

const (
	within   result = iota // up to near the limit
	near                   // from there up to the limit
	over                   // beyond it
	shadowed               // beyond it, of a rule in shadow mode

	results
)

func (r result) String() string {
	return [results]string{"within_limit", "near_limit", "over_limit", "shadow"}[r]
}

// hitsKey is a series by its names as [shown] makes them.
type hitsKey struct {
	domain, limit string
	result        result
}

// countHits counts what each rule has counted of a request. Limits that requests bring along have no
// name, and so no series.
func (s *Service) countHits(c *call) {
	together := c.matched.domain.AllOrNothing()
	for i := range c.decision.Statuses {
		d, r, status := &c.request.Descriptors[i], c.matched.rules[i], &c.decision.Statuses[i]
		if r.Rule == nil || r.Unlimited || d.Negative || d.Hits == 0 {
			continue
		}
		if together && status.Code == buckets.OK {
			if c.decision.Code == buckets.OverLimit { // another one has refused: nothing was counted
				continue
			}
			status.Used = uint64(max(int64(r.RequestsPerUnit)-status.Remaining, 0))
		}
		split := splitHits(d.Hits, status, uint64(r.RequestsPerUnit), s.cfg.Files.NearRatio)
		if r.Shadow {
			split[shadowed], split[over] = split[over], 0
		}
		for kind, n := range split {
			if n > 0 {
				s.hitsSeries(c, i, result(kind)).Add(float64(n))
			}
		}
	}
}

// splitHits says where the hits of one descriptor have come to lie: all over where nothing was counted.
func splitHits(hits uint64, s *buckets.Status, limit uint64, nearRatio float64) (split [results]uint64) {
	if s.Code == buckets.OverLimit && s.Used <= limit || s.ShadowRefused {
		split[over] = hits
		return split
	}
	nearFrom := uint64(float64(limit) * nearRatio)
	before := s.Used - min(hits, s.Used)
	below := func(bound uint64) uint64 { return min(s.Used, bound) - min(before, bound) }
	split[within] = below(nearFrom)
	split[near] = below(limit) - split[within]
	split[over] = hits - split[within] - split[near]
	return split
}

// hitsSeries returns the series of the rule of descriptor i.
func (s *Service) hitsSeries(c *call, i int, kind result) prometheus.Counter {
	r := c.matched.rules[i]
	kept := &c.matched.domain.hits[r.ID][kind]
	if series := kept.Load(); series != nil {
		return *series
	}
	stat := r.AppendStat(nil, c.request.Descriptors[i].Entries)[len(r.Domain().Name())+1:]
	key := hitsKey{shown(r.Domain().Name()), shown(string(stat)), kind}
	if r.PerValue() {
		return s.metrics.valueHits.get(key)
	}
	series := s.metrics.hits.get(key)
	kept.Store(&series)
	return series
}
