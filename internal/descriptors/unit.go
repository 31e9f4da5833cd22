package descriptors

import "strings"

// Unit is the unit of a limit. The numbers are those of RateLimitResponse.RateLimit.Unit in
// envoy.service.ratelimit.v3, and of RateLimitUnit in ratelimit.config.ratelimit.v3.
type Unit uint8

// UnitUnknown is the unit of a window that has no name, such as 30 seconds.
const (
	UnitUnknown Unit = iota
	Second
	Minute
	Hour
	Day
	Month // 30 days
	Year  // 365 days
	Week  // begins on Thursday 00:00 UTC, as 1970 did

	units
)

const day = 24 * 3600

// Seconds is the length of the unit; 0 for UnitUnknown.
func (u Unit) Seconds() int64 {
	return [units]int64{Second: 1, Minute: 60, Hour: 3600, Day: day, Week: 7 * day, Month: 30 * day, Year: 365 * day}[u.known()]
}

// String is the name of the unit in capitals, as answers show it.
func (u Unit) String() string {
	return [units]string{"UNKNOWN", "SECOND", "MINUTE", "HOUR", "DAY", "MONTH", "YEAR", "WEEK"}[u.known()]
}

func (u Unit) known() Unit {
	if u < units {
		return u
	}
	return UnitUnknown
}

// parseUnit reads the word of a file, whatever its letter case.
func parseUnit(word string) (Unit, bool) {
	word = strings.ToUpper(word)
	for u := Second; u < units; u++ {
		if word == u.String() {
			return u, true
		}
	}
	return UnitUnknown, false
}

// unitOf is the unit of exactly this length, UnitUnknown where none has it.
func unitOf(seconds int64) Unit {
	for u := Second; u < units; u++ {
		if u.Seconds() == seconds {
			return u
		}
	}
	return UnitUnknown
}
