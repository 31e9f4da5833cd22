package descriptors

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// descriptors reads a list of descriptors, those below them included.
func (p *parser) descriptors(list *yaml.Node) []branch {
	items := p.list(list, fieldDescriptors)
	all := make([]branch, 0, min(len(items), 16)) // as in array
	for _, item := range items {
		if p.over {
			break
		}
		if item = p.mapping(item); item != nil && p.deeper(item) {
			all = append(all, p.descriptor(item))
			p.depth--
		}
	}
	return all
}

// list returns the items of a list; null and nothing are an empty one.
func (p *parser) list(v *yaml.Node, f field) []*yaml.Node {
	switch {
	case v == nil || isNull(v):
		return nil
	case v.Kind != yaml.SequenceNode:
		p.add(v, fmt.Sprintf("error loading config file: %s is %s, where a list is to be", f, show(v)))
		return nil
	}
	return v.Content
}

// mapping returns an item of a list that is to be a mapping, nil where it is none.
func (p *parser) mapping(item *yaml.Node) *yaml.Node {
	v := p.follow(item)
	if v.Kind != yaml.MappingNode {
		p.refuse(v, "config error, yaml file contains list of type other than map: "+show(v))
		return nil
	}
	return v
}

func (p *parser) descriptor(v *yaml.Node) branch {
	s := p.read(v, inDescriptor)
	b := branch{at: posOf(v), key: p.text(s, fieldKey), value: p.text(s, fieldValue)}
	for i, f := range [...]field{fieldShadowMode, fieldQuotaMode, fieldDetailedMetric, fieldValueToMetric, fieldShareThreshold} {
		if p.boolean(s, f) {
			b.flags |= 1 << i
		}
	}
	if share := s[fieldShareThreshold]; share != nil {
		b.shareAt = posOf(share)
	}
	b.limit = p.rateLimit(s[fieldRateLimit])
	b.metadata = p.metadata(s[fieldMetadata])
	b.children = p.descriptors(s[fieldDescriptors])
	return b
}

// rateLimit reads a rate_limit; nil where there is none.
func (p *parser) rateLimit(v *yaml.Node) *policy {
	if v == nil || isNull(v) {
		return nil
	}
	if v.Kind != yaml.MappingNode {
		p.add(v, fmt.Sprintf("error loading config file: %s is %s, where a mapping is to be", fieldRateLimit, show(v)))
		return nil
	}
	s := p.read(v, inRateLimit)
	return &policy{
		at: posOf(v), unlimited: p.boolean(s, fieldUnlimited), name: p.text(s, fieldName), replaces: p.replaces(s[fieldReplaces]),
		unit: p.setting(s, fieldUnit), algorithm: p.setting(s, fieldAlgorithm),
		requests: p.whole(s, fieldRequestsPerUnit), perSeconds: p.whole(s, fieldPerSeconds),
	}
}

func (p *parser) replaces(list *yaml.Node) []replacement {
	items := p.list(list, fieldReplaces)
	if len(items) > MaxReplaces {
		p.add(list, fmt.Sprintf("replaces has %d names, more than %d", len(items), MaxReplaces))
		return nil
	}
	var all []replacement
	for _, item := range items {
		if item = p.mapping(item); item != nil && p.spend(item) {
			all = append(all, replacement{at: posOf(item), name: p.text(p.read(item, inReplaces), fieldName)})
		}
	}
	return all
}
