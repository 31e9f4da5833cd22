package recorder_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestStopWritesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{began: time.Now()}
		r := run(t, config(), sink)
		r.record(numbered(0, 7)...)
		r.stop()
		assertTaken(t, sink, numbered(0, 7))
		assertMetric(t, r.reg, 0, "ratelimitd_recorder_dropped_total")
		r.record("late")
		assertMetric(t, r.reg, 1, "ratelimitd_recorder_dropped_total", "reason", "shutdown")
	})
}

// A write that was cut off may have been committed: the next one would bring its rows twice.
func TestStopLetsAWriteEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{began: time.Now()}
		sink.write = func(ctx context.Context, _ []string) error {
			select {
			case <-time.After(3 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		r := run(t, config(), sink)
		r.record(numbered(0, 10)...)
		synctest.Wait()
		r.stop()
		assertTaken(t, sink, numbered(0, 10))
		assertMetric(t, r.reg, 0, "ratelimitd_recorder_write_errors_total")
	})
}

func TestStopEndsInTimeAndCountsWhatIsLost(t *testing.T) {
	for name, write := range map[string]func(context.Context) error{
		"the sink hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"the sink fails": func(context.Context) error { return errors.New("no answer") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := &memory{began: time.Now()}
				sink.write = func(ctx context.Context, _ []string) error { return write(ctx) }
				r := run(t, config(), sink)
				r.record(numbered(0, 25)...)
				until(t, sink.began.Add(time.Minute))
				began := time.Now()
				r.stop()
				if took := time.Since(began); took < 4*time.Second || took > 5*time.Second {
					t.Errorf("the stop took %s, want the 5 s of FlushTimeout", took)
				}
				assertMetric(t, r.reg, 25, "ratelimitd_recorder_dropped_total", "reason", "shutdown")
				if !strings.Contains(r.logs.String(), "lost=25") {
					t.Errorf("the logs do not tell of 25 lost transactions:\n%s", r.logs)
				}
			})
		})
	}
}

// A pause between two tries may be longer than the time that is left at the stop.
func TestStopTriesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{began: time.Now()}
		stopping := make(chan struct{})
		sink.write = func(context.Context, []string) error {
			select {
			case <-stopping:
				return nil
			default:
				return errors.New("no answer")
			}
		}
		cfg := config()
		cfg.FlushTimeout = 10 * time.Millisecond
		r := run(t, cfg, sink)
		r.record(numbered(0, 10)...)
		until(t, sink.began.Add(time.Minute))
		close(stopping)
		r.stop()
		assertTaken(t, sink, numbered(0, 10))
	})
}
