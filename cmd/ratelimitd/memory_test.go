package main

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryLimit is what the runtime itself says.
func memoryLimit() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gomemlimit:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// withoutLimit makes the runtime start from no limit, and gives back what there was.
func withoutLimit(t *testing.T) {
	t.Helper()
	was := debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() { debug.SetMemoryLimit(was) })
	if value, set := os.LookupEnv("GOMEMLIMIT"); set {
		t.Setenv("GOMEMLIMIT", value) // which is put back at the end
		if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	const mib = 1 << 20
	nothing := func(err error) memlimit.Provider { return func() (uint64, error) { return 0, err } }
	for name, c := range map[string]struct {
		limit memlimit.Provider
		want  uint64
	}{
		"of the cgroup":         {memlimit.Limit(1000 * mib), 900 * mib},
		"of 64 bits":            {memlimit.Limit(math.MaxUint64), math.MaxInt64},
		"not there":             {nothing(memlimit.ErrNoLimit), math.MaxInt64},
		"no cgroup":             {nothing(memlimit.ErrNoCgroup), math.MaxInt64},
		"cannot be read":        {nothing(errors.New("no /proc")), math.MaxInt64},
		"a library that panics": {func() (uint64, error) { panic("odd") }, math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			withoutLimit(t)
			var log bytes.Buffer
			limitMemory(c.limit, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			if got := memoryLimit(); got != c.want {
				t.Errorf("the limit is %d bytes, want %d", got, c.want)
			}
			for line := range strings.Lines(log.String()) {
				if !strings.Contains(line, `"level":"DEBUG"`) {
					t.Errorf("the log has %s, want nothing above debug", line)
				}
			}
			if log.Len() == 0 && c.want != math.MaxInt64 {
				t.Error("the log says nothing")
			}
		})
	}
}

func TestMemoryLimitOfTheOperatorWins(t *testing.T) {
	withoutLimit(t)
	t.Setenv("GOMEMLIMIT", "123MiB")
	limitMemory(memlimit.Limit(1<<30), slog.New(slog.DiscardHandler))
	if got := memoryLimit(); got != math.MaxInt64 { // the runtime has read the variable at its start
		t.Errorf("the limit is %d bytes, want it left alone", got)
	}
}

// TestMemoryLogIsForDebugging: at the default level the start says nothing of it.
func TestMemoryLogIsForDebugging(t *testing.T) {
	withoutLimit(t)
	var log bytes.Buffer
	limitMemory(func() (uint64, error) { return 0, errors.New("no /proc") }, slog.New(slog.NewJSONHandler(&log, nil).WithGroup("g")))
	if log.Len() != 0 {
		t.Errorf("the log has %s", &log)
	}
}

// TestServeLimitsMemory: what serve does is what the cgroup of this test says.
func TestServeLimitsMemory(t *testing.T) {
	withoutLimit(t)
	want := uint64(math.MaxInt64)
	if limit, err := memlimit.FromCgroup(); err == nil {
		want = uint64(memoryRatio * float64(limit))
	}
	d := start(t, "TPS_LOG_LEVEL=debug")
	if got := memoryLimit(); got != want {
		t.Errorf("the limit is %d bytes, want %d", got, want)
	}
	if log := d.stderr.String(); !strings.Contains(log, "automemlimit") {
		t.Errorf("the log does not tell of it:\n%s", log)
	}
}
