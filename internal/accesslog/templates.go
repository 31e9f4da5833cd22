package accesslog

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// templates are path templates as a tree by segments. Each node of the tree is visited at most once
// for a path, whatever its length.
type templates struct{ root node }

// node is where a path is after some of its segments.
type node struct {
	literal map[string]*node // by the next segment, unescaped
	wild    *node            // {name}: any next segment but an empty one
	here    ends             // the path ends here
	slash   ends             // it ends with one more slash: {$}
	below   ends             // whatever follows the next slash: {name...}, or nothing
}

// ends are templates of one shape, of which each has another method.
type ends []template

type template struct {
	method string // empty = any
	text   string
}

func newTemplates(texts []string) (templates, error) {
	var t templates
	var errs []error
	for _, text := range texts {
		if err := t.add(strings.Join(strings.Fields(text), " ")); err != nil {
			errs = append(errs, fmt.Errorf("path template %q: %w", text, err))
		}
	}
	return t, errors.Join(errs...)
}

func (t *templates) empty() bool {
	return t.root.literal == nil && t.root.wild == nil && t.root.slash == nil && t.root.below == nil
}

func (t *templates) add(text string) error {
	method, path, found := strings.Cut(text, " ")
	if !found {
		method, path = "", text
	}
	switch {
	case !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " ?#") || strings.Trim(method, capitals) != "":
		return errors.New("is neither a path nor a method in capital letters and a path")
	case len(text) > traffic.MaxName:
		return fmt.Errorf("is longer than %d bytes", traffic.MaxName)
	case traffic.Clean(text) != text:
		return errors.New("is not valid UTF-8, or has a control character")
	}
	end, err := t.root.grow(path)
	if err != nil {
		return err
	}
	return end.add(template{method, text})
}

const capitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

func (e *ends) add(t template) error {
	for _, other := range *e {
		if other.method == t.method {
			return fmt.Errorf("matches what %q matches", other.text)
		}
	}
	*e = append(*e, t)
	return nil
}

// grow returns where a path of a template ends. It makes the nodes on the way.
func (n *node) grow(path string) (*ends, error) {
	segment, rest, more := strings.Cut(path[1:], "/")
	switch {
	case !more && segment == "{$}":
		return &n.slash, nil
	case !more && (segment == "" || wildcard(strings.TrimSuffix(segment, "...}")+"}") && strings.HasSuffix(segment, "...}")):
		return &n.below, nil
	}
	next, err := n.child(segment)
	switch {
	case err != nil:
		return nil, fmt.Errorf("segment %q: %w", segment, err)
	case more:
		return next.grow("/" + rest)
	}
	return &next.here, nil
}

// wildcard tells whether a segment is {name}.
func wildcard(segment string) bool {
	return len(segment) > len("{}") && segment[0] == '{' && strings.IndexAny(segment[1:], "{}$.") == len(segment)-2 && segment[len(segment)-1] == '}'
}

func (n *node) child(segment string) (*node, error) {
	if wildcard(segment) {
		if n.wild == nil {
			n.wild = &node{}
		}
		return n.wild, nil
	}
	literal, err := url.PathUnescape(segment)
	switch {
	case err != nil:
		return nil, err
	case strings.ContainsAny(segment, "{}"):
		return nil, errors.New("is neither a text nor a {name}; {name...} and {$} stand at the end")
	case segment == "" || segment == "." || segment == "..":
		return nil, errors.New("is in no path")
	}
	if n.literal == nil {
		n.literal = map[string]*node{}
	}
	if n.literal[literal] == nil {
		n.literal[literal] = &node{}
	}
	return n.literal[literal], nil
}

// match returns the text of the template that the path of a request matches; empty = of none. It
// takes any bytes.
func (t *templates) match(method, target string) string {
	path := pathOf(target)
	if path == "" {
		return ""
	}
	return t.root.match(method, path)
}

// pathOf is the path of a request target without query and fragment, still escaped; empty for
// `*` and an authority, which have none.
func pathOf(target string) string {
	if i := strings.IndexByte(target, '?'); i >= 0 {
		target = target[:i]
	}
	if i := strings.IndexByte(target, '#'); i >= 0 {
		target = target[:i]
	}
	if strings.HasPrefix(target, "/") {
		return target
	}
	_, rest, found := strings.Cut(target, "://")
	if !found {
		return ""
	}
	if slash := strings.IndexByte(rest, '/'); slash >= 0 {
		return rest[slash:]
	}
	return "/"
}

// match looks for what is left of a path, "" or from a slash on: first below the literal segment,
// so that of two templates the one that has a literal first goes before.
func (n *node) match(method, rest string) string {
	if rest == "" {
		return n.here.of(method)
	}
	segment, next := rest[1:], ""
	if slash := strings.IndexByte(segment, '/'); slash >= 0 {
		segment, next = segment[:slash], segment[slash:]
	}
	if child := n.literalOf(segment); child != nil {
		if text := child.match(method, next); text != "" {
			return text
		}
	}
	if n.wild != nil && segment != "" {
		if text := n.wild.match(method, next); text != "" {
			return text
		}
	}
	if rest == "/" {
		if text := n.slash.of(method); text != "" {
			return text
		}
	}
	return n.below.of(method)
}

// literalOf returns the child of a segment that is still escaped. One whose escapes are broken is
// taken as it stands.
func (n *node) literalOf(segment string) *node {
	if strings.IndexByte(segment, '%') < 0 {
		return n.literal[segment]
	}
	var buf [traffic.MaxName]byte // no literal is longer
	plain, ok := unescape(buf[:0], segment)
	if !ok {
		return n.literal[segment]
	}
	return n.literal[string(plain)]
}

// unescape appends s without its percent escapes to b, as far as there is room. False says that an
// escape is broken, or that there is no room.
func unescape(b []byte, s string) (_ []byte, ok bool) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return b, false
			}
			c = fromHex(s[i+1])<<4 | fromHex(s[i+2])
			i += 2
		}
		if len(b) == cap(b) {
			return b, false
		}
		b = append(b, c)
	}
	return b, true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

func fromHex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// of returns the template for a method. As with [http.ServeMux], GET is for HEAD too, and one with
// a method goes before one without.
func (e ends) of(method string) string {
	found := ""
	for _, t := range e {
		switch {
		case t.method == method && method != "":
			return t.text
		case t.method == "" && found == "", t.method == http.MethodGet && method == http.MethodHead:
			found = t.text
		}
	}
	return found
}
