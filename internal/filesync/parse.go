package filesync

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// MaxFile is the largest limits file, in bytes.
const MaxFile = 64 << 20

// document is a limits file, read.
type document struct {
	root yaml.Node // for edits that keep comments
	rows []limits.Limit
}

// file is the schema of the limits file.
type file struct {
	Limits []limits.Row `yaml:"limits"`
}

// parse reads a limits file. An error names every fault with its line.
func parse(body []byte) (*document, error) {
	if len(body) > MaxFile {
		return nil, fmt.Errorf("the file has %d bytes: more than %d", len(body), MaxFile)
	}
	doc := &document{}
	if len(bytes.TrimSpace(body)) == 0 {
		return doc, nil
	}
	var f file
	if err := decodeOne(body, &f); err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(body, &doc.root); err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	items := doc.items()
	seen := make(map[limits.Key]int, len(f.Limits))
	var errs []error
	for i := range f.Limits {
		line := items.Content[i].Line
		l, err := f.Limits[i].Limit()
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", line, err))
			continue
		}
		if first, twice := seen[l.Key]; twice {
			errs = append(errs, fmt.Errorf("line %d: the row %s stands in line %d already", line, l.Key, first))
			continue
		}
		seen[l.Key] = line
		doc.rows = append(doc.rows, l)
	}
	return doc, errors.Join(errs...)
}

// decodeOne decodes the only document of body; keys that the schema lacks are errors.
func decodeOne(body []byte, f *file) error {
	dec := yaml.NewDecoder(bytes.NewReader(body))
	dec.KnownFields(true)
	if err := dec.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading YAML: %w", err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %d: a limits file has one YAML document", max(more.Line, 1))
	}
	return nil
}

// items is the sequence below `limits`, made if it is not there.
func (d *document) items() *yaml.Node {
	if d.root.Kind == 0 || len(d.root.Content) == 0 || d.root.Content[0].Kind != yaml.MappingNode {
		d.root = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
	}
	top := d.root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value != "limits" {
			continue
		}
		if alias := top.Content[i+1].Alias; alias != nil {
			return alias
		}
		if top.Content[i+1].Kind != yaml.SequenceNode { // null
			*top.Content[i+1] = yaml.Node{Kind: yaml.SequenceNode}
		}
		return top.Content[i+1]
	}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "limits"}, list)
	return list
}

// put replaces the row of l's key, or adds one at the end.
func (d *document) put(l *limits.Limit) error {
	var node yaml.Node
	if err := node.Encode(limits.RowOf(l)); err != nil {
		return fmt.Errorf("encoding the row %s: %w", l.Key, err)
	}
	items := d.items()
	for i := range d.rows {
		if d.rows[i].Key == l.Key {
			old := items.Content[i]
			node.HeadComment, node.LineComment, node.FootComment = old.HeadComment, old.LineComment, old.FootComment
			items.Content[i], d.rows[i] = &node, *l
			return nil
		}
	}
	items.Content = append(items.Content, &node)
	items.Style = 0
	d.rows = append(d.rows, *l)
	return nil
}

// remove takes the row of a key out; false if there is none.
func (d *document) remove(key limits.Key) bool {
	items := d.items()
	for i := range d.rows {
		if d.rows[i].Key == key {
			items.Content = append(items.Content[:i], items.Content[i+1:]...)
			d.rows = append(d.rows[:i], d.rows[i+1:]...)
			return true
		}
	}
	return false
}

func (d *document) find(key limits.Key) (limits.Limit, bool) {
	for i := range d.rows {
		if d.rows[i].Key == key {
			return d.rows[i], true
		}
	}
	return limits.Limit{}, false
}

func (d *document) encode() ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	d.items()
	if err := errors.Join(enc.Encode(&d.root), enc.Close()); err != nil {
		return nil, fmt.Errorf("encoding the limits file: %w", err)
	}
	return b.Bytes(), nil
}
