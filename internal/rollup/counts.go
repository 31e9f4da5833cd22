package rollup

import (
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// Key is what is counted by. Endpoint is empty for transactions that name none.
type Key struct {
	Domain, Gateway, Endpoint string
}

// gateway is the key without its endpoint.
func (k Key) gateway() Key { return Key{Domain: k.Domain, Gateway: k.Gateway} }

// Compare orders keys by domain, gateway and endpoint.
func (k Key) Compare(o Key) int {
	if c := strings.Compare(k.Domain, o.Domain); c != 0 {
		return c
	}
	if c := strings.Compare(k.Gateway, o.Gateway); c != 0 {
		return c
	}
	return strings.Compare(k.Endpoint, o.Endpoint)
}

// Counts are the figures of the transactions of one key in one span of time. Counts add up: merging
// those of parts gives those of the whole. A number that would overflow stays at the largest. The
// zero Counts are those of no transaction. A copy shares the memory of the histogram: see
// [Counts.Clone].
//
// Durations, that is Duration and Histogram, are of the transactions that were not throttled only:
// a refusal takes microseconds, and many of them would hide how slow the upstream is.
type Counts struct {
	Requests  int64 // all transactions
	Successes int64
	Throttled int64 // refused by a limit
	Held      int64 // waited at a limit, throttled at the end or not
	Waited    Total // of all
	Duration  Total // of those not throttled
	Histogram Histogram
}

// Add counts a transaction.
func (c *Counts) Add(t *traffic.Transaction) {
	c.Requests = addUp(c.Requests, 1)
	if t.Success {
		c.Successes = addUp(c.Successes, 1)
	}
	if t.Waited > 0 {
		c.Held = addUp(c.Held, 1)
		c.Waited.Add(t.Waited)
	}
	if t.Throttled {
		c.Throttled = addUp(c.Throttled, 1)
		return
	}
	c.Duration.Add(max(t.Duration, 0))
	c.Histogram.Add(t.Duration, 1)
}

// Merge adds what o has counted.
func (c *Counts) Merge(o *Counts) {
	c.Requests = addUp(c.Requests, o.Requests)
	c.Successes = addUp(c.Successes, o.Successes)
	c.Throttled = addUp(c.Throttled, o.Throttled)
	c.Held = addUp(c.Held, o.Held)
	c.Waited.Merge(o.Waited)
	c.Duration.Merge(o.Duration)
	c.Histogram.Merge(&o.Histogram)
}

// Clone returns a copy that shares no memory with c.
func (c *Counts) Clone() Counts {
	out := *c
	out.Histogram = c.Histogram.Clone()
	return out
}

// Mean returns the mean duration of those not throttled, 0 where there are none.
func (c *Counts) Mean() time.Duration {
	n := c.Requests - c.Throttled
	if n <= 0 {
		return 0
	}
	return time.Duration(c.Duration.US/n) * time.Microsecond
}
