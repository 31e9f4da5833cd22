package traffic

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Transaction is one finished request, or one finished TCP connection.
type Transaction struct {
	Domain     string        // of the decision; empty where none is known
	Gateway    string        // NoGateway where nothing tells one
	Endpoint   string        // empty = none
	At         time.Time     // when it ended; rows keep microseconds
	Duration   time.Duration // less Waited
	Waited     time.Duration // held by a limit
	StatusCode int32         // 0 = no response, or no HTTP
	Success    bool          // false where Throttled is true
	Throttled  bool          // refused by a limit
}

// NoGateway is the gateway of a transaction of which nothing tells one.
const NoGateway = "-"

// MaxName is the longest name that is stored, in bytes.
const MaxName = 255

// The bounds of what is believed of a transaction.
const (
	MaxDuration = 366 * 24 * time.Hour // a longer one is taken for this
	MaxWaited   = 30 * time.Minute     // the longest that a limit can hold; more is not believed
	OldestAt    = 366 * 24 * time.Hour // before now
	NewestAt    = 24 * time.Hour       // ahead of the clock of this host
)

// Believable tells whether a transaction that is seen now can have ended at that time.
func Believable(at, now time.Time) bool {
	return !at.Before(now.Add(-OldestAt)) && !at.After(now.Add(NewestAt))
}

// Clean makes a name fit to be stored and shown: at most MaxName bytes of valid UTF-8 without
// control characters, for which U+FFFD stands. The result may share the memory of s.
func Clean(s string) string {
	if len(s) > MaxName {
		cut := MaxName
		for back := 0; back < utf8.UTFMax && cut > 0 && !utf8.RuneStart(s[cut]); back++ {
			cut--
		}
		s = s[:cut]
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	replaced := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, s)
	for len(replaced) > MaxName { // U+FFFD is longer than what it stands for
		_, size := utf8.DecodeLastRuneInString(replaced)
		replaced = replaced[:len(replaced)-size]
	}
	return replaced
}
