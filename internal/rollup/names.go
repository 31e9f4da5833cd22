package rollup

import (
	"strings"
	"sync"
	"sync/atomic"
)

// Other stands for names beyond the bound of [Names].
const Other = "other"

// Names bounds how many keys there are, whatever names clients invent. A key that has been let in
// stays so for the life of Names. It is safe for concurrent use.
//
//	room for all keys: max             each is what it is
//	a gateway's share: half of max     its other endpoints are (domain, gateway, other)
//	no room, gateway has no key        (other, other, other)
//
// The keys made of [Other] need no room: there is at most one for each gateway that has a key, and
// one more.
type Names struct {
	max, share int64
	known      sync.Map // Key to *Key
	gateways   sync.Map // Key without endpoint to *sharer
	full       atomic.Uint64

	mu   sync.Mutex // of whoever lets a key in
	keys atomic.Int64
}

// sharer is a gateway that has a key.
type sharer struct {
	keys  atomic.Int64
	other Key
}

// NewNames returns Names for at most maxKeys different keys; below 1 all is other.
func NewNames(maxKeys int) *Names {
	return &Names{max: int64(max(maxKeys, 0)), share: int64(max(maxKeys/2, 1))}
}

// Bounded returns the key to count by: of these names, or with [Other] in place of those for which
// there is no room. The key shares no memory with the names, and is what Bounded returns for it.
func (n *Names) Bounded(domain, gateway, endpoint string) Key {
	wanted := Key{domain, gateway, endpoint}
	if known, ok := n.known.Load(wanted); ok {
		return *known.(*Key)
	}
	if g, full := n.room(wanted); full {
		return n.other(wanted, g)
	}
	return n.letIn(wanted)
}

// Full returns how many times Bounded has put [Other] in place of a name.
func (n *Names) Full() uint64 { return n.full.Load() }

// room returns the gateway of a key, nil where it has none yet, and whether the key has no room.
// What is full stays so.
func (n *Names) room(wanted Key) (g *sharer, full bool) {
	if found, ok := n.gateways.Load(wanted.gateway()); ok {
		g = found.(*sharer)
		full = g.keys.Load() >= n.share
	}
	return g, full || n.keys.Load() >= n.max
}

func (n *Names) other(wanted Key, g *sharer) Key {
	other := Key{Other, Other, Other}
	if g != nil {
		other = g.other
	}
	if other != wanted {
		n.full.Add(1)
	}
	return other
}

// letIn makes the key known, unless somebody else has taken the last room meanwhile.
func (n *Names) letIn(wanted Key) Key {
	n.mu.Lock()
	defer n.mu.Unlock()
	if known, ok := n.known.Load(wanted); ok {
		return *known.(*Key)
	}
	g, full := n.room(wanted)
	if full {
		return n.other(wanted, g)
	}
	// Whoever made the names may have cut them out of a large message.
	key := Key{strings.Clone(wanted.Domain), strings.Clone(wanted.Gateway), strings.Clone(wanted.Endpoint)}
	if g == nil {
		g = &sharer{other: Key{key.Domain, key.Gateway, Other}}
		n.gateways.Store(key.gateway(), g)
	}
	g.keys.Add(1)
	n.keys.Add(1)
	n.known.Store(key, &key)
	return key
}
