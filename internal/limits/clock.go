package limits

import "time"

// Clock tells the engine's time: nanoseconds on the monotonic clock since the Clock
// was made. It is never set back when an operator or NTP sets the wall clock.
// The zero Clock reads the wall clock's age since year 1 and is of no use: make one
// with [NewClock].
type Clock struct{ start time.Time }

// NewClock returns a Clock that stands at 1, so that 0 always means "never".
func NewClock() Clock { return Clock{start: time.Now().Add(-1)} }

// NowNS returns the nanoseconds since the Clock was made.
func (c Clock) NowNS() int64 { return int64(time.Since(c.start)) }
