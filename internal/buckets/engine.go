package buckets

import (
	"context"
	"errors"
	"hash/maphash"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// ErrNoTable says that no set of limits was ever loaded, so that nothing can be decided.
var ErrNoTable = errors.New("no limits have been loaded yet")

// MaxWaitKey is the descriptor entry that lowers how long a request may wait, in milliseconds.
const MaxWaitKey = "max_wait_ms"

// MaxWait is the longest a request may be held, whatever its limits say.
const MaxWait = 30 * time.Minute

// Config bounds an Engine.
type Config struct {
	DefaultMaxTPS int64 // of the requests of a (domain, gateway) that no row matches; 0 = unlimited
	MaxBuckets    int   // buckets of names that no row writes out; 0 = 1,000,000
	MaxWaiters    int   // held requests; 0 = 100,000. Of every 1,000 one gateway may hold 950
}

// Engine decides requests against the table in force.
type Engine struct {
	cfg      Config
	clock    limits.Clock
	current  *limits.Current
	fallback *limits.Limit // the default limit, nil = unlimited

	seed   maphash.Seed
	shards [gateShards]gateShard
	ids    atomic.Uint64

	drainNS atomic.Int64 // nobody waits beyond; 0 = no bound

	gates   atomic.Int64
	buckets atomic.Int64 // in maps of gates; the gates' own are not among them
	waiters atomic.Int64

	dynamic     atomic.Int64 // what MaxBuckets bounds
	evictedFull atomic.Uint64
	evictedUsed atomic.Uint64
	turnedAway  atomic.Uint64 // not held because of MaxWaiters

	kept kept // of Restore

	mu      sync.Mutex          // below: held after a gate's mu, never before
	domains map[string]struct{} // the first ones, at most maxDomains
	holders []*gate             // gates with something to evict
	queues  map[*gate]struct{}
}

const gateShards = 256 // power of two

// New returns an Engine over the tables of current. It re-plans waiters whenever current
// changes.
func New(cfg Config, clock limits.Clock, current *limits.Current) *Engine {
	e := &Engine{cfg: cfg, clock: clock, current: current, seed: maphash.MakeSeed(), queues: make(map[*gate]struct{})}
	if e.cfg.MaxBuckets <= 0 {
		e.cfg.MaxBuckets = 1_000_000
	}
	if e.cfg.MaxWaiters <= 0 {
		e.cfg.MaxWaiters = 100_000
	}
	if cfg.DefaultMaxTPS > 0 {
		e.fallback = limits.Limit{Key: limits.Key{Gateway: "default"}, MaxTPS: cfg.DefaultMaxTPS, Enabled: true}.Compile(0)
	}
	current.OnSwap(func(*limits.Table) { e.Replan() })
	return e
}

// Do decides r and fills d. A request that has to wait for its turn waits here: until it is
// granted or refused, at most maxWait (negative = no bound of the caller's) and until shortly
// before ctx's deadline.
//
// Errors: ErrNoTable unless r is FromFiles, or ctx's own when the caller went away while the request was held.
func (e *Engine) Do(ctx context.Context, r *Request, maxWait time.Duration, d *Decision) error {
	if deadline, ok := ctx.Deadline(); ok {
		maxWait = boundByDeadline(maxWait, time.Until(deadline))
	}
	if maxWait < 0 || maxWait > MaxWait {
		maxWait = MaxWait
	}
	held, err := e.decide(e.clock.NowNS(), r, int64(maxWait), d)
	if err != nil || !held {
		return err
	}
	return e.wait(ctx, d)
}

// NowNS is the engine's time.
func (e *Engine) NowNS() int64 { return e.clock.NowNS() }

// boundByDeadline leaves a margin for the answer to travel: 1 % of the time left, at least 5
// and at most 100 ms.
func boundByDeadline(maxWait, left time.Duration) time.Duration {
	margin := min(max(left/100, 5*time.Millisecond), 100*time.Millisecond)
	left = max(left-margin, 0)
	if maxWait < 0 {
		return left
	}
	return min(maxWait, left)
}

// decide answers r at nowNS. held = it waits in d.waiter, and d is not to be touched before
// its turn came.
func (e *Engine) decide(nowNS int64, r *Request, maxWaitNS int64, d *Decision) (held bool, err error) {
	if e.current.Load() == nil && !r.FromFiles {
		return false, ErrNoTable
	}
	table := e.open(nowNS, r, d)
	switch {
	case !d.refused():
		d.charge(nowNS)
		d.admit()
	case d.enqueue(maxWaitNS, nowNS):
		held = true
		if newest := e.current.Load(); newest != table { // Replan may have missed the new waiter
			d.gates[0].syncWaiting(newest, nowNS)
		}
	default:
		d.refuse()
	}
	e.close(nowNS, d)
	return held, nil
}

// open locks the gates of r, brings them up to the table in force, which it returns, and finds
// the buckets of r.
func (e *Engine) open(nowNS int64, r *Request, d *Decision) *limits.Table {
	d.reset(r)
	e.lockGates(r, d)
	table := e.current.Load() // below the locks, so that no gate ever goes back to an older one
	for i, g := range d.gateOf {
		if g != nil {
			g.sync(table, r.Descriptors[i].Gateway, nowNS)
			g.serve(nowNS)
		}
	}
	d.resolveAll(nowNS)
	return table
}

// close unlocks the gates, and evicts what they have grown by too much.
func (e *Engine) close(nowNS int64, d *Decision) {
	grown := len(d.takes) + len(d.gates)
	for _, g := range d.gates {
		g.serve(nowNS)
		g.evictOwn(grown, nowNS)
		g.mu.Unlock()
	}
	if e.dynamic.Load() > int64(e.cfg.MaxBuckets) {
		e.evict(grown, nowNS)
	}
}

// lockGates finds and locks the gates that r names, in ascending order.
func (e *Engine) lockGates(r *Request, d *Decision) {
	for {
		for i := range r.Descriptors {
			d.gateOf[i] = nil
			if !r.ChargeEach || len(r.Descriptors[i].Counter.Key) > 0 {
				d.gateOf[i] = e.gateFor(r.Domain, &r.Descriptors[i])
			}
		}
		d.gatesToLock()
		if lockAll(d.gates) {
			return
		}
	}
}

func lockAll(gates []*gate) bool {
	for i, g := range gates {
		g.mu.Lock()
		if g.dead {
			for _, locked := range gates[:i+1] {
				locked.mu.Unlock()
			}
			return false
		}
	}
	return true
}

// gateFor returns the gate of a descriptor, made if it is not there; nil for one that no
// limit can apply to.
func (e *Engine) gateFor(domain string, desc *Descriptor) *gate {
	switch {
	case len(desc.Counter.Key) > 0:
		return e.gate(e.partOf(domain, desc.Counter.Key))
	case desc.HasGateway:
		return e.gate(gateName{shortName(domain), shortName(desc.Gateway), ofGateway})
	case desc.OverrideWindowNS > 0:
		return e.gate(gateName{shortName(domain), "", ofNone})
	}
	return nil
}

func (e *Engine) gate(name gateName) *gate {
	g, s, h := e.find(name)
	if g != nil {
		return g
	}
	return e.makeGate(s, h, name)
}

// find returns a gate, nil if it is not there or may have been missed, its shard and its hash.
func (e *Engine) find(name gateName) (g *gate, s *gateShard, h uint64) {
	h = maphash.String(e.seed, name.gateway) ^ bits.RotateLeft64(maphash.String(e.seed, name.domain), 32)
	s = &e.shards[h%gateShards]
	return s.find(h, &name), s, h
}

// findSurely is find where a gate must not be missed because others come or go at this instant.
func (e *Engine) findSurely(name gateName) *gate {
	_, s, h := e.find(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(h, &name)
}

func (e *Engine) makeGate(s *gateShard, h uint64, name gateName) *gate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.find(h, &name); g != nil {
		return g
	}
	name.domain, name.gateway = strings.Clone(name.domain), strings.Clone(name.gateway)
	g := &gate{engine: e, id: e.ids.Add(1), name: name, hash: h, exact: true}
	g.known = name.kind != ofCounters && e.knowsDomain(name.domain)
	s.addLocked(g)
	if name.kind != ofCounters {
		e.gates.Add(1)
	}
	return g
}

// maxDomains is for how many domains the names that common rows write out are not bounded by
// MaxBuckets. Operators choose domains; a client that invents them gets no more than these.
const maxDomains = 256

// knowsDomain tells whether the domain is one of the first that requests have named.
func (e *Engine) knowsDomain(domain string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.domains[domain]; known {
		return true
	}
	if len(e.domains) >= maxDomains {
		return false
	}
	if e.domains == nil {
		e.domains = make(map[string]struct{})
	}
	e.domains[domain] = struct{}{}
	return true
}

// Stats are counts of what the Engine holds and has thrown away.
type Stats struct {
	Gates          int64  // gateways of domains with live state; not the parts of counters
	Buckets        int64  // live buckets
	Bounded        int64  // of these, what MaxBuckets bounds
	Waiters        int64  // held requests
	EvictedFull    uint64 // evicted buckets that were full: nothing was lost
	EvictedUsed    uint64 // evicted buckets that were not: their usage was forgotten
	WaitersRefused uint64 // refused instead of held, because MaxWaiters or the bytes of one waiter were reached
}

// Stats returns the counts at this instant; they are read one after the other.
func (e *Engine) Stats() Stats {
	return Stats{
		Gates: e.gates.Load(), Buckets: e.buckets.Load() + e.gates.Load(), Bounded: e.dynamic.Load(), Waiters: e.waiters.Load(),
		EvictedFull: e.evictedFull.Load(), EvictedUsed: e.evictedUsed.Load(), WaitersRefused: e.turnedAway.Load(),
	}
}
