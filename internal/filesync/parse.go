package filesync

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// MaxFile is the largest limits file, in bytes: some 70,000 limits as the API writes them.
const MaxFile = 16 << 20

// maxFaults is how many faults of one file are named; the others are counted.
const maxFaults = 10

// document is a limits file, read.
type document struct {
	root   yaml.Node // for edits that keep comments
	items  *yaml.Node
	rows   []limits.Limit // row i is items.Content[i]
	blank  bool           // says nothing: no content, or no list of limits
	edited bool           // since it was read
}

// parse reads a limits file. An error names line, column, key and value of each of the first
// maxFaults faults.
func parse(body []byte) (*document, error) {
	if len(body) > MaxFile {
		return nil, fmt.Errorf("is larger than %d bytes", MaxFile)
	}
	if !utf8.Valid(body) {
		return nil, fmt.Errorf("line %d: has bytes that are no UTF-8", 1+bytes.Count(validPart(body), []byte("\n")))
	}
	doc := &document{}
	if err := decodeOne(body, &doc.root); err != nil {
		return nil, err
	}
	var found faults
	if doc.findItems(&found) {
		doc.readRows(&found)
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	return doc, nil
}

// validPart is what comes before the first byte that is no UTF-8.
func validPart(body []byte) []byte {
	for i := 0; i < len(body); {
		r, size := utf8.DecodeRune(body[i:])
		if r == utf8.RuneError && size == 1 {
			return body[:i]
		}
		i += size
	}
	return body
}

// decodeOne decodes the only YAML document of body.
func decodeOne(body []byte, root *yaml.Node) error {
	if len(bytes.TrimSpace(body)) == 0 { // also where a tab stands, which YAML dislikes
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(body))
	err := dec.Decode(root)
	if errors.Is(err, io.EOF) { // nothing but comments
		root.HeadComment = string(bytes.TrimSpace(body))
		return nil
	}
	var more yaml.Node
	if err == nil {
		err = dec.Decode(&more)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("reading YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return fmt.Errorf("line %d: a second YAML document begins; a limits file is one", more.Line)
}

// findItems finds the list below `limits`, or makes an empty one; false where there is another
// value in its place.
func (d *document) findItems(found *faults) bool {
	top := d.top()
	if top.Kind != yaml.MappingNode {
		found.add(top, "the file "+show(top), "is no mapping with the key limits")
		return false
	}
	for key, value := range pairs(top) {
		switch {
		case key.Value != "limits":
			found.add(key, fmt.Sprintf("key %.64q", key.Value), "is unknown; the only one is limits")
		case d.items != nil:
			found.add(key, "key limits", "comes twice")
		case value.Kind != yaml.SequenceNode && tag(value) != "!!null":
			found.add(value, "limits "+show(value), "is no list")
			return false
		default:
			d.items = value
		}
	}
	if d.items == nil {
		d.items = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
		top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "limits"}, d.items)
	}
	d.blank = emptied(d.items, yaml.SequenceNode)
	return true
}

// emptied makes a null an empty value of a kind, with its comments, and tells whether it was one.
func emptied(v *yaml.Node, kind yaml.Kind) bool {
	if tag(v) != "!!null" {
		return false
	}
	*v = yaml.Node{Kind: kind, HeadComment: v.HeadComment, LineComment: v.LineComment, FootComment: v.FootComment}
	return true
}

// top is the outermost value; an empty mapping where the file holds none.
func (d *document) top() *yaml.Node {
	if d.root.Kind == 0 {
		d.root.Kind = yaml.DocumentNode
	}
	if len(d.root.Content) == 0 {
		d.root.Content = []*yaml.Node{{Kind: yaml.MappingNode}}
	}
	top := d.root.Content[0]
	emptied(top, yaml.MappingNode)
	return top
}

// readRows reads the list. A row with a fault is named and left out.
func (d *document) readRows(found *faults) {
	seen := make(map[limits.Key]int, len(d.items.Content))
	d.rows = make([]limits.Limit, 0, len(d.items.Content))
	for _, item := range d.items.Content {
		l, ok := readRow(item, found)
		if !ok {
			continue
		}
		if line, twice := seen[l.Key]; twice {
			found.add(item, "the row "+l.String(), fmt.Sprintf("stands in line %d already", line))
		}
		seen[l.Key] = item.Line
		d.rows = append(d.rows, l)
	}
}

// newest is the highest version of a row.
func (d *document) newest() (version int64) {
	for i := range d.rows {
		version = max(version, d.rows[i].Version)
	}
	return version
}

// pairs yields the keys and values of a mapping.
func pairs(mapping *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(mapping.Content); i += 2 {
			if !yield(mapping.Content[i], mapping.Content[i+1]) {
				return
			}
		}
	}
}

// faults collects what is wrong with a file.
type faults struct {
	named []error
	more  int
}

func (f *faults) add(at *yaml.Node, what, reason string) {
	if len(f.named) == maxFaults {
		f.more++
		return
	}
	f.named = append(f.named, fmt.Errorf("line %d, column %d: %s: %s", at.Line, at.Column, what, reason))
}

func (f *faults) err() error {
	if f.more > 0 {
		return errors.Join(append(f.named, fmt.Errorf("and %d more", f.more))...)
	}
	return errors.Join(f.named...)
}
