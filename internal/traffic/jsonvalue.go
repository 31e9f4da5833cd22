package traffic

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tps-agent/ratelimitd/internal/validjson"
)

// What stands here reads JSON that encoding/json has found valid: so it need not look for an end that
// is missing.

// value is what stands between the white space of a valid text.
func value(b []byte) []byte { return bytes.Trim(b, " \t\r\n") }

// eachMember shows the members of an object in order: their names, quoted, and their values.
func eachMember(object []byte, each func(name, value []byte)) {
	for i := validjson.SkipSpace(object, 1); object[i] != '}'; {
		if object[i] == ',' {
			i = validjson.SkipSpace(object, i+1)
		}
		nameEnd := validjson.ValueEnd(object, i)
		at := validjson.SkipSpace(object, validjson.SkipSpace(object, nameEnd)+1) // over the colon
		end := validjson.ValueEnd(object, at)
		each(object[i:nameEnd], object[at:end])
		i = validjson.SkipSpace(object, end)
	}
}

// text reads a string; it does not look for bytes that are no UTF-8.
func text(v []byte) (s, reason string) {
	if v[0] != '"' {
		return "", "is no text"
	}
	v = v[1 : len(v)-1]
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v), ""
	}
	out := make([]byte, 0, len(v))
	for len(v) > 0 {
		if v[0] != '\\' {
			out, v = append(out, v[0]), v[1:]
			continue
		}
		r, size := escaped(v)
		if r == utf8.RuneError && size == 0 { // Go would make it U+FFFD: another name
			return "", "has one half of a surrogate pair"
		}
		out, v = utf8.AppendRune(out, r), v[size:]
	}
	return string(out), ""
}

// escaped reads the escape at the start of v; its size is 0 for one half of a surrogate pair.
func escaped(v []byte) (r rune, size int) {
	const plain, unicodeSize = 2, 6 // \n and \u000a
	if at := strings.IndexByte(`"\/bfnrt`, v[1]); at >= 0 {
		return rune("\"\\/\b\f\n\r\t"[at]), plain
	}
	r = codeUnit(v)
	if !utf16.IsSurrogate(r) {
		return r, unicodeSize
	}
	if pair := utf16.DecodeRune(r, codeUnit(v[unicodeSize:])); pair != utf8.RuneError {
		return pair, 2 * unicodeSize
	}
	return utf8.RuneError, 0
}

// codeUnit is what the \u escape at the start of v stands for; -1 where there is none.
func codeUnit(v []byte) rune {
	const size = len(`\u0000`)
	if len(v) < size || v[0] != '\\' || v[1] != 'u' {
		return -1
	}
	code, err := strconv.ParseUint(string(v[2:size]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(code)
}

func isNumber(v []byte) bool { return v[0] == '-' || (v[0] >= '0' && v[0] <= '9') }

// millisecondsOf reads a number of milliseconds: exactly, if it has no more than six decimals and no
// exponent, else to the nearest nanosecond that a float64 has.
func millisecondsOf(v []byte, most time.Duration) (d time.Duration, reason string) {
	if !isNumber(v) {
		return 0, "is no number"
	}
	ns, exact := plainMilliseconds(v)
	if !exact {
		ms, err := strconv.ParseFloat(string(v), 64)
		if err != nil || ms < 0 || ms > float64(most/time.Millisecond) {
			return 0, outside(most)
		}
		ns = int64(math.Round(ms * float64(time.Millisecond)))
	}
	if ns > int64(most) {
		return 0, outside(most)
	}
	return time.Duration(ns), ""
}

func outside(most time.Duration) string {
	return fmt.Sprintf("is not within 0 to %d", most/time.Millisecond)
}

// plainMilliseconds reads digits with at most six decimals, in nanoseconds; false for other forms, and
// for more than thirty years.
func plainMilliseconds(v []byte) (ns int64, ok bool) {
	const mostDigits, mostDecimals = 12, 6
	whole, decimals, _ := bytes.Cut(v, []byte{'.'})
	if len(whole) > mostDigits || len(decimals) > mostDecimals {
		return 0, false
	}
	for _, part := range [2][]byte{whole, decimals} {
		for _, c := range part {
			if c < '0' || c > '9' {
				return 0, false
			}
			ns = 10*ns + int64(c-'0')
		}
	}
	for range mostDecimals - len(decimals) {
		ns *= 10
	}
	return ns, true
}

// appendMilliseconds appends all that a duration has: up to six decimals.
func appendMilliseconds(b []byte, d time.Duration) []byte {
	b = strconv.AppendInt(b, int64(d/time.Millisecond), 10)
	rest := d % time.Millisecond
	if rest == 0 {
		return b
	}
	at := len(b)
	b = strconv.AppendInt(b, int64(time.Millisecond+rest), 10) // a 1, then six digits
	b[at] = '.'
	return bytes.TrimRight(b, "0")
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// shown is a JSON value as messages have it.
func shown(v []byte) string {
	const longestShown = 64
	if len(v) > longestShown {
		return strings.ToValidUTF8(string(v[:longestShown]), "\uFFFD") + "…"
	}
	return strings.ToValidUTF8(string(v), "\uFFFD")
}
