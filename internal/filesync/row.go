package filesync

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// maxVersion bounds the versions in a file, so that counting on from them cannot overflow, and
// that every reader of JSON has them exact.
const maxVersion = 1<<53 - 1

// readRow reads one row. YAML guesses the types of what is written without quotes; what it
// guesses is not taken for another type (1.5 is no 1, yes is no true), but any such scalar is
// text where a name stands. Anchors and aliases are refused: the API edits each row by itself.
func readRow(item *yaml.Node, found *faults) (limits.Limit, bool) {
	if item.Kind != yaml.MappingNode || item.Anchor != "" {
		found.add(item, "row "+show(item), "is no mapping of columns to values")
		return limits.Limit{}, false
	}
	var row limits.Row
	at := make(map[string]*yaml.Node, len(item.Content)/2)
	ok := true
	for key, value := range pairs(item) {
		where, reason := readColumn(&row, at, key, value)
		if reason == "" {
			continue
		}
		ok = false
		what := fmt.Sprintf("%.64s %s", key.Value, show(value))
		if reason == unknownKey {
			what = fmt.Sprintf("key %.64q", key.Value)
		}
		found.add(where, what, reason)
	}
	if !ok {
		return limits.Limit{}, false
	}
	l, err := row.Limit()
	addFieldErrors(err, item, at, found)
	return l, err == nil
}

// readColumn reads one column of row, notes in at where its value stands, and returns what is
// wrong with it, and where: at the value, but for what is wrong with the key itself.
func readColumn(row *limits.Row, at map[string]*yaml.Node, key, value *yaml.Node) (where *yaml.Node, reason string) {
	if at[key.Value] != nil {
		return key, "comes twice in the row"
	}
	for _, n := range [...]*yaml.Node{key, value} {
		if n.Kind == yaml.AliasNode || n.Anchor != "" {
			return n, "anchors and aliases are not read"
		}
	}
	at[key.Value] = value
	if reason = setColumn(row, key.Value, value); reason == unknownKey {
		return key, reason
	}
	return value, reason
}

// addFieldErrors names what is out of bounds, where the column stands.
func addFieldErrors(err error, item *yaml.Node, at map[string]*yaml.Node, found *faults) {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			addFieldErrors(e, item, at, found)
		}
		return
	}
	if fault, ok := errors.AsType[*limits.FieldError](err); ok {
		node := at[fault.Field]
		if node == nil {
			node = item
		}
		found.add(node, fault.Field+" "+fault.Value, fault.Reason)
	}
}

// unknownKey is the reason of a key that is no column.
const unknownKey = "is no column of a limit"

// setColumn sets one column of row, or tells why it cannot be set.
func setColumn(row *limits.Row, name string, v *yaml.Node) (reason string) {
	switch name {
	case "domain":
		row.Domain, reason = text(v)
	case "gateway":
		row.Gateway, reason = text(v)
	case "endpoint":
		reason = assign(&row.Endpoint, v, text)
	case "per":
		reason = assign(&row.Per, v, text)
	case "per_seconds":
		reason = assign(&row.PerSeconds, v, whole)
	case "algorithm":
		reason = assign(&row.Algorithm, v, text)
	case "max_tps":
		reason = assign(&row.MaxTPS, v, whole)
	case "enabled":
		reason = assign(&row.Enabled, v, truth)
	case "burst":
		reason = assign(&row.Burst, v, whole)
	case "max_wait_ms":
		reason = assign(&row.MaxWaitMS, v, whole)
	case "shadow":
		reason = assign(&row.Shadow, v, truth)
	case "note":
		reason = assign(&row.Note, v, text)
	case "created_at":
		reason = assign(&row.CreatedAt, v, instant)
	case "updated_at":
		reason = assign(&row.UpdatedAt, v, instant)
	case "version":
		row.Version, reason = version(v)
	default:
		reason = unknownKey
	}
	return reason
}

// tag is the type of a single value, empty for a list or a mapping.
func tag(v *yaml.Node) string {
	if v.Kind != yaml.ScalarNode {
		return ""
	}
	return v.ShortTag()
}

// assign leaves nil for a null.
func assign[T any](to **T, v *yaml.Node, read func(*yaml.Node) (T, string)) (reason string) {
	if tag(v) == "!!null" {
		return ""
	}
	value, reason := read(v)
	*to = &value
	return reason
}

func text(v *yaml.Node) (s, reason string) {
	switch tag(v) {
	case "!!null":
		return "", ""
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return v.Value, ""
	}
	return "", "is no text"
}

func whole(v *yaml.Node) (n int64, reason string) {
	n, err := strconv.ParseInt(v.Value, 10, 64)
	if err != nil || tag(v) != "!!int" {
		return 0, "is no whole number"
	}
	return n, ""
}

func version(v *yaml.Node) (n int64, reason string) {
	if tag(v) == "!!null" {
		return 0, ""
	}
	n, reason = whole(v)
	if reason == "" && (n < 0 || n > maxVersion) {
		reason = fmt.Sprintf("is not within 0 to %d", int64(maxVersion))
	}
	return n, reason
}

func truth(v *yaml.Node) (b bool, reason string) {
	b, err := strconv.ParseBool(v.Value)
	if err != nil || tag(v) != "!!bool" {
		return false, "is not true or false"
	}
	return b, ""
}

func instant(v *yaml.Node) (t time.Time, reason string) {
	t, err := time.Parse(time.RFC3339Nano, v.Value)
	if err != nil || tag(v) == "" {
		return t, "is no time as in RFC 3339"
	}
	return t.UTC(), ""
}

// show is a value as messages have it.
func show(v *yaml.Node) string {
	switch v.Kind {
	case yaml.MappingNode:
		return "(a mapping)"
	case yaml.SequenceNode:
		return "(a list)"
	case yaml.AliasNode:
		return fmt.Sprintf("*%.64s", v.Value)
	default: // one value
	}
	if v.ShortTag() == "!!str" {
		return fmt.Sprintf("%.64q", v.Value)
	}
	return fmt.Sprintf("%.64s", v.Value)
}
