package buckets

import (
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

const (
	sweepEvery = time.Minute
	sweepChunk = 1024 // buckets looked at while a gate is locked
)

// Run sweeps once a minute until ctx ends, and returns nil then.
func (e *Engine) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			e.Sweep()
		}
	}
}

// Sweep frees what equals nothing: full buckets of names that no row writes out, buckets whose
// row was deleted, gates with neither. It brings every gate up to the table in force, so that
// older tables can be freed. No gate is locked for longer than it takes to look at some
// thousand buckets.
func (e *Engine) Sweep() { e.sweep(e.clock.NowNS()) }

func (e *Engine) sweep(nowNS int64) {
	if e.current.Load() == nil {
		return
	}
	var gates []*gate
	for i := range e.shards {
		gates = e.shards[i].appendTo(gates[:0])
		for _, g := range gates {
			e.sweepGate(g, nowNS)
		}
	}
}

func (s *gateShard) appendTo(gates []*gate) []*gate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allLocked(gates)
}

func (e *Engine) sweepGate(g *gate, nowNS int64) {
	for unseen := math.MaxInt; unseen > 0; {
		g.mu.Lock()
		unseen = g.sweepChunk(e.current.Load(), unseen, nowNS)
		g.mu.Unlock()
	}
}

// sweepChunk looks at some of the first unseen of the gate's keyed buckets, from the end so
// that what is dropped moves nothing that is still to be seen. It returns how many are left.
func (g *gate) sweepChunk(table *limits.Table, unseen int, nowNS int64) int {
	if g.dead || !g.syncByName(table, nowNS) {
		return 0
	}
	g.serve(nowNS)
	unseen = min(unseen, len(g.keyed))
	rest := max(unseen-sweepChunk, 0)
	for i := unseen - 1; i >= rest; i-- {
		g.sweepBucket(g.keyed[i], nowNS)
	}
	if rest == 0 {
		g.sweepOwn(nowNS)
	}
	return rest
}

// syncByName takes over the table in force, and returns false where it cannot: the gate knows
// only the hash of its gateway, so that patterns can be matched only when a request brings the
// name. Until then its buckets are left to the bound.
func (g *gate) syncByName(table *limits.Table, nowNS int64) bool {
	if g.name.kind == ofGateway && isHash(g.name.gateway) {
		return g.tableSeq == table.Seq()
	}
	g.sync(table, g.name.gateway, nowNS)
	return true
}

// sweepOwn looks at the gate itself.
func (g *gate) sweepOwn(nowNS int64) {
	g.bringUp(&g.own, g.ownLimit(), nowNS)
	if g.waiting == 0 && len(g.keyed) == 0 && g.fullAt(&g.own, nowNS) {
		g.remove()
	}
}

// ownLimit is what the gateway's own bucket counts for under the newest rules.
func (g *gate) ownLimit() *limits.Limit {
	if g.gatewayRow == nil && g.own.limit == g.engine.fallback {
		return g.engine.fallback
	}
	return g.gatewayRow
}

// sweepBucket brings the bucket up to the newest rules, so that the next change finds when
// this one came, and drops it if its row is gone or it is full.
func (g *gate) sweepBucket(b *bucket, nowNS int64) {
	if l, known := g.rowOf(b); known && g.behind(b) {
		if l == nil {
			g.drop(b)
			return
		}
		g.bringUp(b, l, nowNS)
	}
	if g.fullAt(b, nowNS) {
		g.drop(b)
	}
}

// bringUp lets the bucket meet its row l, which may be nil. Under a disabled one its state
// stays, at the rate that it had.
func (g *gate) bringUp(b *bucket, l *limits.Limit, nowNS int64) {
	switch {
	case l == nil || !g.behind(b):
	case l.Enabled:
		g.settleOn(b, l, nowNS)
	default:
		b.advance(nowNS)
	}
}

// rowOf looks up the row of an endpoint or per bucket by its key. It is not known where the
// key holds only the hash of an endpoint, which patterns cannot be matched with.
func (g *gate) rowOf(b *bucket) (l *limits.Limit, known bool) {
	if !b.other {
		return g.rules.Endpoint(b.key, limits.Dim{}), !isHash(b.key)
	}
	if kind := b.key[0]; kind != 'g' && kind != 'e' {
		return nil, false
	}
	level := parseLevel(b.key)
	if isHash(level.dim.Per) || isHash(level.endpoint) {
		return nil, false
	}
	if level.hasEndpoint {
		return g.rules.Endpoint(level.endpoint, level.dim), true
	}
	return g.rules.Gateway(level.dim), true
}

// levelOf is what gateway and endpoint of levelKey have written.
type levelOf struct {
	dim         limits.Dim
	value       string // of the descriptor key dim.Per
	endpoint    string
	hasEndpoint bool
}

func parseLevel(written string) (l levelOf) {
	key := levelKey(written[1:])
	l.dim.Per, key = key.cutName()
	seconds, size := binary.Uvarint(key)
	l.dim.PerSeconds = int64(seconds) //nolint:gosec // of a row
	l.value, key = key[size:].cutName()
	if l.hasEndpoint = written[0] == 'e'; l.hasEndpoint {
		l.endpoint, _ = key.cutName()
	}
	return l
}

// cutName takes the first name off what name has written.
func (k levelKey) cutName() (name string, rest levelKey) {
	n, size := binary.Uvarint(k)
	return string(k[size : size+int(n)]), k[size+int(n):] //nolint:gosec // the length of a name that was in memory
}

// isHash tells whether shortName has replaced a name.
func isHash(name string) bool { return len(name) > 0 && name[0] == 0 }
