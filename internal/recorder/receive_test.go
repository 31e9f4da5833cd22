package recorder_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/recorder"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func batch(first int64, endpoints ...string) traffic.Batch {
	return traffic.Batch{Source: traffic.Source{Server: "edge-1", Run: "run"}, First: first, Transactions: transactionsOf(endpoints...)}
}

// receive wants so many of a batch to be new.
func (r *running) receive(tb testing.TB, b traffic.Batch, want int) {
	tb.Helper()
	fresh, err := r.Receive(tb.Context(), b)
	if err != nil || fresh != want {
		tb.Errorf("offsets %d to %d: %d new, error %v; want %d", b.First, b.Next(), fresh, err, want)
	}
}

// With and without a sink, what comes again is counted and stored once.
func TestReceiveCountsWhatIsNew(t *testing.T) {
	for name, sink := range map[string]*memory{"a sink": {}, "no sink": nil} {
		t.Run(name, func(t *testing.T) {
			r := run(t, config(), sinks(sink)...)
			r.receive(t, batch(0, "a", "b", "c"), 3)
			r.receive(t, batch(0, "a", "b", "c"), 0)
			r.receive(t, batch(1, "b", "c", "d"), 1)
			r.receive(t, batch(10, "k"), 1) // what is between was lost at the sender
			r.receive(t, batch(4, "e"), 0)
			other := batch(0, "a")
			other.Run = "another"
			r.receive(t, other, 1)
			if sink != nil {
				assertTaken(t, sink, []string{"a", "b", "c", "d", "k", "a"})
			}
			counted := map[string]uint64{}
			for _, e := range r.Stats().Endpoints {
				counted[e.Endpoint] = e.Transactions
			}
			if diff := cmp.Diff(map[string]uint64{"a": 2, "b": 1, "c": 1, "d": 1, "k": 1}, counted); diff != "" {
				t.Errorf("transactions by endpoint (-want +got):\n%s", diff)
			}
			assertMetric(t, r.reg, 6, "ratelimitd_recorder_received_total")
			assertMetric(t, r.reg, 6, "ratelimitd_recorder_repeated_total")
		})
	}
}

// Where one of two sinks fails, the batch comes again, and the other passes it over.
func TestReceiveWithTwoSinks(t *testing.T) {
	first, second, fail := &memory{}, &memory{}, true
	second.write = func(context.Context, []string) error {
		if fail {
			return errors.New("no answer")
		}
		return nil
	}
	r := run(t, config(), sinks(first, second)...)
	if _, err := r.Receive(t.Context(), batch(0, "a", "b")); err == nil {
		t.Error("no error, though a sink does not answer")
	}
	assertMetric(t, r.reg, 0, "ratelimitd_recorder_received_total")
	assertMetric(t, r.reg, 1, "ratelimitd_recorder_write_errors_total", "sink", "b")
	fail = false
	r.receive(t, batch(0, "a", "b"), 2) // to the first sink they are not
	assertMetric(t, r.reg, 2, "ratelimitd_recorder_received_total")
	assertTaken(t, first, []string{"a", "b"})
	assertTaken(t, second, []string{"a", "b"})
}

// Four batches are stored at once and twelve wait; the next one is turned away, and takes no place.
func TestReceiveIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, open := &memory{began: time.Now()}, make(chan struct{})
		sink.write = func(context.Context, []string) error { <-open; return nil }
		r := run(t, config(), sinks(sink)...)
		const most = 16
		results := make(chan error, most)
		for i := range most {
			go func() {
				_, err := r.Receive(t.Context(), batch(int64(i), "a"))
				results <- err
			}()
		}
		synctest.Wait()
		if _, err := r.Receive(t.Context(), batch(99, "z")); !errors.Is(err, recorder.ErrBusy) {
			t.Errorf("batch %d: error %v, want %v", most+1, err, recorder.ErrBusy)
		}
		close(open)
		for range most {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		r.receive(t, batch(99, "z"), 1)
	})
}

// What is offered is taken whole or not at all, and what was not taken is not counted.
func TestOfferIsAllOrNothing(t *testing.T) {
	sink := &memory{}
	o := config()
	o.maxQueue = 50
	reg := prometheus.NewRegistry()
	r, err := newRecorder(t, o, sinks(sink), reg, slog.New(slog.DiscardHandler)) // does not run: nothing leaves the memory
	if err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	offer := func(from, n int) error { return r.Offer(impatient, transactionsOf(numbered(from, n)...)) }
	if err := offer(0, 30); !errors.Is(err, context.Canceled) {
		t.Errorf("30 of 50: error %v, want that of the context: they are not written", err)
	}
	if err := offer(30, 30); !errors.Is(err, recorder.ErrBusy) {
		t.Errorf("30 more: error %v, want %v", err, recorder.ErrBusy)
	}
	if _, never := errors.AsType[*recorder.TooManyError](offer(30, 51)); !never {
		t.Error("51 of 50 are not told to be too many")
	}
	if err := offer(60, 20); !errors.Is(err, context.Canceled) {
		t.Errorf("20 of the 20 that are left: %v", err)
	}
	assertMetric(t, reg, 50, "ratelimitd_recorder_queue_length")
	assertMetric(t, reg, 0, "ratelimitd_recorder_received_total")
	assertMetric(t, reg, 0, "ratelimitd_spool_lost_total")
}

// What is posted counts in the windows when it was, what Envoy sends when it comes.
func TestWindowsOfWhatIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, config())
		ago := func(d time.Duration, endpoints ...string) []traffic.Transaction {
			all := transactionsOf(endpoints...)
			for i := range all {
				all[i].At = time.Now().Add(-d)
			}
			return all
		}
		r.Record(ago(time.Minute, "envoy"))
		if err := r.Offer(t.Context(), ago(time.Minute, "posted")); err != nil {
			t.Fatal(err)
		}
		b := batch(0, "keyed", "keyed")
		b.Transactions = ago(time.Minute, "keyed", "keyed")
		r.receive(t, b, 2)
		<-time.After(time.Second)
		for window, want := range map[time.Duration][]string{10 * time.Second: {"envoy"}, 2 * time.Minute: {"envoy", "keyed", "posted"}} {
			snapshot, err := r.Windows().Snapshot(time.Now(), window)
			var got []string
			for _, k := range snapshot.Keys {
				got = append(got, k.Endpoint)
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("within %s there were %q, %v; want %q", window, got, err, want)
			}
		}
	})
}
