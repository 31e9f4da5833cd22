package descriptors

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// After a fault each of these returns something that brings no second fault.

// standIn is the text in place of a value that has none. It is no UTF-8, so that no file can say it.
const standIn = "\xff"

// text reads a name. Whole numbers, booleans and dates are the text that stands there; null is empty.
func (p *parser) text(s *slots, f field) string {
	v := s[f]
	switch {
	case v == nil:
		return ""
	case v.Kind != yaml.ScalarNode:
		p.add(v, fmt.Sprintf("error loading config file: %s is %s, where a text is to be", f, show(v)))
		return standIn
	}
	switch v.ShortTag() {
	case "!!null":
		return ""
	case "!!str", "!!int", "!!bool", "!!timestamp", "!!merge":
		return v.Value
	case "!!float":
		p.add(v, fmt.Sprintf("error checking config: %s %s is a number with a fraction, an exponent or more digits than fit; put it in quotes", f, show(v)))
	default:
		p.add(v, fmt.Sprintf("error loading config file: %s has the tag %s, where a text is to be", f, cut(v.Tag)))
	}
	return standIn
}

// whole reads a whole number from 0 to 2^32-1, also in the forms 0x10, 0b11, 0o17, 017 and 1_000.
func (p *parser) whole(s *slots, f field) number {
	v := s[f]
	if v == nil || isNull(v) {
		return number{}
	}
	n := number{at: posOf(v), given: true, n: 1}
	if v.Kind == yaml.ScalarNode && v.ShortTag() == "!!int" {
		if whole, err := parseInt(v.Value); err == nil && whole >= 0 && whole <= math.MaxUint32 {
			n.n = whole
			return n
		}
	}
	p.add(v, fmt.Sprintf("error loading config file: %s %s is no whole number from 0 to %d", f, show(v), uint32(math.MaxUint32)))
	return n
}

func isNull(v *yaml.Node) bool { return v.Kind == yaml.ScalarNode && v.ShortTag() == "!!null" }

func parseInt(text string) (int64, error) {
	return strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 0, 64)
}

// boolean reads a switch, with all words of YAML 1.1.
func (p *parser) boolean(s *slots, f field) bool {
	v := s[f]
	if v == nil || isNull(v) {
		return false
	}
	b, ok := asBool(v)
	if !ok {
		p.add(v, fmt.Sprintf("error loading config file: %s %s is neither true nor false", f, show(v)))
	}
	return b
}

// asBool tells whether a value is one of the words that YAML 1.1 takes for true or false.
func asBool(v *yaml.Node) (value, ok bool) {
	if v.Kind != yaml.ScalarNode || isQuoted(v) || (v.ShortTag() != "!!bool" && v.ShortTag() != "!!str") {
		return false, false
	}
	switch v.Value {
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return true, true
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return false, true
	}
	return false, false
}

func isQuoted(v *yaml.Node) bool {
	return v.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
}

// setting reads a word that is looked at later.
func (p *parser) setting(s *slots, f field) setting {
	v := s[f]
	if v == nil {
		return setting{}
	}
	return setting{at: posOf(v), given: !isNull(v), text: p.text(s, f)}
}

// show is a value for a message.
func show(v *yaml.Node) string {
	switch {
	case v.Kind != yaml.ScalarNode:
		return kindOf(v)
	case isQuoted(v):
		return strconv.Quote(cut(v.Value))
	case isNull(v):
		return "null"
	}
	return cut(v.Value)
}

func kindOf(v *yaml.Node) string {
	switch v.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a text"
	}
}
