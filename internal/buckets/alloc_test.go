//go:build !race

package buckets

import (
	"testing"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// TestAllocDecide: a decision allocates nothing, whatever it is, once its buckets are there.
// The race detector allocates itself, so that the file is built without it only.
func TestAllocDecide(t *testing.T) {
	gateways := ask(1, "gw", "ep")
	gateways.Descriptors = append(gateways.Descriptors, descriptor(1, "gw2", "ep"))
	override := ask(1, "gw", "ep")
	override.Descriptors[0].Override, override.Descriptors[0].OverrideWindowNS = 1e9, 60*sec
	brought := count(1, "brought", nil)
	brought.Descriptors[0].Override, brought.Descriptors[0].OverrideWindowNS = 1e9, 60*sec
	cases := []struct {
		name string
		r    *Request
		want Code
	}{
		{"gateway and endpoint, admitted", ask(1, "gw", "ep"), OK},
		{"gateway and endpoint, refused by the endpoint", ask(1, "gw", "none"), OverLimit},
		{"gateway and endpoint, refused by the gateway", ask(1, "never", "ep"), OverLimit},
		{"gateway and endpoint, check only", ask(0, "gw", "ep"), OK},
		{"patterns", ask(1, "any", "thing"), OK},
		{"value of a key", ask(1, "gw", "ep", Entry{"user", "alice"}), OK},
		{"two windows", ask(1, "gw", "two"), OK},
		{"fixed window", ask(1, "gw", "fixed"), OK},
		{"sliding window", ask(1, "gw", "sliding"), OK},
		{"given back", refund(1, "gw", "sliding"), OK},
		{"default limit", ask(1, "unknown", ""), OverLimit},
		{"two gateways", gateways, OK},
		{"override", override, OK},
		{"counter", count(1, "k", limits.Window(1e9, 60, limits.FixedWindow, false)), OK},
		{"counter of an override", brought, OK},
		{"counter, refused", count(1, "none", limits.Window(0, 60, limits.FixedWindow, false)), OverLimit},
	}
	two, fixed, sliding := row(1e9, 1e9, "gw", "two"), row(1e9, 1e9, "gw", "fixed"), row(1e9, 1e9, "gw", "sliding")
	w := newWorld(t, Config{DefaultMaxTPS: 1}, two, windowOf(two, limits.TokenBucket, 86_400),
		windowOf(fixed, limits.FixedWindow, 60), windowOf(sliding, limits.SlidingWindow, 60),
		row(1e9, 1e9, "gw"), row(1e9, 1e9, "gw", "ep"), row(0, 0, "gw", "none"), row(0, 0, "never"), row(1e9, 1e9, "gw2"),
		row(1e9, 1e9, "a*"), row(1e9, 1e9, "a*", "*"), row(1e9, 1e9, "gw", "", "user"))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var d Decision
			nowNS := int64(1)
			decide := func() {
				nowNS++
				if c.r.ChargeEach {
					w.engine.ChargeEach(nowNS, c.r, &d)
				} else if _, err := w.engine.decide(nowNS, c.r, int64(MaxWait), &d); err != nil {
					t.Fatal(err)
				}
			}
			decide()
			decide()
			if got := testing.AllocsPerRun(1000, decide); got != 0 || d.Code != c.want {
				t.Errorf("decide(%+v) = %v with %v allocations, want %v with 0", *c.r, d.Code, got, c.want)
			}
		})
	}
}
