package limits

import "time"

// Clock tells the engine's time: nanoseconds since 1970 (UTC), by the wall clock at the instant at
// which the Clock was made and by the monotonic clock since then. It is never set back, and does
// not follow when an operator or NTP sets the wall clock; fixed windows are aligned by it.
// The zero Clock is of no use: make one with [NewClock].
type Clock struct {
	start   time.Time
	startNS int64
}

// NewClock returns a Clock. A host whose clock is before 1970 begins there.
func NewClock() Clock { return ClockAt(time.Now().UnixNano()) }

// ClockAt returns a Clock that stands at an instant: for tests, and for what is replayed.
func ClockAt(unixNS int64) Clock { return Clock{start: time.Now(), startNS: max(unixNS, 1)} }

// NowNS returns the engine's time, which is never 0: 0 always means "never".
func (c Clock) NowNS() int64 { return c.startNS + int64(time.Since(c.start)) }
