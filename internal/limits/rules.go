package limits

import (
	"maps"
	"slices"
)

// Rules are the rows that can apply to the requests of one (domain, gateway). The zero
// Rules has none. They are made when a gate first meets a table, and looked at on each
// request that names an endpoint for the first time.
type Rules struct {
	layers []layer // exact gateway first, then the patterns that match it, best first
	dims   []Dim   // of all rows but the zero one, sorted
}

// layer is one gateway as rows write it: the domain's own rows over the common ones.
type layer struct{ own, common *placeRows }

// Rules returns what applies to the requests of one gateway in one domain. gateway may be
// any bytes.
func (t *Table) Rules(domain, gateway string) Rules {
	r := Rules{layers: t.patternLayers(domain, gateway)}
	exact := layer{own: t.exact.get(place{domain, gateway})}
	if domain != "" {
		exact.common = t.exact.get(place{"", gateway})
	}
	if exact != (layer{}) {
		r.layers = slices.Insert(r.layers, 0, exact)
	}
	r.dims = dims(r.layers)
	return r
}

// patternLayers merges what the domain's own patterns and the common ones say.
func (t *Table) patternLayers(domain, gateway string) (layers []layer) {
	own, common := t.patterns.get(name(domain)).ranked(gateway), t.patterns.get("").ranked(gateway)
	if domain == "" {
		common = nil
	}
	for len(own) > 0 || len(common) > 0 {
		order := 1
		switch {
		case len(own) > 0 && len(common) > 0:
			order = own[0].pattern.compare(&common[0].pattern)
		case len(own) > 0:
			order = -1
		}
		var l layer
		if order <= 0 {
			l.own, own = own[0].value, own[1:]
		}
		if order >= 0 {
			l.common, common = common[0].value, common[1:]
		}
		layers = append(layers, l)
	}
	return layers
}

func dims(layers []layer) []Dim {
	var found map[Dim]bool
	for _, l := range layers {
		for _, rows := range [2]*placeRows{l.own, l.common} {
			if rows == nil || len(rows.dims) == 0 {
				continue
			}
			if found == nil {
				found = make(map[Dim]bool)
			}
			for d := range rows.dims {
				found[d] = true
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return slices.SortedFunc(maps.Keys(found), Dim.Compare)
}

// Equal tells whether o is the very same set of rows.
func (r Rules) Equal(o Rules) bool { return slices.Equal(r.layers, o.layers) }

// Dims are the dimensions that rows of this gateway have but for the zero one, sorted. Callers
// must not write to it.
func (r Rules) Dims() []Dim { return r.dims }

// Exact tells whether a row of the domain itself writes this gateway out, rather than a
// pattern or a row of the common domain.
func (t *Table) Exact(domain, gateway string) bool {
	return t.exact.get(place{domain, gateway}) != nil
}

// Gateway returns the row for the gateway level of a dimension, nil if there is none.
func (r Rules) Gateway(d Dim) *Limit {
	for _, l := range r.layers {
		for _, rows := range [2]*placeRows{l.own, l.common} {
			if lv := rows.level(d); lv != nil && lv.gateway != nil {
				return lv.gateway
			}
		}
	}
	return nil
}

// Endpoint returns the row for the endpoint level of a dimension and a concrete endpoint, which
// may be any bytes, nil if there is none.
func (r Rules) Endpoint(endpoint string, d Dim) *Limit {
	for _, l := range r.layers {
		if found := l.endpoint(endpoint, d); found != nil {
			return found
		}
	}
	return nil
}

func (l layer) endpoint(endpoint string, d Dim) *Limit {
	own, common := l.own.level(d), l.common.level(d)
	for _, lv := range [2]*level{own, common} {
		if lv == nil {
			continue
		}
		if found := lv.endpoints.get(name(endpoint)); found != nil {
			return found
		}
	}
	a, b := own.best(endpoint), common.best(endpoint)
	switch {
	case a != nil && (b == nil || a.pattern.compare(&b.pattern) <= 0): // equal text: the own row hides the common one
		return a.value
	case b != nil:
		return b.value
	}
	return nil
}

func (lv *level) best(endpoint string) *patternEntry[*Limit] {
	if lv == nil {
		return nil
	}
	return lv.patterns.best(endpoint)
}
