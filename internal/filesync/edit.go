package filesync

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// find returns the index of a key's row, -1 if there is none.
func (d *document) find(key limits.Key) int {
	key = key.Canonical()
	return slices.IndexFunc(d.rows, func(l limits.Limit) bool { return l.Key == key })
}

// put replaces the row of l's key, or adds one at the end.
func (d *document) put(l limits.Limit) error {
	l.Key = l.Canonical()
	i := d.find(l.Key)
	if i >= 0 && d.rows[i] == l {
		return nil
	}
	node, err := encodeRow(&l)
	if err != nil {
		return fmt.Errorf("encoding the row %s: %w", l.Key, err)
	}
	d.edited = true
	if i >= 0 {
		replaceColumns(d.items.Content[i], node)
		d.rows[i] = l
		return nil
	}
	d.items.Content = append(d.items.Content, node)
	d.items.Style = 0
	d.rows = append(d.rows, l)
	return nil
}

// encodeRow returns the node of a row, without the columns that are NULL, and without the note, the
// window and the algorithm where they are as in most rows.
func encodeRow(l *limits.Limit) (*yaml.Node, error) {
	row := limits.RowOf(l)
	quoted := strings.Contains(l.Note, "\t") // which the library would write as a block that it cannot read
	if l.Seconds() == 1 {
		row.PerSeconds = nil
	}
	if l.Algorithm == limits.TokenBucket {
		row.Algorithm = nil
	}
	if l.Note == "" {
		row.Note = nil
	} else if quoted {
		row.Note = new("")
	}
	var node yaml.Node
	if err := node.Encode(row); err != nil {
		return nil, err
	}
	for i := 0; quoted && i < len(node.Content); i += 2 {
		if node.Content[i].Value == "note" {
			node.Content[i+1].SetString(l.Note)
			node.Content[i+1].Style = yaml.DoubleQuotedStyle
		}
	}
	return &node, nil
}

// replaceColumns makes row say what wanted says. What stays keeps its place, and comments stay.
func replaceColumns(row, wanted *yaml.Node) {
	var kept []*yaml.Node
	left := make(map[string]*yaml.Node, len(wanted.Content)/2)
	for key, value := range pairs(wanted) {
		left[key.Value] = value
	}
	for key, value := range pairs(row) {
		w := left[key.Value]
		if w == nil {
			continue
		}
		if w.Value != value.Value || w.ShortTag() != value.ShortTag() {
			value.Kind, value.Tag, value.Value, value.Style = w.Kind, w.Tag, w.Value, w.Style
		}
		kept = append(kept, key, value)
		delete(left, key.Value)
	}
	for key, value := range pairs(wanted) {
		if left[key.Value] != nil {
			kept = append(kept, key, value)
		}
	}
	row.Content = kept
}

// remove takes the row of a key out, or returns limits.ErrNotFound.
func (d *document) remove(key limits.Key) error {
	i := d.find(key)
	if i < 0 {
		return limits.ErrNotFound
	}
	d.edited = true
	d.items.Content = slices.Delete(d.items.Content, i, i+1)
	d.rows = slices.Delete(d.rows, i, i+1)
	return nil
}

// encode returns the file's new bytes. Some texts the library writes as blocks that it reads as other
// ones: then all blocks become texts in quotes.
func (d *document) encode() ([]byte, error) {
	body, err := d.encodeAsIs()
	if err != nil {
		quoteBlocks(&d.root)
		body, err = d.encodeAsIs()
	}
	return body, err
}

func quoteBlocks(n *yaml.Node) {
	if n.Style&(yaml.FoldedStyle|yaml.LiteralStyle) != 0 {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		quoteBlocks(c)
	}
}

// encodeAsIs returns the file's new bytes. They are read again, for no trick of YAML may change or
// lose a row that was not to be edited.
func (d *document) encodeAsIs() ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(&d.root), enc.Close()); err != nil {
		return nil, fmt.Errorf("encoding the limits file: %w", err)
	}
	again, err := parse(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("reading again what the limits file would be: %w", err)
	}
	if !slices.Equal(d.rows, again.rows) {
		return nil, errors.New("the limits file is written in a way that the API cannot edit without changing other rows: edit it by hand")
	}
	return b.Bytes(), nil
}
