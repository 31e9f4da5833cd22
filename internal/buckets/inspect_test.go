package buckets

import (
	"slices"
	"strings"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

func perDay(tps int64, key ...string) limits.Limit {
	l := row(tps, 0, key...)
	l.PerSeconds = 86_400
	return l
}

// TestBucketsShowsTheFullest lists what is waited for, then what has the least left; full buckets
// are left out.
func TestBucketsShowsTheFullest(t *testing.T) {
	w := newWorld(t, Config{},
		row(10, 10, "gw"), row(10, 10, "gw", "ep"), perDay(8, "gw", "ep"), row(10, 10, "gw", "", "user"), row(1, 1, "other"), waiting(1000, 1, 1, "slow"))
	w.decide(1, ask(6, "gw", "ep", Entry{"user", "ann"}))
	w.decide(1, ask(1, "gw", "", Entry{"user", strings.Repeat("x", 300)}))
	w.decide(1, ask(1, "slow", ""))
	if held, err := w.engine.decide(1, ask(1, "slow", ""), int64(MaxWait), &Decision{}); err != nil || !held {
		t.Fatalf("held %t, %v", held, err)
	}
	var got []string
	for _, b := range w.engine.fullest(1, 100) {
		got = append(got, strings.Join([]string{b.Gateway, b.Endpoint, b.Value, b.Limit.Name()}, "|"))
	}
	long := "sha256:" // of the long value
	if i := slices.IndexFunc(got, func(s string) bool { return strings.Contains(s, long) }); i >= 0 {
		got[i] = got[i][:strings.Index(got[i], long)+len(long)]
	}
	want := []string{"slow|||slow", "gw|ep||gw/ep;w=86400", "gw|||gw", "gw||ann|gw{user}", "gw|ep||gw/ep", "gw||" + long}
	if !slices.Equal(got, want) {
		t.Errorf("buckets %q, want %q", got, want)
	}
	if two := w.engine.fullest(1, 2); len(two) != 2 || two[0].Gateway != "slow" || two[0].Queued != 1 || two[1].Tokens != 2 || two[1].Capacity != 8 {
		t.Errorf("the first two: %+v", two)
	}
	if later := w.engine.fullest(10*86_400*sec, 100); len(later) != 1 || later[0].Gateway != "slow" {
		t.Errorf("days later: %+v, want the one that a request waits for", later)
	}
}

// TestReset fills one bucket, and no other, and lets the next in its queue go.
func TestReset(t *testing.T) {
	w := newWorld(t, Config{}, row(10, 10, "gw"), perDay(2, "gw", "ep"), perDay(2, "gw", "", "user"), waiting(100_000, 1, 1, "slow"))
	w.decide(1, ask(2, "gw", "ep", Entry{"user", "ann"}))
	again := func() Code { return w.decide(1, ask(0, "gw", "ep", Entry{"user", "ann"})).Code }
	day := limits.Dim{PerSeconds: 86_400}
	for _, k := range []BucketKey{
		{Domain: "d", Gateway: "nobody"},
		{Domain: "e", Gateway: "gw"},
		{Domain: "d", Gateway: "gw", Endpoint: "eq", HasEndpoint: true, Dim: day},
		{Domain: "d", Gateway: "gw", Dim: limits.Dim{Per: "user", PerSeconds: 86_400}, Value: "bob"},
		{Domain: "d", Gateway: "gw", HasEndpoint: true, Endpoint: "ep"},
	} {
		if w.engine.reset(1, k) || again() != OverLimit {
			t.Errorf("%+v is not there, and was reset", k)
		}
	}
	if !w.engine.reset(1, BucketKey{Domain: "d", Gateway: "gw", Endpoint: "ep", HasEndpoint: true, Dim: day}) || again() != OverLimit {
		t.Error("the endpoint's day was reset: want refused by the user's still")
	}
	if !w.engine.reset(1, BucketKey{Domain: "d", Gateway: "gw", Dim: limits.Dim{Per: "user", PerSeconds: 86_400}, Value: "ann"}) || again() != OK {
		t.Error("both were reset: want OK")
	}
	w.decide(1, ask(1, "slow", ""))
	var d Decision
	if held, err := w.engine.decide(1, ask(1, "slow", ""), int64(MaxWait), &d); err != nil || !held {
		t.Fatalf("held %t, %v", held, err)
	}
	if !w.engine.reset(2, BucketKey{Domain: "d", Gateway: "slow"}) || d.Code != OK || !d.Held {
		t.Errorf("the bucket that a request waits for was reset: %v, want OK", d.Code)
	}
}

// TestExplainOfAHold tells how long the wait would be, behind those who wait already.
func TestExplainOfAHold(t *testing.T) {
	w := newWorld(t, Config{}, waiting(5000, 2, 1, "gw"), row(0, 0, "gw", "off"), func() limits.Limit { l := row(5, 5, "gw", "*"); l.Enabled = false; return l }())
	w.decide(1, ask(1, "gw", ""))
	if held, err := w.engine.decide(1, ask(1, "gw", ""), int64(MaxWait), &Decision{}); err != nil || !held {
		t.Fatalf("held %t, %v", held, err)
	}
	x, err := w.engine.explain(1, ask(1, "gw", "x"))
	if err != nil || x.Code != OverLimit || !x.Held || x.WaitNS != sec/2 {
		t.Errorf("%+v, %v; want held for half a second at least: another lane may go first", x, err)
	}
	all := x.Descriptors[0].Limits
	if len(all) != 2 || all[0].Queued != 1 || all[0].WaitNS != sec || !all[0].Refuses || !all[0].Decided || !all[1].Disabled || all[1].Limit.Endpoint != "*" {
		t.Errorf("limits %+v", all)
	}
	if never, err := w.engine.explain(1, ask(1, "gw", "off")); err != nil || never.Held || never.Descriptors[0].Limits[0].WaitNS != limits.Never {
		t.Errorf("a closed endpoint: %+v, %v", never, err)
	}
}
