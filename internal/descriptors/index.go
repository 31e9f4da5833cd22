package descriptors

import (
	"strings"

	"github.com/tps-agent/ratelimitd/internal/buckets"
)

// Entry is one key and value of a descriptor of a request, as its decoder makes it: both may be any
// bytes, and nothing here keeps them.
type Entry = buckets.Entry

// Domain is one compiled file or resource. It never changes.
type Domain struct {
	name         string
	at           pos
	allOrNothing bool
	top          level
	nodes        []node // in the order of the file, each before those below it
	rules        []Rule // the same
	replaceable  int    // names that some rule replaces
}

// Name is the domain as the file writes it.
func (d *Domain) Name() string { return d.name }

// AllOrNothing tells whether a request is to be charged to all of its limits or to none.
func (d *Domain) AllOrNothing() bool { return d.allOrNothing }

// Rules are the limits in the order of the file, to be read only.
func (d *Domain) Rules() []Rule { return d.rules }

// Node is one descriptor of a file.
type Node struct {
	Depth int // 0 at the top
	Key   string
	Value string // empty = every value
	Leaf  bool   // nothing is below
	Rule  *Rule  // nil = it has no limit

	ShareThreshold, DetailedMetric, ValueToMetric bool

	domain *Domain
	node   *node
}

// Name is that which [Rule.Key] would be.
func (n *Node) Name() string { return string(n.node.appendKey([]byte(n.domain.name))) }

// Walk calls f for each node in the order of the file.
func (d *Domain) Walk(f func(n Node)) {
	for i := range d.nodes {
		n := &d.nodes[i]
		f(Node{
			Depth: int(n.depth), Key: n.key, Value: n.value, Leaf: n.next == nil, Rule: n.rule,
			ShareThreshold: n.flags.has(shareThreshold), DetailedMetric: n.flags.has(detailedMetric), ValueToMetric: n.flags.has(valueToMetric),
			domain: d, node: n,
		})
	}
}

// node is one descriptor.
type node struct {
	parent *node // nil at the top
	key    string
	value  string // empty = every value
	rule   *Rule  // nil = no limit
	next   *level // nil = nothing below
	depth  uint8
	flags  flags
}

// takesMany tells whether requests with different values come to the node.
func (n *node) takesMany() bool { return n.value == "" || isPattern(n.value) }

func isPattern(value string) bool { return strings.Contains(value, "*") }

// level are the nodes side by side below one other.
type level struct {
	keys   []*siblings          // in the order of the file
	byName map[string]*siblings // the same, where there are more than fewKeys
}

// fewKeys is up to how many keys looking at one after the other is faster than a map.
const fewKeys = 8

// of returns the nodes of a key, nil if there are none.
func (l *level) of(key string) *siblings {
	if l.byName != nil {
		return l.byName[key]
	}
	for _, s := range l.keys {
		if s.key == key {
			return s
		}
	}
	return nil
}

// siblings are the nodes of one key of a level.
type siblings struct {
	key      string
	exact    map[string]*node // patterns too: a value may be a pattern's own text
	patterns *patterns        // nil = none
	any      *node            // without a value
}

// Match returns the limit of a descriptor, nil if it has none. It goes one level down with each entry
// and never back: an exact node without a limit hides the patterns beside it, and those hide the node
// without a value. The limit is that of the node of the last entry.
func (d *Domain) Match(entries []Entry) *Rule {
	at := &d.top
	for i := range entries {
		n := at.find(&entries[i])
		switch {
		case n == nil:
			return nil
		case i == len(entries)-1:
			return n.rule
		case n.next == nil:
			return nil
		}
		at = n.next
	}
	return nil
}

func (l *level) find(e *Entry) *node {
	s := l.of(e.Key)
	if s == nil {
		return nil
	}
	if n := s.exact[e.Value]; n != nil {
		return n
	}
	if n := s.patterns.first(e.Value); n != nil {
		return n
	}
	return s.any
}
