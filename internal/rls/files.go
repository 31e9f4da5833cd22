package rls

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/descriptors"
)

// FileConfig is for the domains that descriptor files name.
type FileConfig struct {
	// Required: descriptor files are configured, so that nothing is decided before [Service.Serve].
	Required bool
	// Headers are the names of limit, remaining and reset, which Config.ResponseHeaders adds.
	Headers [3]string
	Shadow  bool // a request is never refused; its statuses keep the truth
	Quota   bool // every descriptor is one of quota_mode
	// Metadata: answers carry what was asked, and the metadata of the limits that passed.
	Metadata  bool
	NearRatio float64 // hits above this part of a limit count as near it; 0 = all of them
}

// errNoFiles says that nobody knows yet which domains descriptor files name.
var errNoFiles = errors.New("no rate limit configuration loaded: the descriptor files or their xDS server have not been read yet")

// Serve puts the domains of descriptor files in force. Each replaces the rows of its name.
func (s *Service) Serve(set *descriptors.Set) {
	f := &fileDomains{set: set, byName: make(map[string]*fileDomain, set.Len())}
	for d := range set.Domains() {
		f.byName[d.Name()] = &fileDomain{Domain: d, hits: make([]ruleHits, len(d.Rules()))}
	}
	s.files.Store(f)
}

// Files are the domains in force, nil before Serve.
func (s *Service) Files() *descriptors.Set {
	if f := s.files.Load(); f != nil {
		return f.set
	}
	return nil
}

// fileDomains are the domains in force, and the series of their rules. It never changes, but for series
// that are added.
type fileDomains struct {
	set    *descriptors.Set
	byName map[string]*fileDomain
}

type fileDomain struct {
	*descriptors.Domain
	hits      []ruleHits // by Rule.ID
	decisions [outcomes]atomic.Pointer[prometheus.Counter]
}

// ruleHits are the series of a rule, once they are used.
type ruleHits [results]atomic.Pointer[prometheus.Counter]

// fileDomain returns the domain of a request where a file names it, nil where rows decide.
func (s *Service) fileDomain(name string) (*fileDomain, error) {
	f := s.files.Load()
	if f == nil {
		if s.cfg.Files.Required {
			return nil, errNoFiles
		}
		return nil, nil //nolint:nilnil // no domain is no error
	}
	return f.byName[name], nil
}

// matched is what the descriptors of one request have matched in a file.
type matched struct {
	domain    *fileDomain // nil = rows decide
	rules     []rule      // one for each descriptor
	replacing descriptors.Replacing
	keys      []byte
	shadowed  bool // the request was refused, and FileConfig.Shadow lets it through
}

// rule is the limit of one descriptor. The zero rule is none.
type rule struct {
	*descriptors.Rule      // nil = none, or an override
	override          bool // the request brought the limit along
}

// counted tells whether there is something to count, and with that a status with fields.
func (r rule) counted() bool { return r.override || (r.Rule != nil && !r.Unlimited) }

func (m *matched) release() {
	m.domain, m.shadowed = nil, false
	clear(m.rules[:cap(m.rules)])
	if cap(m.keys) > maxPooledRequest {
		m.keys = nil
	}
}

// match finds the limit of every descriptor, and what it is counted by.
func (m *matched) match(r *Request, domain *fileDomain) {
	m.domain, m.rules, m.keys = domain, m.rules[:0], m.keys[:0]
	m.replacing.Reset()
	r.FromFiles, r.ChargeEach = true, !domain.AllOrNothing()
	for i := range r.Descriptors {
		d := &r.Descriptors[i]
		found := rule{override: d.OverrideWindowNS > 0}
		if !found.override {
			found.Rule = domain.Match(d.Entries)
		}
		m.replacing.Add(found.Rule)
		m.rules = append(m.rules, found)
	}
	for i := range r.Descriptors {
		m.count(i, &r.Descriptors[i], &r.fields[i])
	}
}

// count fills in by what descriptor i is counted. Gateways and endpoints mean nothing in a file.
func (m *matched) count(i int, d *buckets.Descriptor, f *descriptorFields) {
	d.HasGateway, d.HasEndpoint, d.Counter = false, false, buckets.Counter{}
	found := &m.rules[i]
	if found.Rule != nil && m.replacing.Replaced(found.Rule) {
		*found = rule{}
	}
	if !found.counted() {
		return
	}
	seconds := d.OverrideWindowNS / int64(time.Second)
	start := len(m.keys)
	switch {
	case !found.override:
		d.Counter.Limit, d.Counter.Exact, seconds = found.Limit, found.Exact, found.Seconds
	case m.domain.AllOrNothing(): // one request may bring several, and each has to have room
		m.keys = descriptors.AppendNumber(m.keys, f.limit)
	}
	m.keys = descriptors.AppendKey(m.keys, found.Rule, seconds, d.Entries)
	d.Counter.Key = m.keys[start:]
}

// decideFile answers the request of c, whose domain a file names.
func (s *Service) decideFile(ctx context.Context, c *call, domain *fileDomain, nowNS int64) error {
	c.matched.match(&c.request, domain)
	if c.request.ChargeEach {
		s.engine.ChargeEach(nowNS, &c.request.Request, &c.decision)
	} else if err := s.engine.Do(ctx, &c.request.Request, 0, &c.decision); err != nil {
		return err
	}
	s.countHits(c)
	c.matched.verdict(&c.decision, &s.cfg.Files)
	return nil
}

// verdict makes the answer out of what was counted: a limit in shadow mode is over and says OK, those of
// quota mode refuse only all together.
func (m *matched) verdict(d *buckets.Decision, cfg *FileConfig) {
	quotas, quotasOver, over := 0, 0, false
	for i := range d.Statuses {
		s, r := &d.Statuses[i], m.rules[i]
		if s.Code == buckets.OverLimit && r.Rule != nil && r.Shadow {
			s.Code, s.Remaining, s.ShadowRefused = buckets.OK, 0, true
		}
		isOver := s.Code == buckets.OverLimit
		switch {
		case r.Rule != nil && r.Unlimited: // has no part in it, also where all are quotas
		case !m.isQuota(r, cfg):
			over = over || isOver
		case isOver:
			quotasOver++
			quotas++
		default:
			quotas++
		}
	}
	d.Code = buckets.OK
	if over || (quotas > 0 && quotas == quotasOver) {
		d.Code = buckets.OverLimit
	}
	if m.shadowed = cfg.Shadow && d.Code == buckets.OverLimit; m.shadowed {
		d.Code = buckets.OK
	}
}

func (m *matched) isQuota(r rule, cfg *FileConfig) bool {
	return !m.domain.AllOrNothing() && (cfg.Quota || (r.Rule != nil && r.Quota))
}
