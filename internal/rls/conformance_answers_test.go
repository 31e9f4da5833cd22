package rls_test

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

var withHeaders = setup{rls: rls.Config{ResponseHeaders: true}}

// answerCases are DESIGN.md §5.8, the rows of the table of answers.
var answerCases = []conformance{
	{
		name: "5.8 statuses: one per descriptor, in order",
		rows: rows(row("pay", "", 5), row("web", "", 3)),
		steps: []step{
			at(0, ask(d(), gw("web"), d("user", "ann"), gw("pay")), ok(free(), left("web", 3, 2, 1), free(), left("pay", 5, 4, 1), meta("web", "web"))),
		},
	},
	{
		name: "5.8 which limit, admitted: the one with the least remaining",
		rows: rows(row("pay", "", 3), row("pay", "charge", 5), row("pay", "", 4, per("user"))),
		steps: []step{
			at(0, ask(ep("pay", "charge", "user", "ann")), ok(left("pay", 3, 2, 1), metaOf("pay", "charge", "pay"))),
			at(0, ask(hits(0, ep("pay", "refund", "user", "ann"))), ok(left("pay", 3, 2, 1), metaOf("pay", "refund", "pay"))),
		},
	},
	{
		name: "5.8 which limit, admitted, ties: endpoint, per, gateway",
		rows: rows(row("pay", "", 5), row("pay", "charge", 5), row("pay", "", 5, per("user")), row("pay", "charge", 5, per("user"))),
		steps: []step{
			at(0, ask(ep("pay", "charge", "user", "ann")), ok(left("pay/charge", 5, 4, 1), metaOf("pay", "charge", "pay/charge"))),
			spend(0, 3, ask(back(ep("pay", "charge", "user", "ann")))),
			at(0, ask(gw("pay", "user", "ann")), ok(left("pay{user}", 5, 4, 1), meta("pay", "pay{user}"))),
		},
	},
	{
		name: "5.8 which limit, refused: the one with the longest wait",
		rows: rows(row("pay", "", 1), row("pay", "charge", 10, burst(1))),
		steps: []step{
			spend(0, 1, ask(ep("pay", "charge"))),
			at(0, ask(ep("pay", "charge")), over(refused("pay", 1, 1), retryAfter("1"), metaOf("pay", "charge", "pay"))),
		},
	},
	{
		name: "5.8 which limit, refused: one that can never pass waits longest",
		rows: rows(row("pay", "", 0), row("pay", "charge", 1)),
		steps: []step{
			at(0, ask(ep("pay", "charge")), over(refused("pay", 0, never), metaOf("pay", "charge", "pay"))),
		},
	},
	{
		name: "5.8 which limit, refused, ties: endpoint, per, gateway",
		rows: rows(row("pay", "", 1), row("pay", "charge", 1), row("pay", "", 1, per("user"))),
		steps: []step{
			spend(0, 1, ask(ep("pay", "charge", "user", "ann"))),
			at(0, ask(ep("pay", "charge", "user", "ann")), over(refused("pay/charge", 1, 1), retryAfter("1"), metaOf("pay", "charge", "pay/charge"))),
			at(0, ask(gw("pay", "user", "ann")), over(refused("pay{user}", 1, 1), retryAfter("1"), meta("pay", "pay{user}"))),
		},
	},
	{
		name: "5.8 which limit: a shadow limit only if no enforced one applies",
		rows: rows(row("pay", "", 5), row("pay", "charge", 1, shadow), row("web", "", 1, shadow)),
		steps: []step{
			at(0, ask(ep("pay", "charge")), ok(left("pay", 5, 4, 1), metaOf("pay", "charge", "pay"))),
			at(0, ask(gw("web")), ok(left("web", 1, 0, 1), meta("web", "web"))),
		},
	},
	{
		name: "5.8 code: refused descriptors are OVER_LIMIT, their siblings OK with their uncharged remaining",
		rows: rows(row("pay", "", 1), row("web", "", 3), row("img", "", 1)),
		steps: []step{
			spend(0, 1, ask(gw("pay"), gw("img"))),
			at(0, ask(gw("web"), gw("pay"), d("x", "y"), gw("img")),
				over(left("web", 3, 3, 0), refused("pay", 1, 1), free(), refused("img", 1, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.8 current_limit: the name is the row as it is written",
		rows: rows(row("g*", "", 9), row("g*", "e*", 5), row("g*", "", 4, per("k")), row("g*", "e*", 3, per("k"))),
		steps: []step{
			at(0, ask(ep("g1", "e1", "k", "v")), ok(left("g*/e*{k}", 3, 2, 1), metaOf("g1", "e1", "g*/e*{k}"))),
			at(0, ask(ep("g2", "e1")), ok(left("g*/e*", 5, 4, 1), metaOf("g2", "e1", "g*/e*"))),
			at(0, ask(gw("g3", "k", "v")), ok(left("g*{k}", 4, 3, 1), meta("g3", "g*{k}"))),
			at(0, ask(gw("g4")), ok(left("g*", 9, 8, 1), meta("g4", "g*"))),
			at(0, ask(gw("h")), ok(left("default", 100, 9, 1), meta("h", "default"))),
		},
	},
	{
		name: "5.8 limit_remaining: whole tokens up to burst, not to max_tps",
		rows: rows(row("pay", "", 5, burst(50))),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("pay", 5, 49, 1), meta("pay", "pay"))),
			at(199*ms, ask(gw("pay")), ok(left("pay", 5, 48, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.8 duration_until_reset, admitted: whole seconds until full again, rounded up",
		rows: rows(row("pay", "", 10, burst(30))),
		steps: []step{
			at(0, ask(hits(10, gw("pay"))), ok(left("pay", 10, 20, 1), meta("pay", "pay"))),
			at(0, ask(hits(1, gw("pay"))), ok(left("pay", 10, 19, 2), meta("pay", "pay"))),
			at(1100*ms, ask(hits(0, gw("pay"))), ok(left("pay", 10, 30, 0), meta("pay", "pay"))),
		},
	},
	{
		name: "5.8 duration_until_reset, refused: until this request could pass, at least 1",
		rows: rows(row("pay", "", 1, burst(5))),
		steps: []step{
			spend(0, 5, ask(gw("pay"))),
			at(0, ask(hits(3, gw("pay"))), over(refused("pay", 1, 3), retryAfter("3"), meta("pay", "pay"))),
			at(1, ask(hits(3, gw("pay"))), over(refused("pay", 1, 3), retryAfter("3"), meta("pay", "pay"))),
			at(1000*ms-1, ask(gw("pay")), over(refused("pay", 1, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.8 duration_until_reset: absent when it never can pass",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			at(0, ask(hits(6, gw("pay"))), over(refused("pay", 5, never), meta("pay", "pay"))),
		},
	},
	{
		name:  "5.8 no gateway, unlimited, disabled: code OK alone, no headers",
		setup: setup{rls: rls.Config{ResponseHeaders: true}, buckets: buckets.Config{DefaultMaxTPS: unlimited}},
		rows:  rows(row("pay", "", 1, disabled)),
		steps: []step{
			at(0, ask(d("user", "ann"), d(), gw("pay"), gw("web")), ok(free(), free(), free(), free(), meta("pay", ""))),
		},
	},
	{
		name: "5.8 retry-after: the largest of the refused descriptors",
		rows: rows(row("pay", "", 1, burst(9)), row("web", "", 1, burst(9)), row("img", "", 1)),
		steps: []step{
			spend(0, 9, ask(gw("pay"), gw("web"))),
			at(0, ask(hits(2, gw("pay")), hits(4, gw("web")), gw("img")),
				over(refused("pay", 1, 2), refused("web", 1, 4), left("img", 1, 1, 0), retryAfter("4"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.8 retry-after: left out when one of the refused can never pass",
		rows: rows(row("pay", "", 1), row("web", "", 0)),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay"), gw("web")), over(refused("pay", 1, 1), refused("web", 0, never), meta("pay", "pay"))),
		},
	},
	{
		name:  "5.8 x-ratelimit headers: of the status with the least remaining",
		setup: withHeaders,
		rows:  rows(row("pay", "", 9), row("web", "", 10, burst(30))),
		steps: []step{
			at(0, ask(d(), gw("pay"), hits(25, gw("web"))), ok(free(), left("pay", 9, 8, 1), left("web", 10, 5, 3),
				header("x-ratelimit-limit", "10"), header("x-ratelimit-remaining", "5"), header("x-ratelimit-reset", "3"), meta("pay", "pay"))),
		},
	},
	{
		name:  "5.8 x-ratelimit headers: the first of statuses with as much remaining, as Envoy picks it",
		setup: withHeaders,
		rows:  rows(row("pay", "", 1), row("web", "", 2)),
		steps: []step{
			at(0, ask(hits(2, gw("web")), gw("pay")), ok(left("web", 2, 0, 1), left("pay", 1, 0, 1),
				header("x-ratelimit-limit", "2"), header("x-ratelimit-remaining", "0"), header("x-ratelimit-reset", "1"), meta("web", "web"))),
		},
	},
	{
		name:  "5.8 x-ratelimit headers: of a refusal, after retry-after",
		setup: withHeaders,
		rows:  rows(row("pay", "", 1), row("web", "", 0)),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay")), over(refused("pay", 1, 1), retryAfter("1"),
				header("x-ratelimit-limit", "1"), header("x-ratelimit-remaining", "0"), header("x-ratelimit-reset", "1"), meta("pay", "pay"))),
			at(0, ask(gw("web")), over(refused("web", 0, never),
				header("x-ratelimit-limit", "0"), header("x-ratelimit-remaining", "0"), meta("web", "web"))),
		},
	},
	{
		name: "5.8 dynamic_metadata: of the descriptor that denies",
		rows: rows(row("pay", "", 9), row("web", "", 1)),
		steps: []step{
			spend(0, 1, ask(gw("web"))),
			at(0, ask(ep("pay", "charge"), gw("web")), over(left("pay", 9, 9, 0), refused("web", 1, 1), retryAfter("1"), meta("web", "web"))),
		},
	},
	{
		name: "5.8 dynamic_metadata: else of the first with an endpoint",
		rows: rows(row("pay", "", 9), row("web", "", 9)),
		steps: []step{
			at(0, ask(d("endpoint", "x"), gw("pay"), ep("web", "a"), ep("pay", "b")),
				ok(free(), left("pay", 9, 8, 1), left("web", 9, 8, 1), left("pay", 9, 8, 1), metaOf("web", "a", "web"))),
		},
	},
	{
		name: "5.8 dynamic_metadata: else of the first with a gateway",
		rows: rows(row("pay", "", 9), row("web", "", 9)),
		steps: []step{
			at(0, ask(d("user", "ann"), gw("web"), gw("pay")), ok(free(), left("web", 9, 8, 1), left("pay", 9, 8, 1), meta("web", "web"))),
		},
	},
	{
		name: "5.8 dynamic_metadata: none where no descriptor has a gateway",
		steps: []step{
			at(0, ask(d("user", "ann"), d()), ok(free(), free())),
			spend(0, 1, ask(bring(1, minute, d("user", "ann")))),
			at(0, ask(bring(1, minute, d("user", "ann"))), over(refusedOf(1, unitMinute, 60), retryAfter("60"))),
		},
	},
	{
		name: "5.8 dynamic_metadata: throttled also where the one that denies has no gateway",
		rows: rows(row("pay", "", 9)),
		steps: []step{
			spend(0, 1, ask(bring(1, minute, d("user", "ann")))),
			at(0, ask(bring(1, minute, d("user", "ann")), ep("pay", "charge")),
				over(refusedOf(1, unitMinute, 60), left("pay", 9, 9, 0), retryAfter("60"), metaOf("pay", "charge", "pay"))),
		},
	},
}

// errorCases are DESIGN.md §5.9: errors and names.
var errorCases = []conformance{
	{
		name:     "5.9 InvalidArgument: bytes that are no protobuf message",
		onlyGRPC: true,
		steps: []step{
			failsRaw(0, "\xff", codes.InvalidArgument, "no envoy.service.ratelimit.v3.RateLimitRequest"),
			failsRaw(0, "\x0a\x05shop", codes.InvalidArgument, "no envoy.service.ratelimit.v3.RateLimitRequest"),
			failsRaw(0, "\x0a\x04shop\x12\x02\x0a\x03", codes.InvalidArgument, "no envoy.service.ratelimit.v3.RateLimitRequest"),
			failsRaw(0, "\x0a\x04shop\x0c", codes.InvalidArgument, "no envoy.service.ratelimit.v3.RateLimitRequest"),
			failsRaw(0, "", codes.InvalidArgument, "domain"),
		},
	},
	{
		name: "5.9 InvalidArgument: an empty domain",
		rows: rows(row("pay", "", 5, common)),
		steps: []step{
			fails(0, askIn("", gw("pay")), codes.InvalidArgument, "domain"),
		},
	},
	{
		name: "5.9 InvalidArgument: no descriptors at all",
		steps: []step{
			fails(0, ask(), codes.InvalidArgument, "descriptors"),
		},
	},
	{
		name:  "5.9 Unavailable: only while no snapshot was ever loaded",
		setup: setup{noLimits: true},
		steps: []step{
			fails(0, ask(gw("pay")), codes.Unavailable, "no limits have been loaded yet"),
			fails(0, ask(), codes.InvalidArgument, "descriptors"),
			change(0),
			at(0, ask(gw("pay")), ok(left("default", 100, 9, 1), meta("pay", "default"))),
		},
	},
	{
		name: "5.9 an empty set of limits is one",
		steps: []step{
			at(0, ask(gw("pay")), ok(left("default", 100, 9, 1), meta("pay", "default"))),
		},
	},
	{
		name: "5.9 a descriptor without entries is unlimited, whatever it carries",
		rows: rows(row("*", "", 0)),
		steps: []step{
			at(0, ask(d()), ok(free())),
			at(0, ask(bring(0, second, d()), hits(0, d()), back(d())), ok(free(), free(), free())),
		},
	},
	{
		name:     "5.9 invalid UTF-8 in names is matched as bytes and shown with U+FFFD",
		onlyGRPC: true,
		rows:     rows(row("*", "", 1), row("p\u00e9", "", 3)),
		steps: []step{
			at(0, ask(gw("\xff")), ok(left("*", 1, 0, 1), meta("\uFFFD", "*"))),
			at(0, ask(gw("\xfe")), ok(left("*", 1, 0, 1), meta("\uFFFD", "*"))),
			at(0, ask(gw("\xff")), over(refused("*", 1, 1), retryAfter("1"), meta("\uFFFD", "*"))),
			at(0, ask(gw("p\xe9")), ok(left("*", 1, 0, 1), meta("p\uFFFD", "*"))),
			at(0, ask(ep("p\u00e9", "a\xc3")), ok(left("p%C3%A9", 3, 2, 1), metaOf("p\u00e9", "a\uFFFD", "p%C3%A9"))),
			at(0, askIn("\xf0shop", gw("pay")), ok(left("default", 100, 9, 1), metadata("domain", "\uFFFDshop", "gateway", "pay", "limit", "default"))),
		},
	},
	{
		name:     "5.9 invalid UTF-8 in values of per keys and in keys is matched as bytes",
		onlyGRPC: true,
		rows:     rows(row("pay", "", 1, per("user"))),
		steps: []step{
			spend(0, 1, ask(gw("pay", "user", "\xff", "\x80\xff", "\x00"))),
			at(0, ask(gw("pay", "user", "\xff")), over(refused("pay{user}", 1, 1), retryAfter("1"), meta("pay", "pay{user}"))),
			at(0, ask(gw("pay", "user", "\xfe")), ok(left("pay{user}", 1, 0, 1), meta("pay", "pay{user}"))),
		},
	},
	{
		name: "5.9 current_limit.name is printable ASCII without quote and backslash, else percent-encoded",
		rows: rows(row("z\u00fcrich", "", 5), row(`a"b\c%`, "*", 4, per("k\u2028")), row("sp ace~", "/{x}", 3)),
		steps: []step{
			at(0, ask(gw("z\u00fcrich")), ok(left("z%C3%BCrich", 5, 4, 1), meta("z\u00fcrich", "z%C3%BCrich"))),
			at(0, ask(ep(`a"b\c%`, "e", "k\u2028", "v")), ok(left("a%22b%5Cc%25/*{k%E2%80%A8}", 4, 3, 1), metaOf(`a"b\c%`, "e", "a%22b%5Cc%25/*{k%E2%80%A8}"))),
			at(0, ask(ep("sp ace~", "/{x}")), ok(left("sp ace~//{x}", 3, 2, 1), metaOf("sp ace~", "/{x}", "sp ace~//{x}"))),
		},
	},
	{
		name:  "5.9 CR LF that a client sends gets into no header and no name",
		setup: withHeaders,
		rows:  rows(row("*", "*", 1)),
		steps: []step{
			at(0, ask(ep("pay\r\nx: 1", "a\r\n\r\nb\x00")), ok(left("*/*", 1, 0, 1),
				header("x-ratelimit-limit", "1"), header("x-ratelimit-remaining", "0"), header("x-ratelimit-reset", "1"), metaOf("pay\r\nx: 1", "a\r\n\r\nb\x00", "*/*"))),
		},
	},
	{
		name: "5.9 names over 255 bytes match only patterns, have their own buckets, are shown cut",
		rows: rows(row("a*", "", 1), row("b*", "c*d", 2)),
		steps: []step{
			spend(0, 1, ask(gw(long("a", 256)))),
			at(0, ask(gw(long("a", 256))), over(refused("a*", 1, 1), retryAfter("1"), meta(long("a", 255), "a*"))),
			at(0, ask(gw(long("a", 257))), ok(left("a*", 1, 0, 1), meta(long("a", 255), "a*"))),
			at(0, ask(gw(long("a", 255))), ok(left("a*", 1, 0, 1), meta(long("a", 255), "a*"))),
			at(0, ask(ep(long("b", 300), long("c", 50_000)+"d")), ok(left("b*/c*d", 2, 1, 1), metaOf(long("b", 255), long("c", 255), "b*/c*d"))),
			at(0, askIn(long("x", 256), gw("pay")), ok(left("default", 100, 9, 1), metadata("domain", long("x", 255), "gateway", "pay", "limit", "default"))),
		},
	},
	{
		name: "5.9 a name is not cut within a character",
		rows: rows(row("*", "", 9)),
		steps: []step{
			at(0, ask(gw(long("a", 254)+"\u00e9")), ok(left("*", 9, 8, 1), meta(long("a", 254), "*"))),
			at(0, ask(gw(long("a", 252)+"\U0001F600x")), ok(left("*", 9, 8, 1), meta(long("a", 252), "*"))),
			at(0, ask(gw(long("a", 253)+"\u00e9")), ok(left("*", 9, 8, 1), meta(long("a", 253)+"\u00e9", "*"))),
		},
	},
	{
		name: "5.9 a hundred descriptors, and a value of 50,000 bytes, are a request",
		rows: rows(row("pay", "", 9)),
		steps: []step{
			at(0, ask(slices.Repeat(one(gw("pay")), 100)...), ok(append(slices.Repeat(one(left("pay", 9, 8, 1)), 100), meta("pay", "pay"))...)),
			at(0, ask(gw("pay", "cookie", long("x", 50_000))), ok(left("pay", 9, 7, 1), meta("pay", "pay"))),
		},
	},
	{
		name:  "5.9 at TPS_MAX_WAITERS the answer is OVER_LIMIT",
		setup: setup{buckets: buckets.Config{MaxWaiters: 1}},
		rows:  rows(tenth, row("web", "", 1, maxWait(5000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			spend(0, 1, ask(gw("web"))),
			held(0, 100*ms, ask(gw("pay")), ok(turn(100*ms)...)),
			at(0, ask(gw("web")), over(refused("web", 1, 1), retryAfter("1"), meta("web", "web"))),
		},
	},
}

// boundCases are DESIGN.md §5.10.
var boundCases = []conformance{
	{
		name:  "5.10 at TPS_MAX_BUCKETS others are evicted, and every name gets its answer",
		setup: setup{buckets: buckets.Config{MaxBuckets: 4}},
		rows:  rows(row("*", "*", 2), row("pay", "*", 3, per("user"))),
		steps: append(invented(50, func(name string) step {
			return at(0, ask(ep(name, "a")), ok(left("*/*", 2, 1, 1), metaOf(name, "a", "*/*")))
		}), invented(50, func(name string) step {
			return at(0, ask(ep("pay", name, "user", name)), ok(left("*/*", 2, 1, 1), metaOf("pay", name, "*/*")))
		})...),
	},
	{
		name:  "5.10 buckets of names that a row writes out are not evicted by invented ones",
		setup: setup{buckets: buckets.Config{MaxBuckets: 4}},
		rows:  rows(row("pay", "", 1), row("web", "a", 1)),
		steps: append(append([]step{spend(0, 1, ask(gw("pay"), ep("web", "a")))},
			invented(200, func(name string) step { return spend(0, 1, ask(gw(name))) })...),
			at(0, ask(gw("pay"), ep("web", "a")), over(refused("pay", 1, 1), refused("web/a", 1, 1), retryAfter("1"), meta("pay", "pay"))),
		),
	},
}

// invented makes a step for each of n names.
func invented(n int, of func(name string) step) []step {
	steps := make([]step, n)
	for i := range steps {
		steps[i] = of(fmt.Sprintf("invented-%d", i))
	}
	return steps
}

func one[T any](v T) []T { return []T{v} }

func long(of string, n int) string { return strings.Repeat(of, n) }
