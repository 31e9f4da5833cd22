package traffic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// FieldError says what is wrong with one field of a transaction that somebody has sent.
type FieldError struct {
	Field  string
	Value  string // as it was sent; cut where it is long
	Reason string
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s %s: %s", e.Field, e.Value, e.Reason) }

// ParseJSON reads one transaction, whose names are the columns of tps_metrics:
//
//	gateway      text, 1 to MaxName bytes; must be there
//	endpoint     text, up to MaxName bytes
//	domain       text, up to MaxName bytes
//	timestamp    RFC 3339; when it ended, at a time that is Believable; absent = now
//	duration_ms  number, 0 to MaxDuration, less waited_ms; to the nanosecond
//	waited_ms    number, 0 to MaxWaited; to the nanosecond
//	status_code  whole number, 0 to 999; 0 = no response
//	throttled    true or false
//	success      true or false, not true with throttled or a status_code of 429; absent = see below
//
// null is as good as absent, which is empty, 0 or false where nothing else is said. A transaction that
// does not tell its success has none where it is throttled or its status_code is 0, 429 or at least
// 500; where it tells no status_code, its being throttled alone decides.
//
// An error that holds a [*FieldError] joins the faults of the transaction, of many the first ones; any
// other says why b is no JSON.
func ParseJSON(b []byte, now time.Time) (Transaction, error) {
	p, err := parseJSON(b, now)
	if err == nil && !Believable(p.At, now) {
		err = &FieldError{"timestamp", strconv.Quote(p.At.Format(time.RFC3339Nano)), "is more than 366 days ago, or a day ahead"}
	}
	return p.Transaction, err
}

// ParseRelayedJSON is ParseJSON for what another ratelimitd has recorded: where its clock and ours
// differ by more than is Believable, the transaction is taken, at the time of now. Refused, it would
// be lost.
func ParseRelayedJSON(b []byte, now time.Time) (Transaction, error) {
	p, err := parseJSON(b, now)
	if !Believable(p.At, now) {
		p.At = now
	}
	return p.Transaction, err
}

// parsed is a Transaction, and what was said of it.
type parsed struct {
	Transaction
	seen   columns
	told   columns // are not null
	faults []error
}

// columns is a bit for each column, in the order of columnOf.
type columns uint16

const (
	columnGateway columns = 1 << iota
	columnEndpoint
	columnDomain
	columnTimestamp
	columnDuration
	columnWaited
	columnStatus
	columnThrottled
	columnSuccess
)

// mostFaults are told of one transaction: an object may have millions of members that are no columns.
const mostFaults = 10

func parseJSON(b []byte, now time.Time) (parsed, error) {
	p := parsed{Transaction: Transaction{At: now}}
	if !json.Valid(b) {
		return p, badJSON(b)
	}
	object := value(b)
	if object[0] != '{' {
		return p, &FieldError{"transaction", shown(object), "is no JSON object"}
	}
	eachMember(object, p.member)
	if p.seen&columnGateway == 0 && len(p.faults) < mostFaults {
		p.fault("gateway", `""`, "is missing")
	}
	p.judge()
	return p, errors.Join(p.faults...)
}

func badJSON(b []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(b, &v)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not JSON: at byte %d: %w", syntax.Offset, err)
	}
	return fmt.Errorf("is not JSON: %w", err)
}

// judge finds out the success where it is not told.
func (p *parsed) judge() {
	switch {
	case p.told&columnSuccess == 0:
		p.Success = !p.Throttled && (p.told&columnStatus == 0 || succeeded(p.StatusCode))
	case p.Success && p.Throttled:
		p.fault("success", "true", "cannot be where throttled is true")
	case p.Success && p.StatusCode == http.StatusTooManyRequests:
		p.fault("success", "true", "cannot be where status_code is 429")
	}
}

func succeeded(status int32) bool {
	return status != 0 && status != http.StatusTooManyRequests && status < http.StatusInternalServerError
}

func (p *parsed) fault(field, value, reason string) {
	p.faults = append(p.faults, &FieldError{field, value, reason})
}

// member sets the column of one member of the object. Names are taken in their exact case, and none
// twice: nobody can tell which of two was meant.
func (p *parsed) member(rawName, v []byte) {
	if len(p.faults) >= mostFaults {
		return
	}
	column, name := columnOf(rawName)
	reason := ""
	switch {
	case column == 0:
		p.fault("field", shown(rawName), "is no column of a transaction")
		return
	case p.seen&column != 0:
		reason = "comes twice"
	case string(v) != "null":
		p.told |= column
		reason = p.set(column, v)
	case column == columnGateway:
		reason = "is missing"
	}
	p.seen |= column
	if reason != "" {
		p.fault(name, shown(v), reason)
	}
}

// columnOf returns a column by its quoted name; 0 where there is none.
func columnOf(quoted []byte) (columns, string) {
	raw := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(raw, '\\') >= 0 {
		plain, _ := text(quoted) // where that cannot be read, it is no column
		raw = []byte(plain)
	}
	for i, name := range [...]string{"gateway", "endpoint", "domain", "timestamp", "duration_ms", "waited_ms", "status_code", "throttled", "success"} {
		if string(raw) == name {
			return 1 << i, name
		}
	}
	return 0, ""
}

func (p *parsed) set(column columns, v []byte) (reason string) {
	switch column {
	case columnGateway:
		if p.Gateway, reason = nameOf(v); reason == "" && p.Gateway == "" {
			reason = "is empty"
		}
	case columnEndpoint:
		p.Endpoint, reason = nameOf(v)
	case columnDomain:
		p.Domain, reason = nameOf(v)
	case columnTimestamp:
		p.At, reason = timeOf(v)
	case columnDuration:
		p.Duration, reason = millisecondsOf(v, MaxDuration)
	case columnWaited:
		p.Waited, reason = millisecondsOf(v, MaxWaited)
	case columnStatus:
		p.StatusCode, reason = statusOf(v)
	case columnThrottled:
		p.Throttled, reason = truthOf(v)
	case columnSuccess:
		p.Success, reason = truthOf(v)
	}
	return reason
}

func nameOf(v []byte) (name, reason string) {
	name, reason = text(v)
	switch {
	case reason != "":
		return "", reason
	case len(name) > MaxName:
		return "", fmt.Sprintf("is longer than %d bytes", MaxName)
	case !utf8.ValidString(name):
		return "", "is not valid UTF-8"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "", "has a control character"
	}
	return name, ""
}

func timeOf(v []byte) (at time.Time, reason string) {
	s, reason := text(v)
	if reason != "" {
		return at, reason
	}
	const hourEnd, secondEnd = len("2006-01-02T15"), len("2006-01-02T15:04:05")
	if at.UnmarshalText([]byte(s)) != nil || s[hourEnd] != ':' || s[secondEnd] == ',' { // package time takes 1 digit and a comma
		return at, "is no time as RFC 3339 has it, such as 2006-01-02T15:04:05.999Z"
	}
	return at.UTC(), ""
}

func statusOf(v []byte) (status int32, reason string) {
	const most = 999
	n, err := strconv.ParseInt(string(v), 10, 64)
	switch {
	case !isNumber(v):
		return 0, "is no number"
	case errors.Is(err, strconv.ErrSyntax):
		return 0, "is no whole number, written in digits"
	case err != nil || n < 0 || n > most:
		return 0, fmt.Sprintf("is not within 0 to %d", most)
	}
	return int32(n), ""
}

func truthOf(v []byte) (truth bool, reason string) {
	switch string(v) {
	case "true":
		return true, ""
	case "false":
		return false, ""
	}
	return false, "is not true or false"
}

// AppendJSON appends t as ParseJSON and ParseRelayedJSON read it, some 150 bytes without a line end.
// Nothing is lost but the time zone; names must be Clean, and the rest within its bounds.
func AppendJSON(b []byte, t *Transaction) []byte {
	b = appendText(append(b, `{"gateway":`...), t.Gateway)
	if t.Endpoint != "" {
		b = appendText(append(b, `,"endpoint":`...), t.Endpoint)
	}
	if t.Domain != "" {
		b = appendText(append(b, `,"domain":`...), t.Domain)
	}
	b = t.At.UTC().AppendFormat(append(b, `,"timestamp":"`...), time.RFC3339Nano)
	b = appendMilliseconds(append(b, `","duration_ms":`...), t.Duration)
	if t.Waited > 0 {
		b = appendMilliseconds(append(b, `,"waited_ms":`...), t.Waited)
	}
	b = strconv.AppendInt(append(b, `,"status_code":`...), int64(t.StatusCode), 10)
	if t.Throttled {
		b = append(b, `,"throttled":true`...)
	}
	b = strconv.AppendBool(append(b, `,"success":`...), t.Success)
	return append(b, '}')
}
