package main

import (
	"testing"
	"time"
)

// A what-if reaches as far back as counts per second are kept.
func TestWhatIsKept(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2026, 11, 26, 12, 0, 0, 5, time.UTC)
	for _, c := range []struct{ asked, keep, want time.Duration }{
		{10 * day, 7 * day, 7*day + 5},
		{7*day + time.Second, 7 * day, 7*day + time.Second}, // asked for when it was the default, a moment ago
		{day, 7 * day, day},
		{10 * day, 0, 10 * day},
	} {
		if got := now.Sub(kept(now.Add(-c.asked), c.keep, now)); got != c.want {
			t.Errorf("of %v, where %v is kept, there are %v, want %v", c.asked, c.keep, got, c.want)
		}
	}
}
