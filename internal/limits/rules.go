package limits

import (
	"maps"
	"slices"
)

// Rules are the rows that can apply to the requests of one (domain, gateway). The zero
// Rules has none. They are made when a gate first meets a table, and looked at on each
// request that names an endpoint for the first time.
type Rules struct {
	layers []layer  // exact gateway first, then the patterns that match it, best first
	perKey []string // every key that a row counts by, sorted
}

// layer is one gateway as rows write it: the domain's own rows over the common ones.
type layer struct{ own, common *domainRows }

// Rules returns what applies to the requests of one gateway in one domain. gateway may be
// any bytes.
func (t *Table) Rules(domain, gateway string) Rules {
	var r Rules
	add := func(g *gatewayRows) {
		if g == nil {
			return
		}
		l := layer{own: g.domains[domain]}
		if domain != "" {
			l.common = g.domains[""]
		}
		if l.own != nil || l.common != nil {
			r.layers = append(r.layers, l)
		}
	}
	add(t.shards[shardOf(gateway)][gateway])
	for _, g := range t.patterns {
		if g.pattern.match(gateway) {
			add(g)
		}
	}
	r.perKey = perKeys(r.layers)
	return r
}

func perKeys(layers []layer) []string {
	keys := map[string]bool{}
	for _, l := range layers {
		for _, d := range [2]*domainRows{l.own, l.common} {
			if d == nil {
				continue
			}
			for k := range d.pers {
				keys[k] = true
			}
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(keys))
}

// Equal tells whether o is the very same set of rows.
func (r Rules) Equal(o Rules) bool { return slices.Equal(r.layers, o.layers) }

// PerKeys are the descriptor keys that rows of this gateway count by, sorted. Callers must
// not write to it.
func (r Rules) PerKeys() []string { return r.perKey }

// Exact tells whether a row of the domain itself writes this gateway out, rather than a
// pattern or a row of the common domain.
func (t *Table) Exact(domain, gateway string) bool {
	g := t.shards[shardOf(gateway)][gateway]
	return g != nil && g.domains[domain] != nil
}

// Gateway returns the row for the gateway level, nil if there is none. A per of "" is the
// row that counts all requests together.
func (r Rules) Gateway(per string) *Limit {
	for _, l := range r.layers {
		for _, d := range [2]*domainRows{l.own, l.common} {
			if d == nil {
				continue
			}
			if found := d.level(per).gateway; found != nil {
				return found
			}
		}
	}
	return nil
}

// Endpoint returns the row for the endpoint level of a concrete endpoint, which may be any
// bytes, nil if there is none.
func (r Rules) Endpoint(endpoint, per string) *Limit {
	for _, l := range r.layers {
		if found := l.endpoint(endpoint, per); found != nil {
			return found
		}
	}
	return nil
}

func (l layer) endpoint(endpoint, per string) *Limit {
	var own, common levelRows
	if l.own != nil {
		own = l.own.level(per)
	}
	if l.common != nil {
		common = l.common.level(per)
	}
	if found := own.endpoints[endpoint]; found != nil {
		return found
	}
	if found := common.endpoints[endpoint]; found != nil {
		return found
	}
	a, okA := firstMatch(own.patterns, endpoint)
	b, okB := firstMatch(common.patterns, endpoint)
	switch {
	case okA && (!okB || a.pattern.compare(b.pattern) <= 0): // equal text: the own row hides the common one
		return a.limit
	case okB:
		return b.limit
	}
	return nil
}

func firstMatch(patterns []endpointPattern, endpoint string) (endpointPattern, bool) {
	for _, p := range patterns {
		if p.pattern.match(endpoint) {
			return p, true
		}
	}
	return endpointPattern{}, false
}

func (d *domainRows) level(per string) levelRows {
	if per == "" {
		return d.all
	}
	return d.pers[per]
}
