package descriptors

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Parse compiles one descriptor file. The error joins all its faults, each a [FaultError]; file is the
// name that they carry.
func Parse(file string, body []byte) (*Domain, error) {
	d, _, err := parse(file, body)
	return d, err
}

// parse is Parse. domain is what the file says of its domain even where it has faults, empty where
// that cannot be read.
func parse(file string, body []byte) (d *Domain, domain string, err error) {
	p := &parser{faults: faults{source: file}}
	root := p.document(body)
	if root == nil {
		return nil, readableDomain(body), p.err()
	}
	t := p.tree(root)
	if t == nil {
		return nil, "", p.err()
	}
	if !p.over {
		d = compile(t, &p.faults)
	}
	if err := p.err(); err != nil {
		return nil, strings.TrimPrefix(t.domain, standIn), err
	}
	return d, t.domain, nil
}

// parser reads one file.
type parser struct {
	faults
	nodes int  // of MaxNodes
	depth int  // of MaxDepth
	over  bool // a bound was reached: what is read from then on is nothing
}

func (p *parser) add(at *yaml.Node, reason string) { p.faults.add(posOf(at), reason) }

// refuse is add for what an alias can repeat without end.
func (p *parser) refuse(at *yaml.Node, reason string) {
	if p.spend(at) {
		p.add(at, reason)
	}
}

func posOf(n *yaml.Node) pos { return pos{int32(n.Line), int32(n.Column)} } //nolint:gosec // at most MaxFile

// document decodes the only YAML document of body; nil where it cannot.
func (p *parser) document(body []byte) *yaml.Node {
	if reason, line := unreadable(body); reason != "" {
		p.put(&FaultError{Line: line, Reason: reason})
		return nil
	}
	var root yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		p.put(yamlFault(err))
		return nil
	}
	if !p.only(dec) {
		return nil
	}
	if len(root.Content) == 0 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: 1, Column: 1}
	}
	return p.follow(root.Content[0])
}

// only tells whether no other document follows that says anything.
func (p *parser) only(dec *yaml.Decoder) bool {
	for {
		var more yaml.Node
		err := dec.Decode(&more)
		switch {
		case errors.Is(err, io.EOF):
			return true
		case err != nil:
			p.put(yamlFault(err))
			return false
		case len(more.Content) > 0 && more.Content[0].ShortTag() != "!!null":
			p.add(&more, "a second YAML document begins: one file is one document and one domain")
			return false
		}
	}
}

// maxMarks bounds the bytes of a file that can begin a value, since each makes YAML take some 150 bytes
// of memory.
const maxMarks = 3 * MaxNodes

// unreadable tells why body is not shown to YAML at all.
func unreadable(body []byte) (reason string, line int) {
	if len(body) > MaxFile {
		return fmt.Sprintf("the file is larger than %d bytes", MaxFile), 0
	}
	if !utf8.Valid(body) {
		valid := bytes.ToValidUTF8(body, nil)
		at := 0
		for at < len(valid) && valid[at] == body[at] {
			at++
		}
		return "error loading config file: yaml: bytes that are no UTF-8", 1 + bytes.Count(body[:at], []byte("\n"))
	}
	marks := 0
	for _, c := range body {
		if c == ',' || c == ':' || c == '[' || c == '{' || c == '-' {
			marks++
		}
	}
	if marks > maxMarks {
		return fmt.Sprintf("the file has more than %d of the characters , : [ { -", maxMarks), 0
	}
	return "", 0
}

// yamlFault tells what the YAML library says, with the line that it mostly knows.
func yamlFault(err error) *FaultError {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	f := &FaultError{Reason: "error loading config file: yaml: " + text}
	if m := regexp.MustCompile(`^line (\d+): (.*)`).FindStringSubmatch(text); m != nil {
		f.Line, _ = strconv.Atoi(m[1]) // digits
		f.Reason = "error loading config file: yaml: " + m[2]
	}
	return f
}

// readableDomain finds the domain of a file that is no YAML: a line of its own at the left edge.
func readableDomain(body []byte) string {
	for line := range bytes.Lines(body) {
		if !bytes.HasPrefix(line, []byte("domain:")) {
			continue
		}
		var says struct{ Domain yaml.Node }
		if yaml.Unmarshal(line, &says) == nil && says.Domain.Kind == yaml.ScalarNode && says.Domain.ShortTag() != "!!null" {
			return says.Domain.Value
		}
	}
	return ""
}

// tree reads the file itself; nil where it is not meant to be one of ours.
func (p *parser) tree(root *yaml.Node) *tree {
	switch {
	case isNull(root):
		p.add(root, "config file cannot have empty domain: the file says nothing")
	case root.Kind != yaml.MappingNode:
		p.add(root, "error loading config file: the file is "+kindOf(root)+", where a mapping is to be: "+strayHint)
	case strayed(root):
		p.add(root, "config file cannot have empty domain: "+strayHint)
	default:
		return p.file(root)
	}
	return nil
}

const strayHint = "if this is no descriptor file, keep it elsewhere or begin its name with a dot"

// strayed tells of a file that is not meant to be one of ours, so that it gets one fault and not one
// for each of its keys.
func strayed(root *yaml.Node) bool {
	for i := 0; i < len(root.Content); i += 2 {
		if key := root.Content[i]; isMerge(key) || fieldOf(strings.ToLower(key.Value)) != fieldUnknown {
			return false
		}
	}
	return len(root.Content) > 0
}

func (p *parser) file(root *yaml.Node) *tree {
	s := p.read(root, inFile)
	t := &tree{source: p.source, domain: p.text(s, fieldDomain), domainAt: posOf(root)}
	if d := s[fieldDomain]; d != nil {
		t.domainAt = posOf(d)
	}
	t.allOrNothing = p.boolean(s, fieldAllOrNothing)
	t.descriptors = p.descriptors(s[fieldDescriptors])
	return t
}

// follow resolves an alias.
func (p *parser) follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// deeper goes one level down, and spends one of MaxNodes. Not ok at a bound; else the caller goes up
// again.
func (p *parser) deeper(at *yaml.Node) (ok bool) {
	if !p.spend(at) {
		return false
	}
	if p.depth == MaxDepth {
		p.add(at, fmt.Sprintf("descriptors or metadata are nested deeper than %d levels", MaxDepth))
		return false
	}
	p.depth++
	return true
}

// spend takes one of MaxNodes.
func (p *parser) spend(at *yaml.Node) (ok bool) {
	if p.nodes++; p.nodes <= MaxNodes {
		return true
	}
	if !p.over {
		p.add(at, fmt.Sprintf("the file has more than %d descriptors and values of metadata, counted again at each alias", MaxNodes))
	}
	p.over = true
	return false
}
