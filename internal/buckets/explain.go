package buckets

import (
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Explanation says how a request would be decided, and why.
type Explanation struct {
	Code        Code  // OverLimit also for a request that would be held
	Held        bool  // it would wait for its turn instead of being refused
	WaitNS      int64 // the least that it would wait, where Held
	Descriptors []ExplainedDescriptor
}

// ExplainedDescriptor is what applies to one descriptor.
type ExplainedDescriptor struct {
	Code   Code
	Limits []ExplainedLimit // in the order in which ties name them: endpoint, its dimensions, the gateway's
}

// ExplainedLimit is one limit that applies to a descriptor, and its bucket.
type ExplainedLimit struct {
	Limit    *limits.Limit // of Gateway "" where the request brought it along
	Endpoint bool          // the endpoint's, else the gateway's
	Value    string        // of the descriptor key that the limit counts by
	Disabled bool          // a row that matches and limits nothing: all below is 0
	Default  bool          // the limit of what no row matches

	Before, After int64 // whole tokens, as the request finds and leaves them
	Capacity      int64
	Queued        int64 // hits of those who wait for tokens of this bucket
	FullInNS      int64 // from now, before the request
	Refuses       bool  // there is no room for this descriptor, or it belongs to those who wait
	WaitNS        int64 // until there is, where Refuses; limits.Never = it never is
	Decided       bool  // the answer names this limit
}

// Explain decides r as Do does, and charges nothing. Errors: ErrNoTable unless r is FromFiles.
func (e *Engine) Explain(r *Request) (Explanation, error) { return e.explain(e.clock.NowNS(), r) }

func (e *Engine) explain(nowNS int64, r *Request) (Explanation, error) {
	if e.current.Load() == nil && !r.FromFiles {
		return Explanation{}, ErrNoTable
	}
	var d Decision
	e.open(nowNS, r, &d)
	defer e.close(nowNS, &d)
	x := Explanation{Code: OK, Descriptors: make([]ExplainedDescriptor, len(r.Descriptors))}
	for i := range r.Descriptors {
		x.Descriptors[i].Limits = d.explainLimits(i)
	}
	if r.ChargeEach {
		x.explainEach(&d, nowNS)
		return x, nil
	}
	if d.refused() {
		x.Code = OverLimit
		soonestNS, _, held := d.plan(int64(MaxWait), nowNS)
		if x.Held = held; held {
			x.WaitNS = soonestNS - nowNS
		}
		d.refuse()
	} else {
		d.tryOut(func() {
			d.charge(nowNS)
			d.admit()
			x.setAfter(&d)
		})
	}
	x.setDecided(&d)
	for i := range r.Descriptors {
		x.Descriptors[i].Limits = append(x.Descriptors[i].Limits, d.disabledLimits(i)...)
	}
	return x, nil
}

// explainEach is the rest of explain where each descriptor is charged on its own.
func (x *Explanation) explainEach(d *Decision, nowNS int64) {
	d.tryOut(func() {
		for i := range x.Descriptors {
			x.Descriptors[i].Code = OK
			for j, r := range d.refsOf(i) { // one at most
				desc := &d.request.Descriptors[i]
				b := d.takes[r.take].gate.counterBucket(desc, nowNS) // one before may have had another limit
				x.Descriptors[i].Code = x.Descriptors[i].Limits[j].count(b, desc)
			}
			if x.Descriptors[i].Code == OverLimit {
				x.Code = OverLimit
			}
		}
	})
}

func (l *ExplainedLimit) count(b *bucket, desc *Descriptor) Code {
	s := Status{Code: OK}
	l.Limit, l.Capacity, l.Before, l.FullInNS = b.limit, int64(b.capacity), int64(b.tokens), b.fullInNS() //nolint:gosec // fits 32 bits
	b.count(desc, &s)
	l.After, l.Decided, l.Refuses, l.WaitNS = int64(b.tokens), true, s.Code == OverLimit, 0 //nolint:gosec // the same
	if l.Refuses {
		l.WaitNS = s.ResetNS
	}
	return s.Code
}

// tryOut lets f charge the request, and then nothing was.
func (d *Decision) tryOut(f func()) {
	saved := make([]bucket, len(d.takes))
	for i := range d.takes {
		saved[i] = d.takes[i].bucket.copy()
	}
	f()
	for i := range d.takes {
		*d.takes[i].bucket = saved[i]
	}
}

// copy shares nothing that a charge changes.
func (b *bucket) copy() bucket {
	c := *b
	c.window = b.window.copy()
	return c
}

func (w *window) copy() *window {
	if w == nil {
		return nil
	}
	c := *w
	if w.slots != nil {
		slots := *w.slots
		c.slots = &slots
	}
	return &c
}

func (d *Decision) explainLimits(i int) (all []ExplainedLimit) {
	for _, r := range d.refsOf(i) {
		t := &d.takes[r.take]
		b := t.bucket
		x := ExplainedLimit{
			Limit: b.limit, Endpoint: t.rank == rankEndpoint || t.rank == rankPerEndpoint, Default: b.limit == t.gate.engine.fallback,
			Before: int64(b.tokens), After: int64(b.tokens), Capacity: int64(b.capacity), Queued: int64(b.queued), //nolint:gosec // at most 1e9 each, and MaxWaiters of them
			FullInNS: b.fullInNS(), Refuses: t.lacks(r.need),
		}
		if x.Refuses {
			x.WaitNS = t.waitNS(r.need)
		}
		if b.limit.Per != "" {
			x.Value = shownName(parseLevel(b.key).value)
		}
		all = append(all, x)
	}
	return all
}

// setAfter notes what the request leaves.
func (x *Explanation) setAfter(d *Decision) {
	for i := range x.Descriptors {
		for j, r := range d.refsOf(i) {
			x.Descriptors[i].Limits[j].After = int64(d.takes[r.take].bucket.tokens) //nolint:gosec // at most 1e9
		}
	}
}

func (x *Explanation) setDecided(d *Decision) {
	for i := range x.Descriptors {
		s := &d.Statuses[i]
		x.Descriptors[i].Code = s.Code
		for j := range x.Descriptors[i].Limits {
			l := &x.Descriptors[i].Limits[j]
			l.Decided = l.Limit == s.Limit
		}
	}
}

// disabledLimits are the rows that match descriptor i and limit nothing.
func (d *Decision) disabledLimits(i int) (all []ExplainedLimit) {
	g, desc := d.gateOf[i], &d.request.Descriptors[i]
	if g == nil || g.name.kind != ofGateway {
		return nil
	}
	add := func(l *limits.Limit, endpoint bool, value string) {
		if l != nil && !l.Enabled {
			all = append(all, ExplainedLimit{Limit: l, Endpoint: endpoint, Value: value, Disabled: true})
		}
	}
	for _, dim := range append([]limits.Dim{{}}, g.rules.Dims()...) {
		value, ok := desc.valueOf(dim)
		if !ok {
			continue
		}
		if desc.HasEndpoint {
			add(g.rules.Endpoint(desc.Endpoint, dim), true, value)
		}
		add(g.rules.Gateway(dim), false, value)
	}
	return all
}
