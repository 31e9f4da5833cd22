package descriptors

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// field is a key of the format.
type field uint8

const (
	fieldUnknown field = iota
	fieldDomain
	fieldDescriptors
	fieldAllOrNothing
	fieldKey
	fieldValue
	fieldRateLimit
	fieldShadowMode
	fieldQuotaMode
	fieldDetailedMetric
	fieldValueToMetric
	fieldShareThreshold
	fieldMetadata
	fieldUnit
	fieldRequestsPerUnit
	fieldUnlimited
	fieldAlgorithm
	fieldPerSeconds
	fieldReplaces
	fieldName

	fields
)

// place is a mapping of the format.
type place uint8

const (
	inFile place = 1 << iota
	inDescriptor
	inRateLimit
	inReplaces
)

// String says where a key that may stand in these places belongs.
func (p place) String() string {
	switch p {
	case inFile:
		return "at the top of the file"
	case inDescriptor:
		return "in a descriptor"
	case inRateLimit:
		return "in rate_limit"
	case inFile | inDescriptor:
		return "at the top of the file or in a descriptor"
	case inRateLimit | inReplaces:
		return "in rate_limit or in an entry of replaces"
	default:
		return "in an entry of replaces"
	}
}

// String is the key as files write it.
func (f field) String() string {
	return [fields]string{
		"", "domain", "descriptors", "all_or_nothing", "key", "value", "rate_limit", "shadow_mode", "quota_mode", "detailed_metric",
		"value_to_metric", "share_threshold", "metadata", "unit", "requests_per_unit", "unlimited", "algorithm", "per_seconds", "replaces", "name",
	}[f%fields]
}

func fieldOf(name string) field {
	for f := fieldDomain; f < fields; f++ {
		if f.String() == name {
			return f
		}
	}
	return fieldUnknown
}

// places are the mappings in which a key may stand.
func (f field) places() place {
	switch {
	case f == fieldUnknown:
		return 0
	case f == fieldDescriptors:
		return inFile | inDescriptor
	case f == fieldName:
		return inRateLimit | inReplaces
	case f <= fieldAllOrNothing:
		return inFile
	case f <= fieldMetadata:
		return inDescriptor
	}
	return inRateLimit
}

// slots are the values of a mapping by their key, nil where there is none.
type slots [fields]*yaml.Node

// read reads the keys of a mapping, of what it merges as well.
func (p *parser) read(mapping *yaml.Node, here place) *slots {
	var found slots
	var merges *yaml.Node
	for i := 0; i+1 < len(mapping.Content) && !p.over; i += 2 {
		key, value := p.follow(mapping.Content[i]), mapping.Content[i+1]
		switch {
		case isMerge(key) && merges == nil:
			merges = value
		case isMerge(key):
			p.refuse(mapping.Content[i], "key '<<' comes twice")
		default:
			p.readKey(&found, key, value, here)
		}
	}
	if merges != nil {
		p.merge(merges, func(merged *yaml.Node) { found.fill(p.read(merged, here)) })
	}
	return &found
}

func (p *parser) readKey(found *slots, key, value *yaml.Node, here place) {
	f := fieldOf(strings.ToLower(key.Value))
	if reason := misplaced(key, here); reason != "" {
		p.refuse(key, reason)
	} else if found[f] != nil {
		p.refuse(key, fmt.Sprintf("key '%s' comes twice", f))
		return
	}
	if f.places()&here != 0 { // also in other letter case, so that it is not missed as well
		found[f] = p.follow(value)
	}
}

// misplaced tells why a key cannot stand where it does.
func misplaced(key *yaml.Node, here place) (reason string) {
	if key.Kind != yaml.ScalarNode || (key.ShortTag() != "!!str" && fieldOf(key.Value) == fieldUnknown) {
		return "config error, key is not of type string: " + show(key)
	}
	switch f := fieldOf(key.Value); {
	case f == fieldUnknown && fieldOf(strings.ToLower(key.Value)) != fieldUnknown:
		return fmt.Sprintf("config error, unknown key '%s': it is written '%s'", cut(key.Value), strings.ToLower(key.Value))
	case f == fieldUnknown:
		return fmt.Sprintf("config error, unknown key '%s'", cut(key.Value))
	case f.places()&here == 0:
		return fmt.Sprintf("key '%s' has no meaning here: it belongs %s", f, f.places())
	}
	return ""
}

// fill takes over what found does not say itself.
func (found *slots) fill(merged *slots) {
	for f, value := range merged {
		if found[f] == nil {
			found[f] = value
		}
	}
}

func isMerge(key *yaml.Node) bool { return key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" }

// merge calls f for the mapping, or each of the mappings, that `<<` names.
func (p *parser) merge(value *yaml.Node, f func(*yaml.Node)) {
	value = p.follow(value)
	list := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		list = value.Content
	}
	for _, one := range list {
		one = p.follow(one)
		switch {
		case one.Kind != yaml.MappingNode:
			p.refuse(one, "error loading config file: yaml: map merge requires map or sequence of maps as the value, but found "+show(one))
		case p.deeper(one):
			f(one)
			p.depth--
		}
	}
}
