package limits

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of a row; the CHECK constraints of tps_limits say the same.
const (
	MaxMaxTPS     = 1_000_000_000
	MaxBurst      = 1_000_000_000
	MaxMaxWaitMS  = 1_800_000
	MaxNameBytes  = 255
	MaxNoteBytes  = 4096
	MaxPerSeconds = 31_622_400 // 366 days

	// DefaultMaxTPS is the max_tps of a row that does not say one.
	DefaultMaxTPS = 1000
)

// Key names a row. Gateway and Endpoint may hold `*`, which stands for any bytes, none
// included. An empty Endpoint or Per is the NULL of the database: no endpoint (the row
// limits the whole gateway), no key (all values together). An empty Domain is the common
// domain, whose rows apply to every other one.
type Key struct {
	Domain   string
	Gateway  string
	Endpoint string
	Per      string
	// PerSeconds is the length of the window in seconds, up to MaxPerSeconds. 0 stands for 1, as
	// Canonical makes it: rows of different windows are different rows, and all of them apply.
	PerSeconds int64
}

// Canonical is the key with a window of one second written as 0, so that equal keys are ==.
func (k Key) Canonical() Key {
	if k.PerSeconds == 1 {
		k.PerSeconds = 0
	}
	return k
}

// Seconds is the length of the window.
func (k Key) Seconds() int64 { return cmp.Or(k.PerSeconds, 1) }

// Dim is the dimension of the row.
func (k Key) Dim() Dim { return Dim{Per: k.Per, PerSeconds: k.Canonical().PerSeconds} }

// Dim is what rows of one gateway and endpoint differ in when all of them apply: the descriptor
// key whose values have the limit each, and the window. The zero Dim is all requests together,
// per second.
type Dim struct {
	Per        string
	PerSeconds int64 // 0 = 1
}

// Compare orders dimensions by key, then by window.
func (d Dim) Compare(o Dim) int {
	return cmp.Or(strings.Compare(d.Per, o.Per), cmp.Compare(d.PerSeconds, o.PerSeconds))
}

// Compare orders keys by domain, gateway, endpoint, per, per_seconds.
func (k Key) Compare(o Key) int {
	for _, p := range [4][2]string{{k.Domain, o.Domain}, {k.Gateway, o.Gateway}, {k.Endpoint, o.Endpoint}, {k.Per, o.Per}} {
		if c := strings.Compare(p[0], p[1]); c != 0 {
			return c
		}
	}
	return cmp.Compare(k.Seconds(), o.Seconds())
}

// Label is the name of the limit as answers show it: `gw`, `gw/ep`, `gw{per}` or `gw/ep{per}`,
// with `;w=SECONDS` where the window is not one second.
func (k Key) Label() string {
	s := k.Gateway
	if k.Endpoint != "" {
		s += "/" + k.Endpoint
	}
	if k.Per != "" {
		s += "{" + k.Per + "}"
	}
	if k.Seconds() > 1 {
		s += ";w=" + strconv.FormatInt(k.PerSeconds, 10)
	}
	return s
}

// String names the row in messages.
func (k Key) String() string {
	window := ""
	if k.Seconds() > 1 {
		window = fmt.Sprintf(", per_seconds %d", k.PerSeconds)
	}
	return fmt.Sprintf("(domain %q, gateway %q, endpoint %q, per %q%s)", k.Domain, k.Gateway, k.Endpoint, k.Per, window)
}

// Validate returns all faults of the key at once, each as a [FieldError].
func (k Key) Validate() error {
	return errors.Join(
		checkName("domain", k.Domain, true),
		checkName("gateway", k.Gateway, false),
		checkName("endpoint", k.Endpoint, true),
		checkName("per", k.Per, true),
		checkRange("per_seconds", k.Seconds(), 1, MaxPerSeconds),
	)
}

// Limit is one row of tps_limits or of the limits file.
type Limit struct {
	Key
	MaxTPS    int64     // transactions per window, 0 to MaxMaxTPS; 0 refuses everything
	Algorithm Algorithm // how room comes back; the zero Algorithm is TokenBucket
	Enabled   bool      // false: this level has no limit, and yet a row that matches
	Burst     int64     // capacity of a token bucket, 1 to MaxBurst; 0 = NULL: DefaultBurst
	MaxWaitMS int64     // a request without room may wait this long, 0 to MaxMaxWaitMS; 0 = refused at once
	Shadow    bool      // decides and counts, never refuses or holds
	Note      string    // free text of the operator, at most MaxNoteBytes
	CreatedAt time.Time // zero in a row that was never stored
	UpdatedAt time.Time // zero in a row that was never stored
	Version   int64     // id of the change that made the row what it is; 0 = never stored
	compiled            // set by NewTable and Apply
}

// compiled is what a request needs of a Limit, worked out once.
type compiled struct {
	rate    Rate
	burst   uint64
	label   string
	sinceNS int64
	born    uint64
}

// Rate is the speed of refill.
func (l *Limit) Rate() Rate { return l.rate }

// WindowNS is the length of the window in nanoseconds.
func (l *Limit) WindowNS() int64 { return l.Seconds() * int64(time.Second) }

// Capacity is the number of tokens of a full bucket: Burst, or DefaultBurst where that is
// 0, and MaxTPS for the algorithms that have windows; always 0 when MaxTPS is 0.
func (l *Limit) Capacity() uint64 { return l.burst }

// Name is Label made fit for headers: printable ASCII without `"`, `\` and `%`; every other
// byte is percent-encoded. Empty for an override.
func (l *Limit) Name() string { return l.label }

// SinceNS is the engine's time at which the limit came into force as it is.
func (l *Limit) SinceNS() int64 { return l.sinceNS }

// Born tells two rows of the same key apart when one was deleted before the other was made.
func (l *Limit) Born() uint64 { return l.born }

// DefaultBurst is the capacity of a row per second that says none: max(⌈tps/10⌉, min(tps, 10)),
// a tenth of a second but room for ten. A longer window has room for the whole number.
func DefaultBurst(maxTPS int64) int64 { return max((maxTPS+9)/10, min(maxTPS, 10)) }

func (l *Limit) capacity() int64 {
	switch {
	case l.MaxTPS <= 0:
		return 0
	case l.Algorithm != TokenBucket:
		return l.MaxTPS
	case l.Burst > 0:
		return l.Burst
	case l.Seconds() > 1:
		return l.MaxTPS
	}
	return DefaultBurst(l.MaxTPS)
}

// Compile returns a copy of l that can be used in a bucket without a table around it: the
// default limit, or one that a request brought along. sinceNS is the engine's time.
func (l Limit) Compile(sinceNS int64) *Limit {
	l.Key = l.Canonical()
	l.rate = NewRate(uint64(max(l.MaxTPS, 0)), l.WindowNS())
	l.burst = uint64(l.capacity()) //nolint:gosec // never negative
	l.label = HeaderSafe(l.Label())
	l.sinceNS = sinceNS
	return &l
}

// Override returns the limit that a descriptor brought along: n requests per windowNS
// nanoseconds. It has no name, never holds, and its capacity is the default burst of a window
// of one second, the whole number for longer ones.
func Override(n uint32, windowNS, sinceNS int64) *Limit {
	l := &Limit{MaxTPS: int64(n), Enabled: true}
	l.rate = NewRate(uint64(n), windowNS)
	l.burst = uint64(n)
	if windowNS == int64(time.Second) {
		l.burst = uint64(DefaultBurst(int64(n))) //nolint:gosec // never negative
	}
	l.sinceNS = sinceNS
	return l
}

// Window returns the limit of a descriptor file: n requests in each window of so many seconds. It has
// no name, never holds, and the capacity of a row of that window and algorithm.
func Window(n uint32, seconds int64, a Algorithm, shadow bool) *Limit {
	l := Limit{Key: Key{PerSeconds: seconds}, MaxTPS: int64(n), Algorithm: a, Enabled: true, Shadow: shadow}.Compile(0)
	l.label = ""
	return l
}

// same tells whether two rows are equal in everything a Table looks at.
func (l *Limit) same(o *Limit) bool {
	return l.Canonical() == o.Canonical() && l.MaxTPS == o.MaxTPS && l.Algorithm == o.Algorithm && l.Enabled == o.Enabled && l.Burst == o.Burst &&
		l.MaxWaitMS == o.MaxWaitMS && l.Shadow == o.Shadow && l.Note == o.Note && l.Version == o.Version &&
		l.CreatedAt.Equal(o.CreatedAt) && l.UpdatedAt.Equal(o.UpdatedAt)
}

// CheckSeconds says whether a window that was written out has a length that it may have: 0, which a
// Key takes for 1, is none. The error is a [FieldError].
func CheckSeconds(n int64) error { return checkRange("per_seconds", n, 1, MaxPerSeconds) }

// FieldError is one fault of one field of a row. Value is what was given, cut to a length
// that fits a log line.
type FieldError struct {
	Field  string
	Value  string
	Reason string
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s %s: %s", e.Field, e.Value, e.Reason) }

// Validate returns all faults of the row at once, each as a [FieldError] inside errors.Join.
func (l *Limit) Validate() error {
	errs := []error{
		l.Key.Validate(),
		checkRange("max_tps", l.MaxTPS, 0, MaxMaxTPS),
		checkRange("max_wait_ms", l.MaxWaitMS, 0, MaxMaxWaitMS),
		checkNote(l.Note),
	}
	if l.Burst != 0 { // 0 = NULL
		errs = append(errs, checkRange("burst", l.Burst, 1, MaxBurst))
	}
	if l.Burst > 0 && l.Algorithm != TokenBucket {
		errs = append(errs, &FieldError{"burst", strconv.FormatInt(l.Burst, 10), "has no meaning with algorithm " + l.Algorithm.String() + ", which has room for max_tps"})
	}
	if l.Algorithm >= algorithms {
		errs = append(errs, &FieldError{"algorithm", strconv.Itoa(int(l.Algorithm)), "is not known"})
	}
	return errors.Join(errs...)
}

func checkRange(field string, v, lowest, highest int64) error {
	if v < lowest || v > highest {
		return &FieldError{field, strconv.FormatInt(v, 10), fmt.Sprintf("is not within %d to %d", lowest, highest)}
	}
	return nil
}

func checkName(field, s string, mayBeEmpty bool) error {
	fault := func(reason string) error { return &FieldError{field, quoteCut(s), reason} }
	switch {
	case s == "" && mayBeEmpty:
		return nil
	case s == "":
		return fault("is empty")
	case len(s) > MaxNameBytes:
		return fault(fmt.Sprintf("is longer than %d bytes", MaxNameBytes))
	case !utf8.ValidString(s):
		return fault("is not valid UTF-8")
	case strings.ContainsFunc(s, unicode.IsControl):
		return fault("has a control character")
	}
	return nil
}

func checkNote(s string) error {
	switch {
	case len(s) > MaxNoteBytes:
		return &FieldError{"note", quoteCut(s), fmt.Sprintf("is longer than %d bytes", MaxNoteBytes)}
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return &FieldError{"note", quoteCut(s), "is not valid UTF-8 text"}
	}
	return nil
}

func quoteCut(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%q… (%d bytes)", s[:64], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// HeaderSafe percent-encodes every byte of s that is not printable ASCII, and `"`, `\` and `%`.
func HeaderSafe(s string) string {
	safe := func(c byte) bool { return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '%' }
	clean := true
	for i := range len(s) {
		clean = clean && safe(s[i])
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if safe(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}
