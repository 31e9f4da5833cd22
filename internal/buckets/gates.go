package buckets

import (
	"sync"
	"sync/atomic"
)

// gateShard is some of the gates, found by their hash without a lock: chains that only grow at their
// head. A reader that meets a change may miss a gate, which makeGate looks for again below the lock.
type gateShard struct {
	chains atomic.Pointer[[]atomic.Pointer[gate]] // a power of two
	mu     sync.Mutex                             // of whoever changes them
	size   int
	_      [64 - 8 - 8 - 8]byte // one cache line each, so that cores do not fight over neighbours
}

func (s *gateShard) find(h uint64, name *gateName) *gate {
	chains := s.chains.Load()
	if chains == nil {
		return nil
	}
	for g := chainOf(*chains, h).Load(); g != nil; g = g.next.Load() {
		if g.hash == h && g.name == *name {
			return g
		}
	}
	return nil
}

func chainOf(chains []atomic.Pointer[gate], h uint64) *atomic.Pointer[gate] {
	return &chains[(h/gateShards)&uint64(len(chains)-1)] //nolint:gosec // never negative
}

func (s *gateShard) addLocked(g *gate) {
	chains := s.chains.Load()
	if chains == nil || s.size >= len(*chains) {
		chains = s.growLocked()
	}
	push(*chains, g)
	s.size++
}

func push(chains []atomic.Pointer[gate], g *gate) {
	at := chainOf(chains, g.hash)
	g.next.Store(at.Load())
	at.Store(g)
}

func (s *gateShard) growLocked() *[]atomic.Pointer[gate] {
	all := s.allLocked(nil)
	chains := make([]atomic.Pointer[gate], max(8, 2*len(all)))
	for _, g := range all {
		push(chains, g)
	}
	s.chains.Store(&chains)
	return &chains
}

func (s *gateShard) allLocked(all []*gate) []*gate {
	chains := s.chains.Load()
	if chains == nil {
		return all
	}
	for i := range *chains {
		for g := (*chains)[i].Load(); g != nil; g = g.next.Load() {
			all = append(all, g)
		}
	}
	return all
}

func (s *gateShard) removeLocked(g *gate) {
	at := chainOf(*s.chains.Load(), g.hash)
	for at.Load() != g {
		at = &at.Load().next
	}
	at.Store(g.next.Load())
	s.size--
}
