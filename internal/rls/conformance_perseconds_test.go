package rls_test

import (
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

func window(seconds int64) rowOption { return func(l *limits.Limit) { l.PerSeconds = seconds } }

func by(a limits.Algorithm) rowOption { return func(l *limits.Limit) { l.Algorithm = a } }

// leftPer is the status OK of a limit of another window than a second.
func leftPer(limit *ratelimitv3.RateLimitResponse_RateLimit, remaining uint32, reset int64) part {
	return statusOf(&ratelimitv3.RateLimitResponse_DescriptorStatus{
		Code: ratelimitv3.RateLimitResponse_OK, CurrentLimit: limit, LimitRemaining: remaining, DurationUntilReset: duration(reset),
	})
}

// refusedPer is the status OVER_LIMIT of one.
func refusedPer(limit *ratelimitv3.RateLimitResponse_RateLimit, reset int64) part {
	return statusOf(&ratelimitv3.RateLimitResponse_DescriptorStatus{
		Code: ratelimitv3.RateLimitResponse_OVER_LIMIT, CurrentLimit: limit, DurationUntilReset: duration(reset),
	})
}

const (
	unknown   = ratelimitv3.RateLimitResponse_RateLimit_UNKNOWN
	perMinute = ratelimitv3.RateLimitResponse_RateLimit_MINUTE
	perHour   = ratelimitv3.RateLimitResponse_RateLimit_HOUR
	perDay    = ratelimitv3.RateLimitResponse_RateLimit_DAY
	perWeek   = ratelimitv3.RateLimitResponse_RateLimit_WEEK
)

// windowCases are limits per other times than a second. They begin at midnight, UTC.
var windowCases = []conformance{
	{
		name: "5.3 windows: a token bucket per minute has room for the whole number, and refills evenly",
		rows: rows(row("pay", "", 60, window(60))),
		steps: []step{
			at(0, askHits(59, gw("pay")), ok(leftPer(current("pay;w=60", 60, perMinute), 1, 59), meta("pay", "pay;w=60"))),
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay")), over(refusedPer(current("pay;w=60", 60, perMinute), 1), retryAfter("1"), meta("pay", "pay;w=60"))),
			at(time.Second, ask(gw("pay")), ok(leftPer(current("pay;w=60", 60, perMinute), 0, 60), meta("pay", "pay;w=60"))),
		},
	},
	{
		name: "5.3 windows: rows of several windows apply side by side",
		rows: rows(row("pay", "charge", 2), row("pay", "charge", 3, window(86_400))),
		steps: []step{
			at(0, ask(ep("pay", "charge")), ok(left("pay/charge", 2, 1, 1), metaOf("pay", "charge", "pay/charge"))),
			spend(0, 1, ask(ep("pay", "charge"))),
			at(0, ask(ep("pay", "charge")), over(refused("pay/charge", 2, 1), retryAfter("1"), metaOf("pay", "charge", "pay/charge"))),
			at(time.Second, ask(ep("pay", "charge")), ok(leftPer(current("pay/charge;w=86400", 3, perDay), 0, 86_399), metaOf("pay", "charge", "pay/charge;w=86400"))),
			at(time.Second, ask(ep("pay", "charge")), over(refusedPer(current("pay/charge;w=86400", 3, perDay), 28_799), retryAfter("28799"), metaOf("pay", "charge", "pay/charge;w=86400"))),
		},
	},
	{
		name: "5.3 windows: what one refuses is taken from none",
		rows: rows(row("pay", "", 100, burst(100)), row("pay", "", 1, window(3600))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay")), over(refusedPer(current("pay;w=3600", 1, perHour), 3600), retryAfter("3600"), meta("pay", "pay;w=3600"))),
			change(0, row("pay", "", 100, burst(100))),
			at(0, ask(gw("pay")), ok(left("pay", 100, 98, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.3 windows: a week has a unit, others have none",
		rows: rows(row("pay", "", 5, window(604_800), by(limits.FixedWindow)), row("bank", "", 5, window(90), by(limits.FixedWindow))),
		steps: []step{
			at(0, ask(gw("pay")), ok(leftPer(current("pay;w=604800", 5, perWeek), 4, 432_000), meta("pay", "pay;w=604800"))), // 2000-01-01 is a Saturday, weeks begin on Thursdays
			at(0, ask(gw("bank")), ok(leftPer(current("bank;w=90", 5, unknown), 4, 90), meta("bank", "bank;w=90"))),
		},
	},
	{
		name: "5.3 fixed_window: all comes back at the multiple of the window, however late it was used",
		rows: rows(row("pay", "", 3, window(60), by(limits.FixedWindow))),
		steps: []step{
			spend(59*time.Second, 3, ask(gw("pay"))),
			at(59*time.Second, ask(gw("pay")), over(refusedPer(current("pay;w=60", 3, perMinute), 1), retryAfter("1"), meta("pay", "pay;w=60"))),
			at(60*time.Second, ask(gw("pay")), ok(leftPer(current("pay;w=60", 3, perMinute), 2, 60), meta("pay", "pay;w=60"))),
		},
	},
	{
		name: "5.3 fixed_window per second: max_tps is the room, without a burst",
		rows: rows(row("pay", "", 300, by(limits.FixedWindow))),
		steps: []step{
			at(500*time.Millisecond, askHits(300, gw("pay")), ok(left("pay", 300, 0, 1), meta("pay", "pay"))),
			at(999*time.Millisecond, ask(gw("pay")), over(refused("pay", 300, 1), retryAfter("1"), meta("pay", "pay"))),
			at(time.Second, ask(gw("pay")), ok(left("pay", 300, 299, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.3 sliding_window: never more than the number in any window, back within a 64th of it",
		rows: rows(row("pay", "", 3, window(64), by(limits.SlidingWindow))),
		steps: []step{
			spend(60*time.Second, 3, ask(gw("pay"))),
			at(64*time.Second, ask(gw("pay")), over(refusedPer(current("pay;w=64", 3, unknown), 61), retryAfter("61"), meta("pay", "pay;w=64"))),
			at(124*time.Second, ask(gw("pay")), over(refusedPer(current("pay;w=64", 3, unknown), 1), retryAfter("1"), meta("pay", "pay;w=64"))),
			at(125*time.Second, ask(gw("pay")), ok(leftPer(current("pay;w=64", 3, unknown), 2, 65), meta("pay", "pay;w=64"))),
		},
	},
	{
		name: "5.3 windows: each value of per has the day for itself",
		rows: rows(row("pay", "", 2, per("user"), window(86_400))),
		steps: []step{
			spend(0, 2, ask(gw("pay", "user", "ada"))),
			at(0, ask(gw("pay", "user", "ada")), over(refusedPer(current("pay{user};w=86400", 2, perDay), 43_200), retryAfter("43200"), meta("pay", "pay{user};w=86400"))),
			at(0, ask(gw("pay", "user", "bob")), ok(leftPer(current("pay{user};w=86400", 2, perDay), 1, 43_200), meta("pay", "pay{user};w=86400"))),
		},
	},
	{
		name: "5.3 windows: a request waits for the next fixed window",
		rows: rows(row("pay", "", 1, window(2), by(limits.FixedWindow), maxWait(5000))),
		steps: []step{
			spend(500*time.Millisecond, 1, ask(gw("pay"))),
			held(600*time.Millisecond, 2*time.Second, ask(gw("pay")), ok(leftPer(current("pay;w=2", 1, unknown), 0, 2), meta("pay", "pay;w=2"), waited(1400*time.Millisecond))),
			held(700*time.Millisecond, 4*time.Second, ask(gw("pay")), ok(leftPer(current("pay;w=2", 1, unknown), 0, 2), meta("pay", "pay;w=2"), waited(3300*time.Millisecond))),
			at(800*time.Millisecond, ask(gw("pay")), over(refusedPer(current("pay;w=2", 1, unknown), 6), retryAfter("6"), meta("pay", "pay;w=2"))),
		},
	},
	{
		name: "5.3 windows: a limit that the request brings along stands for the rows of every window",
		rows: rows(row("pay", "charge", 1), row("pay", "charge", 1, window(60)), row("pay", "", 9, window(60))),
		steps: []step{
			at(0, ask(bring(5, 1, ep("pay", "charge"))), ok(leftOf(5, ratelimitv3.RateLimitResponse_RateLimit_SECOND, 4, 1), metaOf("pay", "charge", "override"))),
			at(0, askHits(4, bring(9, 1, ep("pay", "charge"))), ok(leftPer(current("pay;w=60", 9, perMinute), 4, 34), metaOf("pay", "charge", "pay;w=60"))),
		},
	},
	{
		name: "5.3 windows: a change of the number keeps what was used",
		rows: rows(row("pay", "", 10, window(3600), by(limits.FixedWindow))),
		steps: []step{
			spend(0, 8, ask(gw("pay"))),
			change(time.Second, row("pay", "", 5, window(3600), by(limits.FixedWindow))),
			at(time.Second, ask(gw("pay")), over(refusedPer(current("pay;w=3600", 5, perHour), 3599), retryAfter("3599"), meta("pay", "pay;w=3600"))),
			change(2*time.Second, row("pay", "", 20, window(3600), by(limits.SlidingWindow))),
			at(2*time.Second, ask(gw("pay")), ok(leftPer(current("pay;w=3600", 20, perHour), 11, 3655), meta("pay", "pay;w=3600"))),
		},
	},
}
