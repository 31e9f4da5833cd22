package buckets

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// The golden cases of other limiters, by the names that their tests have. TestGolden runs those of
// one bucket, TestGoldenBatch those of two, TestGoldenChange and TestGoldenOrder what their names
// say. Where ratelimitd differs on purpose its own answer is in the table, marked D:
//
//	D1 check      a request of 0 hits is refused where one of 1 hit would be, and tells what is there
//	              rather than what would be left; boulder and gubernator always admit 0 hits
//	D2 refund     never above the capacity (gubernator G3: 3 and 4 of 2)
//	D3 change     what was used stays used under every algorithm (gubernator's leaky bucket: 99, 9, 8)
//	D4 twice      a bucket that a request names twice is charged once, with the larger number; boulder
//	              calls that an error
//	D5 names      an empty or absent name is no error (gubernator G9): Envoy would let the request pass
//
// What has no counterpart here:
//
//	boulder, refund of a check-only take  a refund says how many hits, not of which request
//	gubernator G2, 2 per 5 ms             windows are whole seconds; runs as 2 per second, waiting 20 s
//	gubernator G4, DRAIN_OVER_LIMIT       a refused request never uses up anything
//	gubernator G8, RESET_REMAINING        clients cannot reset a bucket, operators can
//	gubernator G9, duration 0             no row can say it: per_seconds is 1 or more
//	gubernator G12, G13, G14              peers, their health and their store: there are none

const never = limits.Never

// allAlgorithms answer alike as long as no time goes by.
var allAlgorithms = []limits.Algorithm{limits.TokenBucket, limits.FixedWindow, limits.SlidingWindow}

// golden is what one bucket answers. It is full at the beginning, a whole number of minutes and days.
type golden struct {
	source     string
	algorithms []limits.Algorithm // nil = token bucket
	max, burst int64
	seconds    int64
	steps      []goldenStep
}

type goldenStep struct {
	atNS int64
	hits int64 // below 0: given back
	want outcome
}

// outcome is an answer, and the bucket afterwards.
type outcome struct {
	code    Code
	left    uint64 // whole tokens
	retryNS int64  // until the same hits could pass (again)
	resetNS int64  // until the bucket is full
}

const (
	unsaid      = -1            // by the source
	giveNothing = math.MinInt64 // as hits: 0 hits are given back
)

func admit(left uint64, retryNS, resetNS int64) outcome { return outcome{OK, left, retryNS, resetNS} }

func refuse(left uint64, retryNS, resetNS int64) outcome {
	return outcome{OverLimit, left, retryNS, resetNS}
}

func left(left uint64) outcome { return admit(left, unsaid, unsaid) }

func over(left uint64) outcome { return refuse(left, unsaid, unsaid) }

const (
	goldenBeginNS = 1_800_057_600 * sec // 2027-01-16 00:00
	boulderLate   = 72_011*sec + 999*ms
)

var goldens = []golden{
	{source: "throttled TestRateLimit", max: 1, burst: 5, steps: []goldenStep{
		{0, 6, refuse(5, never, 0)},
		{0, 1, admit(4, unsaid, 1*sec)},
		{0, 1, admit(3, unsaid, 2*sec)},
		{0, 1, admit(2, unsaid, 3*sec)},
		{0, 1, admit(1, unsaid, 4*sec)},
		{0, 1, admit(0, unsaid, 5*sec)},
		{0, 1, refuse(0, 1*sec, 5*sec)},
		{3 * sec, 1, admit(2, unsaid, 3*sec)},
		{3100 * ms, 1, admit(1, unsaid, 3900*ms)},
		{4 * sec, 1, admit(1, unsaid, 4*sec)},
		{8 * sec, 1, admit(4, unsaid, 1*sec)},
		{9500 * ms, 1, admit(4, unsaid, 1*sec)},
		{9500 * ms, 0, admit(4, unsaid, 1*sec)},
		{9500 * ms, 2, admit(2, unsaid, 3*sec)},
		{9500 * ms, 5, refuse(2, 3*sec, 3*sec)},
		{15 * sec, 6, refuse(5, never, 0)},
	}},
	{source: "boulder TestDecide", max: 1, burst: 10, steps: []goldenStep{
		{0, 1, admit(9, 0, 1*sec)},
		{0, 9, admit(0, 9*sec, 10*sec)},
		{0, 1, refuse(0, 1*sec, 10*sec)},
		{1 * sec, 0, left(1)},
		{1 * sec, 1, admit(0, 1*sec, 10*sec)},
		{11 * sec, 1, admit(9, 0, 1*sec)},
		{11_999 * ms, 0, admit(9, 0, 1*ms)},
		{boulderLate, 0, admit(10, 0, 0)},
		{boulderLate, 10, admit(0, 10*sec, 10*sec)},
		{boulderLate, 0, refuse(0, 1*sec, 10*sec)}, // D1: there admitted
		{boulderLate, 1, refuse(0, 1*sec, 10*sec)},
		{boulderLate + 1*sec, 1, admit(0, 1*sec, 10*sec)},
		{boulderLate + 6*sec, 7, refuse(5, 2*sec, 5*sec)},
	}},
	{source: "boulder TestMaybeRefund", max: 1, burst: 10, steps: []goldenStep{
		{0, 1, left(9)},
		{0, -1, left(10)},
		{0, giveNothing, left(10)},
		{0, 1, left(9)},
		{1 * sec, -1, left(10)},
		{1 * sec, 10, left(0)},
		{1 * sec, -10, left(10)},
		{12 * sec, -1, left(10)},
		{12 * sec, 5, left(5)},
		{12 * sec, -1, left(6)},
		{14_500 * ms, 0, admit(8, unsaid, 1500*ms)},
		{14_500 * ms, -2, admit(10, unsaid, 0)},
	}},
	{source: "boulder batches, bucket B alone", max: 20, burst: 20, steps: []goldenStep{
		{0, -1, left(20)}, // giving back to an absent bucket
		{0, 0, admit(20, 0, 0)},
		{0, 20, admit(0, 1*sec, 1*sec)},
		{0, 1, refuse(0, 50*ms, 1*sec)},
		{50 * ms, 1, admit(0, 50*ms, 1*sec)},
	}},
	{source: "gubernator G1", algorithms: allAlgorithms, max: 2, seconds: 9, steps: []goldenStep{
		{0, 1, left(1)}, {0, 1, left(0)}, {0, 1, over(0)},
	}},
	{source: "gubernator G2, 2 per second", algorithms: allAlgorithms, max: 2, burst: 2, steps: []goldenStep{
		{0, 1, left(1)}, {0, 1, left(0)}, {20 * sec, 1, left(1)},
	}},
	{source: "gubernator G2, minute-aligned", algorithms: allAlgorithms, max: 60, seconds: 60, steps: []goldenStep{
		{0, 1, left(59)}, {0, 1, left(58)}, {0, 58, left(0)}, {0, 1, over(0)}, {61 * sec, 0, left(60)},
	}},
	{source: "gubernator G3, token bucket", algorithms: allAlgorithms, max: 2, seconds: 9, steps: []goldenStep{
		{0, -1, left(2)}, {0, -1, left(2)}, {0, 4, over(2)}, {0, -1, left(2)}, // D2: 3, 4, 0, 1
	}},
	{source: "gubernator G3, leaky bucket", algorithms: allAlgorithms, max: 10, seconds: 30, steps: []goldenStep{
		{0, 1, left(9)}, {0, -1, left(10)}, {0, 10, left(0)}, {0, -1, left(1)},
	}},
	{source: "gubernator G5", algorithms: allAlgorithms, max: 2000, burst: 2000, steps: []goldenStep{
		{0, 1000, left(1000)},
		{0, 1500, over(1000)},
		{0, 500, left(500)},
		{0, 400, left(100)},
		{0, 100, left(0)},
		{0, 1, over(0)},
	}},
	{source: "gubernator G6", max: 10, seconds: 30, steps: []goldenStep{
		{0, 1, left(9)},
		{1 * sec, 1, left(8)},
		{2 * sec, 1, left(7)},
		{3500 * ms, 0, left(8)},
		{6500 * ms, 0, left(9)},
		{6500 * ms, 9, left(0)},
		{6500 * ms, 1, over(0)},
		{9500 * ms, 0, left(1)},
		{69_500 * ms, 0, left(10)},
		{129_500 * ms, 10, left(0)},
		{158_500 * ms, 9, left(0)},
		{161_500 * ms, 1, left(0)},
	}},
	{source: "gubernator G6, burst 20", max: 10, burst: 20, seconds: 30, steps: []goldenStep{
		{0, 1, left(19)},
		{1 * sec, 1, left(18)},
		{2 * sec, 1, left(17)},
		{3500 * ms, 0, left(18)},
		{6500 * ms, 0, left(19)},
		{6500 * ms, 19, left(0)},
		{6500 * ms, 1, over(0)},
		{9500 * ms, 0, left(1)},
		{69_500 * ms, 0, left(20)},
	}},
	{source: "gubernator G9, limit 0", algorithms: allAlgorithms, max: 0, seconds: 9, steps: []goldenStep{
		{0, 1, refuse(0, never, 0)}, {100 * sec, 1, refuse(0, never, 0)},
	}},
	{source: "gubernator G10", algorithms: allAlgorithms, max: 2000, burst: 2000, steps: []goldenStep{
		{0, 1, left(1999)}, {0, 100, left(1899)},
	}},
}

func TestGolden(t *testing.T) {
	for _, g := range goldens {
		algorithms := g.algorithms
		if algorithms == nil {
			algorithms = allAlgorithms[:1]
		}
		for _, a := range algorithms {
			t.Run(g.source+"/"+a.String(), func(t *testing.T) { g.run(t, a) })
		}
	}
}

func (g *golden) run(t *testing.T, a limits.Algorithm) {
	t.Helper()
	w := newWorld(t, Config{}, g.row(a))
	for i, s := range g.steps {
		got := w.outcome(goldenBeginNS+s.atNS, s.hits)
		if s.want.retryNS == unsaid {
			got.retryNS = unsaid
		}
		if s.want.resetNS == unsaid {
			got.resetNS = unsaid
		}
		if got != s.want {
			t.Fatalf("step %d, %d hits after %d ns: %+v, want %+v", i+1, s.hits, s.atNS, got, s.want)
		}
	}
}

func (g *golden) row(a limits.Algorithm) limits.Limit {
	l := row(g.max, g.burst, "gw")
	l.Algorithm, l.PerSeconds = a, g.seconds
	if a != limits.TokenBucket {
		l.Burst = 0
	}
	return l
}

// outcome takes hits from the gateway's bucket, or gives back those below 0. That what the status
// tells is what the bucket holds is part of it.
func (w *world) outcome(nowNS, hits int64) outcome {
	w.tb.Helper()
	d := w.decide(nowNS, askOrGive(hits))
	s, b := d.Statuses[0], d.takes[0].bucket
	got := outcome{d.Code, b.tokens, b.waitNS(max(1, uint64(max(hits, 0)))), b.fullInNS()}
	told := outcome{s.Code, uint64(s.Remaining), got.retryNS, s.ResetNS}
	if d.Code == OverLimit {
		told = outcome{s.Code, got.left, s.ResetNS, got.resetNS}
	}
	if told != got {
		w.tb.Fatalf("%d hits at %d: the status tells %+v, the bucket %+v", hits, nowNS, told, got)
	}
	return got
}

func askOrGive(hits int64) *Request {
	switch {
	case hits == giveNothing:
		return refund(0, "gw", "")
	case hits < 0:
		return refund(uint64(-hits), "gw", "")
	}
	return ask(uint64(hits), "gw", "")
}

// TestGoldenBatch is the batches of boulder's TestLimiter: A has 40 per second, B has 20, and the
// strictest decision is reported. A check-only take is one of 0 hits, a spend-only one is of a limit
// in shadow mode.
func TestGoldenBatch(t *testing.T) {
	a, ab, b := row(40, 40, "a"), row(20, 20, "a", "b"), row(20, 20, "b")
	shadowAB, shadowB := ab, b
	shadowAB.Shadow, shadowB.Shadow = true, true
	cases := []struct {
		name   string
		b      limits.Limit
		before []*Request
		ask    *Request
		told   string
		left   [2]uint64 // of A and B
	}{
		{"both", ab, nil, ask(1, "a", "b"), "a/b 19, reset 50ms", [2]uint64{39, 19}},
		{"both given back", ab, asks(ask(1, "a", "b")), refund(1, "a", "b"), "a/b 20, reset 0ms", [2]uint64{40, 20}},
		{"B check-only", b, nil, apart(1, 0), "a 39, reset 25ms; b 20, reset 0ms", [2]uint64{39, 20}}, // D1: B's 19
		{"B spend-only", shadowAB, asks(ask(1, "a", "")), ask(1, "a", "b"), "a 38, reset 50ms", [2]uint64{38, 19}},
		{"B spend-only without room", shadowB, asks(apart(2, 1)), apart(1, 20), "a 37, reset 75ms; b 0, reset 50ms", [2]uint64{37, 19}},
		{"the same twice", ab, nil, twice(1, 2), "a/b 18, reset 100ms; a/b 18, reset 100ms", [2]uint64{38, 18}}, // D4
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, Config{}, a, c.b)
			for _, r := range c.before {
				w.decide(goldenBeginNS, r)
			}
			d := w.decide(goldenBeginNS, c.ask)
			if told := tell(d); d.Code != OK || told != c.told {
				t.Errorf("%v: %s, want OK: %s", d.Code, told, c.told)
			}
			if left := leftOf(d); left != c.left {
				t.Errorf("A and B have %v left, want %v", left, c.left)
			}
		})
	}
}

func asks(r ...*Request) []*Request { return r }

func apart(a, b uint64) *Request {
	return &Request{Domain: "d", Descriptors: []Descriptor{descriptor(a, "a", ""), descriptor(b, "b", "")}}
}

func twice(first, second uint64) *Request {
	return &Request{Domain: "d", Descriptors: []Descriptor{descriptor(first, "a", "b"), descriptor(second, "a", "b")}}
}

func refund(hits uint64, gateway, endpoint string) *Request {
	r := ask(hits, gateway, endpoint)
	r.Descriptors[0].Negative = true
	return r
}

func tell(d *Decision) string {
	var told []string
	for _, s := range d.Statuses {
		told = append(told, fmt.Sprintf("%s %d, reset %dms", s.Limit.Label(), s.Remaining, s.ResetNS/ms))
	}
	return strings.Join(told, "; ")
}

// leftOf are the tokens in the buckets of A and B, which the decision is about.
func leftOf(d *Decision) (left [2]uint64) {
	for i := range d.takes {
		b := d.takes[i].bucket
		if b.limit.Label() == "a" {
			left[0] = b.tokens
		} else {
			left[1] = b.tokens
		}
	}
	return left
}

// TestGoldenChange is gubernator's G7, 1 hit under each limit. Its leaky bucket is D3.
func TestGoldenChange(t *testing.T) {
	maxima, want := []int64{100, 100, 10, 10, 200}, []uint64{99, 98, 7, 6, 195}
	for _, a := range allAlgorithms {
		t.Run(a.String(), func(t *testing.T) {
			w := newWorld(t, Config{}, row(1, 0, "gw"))
			var got []uint64
			for i, n := range maxima {
				g := golden{max: n, seconds: 30}
				nowNS := goldenBeginNS + int64(i)
				w.put(nowNS, g.row(a))
				got = append(got, w.outcome(nowNS, 1).left)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("1 hit under each of %v (-want +got):\n%s", maxima, diff)
			}
		})
	}
}

// TestGoldenOrder is gubernator's G11: the answers come in the order of the items.
func TestGoldenOrder(t *testing.T) {
	for _, n := range []int{1, 2, 5, 10, 100, 1000} {
		var rows []limits.Limit
		r := &Request{Domain: "d"}
		for i := range n {
			gateway := fmt.Sprint("gw", (i*7)%n) // n shares no factor with 7, so each comes once
			rows = append(rows, row(int64(i+1), 0, gateway))
			r.Descriptors = append(r.Descriptors, descriptor(1, gateway, ""))
		}
		d := newWorld(t, Config{}, rows...).decide(goldenBeginNS, r)
		for i, s := range d.Statuses {
			if s.Limit == nil || s.Limit.MaxTPS != int64(i+1) {
				t.Errorf("%d items: answer %d names %+v, want the limit of %d", n, i, s.Limit, i+1)
			}
		}
		if len(d.Statuses) != n {
			t.Errorf("%d items: %d answers", n, len(d.Statuses))
		}
	}
}
