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
		r := run(t, config(), sinks(sink)...)
		r.record(numbered(0, 7)...)
		r.stop()
		assertTaken(t, sink, numbered(0, 7))
		assertMetric(t, r.reg, 0, "ratelimitd_spool_lost_total")
	})
}

// A write that was cut off may have been committed, and is better let to end.
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
		r := run(t, config(), sinks(sink)...)
		r.record(numbered(0, 10)...)
		synctest.Wait()
		r.stop()
		assertTaken(t, sink, numbered(0, 10))
		assertMetric(t, r.reg, 0, "ratelimitd_recorder_write_errors_total")
	})
}

// What a sink does not take at the stop is in the log, and comes after the next start, once each
// and in order.
func TestWhatIsLeftAtTheStopComesAfterTheNextStart(t *testing.T) {
	for name, c := range map[string]struct {
		write func(context.Context) error
		most  time.Duration // that the stop may take
	}{
		"the sink hangs": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 5 * time.Second},
		"the sink fails": {func(context.Context) error { return errors.New("no answer") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := config()
				cfg.dir = t.TempDir()
				away := &memory{began: time.Now()}
				away.write = func(ctx context.Context, _ []string) error { return c.write(ctx) }
				r := run(t, cfg, sinks(away)...)
				r.record(numbered(0, 25)...)
				until(t, away.began.Add(time.Minute))
				began := time.Now()
				r.stop()
				if took := time.Since(began); took > c.most {
					t.Errorf("the stop took %s, want at most %s", took, c.most)
				}
				if !strings.Contains(r.logs.String(), "waiting=25") {
					t.Errorf("the logs do not tell of 25 transactions that wait:\n%s", r.logs)
				}
				back := &memory{began: time.Now()}
				again := run(t, cfg, sinks(back)...)
				again.record(numbered(25, 10)...)
				until(t, back.began.Add(time.Minute))
				assertTaken(t, back, numbered(0, 35))
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
		r := run(t, cfg, sinks(sink)...)
		r.record(numbered(0, 10)...)
		until(t, sink.began.Add(time.Minute))
		close(stopping)
		r.stop()
		assertTaken(t, sink, numbered(0, 10))
	})
}
