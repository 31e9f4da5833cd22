package buckets

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// TestSweepFreesWhatEqualsNothing: when all buckets are full again, nothing is left, and
// before that everything is.
func TestSweepFreesWhatEqualsNothing(t *testing.T) {
	for name, request := range inventions() {
		t.Run(name, func(t *testing.T) {
			w := evictionWorld(t, 1_000_000)
			for i := range 50 {
				w.decide(1, request(i))
			}
			before := w.engine.Stats()
			w.engine.sweep(1)
			if got := w.engine.Stats(); got != before {
				t.Errorf("swept at once: %+v, want %+v", got, before)
			}
			w.engine.sweep(1 + 10*sec)
			if got := w.engine.Stats(); got != (Stats{}) {
				t.Errorf("swept after 10 s: %+v, want nothing left of %+v", got, before)
			}
		})
	}
}

// TestSweepLongGates: a sweep looks at all of a gate's buckets, some at a time.
func TestSweepLongGates(t *testing.T) {
	w := newWorld(t, Config{}, row(10, 1, "gw", "*"))
	const n = 2*sweepChunk + 100
	for i := range n {
		w.decide(1+int64(i)*ms, ask(1, "gw", strconv.Itoa(i)))
	}
	w.engine.sweep(1 + 1000*ms)
	// At 1000 ms, those of the first 900 ms are full again.
	if got, want := w.engine.Stats().Bounded, int64(n-901); got != want {
		t.Errorf("%d left, want %d", got, want)
	}
}

// TestSweepKeepsUsage: what is not full stays, also where the rows changed since: what would
// be full at the old rate is not at the new, and a deleted row is forgotten.
func TestSweepKeepsUsage(t *testing.T) {
	long := strings.Repeat("x", 300)
	requests := map[string]*Request{
		"gateway":             ask(1, "gw", ""),
		"pattern gateway":     ask(1, "any", ""),
		"endpoint":            ask(1, "gw", "ep"),
		"pattern endpoint":    ask(1, "gw", "any"),
		"long endpoint":       ask(1, "gw", long),
		"long gateway":        ask(1, long, ""),
		"value":               ask(1, "gw", "", Entry{"user", "alice"}),
		"value of endpoint":   ask(1, "per", "ep", Entry{"user", "alice"}),
		"value of any":        ask(1, "per", "any", Entry{"user", "alice"}),
		"long value":          ask(1, "per", "any", Entry{"user", long}),
		"long value, long ep": ask(1, "per", long, Entry{"user", long}),
	}
	for name, r := range requests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{}, sweepRows(10)...)
			if got := w.admitted(1*sec, r, 50); got != 10 {
				t.Fatalf("admitted at first: %d, want 10", got)
			}
			w.put(1*sec, sweepRows(1)...)
			w.engine.sweep(5 * sec)
			w.engine.sweep(6 * sec)
			if got := w.admitted(6*sec, r, 50); got != 5 {
				t.Errorf("admitted 5 s after all rates became 1/s: %d, want 5", got)
			}
		})
	}
}

func sweepRows(tps int64) []limits.Limit {
	return rows(row(tps, 10, "gw"), row(tps, 10, "*"), row(tps, 10, "gw", "ep"), row(tps, 10, "gw", "*"), row(tps, 10, "gw", "", "user"),
		row(tps, 10, "per", "ep", "user"), row(tps, 10, "per", "*", "user"))
}

func TestSweepForgetsDeletedRows(t *testing.T) {
	for name, r := range map[string]*Request{
		"endpoint": ask(1, "gw", "ep"), "pattern": ask(1, "gw", "any"), "value": ask(1, "gw", "", Entry{"user", "alice"}),
		"value of endpoint": ask(1, "per", "ep", Entry{"user", "alice"}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{}, sweepRows(1)...)
			w.admitted(1*sec, r, 10)
			w.put(2*sec, row(1000, 1000, "gw"), row(1000, 1000, "per"))
			w.engine.sweep(3 * sec)
			if got := w.engine.Stats(); got.Bounded != 0 {
				t.Errorf("after its row was deleted: %+v, want no bounded bucket", got)
			}
		})
	}
}

// TestSweepServesWaiters: a sweep that meets newer rules plans the gate anew.
func TestSweepServesWaiters(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 1, 1, "gw")), func(q *queueTest) {
		q.drain(ask(1, "gw", ""))
		q.call("a", ask(1, "gw", ""))
		q.engine.queues = map[*gate]struct{}{} // nobody plans anew when the table is swapped
		q.change(waiting(10_000, 10, 1, "gw"))
		q.engine.Sweep()
		q.elapse(150 * time.Millisecond)
		q.want("a OK after 100ms")
	})
}

func TestRunSweepsEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, row(10, 10, "gw", "*"))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.engine.Run(ctx) }()
		w.decide(1, ask(1, "gw", "a"))
		<-time.After(sweepEvery - 1)
		before := w.engine.Stats().Bounded
		<-time.After(2)
		synctest.Wait()
		if after := w.engine.Stats().Bounded; before != 1 || after != 0 {
			t.Errorf("bounded buckets shortly before and after a minute: %d, %d, want 1, 0", before, after)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}

func TestNoTable(t *testing.T) {
	e := New(Config{}, limits.NewClock(), &limits.Current{})
	e.Sweep()
	e.Replan()
	if err := e.Do(t.Context(), ask(1, "gw", ""), 0, &Decision{}); !errors.Is(err, ErrNoTable) {
		t.Errorf("Do without a table = %v, want %v", err, ErrNoTable)
	}
	limit := limits.Window(1, 60, limits.TokenBucket, false)
	files := &Request{Domain: "d", FromFiles: true, Descriptors: []Descriptor{counted(1, "k", limit), {Hits: 1, MaxWaitMS: -1}}}
	for i, want := range []Code{OK, OverLimit} {
		x, err := e.Explain(files)
		if err != nil || x.Code != want {
			t.Errorf("%d: Explain of descriptor files without a table = %v, %v, want %v", i, x.Code, err, want)
		}
		var d Decision
		if err := e.Do(t.Context(), files, 0, &d); err != nil || d.Code != want {
			t.Errorf("%d: Do of descriptor files without a table = %v, %v, want %v", i, d.Code, err, want)
		}
	}
}

// TestSweepLongGatesOfWrittenOutNames: those that rows write out are looked at like all others.
func TestSweepLongGatesOfWrittenOutNames(t *testing.T) {
	const endpoints = 5 * sweepChunk
	rows := make([]limits.Limit, 0, endpoints)
	for i := range endpoints {
		rows = append(rows, row(1, 1, "gw", strconv.Itoa(i)))
	}
	w := newWorld(t, Config{}, rows...)
	for i := range endpoints {
		w.decide(1, ask(1, "gw", strconv.Itoa(i)))
	}
	w.engine.sweep(1)
	if s := w.engine.Stats(); s.Buckets != endpoints+1 {
		t.Errorf("%d buckets live while all are empty, want %d and the gate's", s.Buckets, endpoints)
	}
	w.engine.sweep(2 * sec)
	if s := w.engine.Stats(); s.Buckets != 0 {
		t.Errorf("%d buckets live when all are full again, want none", s.Buckets)
	}
}
