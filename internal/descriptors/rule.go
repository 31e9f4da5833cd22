package descriptors

import (
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Rule is the limit of one node. It never changes.
type Rule struct {
	// ID counts the rules of a domain from 0, in the order of the file.
	ID int

	RequestsPerUnit uint32 // 0 refuses everything; of no meaning with Unlimited
	Seconds         int64  // length of the window, 1 to limits.MaxPerSeconds; 0 with Unlimited
	Unit            Unit   // the unit of that length, UnitUnknown where none has it
	Algorithm       limits.Algorithm

	Name      string // as the file writes it; empty = none. Answers show Label
	Label     string // Name made fit for headers, as limits.HeaderSafe does it
	Unlimited bool   // nothing is counted, always OK
	Shadow    bool   // counts and reports, and answers OK
	Quota     bool   // refuses a request only together with all its other quota limits
	// Metadata is what the answer carries when this limit passed; nil = nothing. It is shared: read it only.
	Metadata map[string]any

	// Limit is what package buckets counts by; nil with Unlimited.
	Limit *limits.Limit
	// Exact: every level has a value of its own, or one counter for all: the file bounds the counters.
	Exact bool

	domain   *Domain
	node     *node
	name     int32    // index of Name among the names that are replaced, -1 = nobody replaces it
	replaces []int32  // the same, of others
	names    []string // of replaces, as the file writes them
	shared   []string
}

// Domain is where the rule belongs.
func (r *Rule) Domain() *Domain { return r.domain }

// Shares tells whether some of the values that the rule counts share a counter.
func (r *Rule) Shares() bool { return r.shared != nil }

// Replaces are the names of limits that the rule replaces, in the order of the file.
func (r *Rule) Replaces() []string { return r.names }

// value is what counts in place of the value of entry i: itself, or the pattern of a level that has
// share_threshold.
func (r *Rule) value(i int, value string) string {
	if r != nil && r.shared != nil && r.shared[i] != "" {
		return r.shared[i]
	}
	return value
}

// sharedBy returns, for each level down to the leaf, the pattern that its values share, empty where
// they do not; nil if none do.
func sharedBy(leaf *node) (shared []string) {
	for n := leaf; n != nil; n = n.parent {
		if n.flags.has(shareThreshold) {
			if shared == nil {
				shared = make([]string, leaf.depth+1)
			}
			shared[n.depth] = n.value
		}
	}
	return shared
}

// exact tells whether no level down to the leaf counts values apart that requests choose.
func exact(leaf *node) bool {
	for n := leaf; n != nil; n = n.parent {
		if n.takesMany() && !n.flags.has(shareThreshold) {
			return false
		}
	}
	return true
}

// Key is the name of the rule in messages and statistics, as envoyproxy/ratelimit makes it: domain and
// nodes, such as `shop.user_alice.path`. Two rules may have one such name.
func (r *Rule) Key() string { return string(r.node.appendKey([]byte(r.domain.name))) }

// appendKey appends a node and what is above it.
func (n *node) appendKey(b []byte) []byte {
	if n.parent != nil {
		b = n.parent.appendKey(b)
	}
	return appendPart(append(b, '.'), n.key, n.value)
}

func appendPart(b []byte, key, value string) []byte {
	b = append(b, key...)
	if value == "" {
		return b
	}
	return append(append(b, '_'), value...)
}

// PerValue tells whether AppendStat depends on the values of the request, so that whoever makes a
// series of each has to bound them.
func (r *Rule) PerValue() bool {
	detailed := r.node.flags.has(detailedMetric)
	for n := r.node; n != nil; n = n.parent {
		if n.takesMany() && !n.flags.has(shareThreshold) && (detailed || n.flags.has(valueToMetric)) {
			return true
		}
	}
	return false
}

// AppendStat appends the name under which envoyproxy/ratelimit counts the hits of entries, which the
// rule has matched: Key, with the values of the request where detailed_metric or value_to_metric ask
// for them.
func (r *Rule) AppendStat(b []byte, entries []Entry) []byte {
	return r.appendStat(append(b, r.domain.name...), r.node, entries)
}

func (r *Rule) appendStat(b []byte, n *node, entries []Entry) []byte {
	if n.parent != nil {
		b = r.appendStat(b, n.parent, entries)
	}
	b = append(b, '.')
	detailed, e := r.node.flags.has(detailedMetric), &entries[n.depth]
	switch {
	case n.flags.has(shareThreshold):
		return appendPart(b, n.key, n.value)
	case detailed && r.shared == nil:
		return append(append(append(b, e.Key...), '_'), e.Value...) // also where the value is empty
	case detailed, n.flags.has(valueToMetric):
		return appendPart(b, e.Key, e.Value)
	}
	return appendPart(b, n.key, n.value)
}
