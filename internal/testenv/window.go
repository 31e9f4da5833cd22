package testenv

import (
	"testing"
	"time"
)

// Windows of time as limits count them: from 1970 on.
const (
	Year     = 365 * 24 * time.Hour // of unit: year
	LeapYear = Year + 24*time.Hour
)

// InOneWindow returns at once, unless the window of this length ends soon: then it waits until the next
// one has begun, so that what the test counts in it stays counted.
func InOneWindow(tb testing.TB, length time.Duration) {
	tb.Helper()
	const test = 2 * time.Minute // more than a test takes
	if left := length - time.Duration(time.Now().UnixNano())%length; left < test {
		tb.Logf("waiting for %s until a window of %s ends", left, length)
		<-time.After(left)
	}
}
