package buckets

import (
	"testing"
	"time"
)

func (q *queueTest) drainWithin(d time.Duration) { q.engine.Drain(q.clock.NowNS() + int64(d)) }

// refusedProperly tells whether the answer of c tells the client when to come again.
func (c *call) refusedProperly() bool {
	s := c.d.Statuses[0]
	return c.err == nil && c.d.Code == OverLimit && s.Code == OverLimit && s.ResetNS > 0 && s.Limit != nil
}

func TestDrainRefusesAtOnceWhoCannotBeServed(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 1, "gw", "ep")), func(q *queueTest) {
		q.drain(ask(1, "gw", "ep"))
		for _, name := range []string{"a", "b", "c", "d"} {
			q.call(name, ask(1, "gw", "ep"))
		}
		q.elapse(50 * time.Millisecond)
		q.drainWithin(200 * time.Millisecond)
		q.elapse(0)
		q.want("a waits", "b waits", "c OVER_LIMIT after 50ms", "d OVER_LIMIT after 50ms")
		for _, c := range q.calls[2:] {
			if !c.refusedProperly() {
				t.Errorf("%s: %+v, want a status of OVER_LIMIT with a wait", c, c.d.Statuses)
			}
		}
		q.elapse(time.Second)
		q.want("a OK after 100ms", "b OK after 200ms", "c OVER_LIMIT after 50ms", "d OVER_LIMIT after 50ms")
	})
}

func TestDrainBoundsNewcomers(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 1, "gw", "ep")), func(q *queueTest) {
		q.drain(ask(1, "gw", "ep"))
		q.drainWithin(150 * time.Millisecond)
		q.call("a", ask(1, "gw", "ep"))
		q.call("b", ask(1, "gw", "ep"))
		q.elapse(160 * time.Millisecond)
		q.call("after the end", ask(1, "gw", "ep"))
		q.want("a OK after 100ms", "b OVER_LIMIT at once", "after the end OVER_LIMIT at once")
	})
}

// TestDrainEndsEveryWait: lanes share a gateway, and each alone would have been in time.
func TestDrainEndsEveryWait(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 1, "gw")), func(q *queueTest) {
		q.drain(ask(1, "gw", "A"))
		for _, name := range []string{"A", "B", "C", "D"} {
			q.call(name, ask(1, "gw", name))
		}
		q.drainWithin(250 * time.Millisecond)
		q.elapse(time.Second)
		q.want("A OK after 100ms", "B OK after 200ms", "C OVER_LIMIT after 250ms", "D OVER_LIMIT after 250ms")
		for _, c := range q.calls[2:] {
			if !c.refusedProperly() {
				t.Errorf("%s: %+v, want a status of OVER_LIMIT with a wait", c, c.d.Statuses)
			}
		}
	})
}

// TestDrainServesThoseBehindOneThatKeeps: with the head that kept the tokens gone, there is
// room for the one behind it.
func TestDrainServesThoseBehindOneThatKeeps(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 5, "gw")), func(q *queueTest) {
		q.drain(ask(5, "gw", "A"))
		q.call("first", ask(5, "gw", "A"))
		q.call("keeps", ask(5, "gw", "B"))
		q.call("small", ask(1, "gw", "C"))
		q.drainWithin(650 * time.Millisecond)
		q.elapse(time.Second)
		q.want("first OK after 500ms", "keeps OVER_LIMIT after 650ms", "small OK after 650ms")
	})
}

func TestDrainRefusesTheStuck(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 5, "gw")), func(q *queueTest) {
		q.drain(ask(5, "gw", "A"))
		q.call("stuck", ask(3, "gw", "A"))
		q.change(waiting(10_000, 10, 1, "gw"))
		q.drainWithin(time.Second)
		q.elapse(0)
		q.want("stuck OVER_LIMIT after 0s")
	})
}
