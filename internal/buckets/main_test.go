package buckets

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
)

// newTable compiles rows or ends the test.
func newTable(tb testing.TB, prev *limits.Table, nowNS int64, rows ...limits.Limit) *limits.Table {
	tb.Helper()
	id := int64(1)
	if prev != nil {
		id = prev.ID() + 1
	}
	t, err := limits.NewTable(prev, rows, limits.Stamp{ID: id, AtNS: nowNS})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// world is an Engine and the tables that it looks at.
type world struct {
	tb      testing.TB
	engine  *Engine
	clock   limits.Clock
	current *limits.Current
}

// newWorld puts rows in force at instant 1, at which its clock begins.
func newWorld(tb testing.TB, cfg Config, rows ...limits.Limit) *world {
	tb.Helper()
	w := &world{tb: tb, clock: limits.ClockAt(1), current: &limits.Current{}}
	w.current.Store(newTable(tb, nil, 1, rows...))
	w.engine = New(cfg, w.clock, w.current)
	return w
}

// put replaces all rows at nowNS.
func (w *world) put(nowNS int64, rows ...limits.Limit) {
	w.tb.Helper()
	w.current.Store(newTable(w.tb, w.current.Load(), nowNS, rows...))
}

// decide answers r at nowNS. The request may wait as long as its limits let it.
func (w *world) decide(nowNS int64, r *Request) *Decision {
	w.tb.Helper()
	d := &Decision{}
	if r.ChargeEach {
		w.engine.ChargeEach(nowNS, r, d)
		return d
	}
	if _, err := w.engine.decide(nowNS, r, int64(MaxWait), d); err != nil {
		w.tb.Fatalf("decide(%d, %+v) = %v", nowNS, *r, err)
	}
	return d
}

// admitted asks one hit after the other at nowNS, at most most, and returns how many passed.
func (w *world) admitted(nowNS int64, r *Request, most int) int {
	w.tb.Helper()
	for n := range most {
		if w.decide(nowNS, r).Code != OK {
			return n
		}
	}
	return most
}

// row is a limit of domain "d"; key is gateway, endpoint, per, as many as are wanted.
func row(tps, burst int64, key ...string) limits.Limit {
	l := limits.Limit{Key: limits.Key{Domain: "d"}, MaxTPS: tps, Burst: burst, Enabled: true}
	for i, field := range []*string{&l.Gateway, &l.Endpoint, &l.Per}[:len(key)] {
		*field = key[i]
	}
	return l
}

// waiting is row with a max_wait_ms.
func waiting(waitMS, tps, burst int64, key ...string) limits.Limit {
	l := row(tps, burst, key...)
	l.MaxWaitMS = waitMS
	return l
}

// ask is a request of domain "d" with one descriptor: a gateway, and an endpoint if it is not
// empty.
func ask(hits uint64, gateway, endpoint string, more ...Entry) *Request {
	return &Request{Domain: "d", Descriptors: []Descriptor{descriptor(hits, gateway, endpoint, more...)}}
}

func descriptor(hits uint64, gateway, endpoint string, more ...Entry) Descriptor {
	d := Descriptor{Gateway: gateway, HasGateway: true, Hits: hits, MaxWaitMS: -1, Entries: []Entry{{"gateway", gateway}}}
	if endpoint != "" {
		d.Endpoint, d.HasEndpoint = endpoint, true
		d.Entries = append(d.Entries, Entry{"endpoint", endpoint})
	}
	d.Entries = append(d.Entries, more...)
	return d
}
