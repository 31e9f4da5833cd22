package limits

import (
	"iter"
	"maps"
	"slices"
)

// edit is one making of a Table: what carries its address was made by it, and is seen by nobody
// else yet. It has a size, so that no two have one address.
type edit struct{ _ byte }

// hashed is a key that knows its hash. Operators choose the names, so a seed against collisions
// made on purpose is not needed.
type hashed interface {
	comparable
	hash() uint32
}

// name is a gateway, an endpoint, a domain or a part of one.
type name string

const (
	fnvOffset = 2166136261
	fnvPrime  = 16777619
)

// hash is FNV-1a.
func (n name) hash() uint32 { return fnv(fnvOffset, string(n)) }

func fnv(h uint32, s string) uint32 {
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * fnvPrime
	}
	return h
}

// cowMap is a map that is copied on write: a copy of the struct shares everything, and an edit
// copies only the list of shards and the shards in which it changes something. So a change of one
// entry costs the same among ten and among a million. The zero cowMap is empty.
type cowMap[K hashed, V any] struct {
	owner  *edit
	shards []cowShard[K, V] // a power of two
	size   int
}

type cowShard[K hashed, V any] struct {
	owner   *edit
	entries map[K]V
}

const (
	// shardSize is how many entries a shard has on average before there are shardGrowth times as many.
	shardSize   = 512
	shardGrowth = 4
)

func (m *cowMap[K, V]) get(k K) V {
	if len(m.shards) == 0 {
		var none V
		return none
	}
	return m.shards[m.index(k)].entries[k]
}

func (m *cowMap[K, V]) index(k K) int { return int(k.hash()) & (len(m.shards) - 1) }

// put sets an entry; had tells whether there was one of the key.
func (m *cowMap[K, V]) put(e *edit, k K, v V) (had bool) {
	if m.size >= shardSize*len(m.shards) {
		m.grow(e)
	}
	s := m.writable(e, k)
	if _, had = s.entries[k]; !had {
		m.size++
	}
	s.entries[k] = v
	return had
}

// remove takes an entry out, if it is there.
func (m *cowMap[K, V]) remove(e *edit, k K) (had bool) {
	if len(m.shards) == 0 {
		return false
	}
	if _, had = m.shards[m.index(k)].entries[k]; !had {
		return false
	}
	m.size--
	s := m.writable(e, k)
	delete(s.entries, k)
	if len(s.entries) == 0 {
		s.entries = nil
	}
	return true
}

// writable returns the shard of a key, which the edit may write to.
func (m *cowMap[K, V]) writable(e *edit, k K) *cowShard[K, V] {
	if m.owner != e {
		m.owner, m.shards = e, slices.Clone(m.shards)
	}
	s := &m.shards[m.index(k)]
	if s.owner != e {
		s.owner, s.entries = e, maps.Clone(s.entries)
	}
	if s.entries == nil {
		s.entries = make(map[K]V, 1)
	}
	return s
}

func (m *cowMap[K, V]) grow(e *edit) {
	old := *m
	*m = cowMap[K, V]{owner: e, shards: make([]cowShard[K, V], max(1, shardGrowth*len(old.shards))), size: old.size}
	for k, v := range old.all() {
		m.writable(e, k).entries[k] = v
	}
}

// all goes through the entries in no order.
func (m *cowMap[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for i := range m.shards {
			for k, v := range m.shards[i].entries {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}
