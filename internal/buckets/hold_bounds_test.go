package buckets

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestBoundByDeadline(t *testing.T) {
	cases := []struct{ maxWait, left, want time.Duration }{
		{-1, 3 * time.Millisecond, 0},
		{-1, 100 * time.Millisecond, 95 * time.Millisecond},
		{-1, time.Second, 990 * time.Millisecond},
		{-1, time.Minute, time.Minute - 100*time.Millisecond},
		{-1, -time.Second, 0},
		{500 * time.Millisecond, time.Second, 500 * time.Millisecond},
		{2 * time.Second, time.Second, 990 * time.Millisecond},
		{0, time.Second, 0},
	}
	for _, c := range cases {
		if got := boundByDeadline(c.maxWait, c.left); got != c.want {
			t.Errorf("boundByDeadline(%v, %v) = %v, want %v", c.maxWait, c.left, got, c.want)
		}
	}
}

func TestHoldWithinTheCallersTime(t *testing.T) {
	cases := []struct {
		name              string
		deadline, maxWait time.Duration
		want              string
	}{
		{"deadline less its margin is too early", time.Second, -1, "OVER_LIMIT"},
		{"deadline less its margin is enough", 1020 * time.Millisecond, -1, "OK"},
		{"own bound is too low", time.Minute, 999 * time.Millisecond, "OVER_LIMIT"},
		{"own bound is enough", time.Minute, time.Second, "OK"},
		{"no waiting wanted", time.Minute, 0, "OVER_LIMIT"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Config{}, rows(waiting(10_000, 1, 1, "gw")), func(q *queueTest) {
				q.drain(ask(1, "gw", ""))
				ctx, cancel := context.WithTimeout(q.tb.Context(), c.deadline)
				defer cancel()
				var d Decision
				if err := q.engine.Do(ctx, ask(1, "gw", ""), c.maxWait, &d); err != nil || d.Code.String() != c.want {
					t.Errorf("deadline in %v, at most %v: %v, %v, want %s", c.deadline, c.maxWait, d.Code, err, c.want)
				}
			})
		})
	}
}

// TestHoldRefusedAtItsDeadline: on arrival its turn could have come in time.
func TestHoldRefusedAtItsDeadline(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(1500, 1, 1, "gw")), func(q *queueTest) {
		q.drain(ask(1, "gw", "A"))
		q.call("a", ask(1, "gw", "A"))
		b := q.call("b", ask(1, "gw", "B"))
		q.elapse(10 * time.Second)
		q.want("a OK after 1s", "b OVER_LIMIT after 1.5s")
		if got := b.d.Statuses[0]; got.Code != OverLimit || got.ResetNS != 500*ms || got.Limit.Name() != "gw" {
			t.Errorf("status at the deadline = %+v, want OVER_LIMIT by gw, reset after 500 ms", got)
		}
	})
}

func TestHoldWaitersAreBounded(t *testing.T) {
	inBubble(t, Config{MaxWaiters: 2}, rows(waiting(10_000, 10, 1, "gw")), func(q *queueTest) {
		q.drain(ask(1, "gw", ""))
		q.call("a", ask(1, "gw", ""))
		q.call("b", ask(1, "gw", ""))
		c := q.call("c", ask(1, "gw", ""))
		if s := q.engine.Stats(); c.d.BoundHit != "waiters" || s.Waiters != 2 || s.WaitersRefused != 1 {
			t.Errorf("third of two waiters: bound %q, %+v, want bound waiters, 2 waiters, 1 refused", c.d.BoundHit, s)
		}
		q.elapse(time.Second)
		q.want("a OK after 100ms", "b OK after 200ms", "c OVER_LIMIT at once")
	})
}

func TestHoldMemoryOfOneWaiterIsBounded(t *testing.T) {
	many := ask(1, "gw", "")
	for range 100 {
		many.Descriptors = append(many.Descriptors, Descriptor{Hits: 1, MaxWaitMS: -1})
	}
	entries := ask(1, "gw", "")
	entries.Descriptors[0].Entries = make([]Entry, 1000)
	for name, r := range map[string]*Request{
		"names":       ask(1, "gw", "", Entry{"key", strings.Repeat("x", maxWaiterBytes)}),
		"descriptors": many,
		"entries":     entries,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, rows(waiting(10_000, 10, 1, "gw")), func(q *queueTest) {
				q.drain(ask(1, "gw", ""))
				if c := q.call("x", r); c.String() != "x OVER_LIMIT at once" || c.d.BoundHit != "waiters" {
					t.Errorf("%s, bound %q, want x OVER_LIMIT at once, bound waiters", c, c.d.BoundHit)
				}
			})
		})
	}
}

// TestHoldDecisionIsUsedAgain: a pooled Decision that was held, refused and cancelled before.
func TestHoldDecisionIsUsedAgain(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 1, "gw")), func(q *queueTest) {
		var d Decision
		for i := range 3 {
			ctx, cancel := context.WithTimeout(q.tb.Context(), time.Minute)
			q.engine.decideOnce(t, ask(1, "gw", ""))
			err := q.engine.Do(ctx, ask(1, "gw", ""), -1, &d)
			if err != nil || d.Code != OK || d.WaitedNS != 100*ms {
				t.Fatalf("round %d: %v after %d ns, %v, want OK after 100 ms", i, d.Code, d.WaitedNS, err)
			}
			cancel()
			if err := q.engine.Do(ctx, ask(1, "gw", ""), -1, &d); !errors.Is(err, context.Canceled) {
				t.Fatalf("round %d, cancelled before: %v, %v", i, d.Code, err)
			}
			d.Release()
			q.elapse(time.Second)
		}
	})
}

// decideOnce takes a token that is there.
func (e *Engine) decideOnce(t *testing.T, r *Request) {
	t.Helper()
	var d Decision
	if _, err := e.decide(e.clock.NowNS(), r, 0, &d); err != nil || d.Code != OK {
		t.Fatalf("taking what is there: %v, %v, want OK", d.Code, err)
	}
}
