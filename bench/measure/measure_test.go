package measure

import (
	"os"
	"testing"
	"time"
)

func TestCPU(t *testing.T) {
	// The name of the program holds what the fields are cut at.
	stat := "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0 100 1 1"
	if got, err := cpu(stat); err != nil || got != 3*time.Second {
		t.Errorf("cpu = %v, %v, want 3s: 250 ticks of user and 50 of system time", got, err)
	}
	if got, err := cpu("42 (a) S 1"); err == nil {
		t.Errorf("cpu of too few fields = %v without an error", got)
	}
}

func TestStatus(t *testing.T) {
	status := "Name:\tVmRSS\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t5\n"
	if got, err := statusKiB(status, "VmRSS"); err != nil || got != 1<<20 {
		t.Errorf("statusKiB = %d, %v, want 1 MiB", got, err)
	}
	if got, err := statusKiB(status, "VmSwap"); err == nil {
		t.Errorf("statusKiB of a field that is not there = %d without an error", got)
	}
}

// What this very process takes is seen, and its peak after it was given back.
func TestMemoryOf(t *testing.T) {
	const size = 64 << 20
	before, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	taken := make([]byte, size)
	for i := range taken {
		taken[i] = 1
	}
	after, err := MemoryOf(os.Getpid())
	if err != nil || after.Now-before.Now < size/2 || after.Peak < after.Now {
		t.Errorf("RSS went from %+v to %+v, %v with %d bytes more", before, after, err, len(taken))
	}
}

func TestQuantile(t *testing.T) {
	values := []int64{4, 1, 3, 2}
	for _, c := range []struct {
		q    float64
		want int64
	}{{0, 1}, {0.5, 3}, {0.99, 4}, {1, 4}} {
		if got := Quantile(values, c.q); got != c.want {
			t.Errorf("Quantile(%v, %v) = %d, want %d", values, c.q, got, c.want)
		}
	}
}
