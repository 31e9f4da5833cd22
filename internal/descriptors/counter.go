package descriptors

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// Counter names what is counted together: a domain, the keys and values of a descriptor, and a length
// of window. The number is not part of it, so that a changed one keeps its counts. A Counter is a view
// of the request, made for each descriptor anew; it can be used again.
type Counter struct {
	Domain  string
	Seconds int64 // length of the window
	Entries []Entry
	// Rule is what the entries have matched: under share_threshold its patterns count in place of values.
	// nil = a limit that the request brought along; it counts what a Rule without share_threshold would.
	Rule *Rule

	scratch []byte
}

// Of makes c the counter of entries, which the rule has matched.
func (c *Counter) Of(r *Rule, entries []Entry) {
	c.Domain, c.Seconds, c.Entries, c.Rule = r.domain.name, r.Seconds, entries, r
}

// Release drops what c points to, so that a pooled one keeps nothing alive.
func (c *Counter) Release() {
	*c = Counter{scratch: c.scratch[:0]}
	if cap(c.scratch) > maxScratch {
		c.scratch = nil
	}
}

const maxScratch = 4096

// Hash is equal for equal counters. Clients choose the values, so the seed must not be known to them.
func (c *Counter) Hash(seed maphash.Seed) uint64 {
	h := mix(uint64(c.Seconds), maphash.String(seed, c.Domain)) //nolint:gosec // any bits will do
	for i := range c.Entries {
		e := &c.Entries[i]
		h = mix(h, maphash.String(seed, e.Key))
		h = mix(h, maphash.String(seed, c.Rule.value(i, e.Value)))
	}
	return h
}

// mix takes one more hash into h, so that the order counts.
func mix(h, one uint64) uint64 {
	const odd = 0x9E3779B97F4A7C15 // 2^64 divided by the golden ratio
	return bits.RotateLeft64((h^one)*odd, 29)
}

// maxKey bounds the memory of one counter: the names of a longer key are known by their hash.
const maxKey = 1024

// The first byte of a key.
const (
	keyPlain  = 'k'
	keyHashed = 'h'
)

// AppendKey appends what a counter is kept under. No two different counters meet: each name is
// preceded by its length, and what is longer than some 1 KiB is hashed by SHA-256.
func (c *Counter) AppendKey(b []byte) []byte {
	start := len(b)
	b = append(b, keyPlain)
	b = binary.AppendUvarint(b, uint64(c.Seconds)) //nolint:gosec // never negative
	b = appendName(b, c.Domain)
	for i := range c.Entries {
		e := &c.Entries[i]
		b = appendName(appendName(b, e.Key), c.Rule.value(i, e.Value))
	}
	if len(b)-start <= maxKey {
		return b
	}
	sum := sha256.Sum256(b[start:])
	return append(append(b[:start], keyHashed), sum[:]...)
}

func appendName(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Is tells whether key is what AppendKey makes, without making it.
func (c *Counter) Is(key string) bool {
	if len(key) == 0 || key[0] != keyPlain {
		c.scratch = c.AppendKey(c.scratch[:0])
		return key == string(c.scratch)
	}
	rest, ok := cutNumber(key[1:], uint64(c.Seconds)) //nolint:gosec // never negative
	if ok {
		rest, ok = cutName(rest, c.Domain)
	}
	for i := 0; ok && i < len(c.Entries); i++ {
		e := &c.Entries[i]
		if rest, ok = cutName(rest, e.Key); ok {
			rest, ok = cutName(rest, c.Rule.value(i, e.Value))
		}
	}
	return ok && rest == ""
}

// cutNumber cuts a number off the beginning of a key, if it is n.
func cutNumber(key string, n uint64) (rest string, ok bool) {
	for n >= 0x80 {
		if key == "" || key[0] != byte(n)|0x80 {
			return "", false
		}
		key, n = key[1:], n>>7
	}
	if key == "" || key[0] != byte(n) {
		return "", false
	}
	return key[1:], true
}

// cutName cuts a name off the beginning of a key, if it is s.
func cutName(key, s string) (rest string, ok bool) {
	key, ok = cutNumber(key, uint64(len(s)))
	if !ok || len(key) < len(s) || key[:len(s)] != s {
		return "", false
	}
	return key[len(s):], true
}
