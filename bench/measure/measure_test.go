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

func TestFigures(t *testing.T) {
	body := "# HELP a_total Help.\n# TYPE a_total counter\na_total{name=\"x y\"} 1.5\na_total{name=\"z\"} 2\na_total_more 4\nb 3\n"
	f, err := parseFigures(body)
	if err != nil || len(f) != 4 || f[`a_total{name="x y"}`] != 1.5 {
		t.Fatalf("parseFigures = %v, %v, want 4 series", f, err)
	}
	for name, want := range map[string]float64{"a_total": 3.5, "b": 3, "c": 0} {
		if got := f.Sum(name); got != want {
			t.Errorf("Sum(%q) = %v, want %v", name, got, want)
		}
	}
	if f, err := parseFigures("b three\n"); err == nil {
		t.Errorf("parseFigures of no number = %v without an error", f)
	}
}

func TestRawCodec(t *testing.T) {
	var c RawCodec
	sent := []byte("abc")
	wire, err := c.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	sent[0] = 'x' // it was copied
	got := []byte("what was there before")
	if err := c.Unmarshal(append(wire, wire...), &got); err != nil || string(got) != "abcabc" {
		t.Errorf("after two buffers of abc: %q, %v", got, err)
	}
	if _, err := c.Marshal("abc"); err == nil {
		t.Error("Marshal takes a string")
	}
	if err := c.Unmarshal(wire, "abc"); err == nil {
		t.Error("Unmarshal takes a string")
	}
}

func TestBusy(t *testing.T) {
	// user, nice, system, idle, iowait, irq, softirq, steal, guest
	stat := "cpu  100 20 30 4000 500 6 7 8 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"
	if got, err := busy(stat); err != nil || got != 1710*time.Millisecond {
		t.Errorf("busy = %v, %v, want 1.71s: 171 ticks", got, err)
	}
	if got, err := busy("cpu0 1 2 3 4 5 6 7 8\n"); err == nil {
		t.Errorf("busy of one CPU = %v without an error", got)
	}
	if now, err := Busy(); err != nil || now <= 0 {
		t.Errorf("Busy = %v, %v", now, err)
	}
}
