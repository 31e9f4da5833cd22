package buckets

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// TestEvictOwnPaysForAll: a request that makes several buckets parts with as many of its own
// gateway, so that names invented there push nobody else's out.
func TestEvictOwnPaysForAll(t *testing.T) {
	rows := []limits.Limit{row(1_000_000, 1_000_000_000, "pub"), row(1000, 0, "pub", "*"), row(1000, 0, "pub", "*", "user"), row(1000, 0, "pub", "", "user")}
	const others, attacks = 20, 8000
	for i := range others {
		rows = append(rows, row(1, 1, fmt.Sprintf("other-%d", i), "", "user"))
	}
	w := newWorld(t, Config{MaxBuckets: 3000}, rows...)
	admitted, nowNS := 0, sec
	for i := range attacks {
		nowNS += 1000
		w.decide(nowNS, ask(1, "pub", fmt.Sprintf("/%d", i), Entry{"user", fmt.Sprintf("u%d", i)}))
		if w.decide(nowNS, ask(1, fmt.Sprintf("other-%d", i%others), "", Entry{"user", "alice"})).Code == OK {
			admitted++
		}
	}
	if admitted != others {
		t.Errorf("%d buckets of one token admitted %d within %d ms", others, admitted, attacks/1000)
	}
}

// TestChangeThenAnotherOfTheGateway: a cut counts from its own instant, also where another row of
// the gateway has changed before the bucket is touched again.
func TestChangeThenAnotherOfTheGateway(t *testing.T) {
	wide := row(1000, 1_000_000, "gw")
	w := newWorld(t, Config{}, wide)
	w.decide(sec, ask(1_000_000, "gw", ""))
	cut := row(1, 1_000_000, "gw")
	w.put(2*sec, cut)
	cut.Note = "why"
	w.put(50*sec, cut)
	// One second at 1,000 and fifty at 1.
	if got, want := w.decide(52*sec, ask(0, "gw", "")).Statuses[0].Remaining, int64(1050); got != want {
		t.Errorf("%d remain, want %d", got, want)
	}
}

// TestNameThatPosesAsAHash: a short name with the bytes of a long one's key is another name.
func TestNameThatPosesAsAHash(t *testing.T) {
	long := "/api/" + strings.Repeat("x", 300)
	sum := sha256.Sum256([]byte(long))
	w := newWorld(t, Config{}, row(0, 0, "gw", "/api/*"), row(1000, 0, "gw", "*"))
	w.decide(sec, ask(1, "gw", "\x00"+string(sum[:])))
	if d := w.decide(sec, ask(1, "gw", long)); d.Code != OverLimit {
		t.Errorf("%.10s… is admitted by %s, want the refusal of /api/*", long, d.Statuses[0].Limit.Label())
	}
}

// TestGatewayCalledDefault keeps its usage when it gets a row, like any other.
func TestGatewayCalledDefault(t *testing.T) {
	for _, gateway := range []string{"default", "other"} {
		w := newWorld(t, Config{DefaultMaxTPS: 100})
		w.decide(sec, ask(10, gateway, ""))
		common := row(100, 0, gateway)
		common.Domain = ""
		w.put(sec, common)
		if d := w.decide(sec, ask(1, gateway, "")); d.Code != OverLimit {
			t.Errorf("gateway %s has room again by getting a row", gateway)
		}
	}
}

// TestHoldManyLanes: each turn of the gateway is one request's, however many lanes there are.
// BenchmarkTurn says what a turn costs.
func TestHoldManyLanes(t *testing.T) {
	w := newWorld(t, Config{}, waiting(1_800_000, 1000, 1, "gw"))
	w.decide(sec, ask(1, "gw", "first"))
	const lanes = 2000
	for i := range lanes {
		w.decide(sec, ask(1, "gw", fmt.Sprintf("/%d", i)))
	}
	g := w.engine.gate(gateName{"d", "gw", ofGateway})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve(sec)
	if g.waiting != lanes {
		t.Fatalf("%d wait, want %d", g.waiting, lanes)
	}
	g.serve(sec + 100*ms) // the tokens of 100 turns
	if got, want := g.waiting, lanes-100; got != want {
		t.Errorf("%d wait after 100 turns, want %d", got, want)
	}
}
