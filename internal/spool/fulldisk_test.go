package spool

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A disk that is full is played by a bound on the size of files, which holds for the whole process.
func TestFullDisk(t *testing.T) {
	dir := os.Getenv(childVariable)
	if dir == "" {
		inChild(t, child(t, t.TempDir()))
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	bound := func(bytes uint64) {
		var r syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
			t.Fatal(err)
		}
		if r.Cur = bytes; bytes == 0 {
			r.Cur = r.Max
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
			t.Fatal(err)
		}
	}
	bound(100_000)
	fillDisk(t, dir, func() { bound(0) })
}

// fillDisk writes until the disk is full, and then that which a reader makes room for; at last free
// makes room. All records are read or counted as lost.
func fillDisk(t *testing.T, dir string, free func()) {
	t.Helper()
	l := open(t, Config{Dir: dir, SegmentSize: 1 << 20})
	stop := running(t, l)
	f := &filler{l: l}
	f.fill(t, 5000)
	if f.read != 0 || l.Reader("a").Waiting() == 0 {
		t.Errorf("%d wait on the full disk", l.Reader("a").Waiting())
	}
	f.drain(t)
	lost := l.lost(t, "all", "disk")
	f.append(t, 10)
	if l.lost(t, "all", "disk") != lost {
		t.Error("there is no room although all has been read")
	}
	f.fill(t, lost+1000)
	free()
	lost = l.lost(t, "all", "disk")
	f.append(t, 10)
	if l.lost(t, "all", "disk") != lost {
		t.Error("the disk has room and is not written to")
	}
	f.drain(t)
	stop()
	if lost := l.lost(t, "all", "disk"); f.read+lost != f.appended {
		t.Errorf("%d were read and %d are lost of %d", f.read, lost, f.appended)
	}
	checkAfterFull(t, l, f)
}

// checkAfterFull opens the log again: nothing is left over, and nothing comes twice.
func checkAfterFull(t *testing.T, l *life, f *filler) {
	t.Helper()
	again := open(t, Config{Dir: l.cfg.Dir})
	defer again.end()
	if got := drain(t, again.Reader("a")); got != nil {
		t.Errorf("%d frames come again", len(got))
	}
	if !slices.IsSorted(f.numbers) || len(slices.Compact(f.numbers)) != len(f.numbers) {
		t.Error("frames came twice or out of order")
	}
}

// filler appends frames and counts.
type filler struct {
	l              *life
	appended, read int64
	numbers        []int64
}

// append appends a frame and waits until it is written or lost.
func (f *filler) append(t *testing.T, size int) {
	t.Helper()
	const n = 10
	f.l.mustAppend(t, fmt.Sprintf("%d %s", f.appended, strings.Repeat("x", size*n)), n)
	f.appended += n
	for f.l.Pending() > 0 {
		<-f.l.Reader("a").Arrived()
	}
}

// fill appends until so many records are lost.
func (f *filler) fill(t *testing.T, lost int64) {
	t.Helper()
	for f.l.lost(t, "all", "disk") < lost {
		for range 50 {
			f.append(t, 300)
		}
	}
}

func (f *filler) drain(t *testing.T) {
	t.Helper()
	for {
		c, err := f.l.Reader("a").Read(1000)
		if err != nil {
			t.Fatal(err)
		}
		if c.N == 0 {
			return
		}
		for _, p := range c.Payloads {
			var number int64
			if _, err := fmt.Sscan(string(p), &number); err != nil {
				t.Fatal(err)
			}
			f.numbers = append(f.numbers, number)
		}
		f.read += int64(c.N)
		if err := f.l.Reader("a").Commit(c.Next()); err != nil {
			t.Fatal(errors.Join(errors.New("a cursor cannot be written to a full disk"), err))
		}
	}
}
