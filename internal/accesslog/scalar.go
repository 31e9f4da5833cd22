package accesslog

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// scalar is a value as a record has it.
type scalar struct {
	kind   kind
	text   string // of a text; of a number as it was written, if it was
	number float64
	whole  int64 // of a number that isWhole
	truth  bool

	isWhole bool
}

type kind uint8

const (
	nothing kind = iota
	aText
	aNumber
	aTruth
)

func textScalar(s string) scalar { return scalar{kind: aText, text: s} }

func wholeScalar(n int64) scalar {
	return scalar{kind: aNumber, number: float64(n), whole: n, isWhole: true}
}

func floatScalar(f float64) scalar { return scalar{kind: aNumber, number: f} }

func truthScalar(b bool) scalar { return scalar{kind: aTruth, truth: b} }

// empty tells whether the value says nothing: it is absent, or what Envoy writes where there is
// nothing to say.
func (s *scalar) empty() bool {
	return s.kind == nothing || s.kind == aText && (s.text == "" || s.text == "-")
}

// String is the value as errors show it.
func (s *scalar) String() string {
	switch s.kind {
	case aText:
		return strconv.Quote(cut(s.text))
	case aNumber:
		return strconv.FormatFloat(s.number, 'g', -1, 64)
	case aTruth:
		return strconv.FormatBool(s.truth)
	default:
		return "null"
	}
}

// mostShown is how much of a text errors show, in bytes.
const mostShown = 64

// cut is the start of a text that may be of any length and have any bytes.
func cut(s string) string {
	if len(s) > mostShown {
		return traffic.Clean(s[:mostShown]) + "…"
	}
	return traffic.Clean(s)
}

// asNumber reads texts too: many write every value as one.
func (s *scalar) asNumber() (n float64, ok bool) {
	switch s.kind {
	case aNumber:
		return s.number, !math.IsNaN(s.number)
	case aText:
		return parseNumber(s.text)
	default:
		return 0, false
	}
}

// parseNumber takes what JSON takes for a number, and perhaps a plus or zeros before it.
func parseNumber(s string) (n float64, ok bool) {
	if strings.Trim(s, "+-.eE0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

func (s *scalar) asTime() (at time.Time, ok bool) {
	n, isNumber := s.asNumber()
	switch {
	case s.kind == aNumber && s.isWhole:
		return sinceEpoch(s.whole), true
	case isNumber:
		if whole, err := strconv.ParseInt(s.text, 10, 64); err == nil {
			return sinceEpoch(whole), true
		}
		return sinceEpochFloat(n)
	case s.kind == aText:
		return parseTime(strings.Trim(s.text, "[]"))
	}
	return at, false
}

// sinceEpochFloat is sinceEpoch for a number with decimals, which count in seconds only. A float64 has
// no nanoseconds of our days.
func sinceEpochFloat(n float64) (at time.Time, ok bool) {
	const seconds, microsInSecond = 1e11, 1e6
	switch {
	case n < 0 || n >= math.MaxInt64:
		return at, false
	case n >= seconds:
		return sinceEpoch(int64(n)), true
	}
	return time.UnixMicro(int64(math.Round(n * microsInSecond))), true
}

// sinceEpoch tells the unit by the size: seconds reach to the year 5138, and so on.
func sinceEpoch(n int64) time.Time {
	const seconds, millis, micros = 1e11, 1e14, 1e17
	switch {
	case n < seconds:
		return time.Unix(n, 0)
	case n < millis:
		return time.UnixMilli(n)
	case n < micros:
		return time.UnixMicro(n)
	}
	return time.Unix(0, n)
}

// parseTime takes RFC 3339, also with a space in place of the T, +0000 as a zone, or none (UTC).
func parseTime(s string) (at time.Time, ok bool) {
	for _, layout := range [...]string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z0700", "2006-01-02T15:04:05", time.DateTime} {
		if at, err := time.Parse(layout, s); err == nil {
			return at, true
		}
	}
	return at, false
}
