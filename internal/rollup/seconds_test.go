package rollup

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func TestSecondsOfAKeyAndOfAGateway(t *testing.T) {
	t.Parallel()
	w := NewWindows(NewNames(100))
	now := time.Unix(1_790_000_500, 300)
	pay, report, other := Key{"edge", "gw", "pay"}, Key{"edge", "gw", "report"}, Key{"edge", "gw2", "pay"}
	add := func(key Key, ago time.Duration, n int) {
		for range n {
			w.Add(now.Add(-ago), &traffic.Transaction{Domain: key.Domain, Gateway: key.Gateway, Endpoint: key.Endpoint}, key)
		}
	}
	add(pay, 130*time.Second, 9) // too long ago
	add(pay, 120*time.Second, 1)
	add(pay, 2*time.Second, 2)
	add(report, 2*time.Second, 3)
	add(other, 2*time.Second, 7)
	add(pay, 0, 5) // this second is not over
	for key, want := range map[Key]map[int64]int64{
		pay:                     {1_790_000_380: 1, 1_790_000_498: 2},
		{"edge", "gw", ""}:      {1_790_000_380: 1, 1_790_000_498: 5},
		{"edge", "gw", "other"}: {},
		other:                   {1_790_000_498: 7},
	} {
		counts, from, to := w.Seconds(now, key)
		if diff := cmp.Diff(want, maps.Collect(counts)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", key, diff)
		}
		if from.Unix() != 1_790_000_380 || to.Unix() != 1_790_000_500 {
			t.Errorf("%+v: from %s to %s, want the 120 seconds before 1790000500", key, from, to)
		}
	}
}
