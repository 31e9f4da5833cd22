package accesslog

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unsafe"

	"github.com/tps-agent/ratelimitd/internal/validjson"
)

// What stands here reads JSON that encoding/json has found valid: so nothing that it looks for is
// missing.

// mostNested is how many objects a name may stand in. What lies deeper is passed over.
const mostNested = 5

// jsonObject tells what an object says.
type jsonObject struct {
	facts  *facts
	whole  []byte // JSON that holds the object
	inText bool   // that stands in a text, at a byte of the record; other texts in it are not looked into
	at     int
}

// isObject tells whether valid JSON is an object.
func isObject(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && b[0] == '{'
}

// tell tells the members of the object that begins at a byte. Its own name is in path.
func (o *jsonObject) tell(at int, path []byte, depth int) {
	b := o.whole
	for i := validjson.SkipSpace(b, at+1); b[i] != '}'; {
		if b[i] == ',' {
			i = validjson.SkipSpace(b, i+1)
		}
		nameEnd := validjson.TextEnd(b, i)
		value := validjson.SkipSpace(b, validjson.SkipSpace(b, nameEnd)+1) // over the colon
		o.member(b[i:nameEnd], value, path, depth)
		i = validjson.SkipSpace(b, validjson.ValueEnd(b, value))
	}
}

func (o *jsonObject) member(quoted []byte, at int, path []byte, depth int) {
	name := unquote(quoted)
	path, short := fold(path, name)
	switch {
	case !short:
	case o.whole[at] == '{' && depth < mostNested:
		o.tell(at, path, depth+1)
	case o.inText:
		o.facts.tell(path, name, o.scalar(at), o.at)
	default:
		o.facts.tell(path, name, o.scalar(at), at)
	}
}

// scalar reads the value that begins at a byte; one of objects and lists says nothing.
func (o *jsonObject) scalar(at int) scalar {
	b := o.whole[at:validjson.ValueEnd(o.whole, at)]
	switch b[0] {
	case '"':
		return textScalar(unquote(b))
	case 't', 'f':
		return truthScalar(b[0] == 't')
	case 'n', '{', '[':
		return scalar{}
	}
	s := alias(b)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return wholeScalar(n)
	}
	n, _ := strconv.ParseFloat(s, 64) // ±Inf beyond its range
	return floatScalar(n)
}

// unquote reads a string. Where nothing is escaped, it aliases the record.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return alias(quoted[1 : len(quoted)-1])
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return ""
	}
	return s
}

func alias(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // facts are used while the record is there
}
