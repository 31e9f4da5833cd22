package rls_test

import (
	"time"

	"github.com/tps-agent/ratelimitd/internal/buckets"
)

const ms = time.Millisecond

// flagCases are DESIGN.md §5.5: enabled and shadow.
var flagCases = []conformance{
	{
		name: "5.5 enabled=false: no limit, still measured",
		rows: rows(row("pay", "", 1, disabled), row("pay", "charge", 0, disabled)),
		steps: []step{
			at(0, ask(hits(9, ep("pay", "charge"))), ok(free(), metaOf("pay", "charge", ""))),
		},
	},
	{
		name: "5.5 shadow=true: it is charged while it has room, and reports 0 where it would refuse",
		rows: rows(row("pay", "", 2, shadow)),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("pay", 2, 1, 1), meta("pay", "pay"))),
			at(0, ask(gw("pay")), ok(left("pay", 2, 0, 1), meta("pay", "pay"))),
			at(0, ask(gw("pay")), ok(left("pay", 2, 0, 1), meta("pay", "pay"))),
			at(0, ask(hits(0, gw("pay"))), ok(left("pay", 2, 0, 1), meta("pay", "pay"))),
			at(500*ms, ask(gw("pay")), ok(left("pay", 2, 0, 1), meta("pay", "pay"))),
			at(1500*ms, ask(gw("pay")), ok(left("pay", 2, 1, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.5 shadow=true: it is not charged where it has no room for all hits",
		rows: rows(row("pay", "", 2, shadow)),
		steps: []step{
			at(0, ask(hits(3, gw("pay"))), ok(left("pay", 2, 0, 0), meta("pay", "pay"))),
			at(0, ask(gw("pay")), ok(left("pay", 2, 1, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.5 shadow=true: it never holds",
		rows: rows(row("pay", "", 1, shadow, maxWait(60_000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay")), ok(left("pay", 1, 0, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.5 shadow=true: a limit without room does not keep others from holding",
		rows: rows(row("pay", "", 10, burst(1), maxWait(5000)), row("pay", "charge", 1, shadow)),
		steps: []step{
			spend(0, 1, ask(ep("pay", "charge"))),
			held(0, 100*ms, ask(ep("pay", "charge")), ok(left("pay", 10, 0, 1), metaOf("pay", "charge", "pay"), waited(100*ms))),
		},
	},
	{
		name: "5.5 shadow=true: max_tps 0 refuses nothing",
		rows: rows(row("pay", "", 0, shadow)),
		steps: []step{
			at(0, ask(gw("pay")), ok(left("pay", 0, 0, 0), meta("pay", "pay"))),
		},
	},
	{
		name: "5.5 shadow=true: it is not charged for what an enforced limit refuses",
		rows: rows(row("pay", "", 1), row("pay", "charge", 5, shadow)),
		steps: []step{
			spend(0, 1, ask(ep("pay", "charge"))),
			at(0, ask(ep("pay", "charge")), over(refused("pay", 1, 1), retryAfter("1"), metaOf("pay", "charge", "pay"))),
			change(0, row("pay", "charge", 5, shadow)),
			at(0, ask(ep("pay", "charge")), ok(left("pay/charge", 5, 3, 1), metaOf("pay", "charge", "pay/charge"))),
		},
	},
}

// tenth is a row with room for one request at a time and a token each tenth of a second, for
// which requests wait up to five seconds.
var tenth = row("pay", "", 10, burst(1), maxWait(5000))

// turn is the answer to a request that waited for its turn at tenth.
func turn(wait time.Duration) []part {
	return []part{left("pay", 10, 0, 1), meta("pay", "pay"), waited(wait)}
}

// turnOf is the same for an endpoint.
func turnOf(endpoint string, wait time.Duration) []part {
	return []part{left("pay", 10, 0, 1), metaOf("pay", endpoint, "pay"), waited(wait)}
}

// holdCases are DESIGN.md §5.6.
var holdCases = []conformance{
	{
		name: "5.6 a request without room waits for its turn",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 100*ms, ask(gw("pay")), ok(turn(100*ms)...)),
		},
	},
	{
		name: "5.6 every limit that lacks room must let it wait",
		rows: rows(tenth, row("pay", "charge", 10, burst(1))),
		steps: []step{
			spend(0, 1, ask(ep("pay", "charge"))),
			at(0, ask(ep("pay", "charge")), over(refused("pay/charge", 10, 1), retryAfter("1"), metaOf("pay", "charge", "pay/charge"))),
		},
	},
	{
		name: "5.6 a limit that has room need not let it wait",
		rows: rows(row("pay", "", 100), row("pay", "charge", 10, burst(1), maxWait(5000))),
		steps: []step{
			spend(0, 1, ask(ep("pay", "charge"))),
			held(0, 100*ms, ask(ep("pay", "charge")), ok(left("pay/charge", 10, 0, 1), metaOf("pay", "charge", "pay/charge"), waited(100*ms))),
		},
	},
	{
		name: "5.6 it waits up to the smallest max_wait_ms of the limits that lack room",
		rows: rows(row("pay", "", 1, maxWait(10_000)), row("pay", "a", 1, maxWait(999)), row("web", "", 1, maxWait(1000)), row("web", "a", 1, maxWait(1001))),
		steps: []step{
			spend(0, 1, ask(ep("pay", "a"))),
			at(0, ask(ep("pay", "a")), over(refused("pay/a", 1, 1), retryAfter("1"), metaOf("pay", "a", "pay/a"))),
			spend(0, 1, ask(ep("web", "a"))),
			held(0, 1000*ms, ask(ep("web", "a")), ok(left("web/a", 1, 0, 1), metaOf("web", "a", "web/a"), waited(1000*ms))),
		},
	},
	{
		name: "5.6 an entry max_wait_ms lowers the wait",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay", "max_wait_ms", "0")), over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay"))),
			at(0, ask(gw("pay", "max_wait_ms", "99")), over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay"))),
			held(0, 100*ms, ask(gw("pay", "max_wait_ms", "100")), ok(turn(100*ms)...)),
		},
	},
	{
		name: "5.6 an entry max_wait_ms cannot raise the wait",
		rows: rows(row("pay", "", 1, maxWait(500))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay", "max_wait_ms", "60000")), over(refused("pay", 1, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.6 an invalid entry max_wait_ms is ignored",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 100*ms, ask(gw("pay", "max_wait_ms", "-1")), ok(turn(100*ms)...)),
			held(0, 200*ms, ask(gw("pay", "max_wait_ms", "")), ok(turn(200*ms)...)),
			held(0, 300*ms, ask(gw("pay", "max_wait_ms", "1s")), ok(turn(300*ms)...)),
			held(0, 400*ms, ask(gw("pay", "max_wait_ms", "99999999999999999999")), ok(turn(400*ms)...)),
		},
	},
	{
		name: "5.6 the caller's deadline bounds the wait, less 5 ms where a hundredth is less",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			within(105*ms-1, at(0, ask(gw("pay")), over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay")))),
			within(105*ms, held(0, 100*ms, ask(gw("pay")), ok(turn(100*ms)...))),
		},
	},
	{
		name: "5.6 the caller's deadline bounds the wait, less a hundredth of it",
		rows: rows(row("pay", "", 1, burst(99), maxWait(600_000))),
		steps: []step{
			spend(0, 1, ask(hits(99, gw("pay")))),
			within(4*time.Second-1, at(0, ask(hits(4, gw("pay"))), over(refused("pay", 1, 4), retryAfter("4"), meta("pay", "pay")))),
			within(4*time.Second+40*ms, at(0, ask(hits(4, gw("pay"))), over(refused("pay", 1, 4), retryAfter("4"), meta("pay", "pay")))),
			within(4*time.Second+41*ms, held(0, 4*time.Second, ask(hits(4, gw("pay"))), ok(left("pay", 1, 0, 99), meta("pay", "pay"), waited(4*time.Second)))),
		},
	},
	{
		name: "5.6 the caller's deadline bounds the wait, less 100 ms where a hundredth is more",
		rows: rows(row("pay", "", 1, burst(99), maxWait(600_000))),
		steps: []step{
			spend(0, 1, ask(hits(99, gw("pay")))),
			within(99*time.Second+100*ms-1, at(0, ask(hits(99, gw("pay"))), over(refused("pay", 1, 99), retryAfter("99"), meta("pay", "pay")))),
			within(99*time.Second+100*ms, held(0, 99*time.Second, ask(hits(99, gw("pay"))), ok(left("pay", 1, 0, 99), meta("pay", "pay"), waited(99*time.Second)))),
		},
	},
	{
		name: "5.6 nobody overtakes within a lane",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 100*ms, ask(gw("pay")), ok(turn(100*ms)...)),
			held(10*ms, 200*ms, ask(gw("pay")), ok(turn(190*ms)...)),
			held(20*ms, 300*ms, ask(gw("pay")), ok(turn(280*ms)...)),
			held(299*ms, 400*ms, ask(gw("pay")), ok(turn(101*ms)...)),
		},
	},
	{
		name: "5.6 nobody overtakes within a lane: few hits wait behind many",
		rows: rows(row("pay", "", 10, burst(5), maxWait(5000))),
		steps: []step{
			spend(0, 5, ask(gw("pay"))),
			held(0, 500*ms, ask(hits(5, gw("pay"))), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(500*ms))),
			held(10*ms, 600*ms, ask(gw("pay")), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(590*ms))),
		},
	},
	{
		name: "5.6 the lanes of a gateway, one per endpoint, take turns",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(ep("pay", "a"))),
			held(0, 100*ms, ask(ep("pay", "a")), ok(turnOf("a", 100*ms)...)),
			held(0, 300*ms, ask(ep("pay", "a")), ok(turnOf("a", 300*ms)...)),
			held(0, 500*ms, ask(ep("pay", "a")), ok(turnOf("a", 500*ms)...)),
			held(0, 200*ms, ask(ep("pay", "b")), ok(turnOf("b", 200*ms)...)),
			held(0, 400*ms, ask(ep("pay", "b")), ok(turnOf("b", 400*ms)...)),
		},
	},
	{
		name: "5.6 the lanes of a gateway, one per value of a per row, take turns",
		rows: rows(tenth, row("pay", "", 1000, per("user"))),
		steps: []step{
			spend(0, 1, ask(gw("pay", "user", "ann"))),
			held(0, 100*ms, ask(gw("pay", "user", "ann")), ok(left("pay{user}", 1000, 0, 1), meta("pay", "pay{user}"), waited(100*ms))), // 0 while others queue, ties: per first
			held(0, 300*ms, ask(gw("pay", "user", "ann")), ok(turn(300*ms)...)),
			held(0, 200*ms, ask(gw("pay", "user", "bob")), ok(turn(200*ms)...)),
		},
	},
	{
		name: "5.6 a head with many hits keeps its turn among the lanes",
		rows: rows(row("pay", "", 10, burst(5), maxWait(5000))),
		steps: []step{
			spend(0, 5, ask(gw("pay"))),
			held(0, 500*ms, ask(hits(5, ep("pay", "a"))), ok(left("pay", 10, 0, 1), metaOf("pay", "a", "pay"), waited(500*ms))),
			held(150*ms, 600*ms, ask(ep("pay", "b")), ok(left("pay", 10, 0, 1), metaOf("pay", "b", "pay"), waited(450*ms))),
		},
	},
	{
		name: "5.6 tokens that belong to those who queue are no room for others",
		rows: rows(row("pay", "", 10, burst(2), maxWait(5000))),
		steps: []step{
			spend(0, 2, ask(gw("pay"))),
			held(0, 200*ms, ask(hits(2, gw("pay"))), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(200*ms))),
			held(150*ms, 300*ms, ask(gw("pay")), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(150*ms))),
		},
	},
	{
		name: "5.6 who waits for an endpoint does not stop the others of the gateway",
		rows: rows(row("pay", "", 100), row("pay", "slow", 1, maxWait(60_000))),
		steps: []step{
			spend(0, 1, ask(ep("pay", "slow"))),
			held(0, 1000*ms, ask(ep("pay", "slow")), ok(left("pay/slow", 1, 0, 1), metaOf("pay", "slow", "pay/slow"), waited(1000*ms))),
			at(0, ask(ep("pay", "fast")), ok(left("pay", 100, 0, 1), metaOf("pay", "fast", "pay"))),
		},
	},
	{
		name: "5.6 whose turn cannot come in time is refused at once, and told when all before are served",
		rows: rows(row("pay", "", 1, maxWait(2500))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 1000*ms, ask(gw("pay")), ok(left("pay", 1, 0, 1), meta("pay", "pay"), waited(1000*ms))),
			held(0, 2000*ms, ask(gw("pay")), ok(left("pay", 1, 0, 1), meta("pay", "pay"), waited(2000*ms))),
			at(0, ask(gw("pay")), over(refused("pay", 1, 3), retryAfter("3"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.6 whose turn did not come by its deadline is refused then",
		rows: rows(row("pay", "", 1, maxWait(60_000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 1000*ms, ask(ep("pay", "a")), ok(left("pay", 1, 0, 1), metaOf("pay", "a", "pay"), waited(1000*ms))),
			held(0, 1500*ms, ask(ep("pay", "b", "max_wait_ms", "1500")), over(refused("pay", 1, 1), retryAfter("1"), metaOf("pay", "b", "pay"), waited(1500*ms))),
		},
	},
	{
		name: "5.6 a caller that goes away leaves the queue, and the next takes its turn",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			gone(0, 50*ms, ask(gw("pay"))),
			held(0, 100*ms, ask(gw("pay")), ok(turn(100*ms)...)),
		},
	},
	{
		name: "5.6 after a raise who waits is served by the new limit",
		rows: rows(row("pay", "", 1, burst(1), maxWait(60_000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 190*ms, ask(gw("pay")), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(190*ms))),
			change(100*ms, row("pay", "", 10, burst(1), maxWait(60_000))),
		},
	},
	{
		name: "5.6 after a change who waits keeps the deadline",
		rows: rows(row("pay", "", 1, burst(1), maxWait(60_000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 1000*ms, ask(gw("pay")), ok(left("pay", 1, 0, 1), meta("pay", "pay"), waited(1000*ms))),
			change(100*ms, row("pay", "", 1, burst(1))),
		},
	},
	{
		name: "5.6 after a change who can no longer pass is skipped by the turn and refused at the deadline",
		rows: rows(row("pay", "", 10, burst(3), maxWait(500))),
		steps: []step{
			spend(0, 3, ask(gw("pay"))),
			held(0, 500*ms, ask(hits(3, gw("pay"))), over(refused("pay", 10, never), meta("pay", "pay"), waited(500*ms))),
			held(0, 150*ms, ask(gw("pay")), ok(left("pay", 10, 0, 1), meta("pay", "pay"), waited(150*ms))),
			change(50*ms, row("pay", "", 10, burst(1), maxWait(500))),
		},
	},
	{
		name: "5.6 at the stop who cannot be served in time is refused with retry-after",
		rows: rows(row("pay", "", 1, maxWait(60_000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 1000*ms, ask(gw("pay")), ok(left("pay", 1, 0, 1), meta("pay", "pay"), waited(1000*ms))),
			held(0, 100*ms, ask(gw("pay")), over(refused("pay", 1, 2), retryAfter("2"), meta("pay", "pay"), waited(100*ms))),
			drain(100*ms, 1500*ms),
			at(200*ms, ask(gw("pay")), over(refused("pay", 1, 2), retryAfter("2"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.6 a request that names several gateways does not wait",
		rows: rows(tenth, row("web", "", 10, maxWait(5000))),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay"), gw("web")), over(refused("pay", 10, 1), left("web", 10, 10, 0), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.6 a request that names several endpoints does not wait",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(ep("pay", "a"), ep("pay", "b")), over(refused("pay", 10, 1), refused("pay", 10, 1), retryAfter("1"), metaOf("pay", "a", "pay"))),
			held(0, 100*ms, ask(gw("pay"), ep("pay", "b")), ok(left("pay", 10, 0, 1), left("pay", 10, 0, 1), metaOf("pay", "b", "pay"), waited(100*ms))),
		},
	},
	{
		name:  "5.6 the queue is bounded in number: who comes then is refused",
		setup: setup{buckets: buckets.Config{MaxWaiters: 1}},
		rows:  rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			held(0, 100*ms, ask(gw("pay")), ok(turn(100*ms)...)),
			at(0, ask(gw("pay")), over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
	{
		name: "5.6 the queue is bounded in memory: a request of long names is refused",
		rows: rows(tenth),
		steps: []step{
			spend(0, 1, ask(gw("pay"))),
			at(0, ask(gw("pay", "cookie", string(make([]byte, 50_000)))), over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay"))),
		},
	},
}

// changeCases are DESIGN.md §5.7: a changed limit keeps the usage.
var changeCases = []conformance{
	{
		name: "5.7 after a raise the new room is there at once",
		rows: rows(row("pay", "", 10)),
		steps: []step{
			spend(0, 10, ask(gw("pay"))),
			change(0, row("pay", "", 10, burst(15))),
			at(0, ask(gw("pay")), ok(left("pay", 10, 4, 2), meta("pay", "pay"))),
		},
	},
	{
		name: "5.7 after a cut there is no more than the new burst",
		rows: rows(row("pay", "", 10)),
		steps: []step{
			spend(0, 1, ask(gw("web"))),
			spend(0, 1, ask(hits(0, gw("pay")))),
			change(0, row("pay", "", 10, burst(3))),
			at(0, ask(gw("pay")), ok(left("pay", 10, 2, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.7 after a cut what was used is used",
		rows: rows(row("pay", "", 10)),
		steps: []step{
			spend(0, 4, ask(gw("pay"))),
			change(0, row("pay", "", 10, burst(5))),
			at(0, ask(gw("pay")), ok(left("pay", 10, 0, 1), meta("pay", "pay"))),
			change(0, row("pay", "", 10, burst(2))),
			at(0, ask(gw("pay")), over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay"))),
			at(100*ms, ask(gw("pay")), ok(left("pay", 10, 0, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.7 refill up to the change runs at the old rate",
		rows: rows(row("pay", "", 1, burst(10))),
		steps: []step{
			spend(0, 10, ask(gw("pay"))),
			change(2*time.Second, row("pay", "", 5, burst(10))),
			at(3*time.Second, ask(gw("pay")), ok(left("pay", 5, 6, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.7 a disabled row keeps its state",
		rows: rows(row("pay", "charge", 5)),
		steps: []step{
			spend(0, 4, ask(ep("pay", "charge"))),
			change(0, row("pay", "charge", 5, disabled)),
			at(0, ask(ep("pay", "charge")), ok(free(), metaOf("pay", "charge", ""))),
			change(0, row("pay", "charge", 5)),
			at(0, ask(ep("pay", "charge")), ok(left("pay/charge", 5, 0, 1), metaOf("pay", "charge", "pay/charge"))),
		},
	},
	{
		name: "5.7 a deleted row forgets its state",
		rows: rows(row("pay", "", 5), row("web", "", 5)),
		steps: []step{
			spend(0, 5, ask(gw("pay"))),
			spend(0, 5, ask(gw("web"))),
			change(0),
			at(0, ask(gw("web")), ok(left("default", 100, 9, 1), meta("web", "default"))),
			change(0, row("pay", "", 5), row("web", "", 5)),
			at(0, ask(gw("pay")), ok(left("pay", 5, 4, 1), meta("pay", "pay"))),
		},
	},
	{
		name: "5.7 a change of other rows, or of the flags alone, leaves the usage",
		rows: rows(row("pay", "", 5)),
		steps: []step{
			spend(0, 3, ask(gw("pay"))),
			change(0, row("pay", "", 5, maxWait(100), shadow), row("web", "", 5)),
			at(0, ask(gw("pay")), ok(left("pay", 5, 1, 1), meta("pay", "pay"))),
		},
	},
}
