package rls_test

import (
	"time"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

// levelCases are DESIGN.md §5.1: which limits apply.
var levelCases = []conformance{
	{
		name: "5.1 gateway level: one bucket for all endpoints of the gateway",
		rows: rows(row("pay", "", 2)),
		steps: []step{
			at(0, ask(ep("pay", "charge")), ok(left("pay", 2, 1, 1), metaOf("pay", "charge", "pay"))),
			at(0, ask(ep("pay", "refund")), ok(left("pay", 2, 0, 1), metaOf("pay", "refund", "pay"))),
			at(0, ask(gw("pay")), over(refused("pay", 2, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.1 endpoint level: a bucket for each endpoint, under that of the gateway",
		rows: rows(row("pay", "", 5), row("pay", "charge", 2), row("pay", "refund", 3)),
		steps: []step{
			at(0, ask(ep("pay", "charge")), ok(left("pay/charge", 2, 1, 1), metaOf("pay", "charge", "pay/charge"))),
			at(0, ask(ep("pay", "refund")), ok(left("pay/refund", 3, 2, 1), metaOf("pay", "refund", "pay/refund"))),
			spend(0, 1, ask(ep("pay", "charge"))),
			at(0, ask(ep("pay", "charge")), over(refused("pay/charge", 2, 1), retryAfter("1"), metaOf("pay", "charge", "pay/charge"))),
			at(0, ask(ep("pay", "status")), ok(left("pay", 5, 1, 1), metaOf("pay", "status", "pay"))),
		},
	},
	{
		name: "5.1 common rows apply to every domain, each with its own buckets",
		rows: rows(row("pay", "", 2, common)),
		steps: []step{
			spend(0, 2, ask(gw("pay"))),
			at(0, ask(gw("pay")), over(refused("pay", 2, 1), retryAfter("1"), meta("pay", "pay"))),
			at(0, askIn("other", gw("pay")), ok(left("pay", 2, 1, 1), metadata("domain", "other", "gateway", "pay", "limit", "pay"))),
		},
	},
	{
		name: "5.1 an own row overlays the common one of the same key",
		rows: rows(row("pay", "", 2, common), row("pay", "", 7)),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("pay", 7, 6, 1), meta("pay", "pay"))),
			at(0, askIn("other", gw("pay")), ok(left("pay", 2, 1, 1), metadata("domain", "other", "gateway", "pay", "limit", "pay"))),
		},
	},
	{
		name: "5.1 a common row of another key applies beside the own ones",
		rows: rows(row("pay", "charge", 2, common), row("pay", "", 7)),
		steps: []step{
			at(0, ask(ep("pay", "charge")), ok(left("pay/charge", 2, 1, 1), metaOf("pay", "charge", "pay/charge"))),
			at(0, ask(gw("pay")), ok(left("pay", 7, 5, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.1 a row of another domain does not apply",
		rows: rows(row("pay", "", 2, in("other"))),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("default", 100, 9, 1), meta("pay", "default"))),
		},
	},
	{
		name: "5.1 of a gateway that comes twice the first wins",
		rows: rows(row("pay", "", 2), row("search", "", 3)),
		steps: []step{
			at(0, ask(d("gateway", "pay", "gateway", "search")), ok(left("pay", 2, 1, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.1 of an endpoint that comes twice the first wins",
		rows: rows(row("pay", "charge", 2), row("pay", "refund", 3)),
		steps: []step{
			at(0, ask(ep("pay", "charge", "endpoint", "refund")), ok(left("pay/charge", 2, 1, 1), metaOf("pay", "charge", "pay/charge"))),
		},
	},
	{
		name:  "5.1 the order of the gateway keys decides, not that of the entries",
		setup: setup{rls: rls.Config{GatewayKeys: []string{"gateway", "destination_cluster"}, EndpointKeys: []string{"endpoint", "path"}}},
		rows:  rows(row("pay", "", 2), row("search", "", 3), row("search", "/q", 4)),
		steps: []step{
			at(0, ask(d("destination_cluster", "search", "gateway", "pay")), ok(left("pay", 2, 1, 1), meta("pay", "pay"))),
			at(0, ask(d("destination_cluster", "search")), ok(left("search", 3, 2, 1), meta("search", "search"))),
			at(0, ask(d("path", "/q", "destination_cluster", "search")), ok(left("search", 3, 1, 1), metaOf("search", "/q", "search"))),
		},
	},
	{
		name: "5.1 an empty gateway is a name, which patterns match",
		rows: rows(row("*", "", 2)),
		steps: []step{
			at(0, ask(gw("")), ok(left("*", 2, 1, 1), meta("", "*"))),
			at(0, ask(gw("pay")), ok(left("*", 2, 1, 1), meta("pay", "*"))),
		},
	},
	{
		name: "5.1 an empty endpoint is a name, which patterns match, and not the gateway level",
		rows: rows(row("pay", "", 5), row("pay", "*", 2)),
		steps: []step{
			at(0, ask(ep("pay", "")), ok(left("pay/*", 2, 1, 1), metaOf("pay", "", "pay/*"))),
			at(0, ask(gw("pay")), ok(left("pay", 5, 3, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.1 without a gateway key the descriptor is unlimited",
		rows: rows(row("*", "*", 0), row("*", "", 0)),
		steps: []step{
			at(0, ask(d("endpoint", "charge", "user", "ann")), ok(free())),
		},
	},
	{
		name: "5.1 without a gateway key a limit that the descriptor carries applies",
		steps: []step{
			at(0, ask(bring(2, second, d("user", "ann"))), ok(leftOf(2, unitSecond, 1, 1))),
			spend(0, 1, ask(bring(2, second, d("user", "ann")))),
			at(0, ask(bring(2, second, d("user", "ann"))), over(refusedOf(2, unitSecond, 1), retryAfter("1"))),
		},
	},
	{
		name: "5.1 per: each value of the key has the limit for itself",
		rows: rows(row("pay", "", 2, per("user"))),
		steps: []step{
			spend(0, 2, ask(gw("pay", "user", "ann"))),
			at(0, ask(gw("pay", "user", "ann")), over(refused("pay{user}", 2, 1), retryAfter("1"), meta("pay", "pay{user}"))),
			at(0, ask(gw("pay", "user", "bob")), ok(left("pay{user}", 2, 1, 1), meta("pay", "pay{user}"))),
			at(0, ask(gw("pay", "user", "")), ok(left("pay{user}", 2, 1, 1), meta("pay", "pay{user}"))),
		},
	},
	{
		name: "5.1 per: a descriptor without the key is not counted by it",
		rows: rows(row("pay", "", 2, per("user"))),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("default", 100, 9, 1), meta("pay", "default"))),
		},
	},
	{
		name: "5.1 per: of a key that comes twice the first value counts",
		rows: rows(row("pay", "", 2, per("user"))),
		steps: []step{
			spend(0, 2, ask(gw("pay", "user", "ann", "user", "bob"))),
			at(0, ask(gw("pay", "user", "bob")), ok(left("pay{user}", 2, 1, 1), meta("pay", "pay{user}"))),
		},
	},
	{
		name: "5.1 per on an endpoint counts that endpoint's values alone",
		rows: rows(row("pay", "charge", 2, per("user")), row("pay", "", 9)),
		steps: []step{
			at(0, ask(ep("pay", "charge", "user", "ann")), ok(left("pay/charge{user}", 2, 1, 1), metaOf("pay", "charge", "pay/charge{user}"))),
			at(0, ask(ep("pay", "refund", "user", "ann")), ok(left("pay", 9, 7, 1), metaOf("pay", "refund", "pay"))),
		},
	},
	{
		name: "5.1 every per key that the descriptor carries is a level of its own",
		rows: rows(row("pay", "", 5, per("user")), row("pay", "", 3, per("plan")), row("pay", "", 9)),
		steps: []step{
			spend(0, 3, ask(gw("pay", "user", "ann", "plan", "free"))),
			at(0, ask(gw("pay", "user", "ann", "plan", "free")), over(refused("pay{plan}", 3, 1), retryAfter("1"), meta("pay", "pay{plan}"))),
			at(0, ask(gw("pay", "user", "ann", "plan", "paid")), ok(left("pay{user}", 5, 1, 1), meta("pay", "pay{user}"))),
		},
	},
	{
		name: "5.1 a star stands for any bytes, none included",
		rows: rows(row("pay*", "", 2)),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("pay*", 2, 1, 1), meta("pay", "pay*"))),
			at(0, ask(gw("pay/*\"x")), ok(left("pay*", 2, 1, 1), meta("pay/*\"x", "pay*"))),
			at(0, ask(gw("spay")), ok(left("default", 100, 9, 1), meta("spay", "default"))),
		},
	},
	{
		name: "5.1 a pattern row is a template: every concrete name has its own bucket",
		rows: rows(row("pay-*", "", 1), row("web", "/v*", 1)),
		steps: []step{
			spend(0, 1, ask(gw("pay-eu"))),
			at(0, ask(gw("pay-eu")), over(refused("pay-*", 1, 1), retryAfter("1"), meta("pay-eu", "pay-*"))),
			at(0, ask(gw("pay-us")), ok(left("pay-*", 1, 0, 1), meta("pay-us", "pay-*"))),
			spend(0, 1, ask(ep("web", "/v1"))),
			at(0, ask(ep("web", "/v1")), over(refused("web//v*", 1, 1), retryAfter("1"), metaOf("web", "/v1", "web//v*"))),
			at(0, ask(ep("web", "/v2")), ok(left("web//v*", 1, 0, 1), metaOf("web", "/v2", "web//v*"))),
		},
	},
	{
		name: "5.1 exact wins over a pattern",
		rows: rows(row("pay", "", 2), row("pa*", "", 3), row("pay", "charge", 4), row("pay", "charg*", 1)),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("pay", 2, 1, 1), meta("pay", "pay"))),
			at(0, ask(hits(0, ep("pay", "charge"))), ok(left("pay", 2, 1, 1), metaOf("pay", "charge", "pay"))),
		},
	},
	{
		name: "5.1 exact wins, also a common row over an own pattern",
		rows: rows(row("pay", "", 3, common), row("pay*", "", 2), row("web", "a", 5, common), row("web", "a*", 4)),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("pay", 3, 2, 1), meta("pay", "pay"))),
			at(0, ask(ep("web", "a")), ok(left("web/a", 5, 4, 1), metaOf("web", "a", "web/a"))),
		},
	},
	{
		name: "5.1 of patterns the one with the most bytes other than the star wins",
		rows: rows(row("p*", "", 2), row("pa*y", "", 3), row("*****", "", 4), row("web", "*", 5), row("web", "/a*", 6)),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("pa*y", 3, 2, 1), meta("pay", "pa*y"))),
			at(0, ask(gw("pear")), ok(left("p*", 2, 1, 1), meta("pear", "p*"))),
			at(0, ask(gw("x")), ok(left("*****", 4, 3, 1), meta("x", "*****"))),
			at(0, ask(hits(2, ep("web", "/abc"))), ok(left("*****", 4, 2, 1), metaOf("web", "/abc", "*****"))),
		},
	},
	{
		name: "5.1 of patterns with as many bytes the lexically first wins",
		rows: rows(row("a*", "", 2), row("*a", "", 3)),
		steps: []step{
			at(0, ask(gw("aa")), ok(left("*a", 3, 2, 1), meta("aa", "*a"))),
		},
	},
	{
		name: "5.1 the best gateway comes first, then the endpoint",
		rows: rows(row("pay", "*", 2), row("*", "charge", 3)),
		steps: []step{
			at(0, ask(ep("pay", "charge")), ok(left("pay/*", 2, 1, 1), metaOf("pay", "charge", "pay/*"))),
			at(0, ask(ep("web", "charge")), ok(left("*/charge", 3, 2, 1), metaOf("web", "charge", "*/charge"))),
		},
	},
	{
		name: "5.1 each level is matched on its own: the gateway's may be a pattern's where the endpoint's is exact",
		rows: rows(row("pay", "charge", 4), row("*", "", 2)),
		steps: []step{
			at(0, ask(ep("pay", "charge")), ok(left("*", 2, 1, 1), metaOf("pay", "charge", "*"))),
		},
	},
	{
		name: "5.1 the default limit is one per gateway, where no level has a row",
		steps: []step{
			spend(0, 9, ask(ep("pay", "charge"))),
			at(0, ask(ep("pay", "refund")), ok(left("default", 100, 0, 1), metaOf("pay", "refund", "default"))),
			at(0, ask(gw("pay")), over(refused("default", 100, 1), retryAfter("1"), meta("pay", "default"))),
			at(0, ask(gw("web")), ok(left("default", 100, 9, 1), meta("web", "default"))),
			at(0, askIn("other", gw("pay")), ok(left("default", 100, 9, 1), metadata("domain", "other", "gateway", "pay", "limit", "default"))),
		},
	},
	{
		name: "5.1 where any level has a row the default limit does not apply",
		rows: rows(row("pay", "charge", 1000)),
		steps: []step{
			at(0, ask(hits(50, ep("pay", "charge"))), ok(left("pay/charge", 1000, 50, 1), metaOf("pay", "charge", "pay/charge"))),
			at(0, ask(ep("pay", "refund")), ok(left("default", 100, 9, 1), metaOf("pay", "refund", "default"))),
		},
	},
	{
		name:  "5.1 a default limit of 0 is none",
		setup: setup{buckets: buckets.Config{DefaultMaxTPS: unlimited}},
		steps: []step{
			at(0, ask(hits(1e9, gw("pay"))), ok(free(), meta("pay", ""))),
		},
	},
	{
		name: "5.1 a disabled row leaves its level without a limit, and counts as a match",
		rows: rows(row("pay", "", 1, disabled), row("*", "", 1), row("web", "a", 1, disabled)),
		steps: []step{
			at(0, ask(hits(500, gw("pay"))), ok(free(), meta("pay", ""))),
			at(0, ask(ep("web", "a")), ok(left("*", 1, 0, 1), metaOf("web", "a", "*"))),
		},
	},
	{
		name: "5.1 a disabled own row hides the common one",
		rows: rows(row("pay", "", 1, disabled), row("pay", "", 1, common)),
		steps: []step{
			at(0, ask(hits(500, gw("pay"))), ok(free(), meta("pay", ""))),
		},
	},
	{
		name: "5.1 when another row takes over the level, its usage stays",
		rows: rows(row("pa*", "", 5), row("pay", "c*", 5)),
		steps: []step{
			spend(0, 4, ask(ep("pay", "charge"))),
			change(0, row("pa*", "", 5), row("pay", "", 6), row("pay", "c*", 5), row("pay", "charge", 7)),
			at(0, ask(ep("pay", "charge")), ok(left("pay", 6, 1, 1), metaOf("pay", "charge", "pay"))),
			at(0, ask(hits(0, ep("pay", "charge"))), ok(left("pay", 6, 1, 1), metaOf("pay", "charge", "pay"))),
			change(0, row("pay", "charge", 7)),
			at(0, ask(ep("pay", "charge")), ok(left("pay/charge", 7, 1, 1), metaOf("pay", "charge", "pay/charge"))),
		},
	},
	{
		name: "5.1 when a row takes over from the default limit, the usage stays",
		steps: []step{
			spend(0, 8, ask(gw("pay"))),
			change(0, row("pay", "", 20, burst(9))),
			at(0, ask(gw("pay")), ok(left("pay", 20, 0, 1), meta("pay", "pay"))),
		},
	},
}

// allOrNothingCases are DESIGN.md §5.2.
var allOrNothingCases = []conformance{
	{
		name: "5.2 a gateway without room leaves the endpoint uncharged",
		rows: rows(row("pay", "", 1), row("pay", "charge", 5)),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(ep("pay", "charge")), over(refused("pay", 1, 1), retryAfter("1"), metaOf("pay", "charge", "pay"))),
			change(0, row("pay", "charge", 5)),
			at(0, ask(ep("pay", "charge")), ok(left("pay/charge", 5, 4, 1), metaOf("pay", "charge", "pay/charge"))),
		},
	},
	{
		name: "5.2 one descriptor without room leaves those of other gateways uncharged",
		rows: rows(row("pay", "", 1), row("web", "", 3)),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("web"), gw("pay")), over(left("web", 3, 3, 0), refused("pay", 1, 1), retryAfter("1"), meta("pay", "pay"))),
			at(0, ask(gw("web")), ok(left("web", 3, 2, 1), meta("web", "web"))),
		},
	},
	{
		name: "5.2 all descriptors with room are charged, over several gateways",
		rows: rows(row("pay", "", 2), row("web", "", 3)),
		steps: []step{
			at(0, ask(gw("web"), gw("pay")), ok(left("web", 3, 2, 1), left("pay", 2, 1, 1), meta("web", "web"))),
			at(0, ask(gw("pay"), gw("web")), ok(left("pay", 2, 0, 1), left("web", 3, 1, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.2 a refused request uses up nothing, however often it comes",
		rows: rows(row("pay", "", 1), row("pay", "charge", 1)),
		steps: []step{
			spend(0, 1, ask(ep("pay", "charge"))),
			at(0, ask(ep("pay", "charge")), over(refused("pay/charge", 1, 1), retryAfter("1"), metaOf("pay", "charge", "pay/charge"))),
			at(999*time.Millisecond, ask(ep("pay", "charge")), over(refused("pay/charge", 1, 1), retryAfter("1"), metaOf("pay", "charge", "pay/charge"))),
			at(time.Second, ask(ep("pay", "charge")), ok(left("pay/charge", 1, 0, 1), metaOf("pay", "charge", "pay/charge"))),
		},
	},
	{
		name: "5.2 a bucket that several descriptors name is charged once, with the largest of their hits",
		rows: rows(row("pay", "", 9)),
		steps: []step{
			at(0, ask(hits(2, gw("pay")), hits(5, gw("pay")), gw("pay")),
				ok(left("pay", 9, 4, 1), left("pay", 9, 4, 1), left("pay", 9, 4, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.2 a bucket that several descriptors name is given back to once, the largest",
		rows: rows(row("pay", "", 9)),
		steps: []step{
			spend(0, 8, ask(gw("pay"))),
			at(0, ask(back(hits(2, gw("pay"))), back(hits(5, gw("pay")))),
				ok(left("pay", 9, 6, 1), left("pay", 9, 6, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.2 endpoints of one request share the charge of their gateway",
		rows: rows(row("pay", "", 3), row("pay", "charge", 9), row("pay", "refund", 9)),
		steps: []step{
			at(0, ask(ep("pay", "charge"), ep("pay", "refund")), ok(left("pay", 3, 2, 1), left("pay", 3, 2, 1), metaOf("pay", "charge", "pay"))),
		},
	},
}

// bucketCases are DESIGN.md §5.3: the token bucket.
var bucketCases = slicesOfBursts(
	conformance{
		name: "5.3 a new bucket is full, whenever it comes",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			at(time.Hour, ask(gw("pay")), ok(left("pay", 5, 4, 1), meta("pay", "pay"))),
		},
	},
	conformance{
		name: "5.3 refill is exact: a third of a second of 3 per second is a token at 333,333,334 ns, not before",
		rows: rows(row("pay", "", 3)),
		steps: []step{
			spend(0, 3, ask(gw("pay"))),
			at(333_333_333, ask(gw("pay")), over(refused("pay", 3, 1), retryAfter("1"), meta("pay", "pay"))),
			at(333_333_334, ask(gw("pay")), ok(left("pay", 3, 0, 1), meta("pay", "pay"))),
			at(666_666_666, ask(gw("pay")), over(refused("pay", 3, 1), retryAfter("1"), meta("pay", "pay"))),
			at(666_666_667, ask(gw("pay")), ok(left("pay", 3, 0, 1), meta("pay", "pay"))),
			at(time.Second, ask(gw("pay")), ok(left("pay", 3, 0, 1), meta("pay", "pay"))),
		},
	},
	conformance{
		name: "5.3 refill is exact over an hour of 999,999 per second",
		rows: rows(row("pay", "", 999_999, burst(1_000_000_000))),
		steps: []step{
			at(0, ask(hits(1e9, gw("pay"))), ok(left("pay", 999_999, 0, 1001), meta("pay", "pay"))),
			at(time.Second, ask(hits(1_000_000, gw("pay"))), over(refused("pay", 999_999, 1), retryAfter("1"), meta("pay", "pay"))),
			at(time.Second, ask(hits(999_999, gw("pay"))), ok(left("pay", 999_999, 0, 1001), meta("pay", "pay"))),
			at(901*time.Second, ask(hits(899_999_101, gw("pay"))), over(refused("pay", 999_999, 1), retryAfter("1"), meta("pay", "pay"))),
			at(901*time.Second, ask(hits(899_999_100, gw("pay"))), ok(left("pay", 999_999, 0, 1001), meta("pay", "pay"))),
		},
	},
	conformance{
		name: "5.3 a bucket holds no more than its burst, however long it rests",
		rows: rows(row("pay", "", 5, burst(7))),
		steps: []step{
			spend(0, 7, ask(gw("pay"))),
			at(time.Hour, ask(gw("pay")), ok(left("pay", 5, 6, 1), meta("pay", "pay"))),
		},
	},
	conformance{
		name: "5.3 max_tps 0 refuses everything, whatever burst says",
		rows: rows(row("pay", "", 0, burst(50))),
		steps: []step{
			at(0, ask(gw("pay")), over(refused("pay", 0, never), meta("pay", "pay"))),
			at(time.Hour, ask(hits(0, gw("pay"))), over(refused("pay", 0, never), meta("pay", "pay"))),
		},
	},
	conformance{
		name: "5.3 the hit of a held request counts at the instant its turn was due",
		rows: rows(row("pay", "", 10, burst(1), maxWait(5000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(50*time.Millisecond, 100*time.Millisecond, ask(gw("pay")), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(50*time.Millisecond))),
			held(120*time.Millisecond, 200*time.Millisecond, ask(gw("pay")), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(80*time.Millisecond))),
		},
	},
)

// slicesOfBursts adds a case for the default burst of every kind of rate.
func slicesOfBursts(cases ...conformance) []conformance {
	for _, c := range []struct {
		maxTPS    int64
		wantBurst uint32
		reset     int64 // of one hit
		name      string
	}{
		{1, 1, 1, "1 of 1 per second"},
		{9, 9, 1, "9 of 9 per second"},
		{10, 10, 1, "10 of 10 per second"},
		{99, 10, 1, "10 of 99 per second"},
		{100, 10, 1, "10 of 100 per second"},
		{101, 11, 1, "11 of 101 per second: a tenth, rounded up"},
		{1_000_000_000, 100_000_000, 1, "100,000,000 of 1e9 per second"},
	} {
		cases = append(cases, conformance{
			name: "5.3 the default burst is " + c.name,
			rows: []limits.Limit{row("pay", "", c.maxTPS)},
			steps: []step{
				at(0, ask(gw("pay")), ok(left("pay", uint32(c.maxTPS), c.wantBurst-1, c.reset), meta("pay", "pay"))),
			},
		})
	}
	return cases
}
