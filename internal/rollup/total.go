package rollup

import "time"

// Total is a sum of durations, exact to the nanosecond, that reaches as far as microseconds do: 292,000
// years, where it stays. A Duration ends at 292 years, which a busy month comes to.
type Total struct {
	US int64 // whole microseconds
	NS int32 // nanoseconds beyond these, below 1000
}

// TotalOf is the Total of so many milliseconds, which are not below 0, to the nearest microsecond: of up to
// 285 years none is lost.
func TotalOf(ms float64) Total {
	const perMS, half = 1000, 0.5
	return Total{US: int64(ms*perMS + half)}
}

// Add adds a duration that is not below 0.
func (t *Total) Add(d time.Duration) {
	t.Merge(Total{d.Microseconds(), int32(d % time.Microsecond)})
}

// Merge adds another total.
func (t *Total) Merge(o Total) {
	ns := time.Duration(t.NS + o.NS)
	t.US = addUp(addUp(t.US, o.US), ns.Microseconds())
	t.NS = int32(ns % time.Microsecond)
}

// Milliseconds returns what Postgres is told, which is exact to the nanosecond up to some 100 days.
func (t Total) Milliseconds() float64 {
	const usPerMS, nsPerMS = 1e3, 1e6
	return float64(t.US)/usPerMS + float64(t.NS)/nsPerMS
}
