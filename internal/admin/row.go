package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// decodeRow returns the row of a body, or the status and every fault: 400 for what is no JSON,
// 422 for what is no row.
func decodeRow(body []byte) (limits.Limit, int, error) {
	if err := checkJSON(body); err != nil {
		return limits.Limit{}, http.StatusBadRequest, fmt.Errorf("body: %w", err)
	}
	var row limits.Row
	if err := readObject(body, &row); err != nil {
		return limits.Limit{}, http.StatusUnprocessableEntity, err
	}
	l, err := row.Limit()
	return l, http.StatusUnprocessableEntity, err
}

// checkJSON returns nil for exactly one JSON value in UTF-8.
func checkJSON(body []byte) error {
	var value json.RawMessage
	err := json.Unmarshal(body, &value)
	syntax, isSyntax := errors.AsType[*json.SyntaxError](err)
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return errors.New("is empty")
	case isSyntax:
		return fmt.Errorf("is not JSON: at byte %d: %w", syntax.Offset, err)
	case err != nil:
		return fmt.Errorf("is not JSON: %w", err)
	case !utf8.Valid(body):
		return errors.New("is not UTF-8")
	}
	return nil
}

// readObject sets the columns of row from an object. Unlike encoding/json it takes names in
// their exact case only, and none twice: nobody can tell which of two was meant.
func readObject(object []byte, row *limits.Row) error {
	_, err := readMembers(object, func(name string, v json.RawMessage) string { return setColumn(row, name, v) })
	return err
}

// readMembers calls set for each member of an object, and returns which there are and every fault.
func readMembers(object []byte, set func(name string, v json.RawMessage) (reason string)) (seen map[string]bool, err error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return nil, &limits.FieldError{Field: "body", Value: quote(string(object)), Reason: "is no JSON object"}
	}
	seen = make(map[string]bool)
	var faults []error
	for dec.More() {
		name, value, err := nextMember(dec)
		if err != nil {
			return nil, fmt.Errorf("body: %w", err) // not of what checkJSON found good
		}
		reason := "comes twice"
		if !seen[name] {
			reason = set(name, value)
		}
		seen[name] = true
		switch reason {
		case "":
		case unknownField, unknownPart:
			faults = append(faults, &limits.FieldError{Field: "field", Value: quote(name), Reason: reason})
		default:
			faults = append(faults, &limits.FieldError{Field: name, Value: cut(value), Reason: reason})
		}
	}
	return seen, errors.Join(faults...)
}

func nextMember(dec *json.Decoder) (name string, value json.RawMessage, err error) {
	token, err := dec.Token()
	if err != nil {
		return "", nil, err
	}
	name, _ = token.(string) // what else can stand there is no JSON
	return name, value, dec.Decode(&value)
}

// unknownField is the reason of a name that is no column.
const unknownField = "is no column of a limit"

// setColumn sets one column of row, or tells why it cannot be set. What the store itself sets is
// ignored, so that a row from GET can be sent back.
func setColumn(row *limits.Row, name string, v json.RawMessage) (reason string) {
	switch name {
	case "domain":
		row.Domain, reason = orNull(v, text)
	case "gateway":
		row.Gateway, reason = orNull(v, text)
	case "endpoint":
		row.Endpoint, reason = pointer(v, text)
	case "per":
		row.Per, reason = pointer(v, text)
	case "per_seconds":
		row.PerSeconds, reason = pointer(v, whole)
	case "algorithm":
		row.Algorithm, reason = pointer(v, text)
	case "max_tps":
		row.MaxTPS, reason = pointer(v, whole)
	case "enabled":
		row.Enabled, reason = pointer(v, truth)
	case "burst":
		row.Burst, reason = pointer(v, whole)
	case "max_wait_ms":
		row.MaxWaitMS, reason = pointer(v, whole)
	case "shadow":
		row.Shadow, reason = pointer(v, truth)
	case "note":
		row.Note, reason = pointer(v, text)
	case "created_at", "updated_at", "version":
	default:
		reason = unknownField
	}
	return reason
}

// orNull reads a value; null gives the zero value.
func orNull[T any](v json.RawMessage, read func(json.RawMessage) (T, string)) (value T, reason string) {
	if string(v) == "null" {
		return value, ""
	}
	return read(v)
}

// pointer reads a value; null gives nil.
func pointer[T any](v json.RawMessage, read func(json.RawMessage) (T, string)) (p *T, reason string) {
	if string(v) == "null" {
		return nil, ""
	}
	value, reason := read(v)
	return &value, reason
}

func text(v json.RawMessage) (s, reason string) {
	if v[0] != '"' || json.Unmarshal(v, &s) != nil {
		return "", "is no text"
	}
	if halfPair(v) {
		return "", "has one half of a surrogate pair" // which Go would make U+FFFD: another name
	}
	return s, ""
}

// halfPair finds an escape \uD800 to \uDFFF that is not one of a pair.
func halfPair(v json.RawMessage) bool {
	for i := 0; i < len(v); i++ {
		if v[i] != '\\' {
			continue
		}
		high := escaped(v[i:])
		if !utf16.IsSurrogate(high) {
			i++ // what is escaped may be a backslash
			continue
		}
		if utf16.DecodeRune(high, escaped(v[i+len(`\u0000`):])) == utf8.RuneError {
			return true
		}
		i += len(`\u0000\u0000`) - 1
	}
	return false
}

// escaped is the code of a \u escape at the start of v; -1 where there is none.
func escaped(v []byte) rune {
	const length = len(`\u0000`)
	if len(v) < length || v[0] != '\\' || v[1] != 'u' {
		return -1
	}
	code, err := strconv.ParseUint(string(v[2:length]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(code)
}

func whole(v json.RawMessage) (n int64, reason string) {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		return 0, "is no whole number of at most 63 bits, written in digits"
	}
	return n, ""
}

func truth(v json.RawMessage) (b bool, reason string) {
	switch string(v) {
	case "true":
		return true, ""
	case "false":
		return false, ""
	}
	return false, "is not true or false"
}

// cut is a JSON value as messages show it.
func cut(v json.RawMessage) string {
	const longest = 64
	if len(v) > longest {
		return string(v[:longest]) + "…"
	}
	return string(v)
}
