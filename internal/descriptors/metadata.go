package descriptors

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// metadata reads the free mapping: nil, bool, float64, string, []any and map[string]any, as
// google.protobuf.Struct has them. nil where there is none.
func (p *parser) metadata(v *yaml.Node) map[string]any {
	if v == nil || isNull(v) {
		return nil
	}
	if v.Kind != yaml.MappingNode {
		p.add(v, "error parsing metadata: it is "+show(v)+", where a mapping is to be")
		return nil
	}
	m, _ := p.json(v, 1).(map[string]any)
	return m
}

// json reads a value of metadata, which is nested so deep.
func (p *parser) json(v *yaml.Node, depth int) any {
	v = p.follow(v)
	if p.over || !p.deeper(v) {
		return nil
	}
	defer func() { p.depth-- }()
	switch {
	case depth > MaxMetadataDepth && v.Kind != yaml.ScalarNode:
		p.refuse(v, metadataTooDeep)
		return nil
	case v.Kind == yaml.MappingNode:
		return p.object(v, depth)
	case v.Kind == yaml.SequenceNode:
		return p.array(v, depth)
	default:
		return p.scalar(v)
	}
}

// metadataTooDeep is the fault of metadata that Envoy would not take.
var metadataTooDeep = fmt.Sprintf("error parsing metadata: it is nested deeper than %d levels", MaxMetadataDepth) //nolint:gochecknoglobals // a constant

func (p *parser) array(v *yaml.Node, depth int) []any {
	all := []any{} // grows with what is read: an alias of itself inside it promises more than MaxNodes allows
	for _, item := range v.Content {
		if p.over {
			break
		}
		all = append(all, p.json(item, depth+1))
	}
	return all
}

func (p *parser) object(v *yaml.Node, depth int) map[string]any {
	m := make(map[string]any)
	var merges *yaml.Node
	for i := 0; i+1 < len(v.Content) && !p.over; i += 2 {
		key := p.follow(v.Content[i])
		switch _, twice := m[key.Value]; {
		case isMerge(key) && merges == nil:
			merges = v.Content[i+1]
		case key.Kind != yaml.ScalarNode || isNull(key):
			p.refuse(v.Content[i], "error parsing metadata: key "+show(key)+" is no text")
		case twice || isMerge(key):
			p.refuse(v.Content[i], "key '"+cut(key.Value)+"' comes twice")
		default:
			m[key.Value] = p.json(v.Content[i+1], depth+1)
		}
	}
	if merges != nil {
		p.merge(merges, func(merged *yaml.Node) { fillObject(m, p.object(merged, depth)) })
	}
	return m
}

// fillObject takes over what m does not say itself.
func fillObject(m, merged map[string]any) {
	for key, value := range merged {
		if _, has := m[key]; !has {
			m[key] = value
		}
	}
}

// scalar reads what YAML 1.1 makes of a scalar.
func (p *parser) scalar(v *yaml.Node) any {
	if b, ok := asBool(v); ok {
		return b
	}
	switch v.ShortTag() {
	case "!!null":
		return nil
	case "!!str", "!!timestamp", "!!merge":
		return v.Value
	case "!!int", "!!float":
		if n, ok := parseNumber(v.Value); ok {
			return n
		}
	}
	p.add(v, "error parsing metadata: "+show(v)+" is nothing that JSON can say")
	return nil
}

// parseNumber reads a number that JSON can have: not an infinite one.
func parseNumber(text string) (float64, bool) {
	text = strings.ReplaceAll(text, "_", "")
	if n, err := strconv.ParseInt(text, 0, 64); err == nil {
		return float64(n), true
	}
	if n, err := strconv.ParseUint(text, 0, 64); err == nil {
		return float64(n), true
	}
	n, err := strconv.ParseFloat(text, 64)
	return n, err == nil && !math.IsInf(n, 0) && !math.IsNaN(n)
}
