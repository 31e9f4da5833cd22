package buckets

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// call is a request that may be held, on a goroutine of its own.
type call struct {
	name   string
	d      Decision
	err    error
	cancel context.CancelFunc
	done   atomic.Bool // the fields above may be read
}

// queueTest is a world inside a synctest bubble, with the calls in the order of their arrival.
type queueTest struct {
	*world
	calls []*call
}

// inBubble runs f where time stands still but for elapse.
func inBubble(t *testing.T, cfg Config, rows []limits.Limit, f func(*queueTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := &queueTest{world: newWorld(t, cfg, rows...)}
		f(q)
		for _, c := range q.calls {
			c.cancel()
		}
		synctest.Wait()
		if got := q.engine.Stats().Waiters; got != 0 {
			t.Errorf("waiters at the end = %d, want 0", got)
		}
	})
}

// call starts a request and returns when it was answered or waits.
func (q *queueTest) call(name string, r *Request) *call {
	return q.callWithin(name, r, -1)
}

func (q *queueTest) callWithin(name string, r *Request, maxWait time.Duration) *call {
	ctx, cancel := context.WithCancel(q.tb.Context())
	c := &call{name: name, cancel: cancel}
	q.calls = append(q.calls, c)
	go func() {
		c.err = q.engine.Do(ctx, r, maxWait, &c.d)
		c.done.Store(true)
	}()
	synctest.Wait()
	return c
}

// elapse lets time pass.
func (q *queueTest) elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// drain uses up what is there of r's limits.
func (q *queueTest) drain(r *Request) {
	q.tb.Helper()
	if d := q.decide(q.clock.NowNS(), r); d.Code != OK {
		q.tb.Fatalf("draining by %+v: %v, want OK", *r, d.Code)
	}
}

func (c *call) String() string {
	switch {
	case !c.done.Load():
		return c.name + " waits"
	case c.err != nil:
		return c.name + " " + c.err.Error()
	case !c.d.Held:
		return fmt.Sprintf("%s %v at once", c.name, c.d.Code)
	}
	return fmt.Sprintf("%s %v after %v", c.name, c.d.Code, time.Duration(c.d.WaitedNS))
}

// want compares what became of all calls, in the order of their arrival.
func (q *queueTest) want(want ...string) {
	q.tb.Helper()
	got := make([]string, len(q.calls))
	for i, c := range q.calls {
		got[i] = c.String()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		q.tb.Errorf("calls (-want +got):\n%s", diff)
	}
}

func rows(l ...limits.Limit) []limits.Limit { return l }

func TestHoldFirstComeFirstServed(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 1, "gw", "ep")), func(q *queueTest) {
		q.drain(ask(1, "gw", "ep"))
		for _, name := range []string{"a", "b", "c"} {
			q.call(name, ask(1, "gw", "ep"))
		}
		q.elapse(250 * time.Millisecond)
		q.want("a OK after 100ms", "b OK after 200ms", "c waits")
		q.call("late", ask(1, "gw", "ep"))
		q.elapse(time.Second)
		q.want("a OK after 100ms", "b OK after 200ms", "c OK after 300ms", "late OK after 150ms")
	})
}

func TestHoldManyHitsAreNotOvertakenInTheirLane(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 5, "gw", "ep")), func(q *queueTest) {
		q.drain(ask(5, "gw", "ep"))
		q.call("many", ask(5, "gw", "ep"))
		q.call("one", ask(1, "gw", "ep"))
		q.elapse(time.Second)
		q.want("many OK after 500ms", "one OK after 600ms")
	})
}

func TestHoldLanesTakeTurns(t *testing.T) {
	gateway := rows(waiting(10_000, 10, 1, "gw"))
	perUser := rows(waiting(10_000, 10, 1, "gw"), waiting(10_000, 1000, 0, "gw", "", "user"))
	user := func(name string) *Request { return ask(1, "gw", "", Entry{"user", name}) }
	cases := []struct {
		name string
		rows []limits.Limit
		a, b *Request
	}{
		{"endpoints", gateway, ask(1, "gw", "A"), ask(1, "gw", "B")},
		{"endpoint and none", gateway, ask(1, "gw", "A"), ask(1, "gw", "")},
		{"values of per", perUser, user("alice"), user("bob")},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Config{}, c.rows, func(q *queueTest) {
				q.drain(c.a)
				for _, name := range []string{"a1", "a2", "a3"} {
					q.call(name, c.a)
				}
				q.call("b1", c.b)
				q.call("b2", c.b)
				q.elapse(time.Second)
				q.want("a1 OK after 100ms", "a2 OK after 300ms", "a3 OK after 500ms", "b1 OK after 200ms", "b2 OK after 400ms")
			})
		})
	}
}

// TestHoldHeadWithManyHitsKeepsItsTurn: others would take every token that comes, and the
// head would starve.
func TestHoldHeadWithManyHitsKeepsItsTurn(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 5, "gw")), func(q *queueTest) {
		q.drain(ask(5, "gw", "A"))
		q.call("many", ask(5, "gw", "A"))
		for range 4 {
			q.elapse(100 * time.Millisecond)
			q.call("one", ask(1, "gw", "B"))
		}
		q.elapse(time.Second)
		q.want("many OK after 500ms", "one OK after 500ms", "one OK after 500ms", "one OK after 500ms", "one OK after 500ms")
	})
}

// TestHoldKeepsTheWiderBucketNext: a head keeps the gateway's tokens from the instant on at
// which its endpoint has room.
func TestHoldKeepsTheWiderBucketNext(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(60_000, 1, 8, "gw"), waiting(60_000, 1, 5, "gw", "ep")), func(q *queueTest) {
		both := &Request{Domain: "d", Descriptors: []Descriptor{descriptor(8, "gw", ""), descriptor(5, "gw", "ep")}}
		q.drain(both)
		q.call("many", both) // the endpoint has room after 5 s, the gateway after 8
		q.elapse(4 * time.Second)
		q.call("early", ask(1, "gw", "other")) // the endpoint lacks room: the gateway's token idles meanwhile
		q.elapse(2 * time.Second)
		q.call("late", ask(1, "gw", "other"))
		q.elapse(time.Minute)
		q.want("many OK after 9s", "early OK at once", "late OK after 4s")
	})
}

// TestHoldIsServedInVirtualTime: nobody looked for a while, and yet every turn counts at the
// instant at which it came.
func TestHoldIsServedInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, waiting(10_000, 10, 2, "gw", "ep"))
		w.decide(1, ask(2, "gw", "ep"))
		first, second := w.decide(1, ask(1, "gw", "ep")), w.decide(1+50*ms, ask(2, "gw", "ep"))
		late := w.decide(1+10*sec, ask(2, "gw", "ep"))
		got := [...]any{first.Code, first.WaitedNS, second.Code, second.WaitedNS, late.Code, w.engine.Stats().Waiters}
		want := [...]any{OK, 100 * ms, OK, 250 * ms, OK, int64(0)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("first, second, late, waiters (-want +got):\n%s", diff)
		}
	})
}

// TestHoldLateTimerLosesNothing: the bucket would have been full twice over, had the turns not
// counted when they came.
func TestHoldLateTimerLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, waiting(10_000, 10, 2, "gw", "ep"))
		w.decide(1, ask(2, "gw", "ep"))
		var held [4]*Decision
		for i := range held {
			held[i] = w.decide(1, ask(1, "gw", "ep"))
		}
		more := w.admitted(1+550*ms, ask(1, "gw", "ep"), 5) // 5.5 tokens came, 4 were due before
		for i, d := range held {
			if want := int64(i+1) * 100 * ms; d.Code != OK || d.WaitedNS != want {
				t.Errorf("held request %d: %v after %d ns, want OK after %d", i, d.Code, d.WaitedNS, want)
			}
		}
		if more != 1 {
			t.Errorf("admitted at 550 ms beside the held ones: %d, want 1", more)
		}
	})
}

// TestHoldDeadlineInVirtualTime: a deadline that was noticed late frees the turn all the same
// at the instant at which it came.
func TestHoldDeadlineInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, waiting(10_000, 10, 5, "gw"))
		w.decide(1, ask(5, "gw", "A"))
		first := w.decide(1, ask(5, "gw", "A"))
		short := ask(5, "gw", "B")
		short.Descriptors[0].MaxWaitMS = 600 // alone it would be served after 500
		kept := ask(1, "gw", "E")
		kept.Descriptors[0].MaxWaitMS = 550
		second, gone, third := w.decide(1, short), w.decide(1, kept), w.decide(1, ask(1, "gw", "C"))
		w.decide(1+10*sec, ask(1, "gw", "D"))
		got := [...]any{first.Code, first.WaitedNS, second.Code, second.WaitedNS, gone.Code, gone.WaitedNS, third.Code, third.WaitedNS}
		want := [...]any{OK, 500 * ms, OverLimit, 600 * ms, OverLimit, 550 * ms, OK, 600 * ms}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("first, second, gone, third (-want +got):\n%s", diff)
		}
	})
}

func TestHoldRefusedAtOnce(t *testing.T) {
	lane := func(waitMS int64) []limits.Limit { return rows(waiting(waitMS, 10, 1, "gw", "ep")) }
	descriptorWait := func(ms int64) *Request {
		r := ask(1, "gw", "ep")
		r.Descriptors[0].MaxWaitMS = ms
		return r
	}
	cases := []struct {
		name string
		rows []limits.Limit
		r    *Request
		want string
	}{
		{"turn comes in time", lane(300), ask(1, "gw", "ep"), "x waits"},
		{"turn comes too late", lane(299), ask(1, "gw", "ep"), "x OVER_LIMIT at once"},
		{"more than ever fits", lane(1000), ask(2, "gw", "ep"), "x OVER_LIMIT at once"},
		{"descriptor lowers", lane(1000), descriptorWait(299), "x OVER_LIMIT at once"},
		{"descriptor lowers to enough", lane(1000), descriptorWait(300), "x waits"},
		{"descriptor cannot raise", lane(299), descriptorWait(1000), "x OVER_LIMIT at once"},
		{"descriptor says 0", lane(1000), descriptorWait(0), "x OVER_LIMIT at once"},
		{"check only", lane(1000), ask(0, "gw", "ep"), "x OVER_LIMIT at once"},
		{"one of two that lack room does not hold", append(lane(1000), row(10, 1, "gw")), ask(1, "gw", "ep"), "x OVER_LIMIT at once"},
		{"one of two that has room does not hold", append(lane(1000), row(10, 4, "gw")), ask(1, "gw", "ep"), "x waits"},
		{"the smaller wait counts", append(lane(1000), waiting(299, 10, 1, "gw")), ask(1, "gw", "ep"), "x OVER_LIMIT at once"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Config{}, c.rows, func(q *queueTest) {
				q.drain(ask(1, "gw", "ep"))
				q.decideHeld(ask(1, "gw", "ep"))
				q.decideHeld(ask(1, "gw", "ep"))
				if got := q.call("x", c.r).String(); got != c.want {
					t.Errorf("third in the queue: %s, want %s", got, c.want)
				}
				q.elapse(time.Second)
			})
		})
	}
}

// decideHeld puts r into the queue without anyone who would take its answer. Where its limits
// do not let it wait, it is charged nothing.
func (q *queueTest) decideHeld(r *Request) {
	q.decide(q.clock.NowNS(), r)
}

func TestHoldRefusedTellsTheQueue(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(200, 10, 1, "gw", "ep")), func(q *queueTest) {
		q.drain(ask(1, "gw", "ep"))
		q.call("a", ask(1, "gw", "ep"))
		q.call("b", ask(1, "gw", "ep"))
		c := q.call("c", ask(1, "gw", "ep"))
		if got := c.d.Statuses[0]; got.Code != OverLimit || got.ResetNS != 300*ms || got.Remaining != 0 {
			t.Errorf("refused behind two: %+v, want OVER_LIMIT, reset after 300 ms", got)
		}
		q.elapse(100 * time.Millisecond)
		q.call("d", ask(1, "gw", "ep")) // only b is before it now
		q.elapse(time.Second)
		q.want("a OK after 100ms", "b OK after 200ms", "c OVER_LIMIT at once", "d OK after 200ms")
	})
}

// TestHoldCountsWhatEachBucketGives: those ahead take 50 of the gateway, and 1 of the endpoint.
func TestHoldCountsWhatEachBucketGives(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(2500, 100, 100, "gw"), waiting(2500, 1, 1, "gw", "ep")), func(q *queueTest) {
		r := &Request{Domain: "d", Descriptors: []Descriptor{descriptor(50, "gw", ""), descriptor(1, "gw", "ep")}}
		q.drain(r)
		q.call("a", r)
		q.call("b", r)
		q.elapse(3 * time.Second)
		q.want("a OK after 1s", "b OK after 2s")
	})
}

func TestHoldOnlyOneGatewayAndEndpoint(t *testing.T) {
	two := func(a, b Descriptor) *Request { return &Request{Domain: "d", Descriptors: []Descriptor{a, b}} }
	override := descriptor(1, "gw", "ep")
	override.Override, override.OverrideWindowNS = 1000, sec
	cases := []struct {
		name string
		r    *Request
		want string
	}{
		{"several gateways", two(descriptor(1, "gw", "ep"), descriptor(1, "gw2", "ep")), "x OVER_LIMIT at once"},
		{"several endpoints", two(descriptor(1, "gw", "ep"), descriptor(1, "gw", "ep2")), "x OVER_LIMIT at once"},
		{"one twice", two(descriptor(1, "gw", "ep"), descriptor(1, "gw", "ep")), "x OK after 100ms"},
		{"gateway and its endpoint", two(descriptor(1, "gw", ""), descriptor(1, "gw", "ep")), "x OK after 100ms"},
		{"beside an unlimited one", two(Descriptor{Hits: 1, MaxWaitMS: -1}, descriptor(1, "gw", "ep")), "x OK after 100ms"},
		{"beside an override", two(descriptor(1, "gw", "ep"), override), "x OVER_LIMIT at once"},
		{"beside a check", two(descriptor(1, "gw", "ep"), descriptor(0, "gw", "ep")), "x OVER_LIMIT at once"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Config{}, rows(waiting(1000, 10, 1, "gw"), row(1000, 1000, "gw2")), func(q *queueTest) {
				q.drain(ask(1, "gw", "ep"))
				q.call("x", c.r)
				q.elapse(time.Second)
				q.want(c.want)
			})
		})
	}
}

func TestHoldTokensBelongToThoseWhoQueue(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 5, "gw")), func(q *queueTest) {
		q.drain(ask(5, "gw", "A"))
		q.call("many", ask(5, "gw", "A"))
		q.elapse(300 * time.Millisecond)
		if d := q.decide(q.clock.NowNS(), ask(0, "gw", "B")); d.Code != OverLimit {
			t.Errorf("check while 3 tokens are kept for the queue: %v, want OVER_LIMIT", d.Code)
		}
		q.elapse(400 * time.Millisecond)
		if d := q.decide(q.clock.NowNS(), ask(0, "gw", "B")); d.Code != OK || d.Statuses[0].Remaining != 2 {
			t.Errorf("check after the queue: %v, remaining %d, want OK, 2", d.Code, d.Statuses[0].Remaining)
		}
	})
}

func TestHoldShowsNothingRemainingWhileOthersQueue(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 1, "gw", "ep"), row(100, 100, "gw")), func(q *queueTest) {
		q.drain(ask(1, "gw", "ep"))
		q.call("a", ask(1, "gw", "ep"))
		d := q.decide(q.clock.NowNS(), ask(1, "gw", "other"))
		if got := d.Statuses[0]; d.Code != OK || got.Remaining != 0 || got.Limit.Name() != "gw" {
			t.Errorf("admitted beside a queue: %+v, want OK by gw with 0 remaining", got)
		}
		q.elapse(time.Second)
	})
}

func TestHoldCancelFreesTheTurn(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 5, "gw")), func(q *queueTest) {
		q.drain(ask(5, "gw", "ep"))
		first := q.call("first", ask(5, "gw", "ep"))
		q.call("same", ask(1, "gw", "ep"))
		middle := q.call("middle", ask(1, "gw", "ep"))
		q.call("other", ask(1, "gw", "other"))
		q.elapse(250 * time.Millisecond)
		middle.cancel()
		synctest.Wait()
		q.want("first waits", "same waits", "middle context canceled", "other waits")
		first.cancel()
		synctest.Wait()
		q.want("first context canceled", "same OK after 250ms", "middle context canceled", "other OK after 250ms")
		if !errors.Is(first.err, context.Canceled) {
			t.Errorf("error of the one that left = %v, want %v", first.err, context.Canceled)
		}
	})
}

func TestHoldRefundMayBringTheTurn(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 1, 5, "gw", "ep")), func(q *queueTest) {
		q.drain(ask(5, "gw", "ep"))
		q.call("a", ask(3, "gw", "ep"))
		back := ask(4, "gw", "ep")
		back.Descriptors[0].Negative = true
		q.elapse(100 * time.Millisecond)
		q.call("refund", back)
		q.want("a OK after 100ms", "refund OK at once")
		var d Decision
		if err := q.engine.Do(q.tb.Context(), ask(2, "gw", "ep"), 0, &d); err != nil || d.Code != OverLimit {
			t.Errorf("2 of the 1 token that is left: %v, %v, want OVER_LIMIT", d.Code, err)
		}
	})
}
