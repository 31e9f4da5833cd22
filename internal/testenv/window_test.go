package testenv_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// A test that counts in a window begins far from the window's end.
func TestInOneWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Date(2026, 12, 18, 0, 0, 0, 0, time.UTC) // the 57th year of 365 days
		for _, c := range []struct{ begin, want time.Time }{
			{end.Add(-2 * time.Minute), end.Add(-2 * time.Minute)},
			{end.Add(-time.Minute), end},
			{end, end},
		} {
			<-time.After(time.Until(c.begin))
			testenv.InOneWindow(t, testenv.Year)
			if got := time.Now(); !got.Equal(c.want) {
				t.Errorf("from %s on it goes on at %s, want %s", c.begin, got.UTC(), c.want)
			}
		}
	})
}
