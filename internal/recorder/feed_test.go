package recorder_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/recorder"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func TestConfigNamesEveryFault(t *testing.T) {
	_, err := newRecorder(t, options{Config: recorder.Config{FlushTimeout: -1}, maxSeries: 1}, nil, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("New took an empty Config")
	}
	for _, fault := range []string{"batch size 0", "flush interval 0s", "flush timeout -1ns"} {
		if !strings.Contains(err.Error(), fault) {
			t.Errorf("the error does not name %q: %v", fault, err)
		}
	}
}

func TestTwoRecordersOfOneRegistry(t *testing.T) {
	reg := prometheus.NewRegistry()
	for i := range 2 {
		_, err := newRecorder(t, config(), nil, reg, slog.New(slog.DiscardHandler))
		if (err == nil) != (i == 0) {
			t.Errorf("recorder %d: error %v", i, err)
		}
	}
}

func TestWritesAFullBatchAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{began: time.Now()}
		r := run(t, config(), sinks(sink)...)
		r.record(numbered(0, 9)...)
		synctest.Wait()
		assertTaken(t, sink, nil)
		assertMetric(t, r.reg, 9, "ratelimitd_spool_waiting")
		r.record("last")
		synctest.Wait()
		assertTaken(t, sink, append(numbered(0, 9), "last"))
		assertMetric(t, r.reg, 0, "ratelimitd_spool_waiting")
		assertMetric(t, r.reg, 10, "ratelimitd_recorder_written_total", "sink", "a")
		assertMetric(t, r.reg, 10, "ratelimitd_recorder_received_total")
	})
}

func TestWritesWhenTheOldestIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{began: time.Now()}
		r := run(t, config(), sinks(sink)...)
		for _, at := range []time.Duration{12 * time.Second, 20 * time.Second, 41 * time.Second, 42 * time.Second, 3 * time.Minute} {
			until(t, sink.began.Add(at))
			r.record(at.String())
		}
		until(t, sink.began.Add(time.Hour))
		want := []write{
			{42 * time.Second, []string{"12s", "20s", "41s"}}, {72 * time.Second, []string{"42s"}}, {210 * time.Second, []string{"3m0s"}},
		}
		sink.mu.Lock()
		defer sink.mu.Unlock()
		if diff := cmp.Diff(want, sink.writes, cmp.AllowUnexported(write{})); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
}

// until lets the time of a synctest bubble go on.
func until(tb testing.TB, when time.Time) {
	tb.Helper()
	<-time.After(time.Until(when))
	synctest.Wait()
}

func TestTakesAllThatWaitsButNoMoreThanTenThousand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, open := &memory{began: time.Now()}, make(chan struct{})
		sink.write = func(context.Context, []string) error { <-open; return nil }
		r := run(t, config(), sinks(sink)...)
		r.record(numbered(0, 10)...)
		synctest.Wait()
		r.record(numbered(10, 25_003)...) // while the first batch is written
		synctest.Wait()                   // until all of it is in the log
		close(open)
		synctest.Wait()
		assertTaken(t, sink, numbered(0, 25_013))
		sizes := make([]int, 0, 4)
		for _, w := range sink.writes {
			sizes = append(sizes, len(w.endpoints))
		}
		if diff := cmp.Diff([]int{10, 10_000, 10_000, 5003}, sizes); diff != "" {
			t.Errorf("sizes of the batches (-want +got):\n%s", diff)
		}
	})
}

// What comes while a full batch is written asks for no write before it is a full one itself, or due.
func TestWhatComesDuringAWriteWaitsForItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, open := &memory{began: time.Now()}, make(chan struct{})
		sink.write = func(context.Context, []string) error { <-open; return nil }
		r := run(t, config(), sinks(sink)...)
		r.record(numbered(0, 10)...)
		synctest.Wait()
		until(t, sink.began.Add(time.Second))
		r.record(numbered(10, 3)...)
		close(open)
		synctest.Wait()
		assertTaken(t, sink, numbered(0, 10))
		until(t, sink.began.Add(time.Minute))
		assertTaken(t, sink, numbered(0, 13))
	})
}

func TestTriesAgainUntilTheSinkIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{began: time.Now()}
		const away = 10 * time.Minute
		tries := 0
		sink.write = func(context.Context, []string) error {
			tries++
			if time.Since(sink.began) < away {
				return errors.New("no answer")
			}
			return nil
		}
		r := run(t, config(), sinks(sink)...)
		for i := range 100 {
			r.record(numbered(10*i, 10)...)
			until(t, sink.began.Add(time.Duration(i+1)*away/100))
		}
		until(t, sink.began.Add(away+10*time.Second))
		assertTaken(t, sink, numbered(0, 1000))
		if tries < 60 || tries > 300 {
			t.Errorf("%d tries in ten minutes, want one in 2.5 to 7.5 s", tries)
		}
		assertMetric(t, r.reg, 0, "ratelimitd_recorder_dropped_total")
		if errs := metric(t, r.reg, "ratelimitd_recorder_write_errors_total"); int(errs) < tries-2 {
			t.Errorf("%v errors counted, of %d tries", errs, tries)
		}
		logs := r.logs.String()
		if n := strings.Count(logs, "transactions could not be written; they wait"); n < 30 || n > 61 {
			t.Errorf("the fault is logged %d times in ten minutes, want at most once in ten seconds:\n%s", n, logs)
		}
		if n := strings.Count(logs, "transactions are written again"); n != 1 {
			t.Errorf("the recovery is logged %d times, want once", n)
		}
	})
}

// A sink that finds fault with some rows gets all others, once each and in order.
func TestOneBadRowCostsNoOther(t *testing.T) {
	for name, bad := range map[string][]int{
		"first": {0}, "last": {999}, "middle": {417}, "neighbours": {500, 501, 502}, "spread": {0, 77, 78, 512, 999}, "none": {}, "a hundred in a row": upTo(100),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink, writes := &memory{began: time.Now()}, 0
				isBad := map[string]bool{}
				for _, i := range bad {
					isBad[numbered(i, 1)[0]] = true
				}
				sink.write = func(_ context.Context, endpoints []string) error {
					writes++
					for _, e := range endpoints {
						if isBad[e] {
							return fmt.Errorf("batch: %w", &traffic.RefusedError{Err: errors.New("bad " + e)})
						}
					}
					return nil
				}
				cfg := config()
				cfg.BatchSize = 1000
				r := run(t, cfg, sinks(sink)...)
				var good []string
				for _, e := range numbered(0, 1000) {
					r.record(e)
					if !isBad[e] {
						good = append(good, e)
					}
				}
				synctest.Wait()
				assertTaken(t, sink, good)
				assertMetric(t, r.reg, float64(len(bad)), "ratelimitd_recorder_dropped_total", "reason", "refused")
				// A thousand can be halved ten times; each batch that is refused is written in two parts.
				if most := 1 + 2*10*len(bad); writes > most {
					t.Errorf("bad rows %v: %d writes, want at most %d", bad, writes, most)
				}
			})
		})
	}
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// A fault of the table, such as a new column that nobody fills, is one of all rows: they wait until
// it is mended, and only those that were tried alone are lost.
func TestAFaultOfTheTableCostsFewRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{began: time.Now()}
		var broken atomic.Bool
		broken.Store(true)
		sink.write = func(context.Context, []string) error {
			if broken.Load() {
				return &traffic.RefusedError{Err: errors.New("null value in column team")}
			}
			return nil
		}
		r := run(t, config(), sinks(sink)...)
		r.record(numbered(0, 1000)...)
		until(t, sink.began.Add(time.Hour))
		assertMetric(t, r.reg, 100, "ratelimitd_recorder_dropped_total", "reason", "refused")
		broken.Store(false)
		until(t, sink.began.Add(time.Hour+time.Minute))
		assertTaken(t, sink, numbered(100, 900))
	})
}

// A sink that is too slow for a large batch gets smaller ones, and larger ones again.
func TestASlowSinkGetsSmallerBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{began: time.Now()}
		gate := make(chan struct{}) // so that much waits
		var slow atomic.Bool
		slow.Store(true)
		sink.write = func(_ context.Context, endpoints []string) error {
			<-gate
			if slow.Load() && len(endpoints) > 1000 {
				return fmt.Errorf("copying: %w", context.DeadlineExceeded)
			}
			return nil
		}
		r := run(t, config(), sinks(sink)...)
		r.record(numbered(0, 50_000)...)
		close(gate)
		until(t, sink.began.Add(3*time.Second))
		slow.Store(false)
		until(t, sink.began.Add(time.Hour))
		assertTaken(t, sink, numbered(0, 50_000))
		first, largest := 0, 0
		for i, w := range sink.writes {
			if len(w.endpoints) > 10 && first == 0 {
				first = i
			}
			largest = max(largest, len(w.endpoints))
		}
		if n := len(sink.writes[first].endpoints); n > 1000 || largest < 8000 {
			t.Errorf("the first large batch has %d transactions and the largest %d, want at most 1000 and then some 10,000", n, largest)
		}
		if errs := metric(t, r.reg, "ratelimitd_recorder_write_errors_total"); errs < 4 {
			t.Errorf("%v writes failed, want those of 10,000 to 1,250", errs)
		}
	})
}

// What a part of a batch has stored is not written again when the next part fails.
func TestAFaultInTheMiddleOfASplitWritesNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, writes := &memory{began: time.Now()}, 0
		sink.write = func(_ context.Context, endpoints []string) error {
			writes++
			if writes%7 == 0 {
				return errors.New("no answer")
			}
			if slices.Contains(endpoints, "e00063") {
				return &traffic.RefusedError{Err: errors.New("bad")}
			}
			return nil
		}
		cfg := config()
		cfg.BatchSize = 100
		r := run(t, cfg, sinks(sink)...)
		r.record(numbered(0, 100)...)
		until(t, sink.began.Add(time.Hour))
		assertTaken(t, sink, append(numbered(0, 63), numbered(64, 36)...))
	})
}

func TestMaintainsEveryHourAndSoonerAfterAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, calls := &memory{began: time.Now()}, 0
		sink.maintain = func() error {
			if calls++; calls <= 2 || calls == 4 {
				return errors.New("no schema")
			}
			return nil
		}
		r := run(t, config(), sinks(sink)...)
		until(t, sink.began.Add(2*time.Hour+time.Minute))
		want := []time.Duration{ // the first two of these fail, and the fourth
			0, 100 * time.Millisecond, 300 * time.Millisecond,
			time.Hour + 300*time.Millisecond, time.Hour + 400*time.Millisecond, 2*time.Hour + 400*time.Millisecond,
		}
		sink.mu.Lock()
		defer sink.mu.Unlock()
		if diff := cmp.Diff(want, sink.maintained); diff != "" {
			t.Errorf("maintained after (-want +got):\n%s", diff)
		}
		assertMetric(t, r.reg, 3, "ratelimitd_recorder_partition_errors_total")
	})
}

func TestWithoutASinkNothingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, config())
		r.record(numbered(0, 50)...)
		synctest.Wait()
		assertMetric(t, r.reg, 0, "ratelimitd_recorder_dropped_total")
		if got := r.Stats().Transactions; got != 50 {
			t.Errorf("the figures have %d transactions, want 50", got)
		}
	})
}

func TestRecordFromManyGoroutines(t *testing.T) {
	sink := &memory{began: time.Now()}
	r := run(t, config(), sinks(sink)...)
	var all sync.WaitGroup
	const goroutines, each = 8, 2000
	for g := range goroutines {
		all.Go(func() { r.record(numbered(g*each, each)...) })
	}
	all.Wait()
	r.stop()
	count := map[string]int{}
	for _, e := range sink.taken() {
		count[e]++
	}
	for _, e := range numbered(0, goroutines*each) {
		if count[e] != 1 {
			t.Fatalf("%s was written %d times, want once", e, count[e])
		}
	}
	if len(count) != goroutines*each {
		t.Errorf("%d endpoints, want %d", len(count), goroutines*each)
	}
}
