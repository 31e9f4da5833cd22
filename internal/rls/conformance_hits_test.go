package rls_test

import (
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
)

// Units of limits that a descriptor brings along, and as answers show them.
const (
	second = typev3.RateLimitUnit_SECOND
	minute = typev3.RateLimitUnit_MINUTE
	hour   = typev3.RateLimitUnit_HOUR

	unitSecond = ratelimitv3.RateLimitResponse_RateLimit_SECOND
	unitMinute = ratelimitv3.RateLimitResponse_RateLimit_MINUTE
	unitHour   = ratelimitv3.RateLimitResponse_RateLimit_HOUR
)

// hitCases are the first part of DESIGN.md §5.4: hits.
var hitCases = []conformance{
	{
		name: "5.4 hits_addend 0 of the request is 1",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			at(0, askHits(0, gw("pay")), ok(left("pay", 5, 4, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 hits_addend of the request counts for every descriptor that says none",
		rows: rows(row("pay", "", 5), row("web", "", 5)),
		steps: []step{
			at(0, askHits(3, gw("pay"), hits(1, gw("web"))), ok(left("pay", 5, 2, 1), left("web", 5, 4, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 hits that are not all there are refused as a whole",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			at(0, askHits(3, gw("pay")), ok(left("pay", 5, 2, 1), meta("pay", "pay"))),
			at(0, askHits(3, gw("pay")), over(refused("pay", 5, 1), retryAfter("1"), meta("pay", "pay"))),
			at(0, askHits(2, gw("pay")), ok(left("pay", 5, 0, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 more hits than the burst can never pass",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			at(0, askHits(6, gw("pay")), over(refused("pay", 5, never), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 explicit 0 is a check: it charges nothing",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			at(0, ask(hits(0, gw("pay"))), ok(left("pay", 5, 5, 0), meta("pay", "pay"))),
			at(0, askHits(4, hits(0, gw("pay"))), ok(left("pay", 5, 5, 0), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 a check is refused exactly when one hit would not be admitted",
		rows: rows(row("pay", "", 2)),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(hits(0, gw("pay"))), ok(left("pay", 2, 1, 1), meta("pay", "pay"))),
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(hits(0, gw("pay"))), over(refused("pay", 2, 1), retryAfter("1"), meta("pay", "pay"))),
			at(500*time.Millisecond-1, ask(hits(0, gw("pay"))), over(refused("pay", 2, 1), retryAfter("1"), meta("pay", "pay"))),
			at(500*time.Millisecond, ask(hits(0, gw("pay"))), ok(left("pay", 2, 1, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 a check never waits",
		rows: rows(row("pay", "", 1, maxWait(60_000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(hits(0, gw("pay"))), over(refused("pay", 1, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 a check is refused while others wait: one hit would not be admitted at once",
		rows: rows(row("pay", "", 10, burst(2), maxWait(60_000))),
		steps: []step{
			spend(0, 2, ask(gw("pay"))),
			held(0, 200*time.Millisecond, ask(hits(2, gw("pay"))), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(200*time.Millisecond))),
			at(150*time.Millisecond, ask(hits(0, gw("pay"))), over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 negative hits are given back",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			spend(0, 5, ask(gw("pay"))),
			at(0, ask(back(hits(2, gw("pay")))), ok(left("pay", 5, 2, 1), meta("pay", "pay"))),
			at(0, askHits(3, back(gw("pay"))), ok(left("pay", 5, 5, 0), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 negative hits never fill a bucket above its capacity",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(back(hits(1e9, gw("pay")))), ok(left("pay", 5, 5, 0), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 negative hits are never refused",
		rows: rows(row("pay", "", 1), row("web", "", 0)),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(back(hits(0, gw("pay")))), ok(left("pay", 1, 0, 1), meta("pay", "pay"))),
			at(0, ask(back(gw("web"))), ok(left("web", 0, 0, 0), meta("web", "web"))),
		},
	},
	{
		name: "5.4 hits are given back after the takes of the same request",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			spend(0, 3, ask(gw("pay"))),
			at(0, ask(hits(3, gw("pay")), back(hits(3, gw("pay")))), over(refused("pay", 5, 1), left("pay", 5, 2, 1), retryAfter("1"), meta("pay", "pay"))),
			at(0, ask(hits(2, gw("pay")), back(hits(1, gw("pay")))), ok(left("pay", 5, 1, 1), left("pay", 5, 1, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 nothing is given back by a request that is refused",
		rows: rows(row("pay", "", 2), row("web", "", 1)),
		steps: []step{
			spend(0, 1, ask(gw("web"))),
			spend(0, 2, ask(gw("pay"))),
			at(0, ask(back(gw("pay")), gw("web")), over(left("pay", 2, 0, 1), refused("web", 1, 1), retryAfter("1"), meta("web", "web"))),
			at(0, ask(gw("pay")), over(refused("pay", 2, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 a billion hits are a request, one more is none",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			at(0, ask(hits(1e9, gw("pay"))), over(refused("pay", 5, never), meta("pay", "pay"))),
			fails(0, ask(hits(1e9+1, gw("pay"))), codes.InvalidArgument, "descriptors[0].hits_addend 1000000001"),
			fails(0, ask(gw("pay"), back(hits(1<<63, gw("pay")))), codes.InvalidArgument, "descriptors[1].hits_addend 9223372036854775808"),
			fails(0, askHits(1e9+1, gw("pay")), codes.InvalidArgument, "hits_addend"),
			at(0, askHits(1e9+1, hits(1, gw("pay"))), ok(left("pay", 5, 4, 1), meta("pay", "pay"))),
		},
	},
}

// overrideCases are the rest of DESIGN.md §5.4: a limit in the descriptor.
var overrideCases = []conformance{
	{
		name: "5.4 override: it replaces the endpoint's row, the gateway's still applies",
		rows: rows(row("pay", "", 5), row("pay", "charge", 1)),
		steps: []step{
			at(0, ask(bring(3, second, ep("pay", "charge"))), ok(leftOf(3, unitSecond, 2, 1), metaOf("pay", "charge", "override"))),
			spend(0, 2, ask(bring(3, second, ep("pay", "charge")))),
			at(0, ask(bring(9, second, ep("pay", "charge"))), ok(left("pay", 5, 1, 1), metaOf("pay", "charge", "pay"))),
			spend(0, 1, ask(bring(9, second, ep("pay", "charge")))),
			at(0, ask(bring(9, second, ep("pay", "charge"))), over(refused("pay", 5, 1), retryAfter("1"), metaOf("pay", "charge", "pay"))),
		},
	},
	{
		name: "5.4 override: without an endpoint it replaces the gateway's row",
		rows: rows(row("pay", "", 1), row("pay", "", 2, per("user"))),
		steps: []step{
			spend(0, 3, ask(bring(3, second, gw("pay")))),
			at(0, ask(bring(3, second, gw("pay"))), over(refusedOf(3, unitSecond, 1), retryAfter("1"), meta("pay", "override"))),
			at(0, ask(gw("pay")), ok(left("pay", 1, 0, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.4 override: per rows still apply",
		rows: rows(row("pay", "", 1, per("user"))),
		steps: []step{
			at(0, ask(bring(3, second, gw("pay", "user", "ann"))), ok(left("pay{user}", 1, 0, 1), meta("pay", "pay{user}"))),
			at(0, ask(bring(3, second, gw("pay", "user", "ann"))), over(refused("pay{user}", 1, 1), retryAfter("1"), meta("pay", "pay{user}"))),
		},
	},
	{
		name: "5.4 override: the default limit does not apply",
		steps: []step{
			at(0, ask(bring(1000, second, gw("pay"))), ok(leftOf(1000, unitSecond, 99, 1), meta("pay", "override"))),
			at(0, ask(hits(99, bring(1000, second, gw("pay")))), ok(leftOf(1000, unitSecond, 0, 1), meta("pay", "override"))),
			at(0, ask(hits(9, ep("pay", "charge"))), ok(left("default", 100, 1, 1), metaOf("pay", "charge", "default"))),
		},
	},
	{
		name: "5.4 override: another number, unit, domain, entry or order of entries is another bucket",
		steps: []step{
			spend(0, 1, ask(bring(1, minute, gw("pay", "user", "ann")))),
			at(0, ask(bring(1, minute, gw("pay", "user", "ann"))), over(refusedOf(1, unitMinute, 60), retryAfter("60"), meta("pay", "override"))),
			spend(0, 1, ask(bring(2, minute, gw("pay", "user", "ann")))),
			spend(0, 1, ask(bring(1, hour, gw("pay", "user", "ann")))),
			spend(0, 1, ask(bring(1, minute, gw("pay", "user", "bob")))),
			spend(0, 1, ask(bring(1, minute, d("user", "ann", "gateway", "pay")))),
			spend(0, 1, ask(bring(1, minute, gw("pay", "user", "ann", "x", "")))),
			spend(0, 1, askIn("other", bring(1, minute, gw("pay", "user", "ann")))),
		},
	},
	{
		name: "5.4 override: an entry max_wait_ms does not make it another bucket",
		steps: []step{
			spend(0, 1, ask(bring(1, minute, gw("pay", "max_wait_ms", "5")))),
			at(0, ask(bring(1, minute, gw("pay", "max_wait_ms", "7"))), over(refusedOf(1, unitMinute, 60), retryAfter("60"), meta("pay", "override"))),
			at(0, ask(bring(1, minute, gw("pay"))), over(refusedOf(1, unitMinute, 60), retryAfter("60"), meta("pay", "override"))),
		},
	},
	{
		name: "5.4 override: the default burst of a second is that of a row",
		steps: []step{
			at(0, ask(bring(7, second, gw("pay"))), ok(leftOf(7, unitSecond, 6, 1), meta("pay", "override"))),
			at(0, ask(bring(50, second, gw("pay"))), ok(leftOf(50, unitSecond, 9, 1), meta("pay", "override"))),
			at(0, ask(bring(4_294_967_295, second, gw("pay"))), ok(leftOf(4_294_967_295, unitSecond, 429_496_729, 1), meta("pay", "override"))),
		},
	},
	{
		name: "5.4 override: the burst of longer windows is the whole number",
		steps: []step{
			at(0, ask(bring(60, minute, gw("pay"))), ok(leftOf(60, unitMinute, 59, 1), meta("pay", "override"))),
			at(0, ask(hits(59, bring(60, minute, gw("pay")))), ok(leftOf(60, unitMinute, 0, 60), meta("pay", "override"))),
			at(999*time.Millisecond, ask(bring(60, minute, gw("pay"))), over(refusedOf(60, unitMinute, 1), retryAfter("1"), meta("pay", "override"))),
			at(time.Second, ask(bring(60, minute, gw("pay"))), ok(leftOf(60, unitMinute, 0, 60), meta("pay", "override"))),
		},
	},
	{
		name: "5.4 override: every unit from a second to a year",
		steps: []step{
			at(0, ask(hits(10, bring(10, typev3.RateLimitUnit_HOUR, gw("pay")))), ok(leftOf(10, unitHour, 0, 3600), meta("pay", "override"))),
			at(0, ask(hits(10, bring(10, typev3.RateLimitUnit_DAY, gw("pay")))), ok(leftOf(10, ratelimitv3.RateLimitResponse_RateLimit_DAY, 0, 24*3600), meta("pay", "override"))),
			at(0, ask(hits(10, bring(10, typev3.RateLimitUnit_MONTH, gw("pay")))), ok(leftOf(10, ratelimitv3.RateLimitResponse_RateLimit_MONTH, 0, 30*24*3600), meta("pay", "override"))),
			at(0, ask(hits(10, bring(10, typev3.RateLimitUnit_YEAR, gw("pay")))), ok(leftOf(10, ratelimitv3.RateLimitResponse_RateLimit_YEAR, 0, 365*24*3600), meta("pay", "override"))),
		},
	},
	{
		name: "5.4 override: a number of 0 refuses everything",
		steps: []step{
			at(0, ask(bring(0, minute, gw("pay"))), over(refusedOf(0, unitMinute, never), meta("pay", "override"))),
		},
	},
	{
		name: "5.4 override: it never holds",
		rows: rows(row("pay", "", 9, maxWait(60_000))),
		steps: []step{
			spend(0, 1, ask(bring(1, second, ep("pay", "charge")))),
			at(0, ask(bring(1, second, ep("pay", "charge"))), over(refusedOf(1, unitSecond, 1), retryAfter("1"), metaOf("pay", "charge", "override"))),
		},
	},
	{
		name: "5.4 override: without a valid unit the request is none",
		steps: []step{
			fails(0, ask(bring(5, typev3.RateLimitUnit_UNKNOWN, gw("pay"))), codes.InvalidArgument, "descriptors[0].limit.unit 0"),
			fails(0, ask(gw("pay"), bring(5, 7, gw("pay"))), codes.InvalidArgument, "descriptors[1].limit.unit 7"),
			fails(0, ask(bring(5, -1, d("user", "ann"))), codes.InvalidArgument, "descriptors[0].limit.unit"),
		},
	},
}
