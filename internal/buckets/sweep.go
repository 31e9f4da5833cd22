package buckets

import (
	"context"
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
// thousand buckets; written-out endpoints of a larger gate are looked at when they are used.
func (e *Engine) Sweep() {
	table := e.current.Load()
	if table == nil {
		return
	}
	var gates []*gate
	for i := range e.shards {
		gates = e.shards[i].appendTo(gates[:0])
		for _, g := range gates {
			e.sweepGate(g, table)
		}
	}
}

func (s *gateShard) appendTo(gates []*gate) []*gate {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, g := range s.gates {
		for ; g != nil; g = g.next {
			gates = append(gates, g)
		}
	}
	return gates
}

func (e *Engine) sweepGate(g *gate, table *limits.Table) {
	for start := 0; ; start += sweepChunk {
		g.mu.Lock()
		done := g.dead || g.sweepChunk(table, start, e.clock.NowNS())
		g.mu.Unlock()
		if done {
			return
		}
	}
}

// sweepChunk looks at some of the gate's bounded buckets, from the end so that what is dropped
// moves nothing that is still to be seen. It returns true when there are no more.
func (g *gate) sweepChunk(table *limits.Table, start int, nowNS int64) bool {
	if !g.hashed() {
		g.sync(table, g.name.gateway, nowNS)
	}
	end := max(len(g.dynamic)-start, 0)
	for i := end - 1; i >= max(end-sweepChunk, 0); i-- {
		if b := g.dynamic[i]; b.fullAt(nowNS) {
			g.drop(b)
		}
	}
	if end > sweepChunk {
		return false
	}
	if len(g.endpoints) <= 4*sweepChunk {
		g.sweepEndpoints(nowNS)
	}
	if g.waiting == 0 && len(g.endpoints) == 0 && len(g.others) == 0 && g.own.fullAt(nowNS) {
		g.remove()
	}
	return true
}

// sweepEndpoints drops the buckets whose row is gone or that are full.
func (g *gate) sweepEndpoints(nowNS int64) {
	for key, b := range g.endpoints {
		gone := b.gen != g.gen && !isHash(key) && g.rules.Endpoint(key, "") == nil
		if gone || b.fullAt(nowNS) {
			g.drop(b)
		}
	}
}

// hashed tells whether the gate knows only the hash of its gateway, so that patterns can be
// matched only when a request brings the name.
func (g *gate) hashed() bool { return isHash(g.name.gateway) }

func isHash(name string) bool { return len(name) > 0 && name[0] == 0 }
