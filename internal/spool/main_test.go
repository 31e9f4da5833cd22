package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// tb is what testing.TB and rapid.T have in common.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// life is a Log without its goroutines: each step of the writer is taken by the test.
type life struct {
	*Log
	registry *prometheus.Registry
	logged   *syncBuffer
}

// syncBuffer is a buffer for any number of goroutines.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// tryOpen opens with the reader a, where none is named.
func tryOpen(c Config) (*life, error) {
	if c.Readers == nil {
		c.Readers = []string{"a"}
	}
	if c.Max == 0 {
		c.Max = 1 << 30
	}
	reg, logged := prometheus.NewRegistry(), &syncBuffer{}
	l, err := Open(c, reg, slog.New(slog.NewTextHandler(logged, nil)))
	return &life{l, reg, logged}, err
}

func open(t tb, c Config) *life {
	t.Helper()
	l, err := tryOpen(c)
	if err != nil {
		t.Fatalf("Open(%+v): %v", c, err)
	}
	return l
}

// flush writes what was appended, as the writer does.
func (l *life) flush() {
	l.writePending()
	l.retire()
}

// end is a stop in good order.
func (l *life) end() {
	l.flush()
	l.seal()
	l.syncAll()
	l.close()
}

// kill lets go of the files, and leaves them as they are.
func (l *life) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.open {
		_ = s.file.Close()
	}
	l.open, l.closed = nil, true
}

// mustAppend appends one frame of n records.
func (l *life) mustAppend(t tb, payload string, n int) {
	t.Helper()
	if !l.Append([]byte(payload), n) {
		t.Fatalf("Append(%q, %d) has no room", payload, n)
	}
}

// figure is the value of a metric: ratelimitd_spool_NAME, with label values.
func (l *life) figure(t tb, name string, labels ...string) int64 {
	t.Helper()
	families, err := l.registry.Gather()
	if err != nil {
		t.Fatalf("Gather: %v", err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, label := range m.GetLabel() {
				values = append(values, label.GetValue())
			}
			if f.GetName() == "ratelimitd_spool_"+name && strings.Join(values, " ") == strings.Join(labels, " ") {
				return int64(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			}
		}
	}
	t.Fatalf("there is no metric %s %v", name, labels)
	return 0
}

func (l *life) lost(t tb, reader, reason string) int64 {
	return l.figure(t, "lost_total", reader, reason)
}

// text is what a chunk says: offsets, and payloads.
func text(c Chunk) string {
	if c.N == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%d+%d-%d %s", c.First, c.N, c.Skip, bytes.Join(c.Payloads, []byte(",")))
}

// wantRead reads a chunk and compares it.
func wantRead(t tb, r *Reader, most int, want string) Chunk {
	t.Helper()
	c, err := r.Read(most)
	if err != nil || text(c) != want {
		t.Errorf("Read(%d) = %q, %v, want %q", most, text(c), err, want)
	}
	return c
}

func commit(t tb, r *Reader, p Position) {
	t.Helper()
	if err := r.Commit(p); err != nil {
		t.Errorf("Commit(%v): %v", p, err)
	}
}

// drain reads and commits all that is there, and returns the payloads.
func drain(t tb, r *Reader) []string {
	t.Helper()
	var all []string
	for {
		c, err := r.Read(1000)
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if c.N == 0 {
			return all
		}
		for _, p := range c.Payloads {
			all = append(all, string(p))
		}
		commit(t, r, c.Next())
	}
}

// segments are the names of the files of a log, oldest first.
func segments(t tb, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*"+segmentEnd))
	if err != nil {
		t.Fatalf("Glob: %v", err)
	}
	return all
}

// running runs a Log until the test ends, or stop is called.
func running(t *testing.T, l *life) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func readFile(t tb, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return b
}

func writeFile(t tb, path string, b []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatalf("%v", err)
	}
}
