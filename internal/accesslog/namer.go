package accesslog

import (
	"strings"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// mostNames is how many names a namer remembers; then it begins anew. Clients may invent names, and
// each of theirs costs the memory of one name, as it would without a namer; a name that is in use
// is made again once in that many.
const mostNames = 1024

// namer names transactions. It cleans names, and may remember those that it has seen, so that one
// that comes again costs no memory. It is for one goroutine at a time.
type namer struct {
	mapping *Mapping
	known   map[string]string // by what was sent; nil = nothing is remembered
}

// name is traffic.Clean(raw) in memory of its own.
func (n *namer) name(raw string) string {
	raw = raw[:min(len(raw), traffic.MaxName+1)] // the rest makes no difference
	if name, ok := n.known[raw]; ok || raw == "" {
		return name
	}
	name := strings.Clone(traffic.Clean(raw))
	if n.known != nil {
		n.remember(raw, name)
	}
	return name
}

func (n *namer) remember(raw, name string) {
	if len(n.known) >= mostNames {
		clear(n.known)
	}
	key := name // the same memory for both
	if raw != name {
		key = strings.Clone(raw)
	}
	n.known[key] = name
}
