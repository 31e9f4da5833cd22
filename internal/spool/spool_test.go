package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestReadAndCommit(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir()})
	defer l.end()
	r := l.Reader("a")
	wantRead(t, r, 10, "nothing")
	for _, p := range []string{"one", "", "three"} {
		l.mustAppend(t, p, 3)
	}
	if got := l.Pending(); got != 9 {
		t.Errorf("Pending() = %d, want 9", got)
	}
	wantRead(t, r, 10, "nothing") // it is in memory
	l.flush()
	if l.Pending() != 0 || r.Waiting() != 9 {
		t.Errorf("Pending() = %d, Waiting() = %d, want 0 and 9", l.Pending(), r.Waiting())
	}
	wantRead(t, r, 6, "0+6-0 one,")
	wantRead(t, r, 0, "0+3-0 one")
	c := wantRead(t, r, 8, "0+6-0 one,")
	commit(t, r, Position{c.Run, 4}) // in the middle of a frame
	wantRead(t, r, 100, "3+6-1 ,three")
	commit(t, r, Position{c.Run, 3}) // back
	commit(t, r, Position{newRun(time.Now(), ""), 8})
	wantRead(t, r, 3, "3+3-1 ")
	if got := r.Waiting(); got != 5 {
		t.Errorf("Waiting() = %d, want 5", got)
	}
	commit(t, r, Position{c.Run, 1000}) // no record has that offset yet
	wantRead(t, r, 3, "nothing")
	l.mustAppend(t, "four", 1)
	l.flush()
	wantRead(t, r, 3, "9+1-0 four")
}

func TestReadersAreApart(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, Readers: []string{"a", "b"}})
	l.mustAppend(t, "one", 1)
	l.mustAppend(t, "two", 1)
	l.flush()
	c := wantRead(t, l.Reader("a"), 1, "0+1-0 one")
	commit(t, l.Reader("a"), c.Next())
	wantRead(t, l.Reader("b"), 1, "0+1-0 one")
	wantRead(t, l.Reader("a"), 9, "1+1-0 two")
	if l.Reader("c") != nil {
		t.Error("there is a reader c")
	}
	l.end()

	// The place of b is forgotten in a life without it, that of a is kept.
	l = open(t, Config{Dir: dir, Readers: []string{"a", "c"}})
	l.end()
	l = open(t, Config{Dir: dir, Readers: []string{"a", "b"}})
	defer l.end()
	if got := []int64{l.Reader("a").Waiting(), l.Reader("b").Waiting()}; !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("after a restart %v wait for a and b, want 1 and 2", got)
	}
}

func TestAppendIsBounded(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), MaxPending: 5})
	defer l.end()
	tests := []struct {
		payload []byte
		n       int
		want    bool
		lost    int64
	}{
		{[]byte("x"), 6, false, 6}, {[]byte("x"), 4, true, 6}, {[]byte("x"), 2, false, 8}, {nil, 1, true, 8}, {nil, 1, false, 9}, {nil, 0, false, 9}, {nil, -1, false, 9},
	}
	for _, tt := range tests {
		if got := l.Append(tt.payload, tt.n); got != tt.want || l.lost(t, "all", "queue_full") != tt.lost {
			t.Errorf("Append(%q, %d) = %v, lost %d; want %v, %d", tt.payload, tt.n, got, l.lost(t, "all", "queue_full"), tt.want, tt.lost)
		}
	}
	l.flush()
	big := make([]byte, MaxPayload+1)
	if l.Append(big, 1) {
		t.Errorf("a frame of %d bytes is taken", len(big))
	}
	if !l.Append(big[1:], 1) {
		t.Errorf("a frame of %d bytes is not taken", len(big)-1)
	}
	l.flush()
	if got := drain(t, l.Reader("a")); len(got) != 3 || got[2] != string(big[1:]) {
		t.Errorf("read %d frames", len(got))
	}
	if cap(l.spare) > keepBuffer || cap(l.Reader("a").buf) > keepBuffer {
		t.Errorf("buffers of %d and %d bytes are kept", cap(l.spare), cap(l.Reader("a").buf))
	}
}

// Several frames are taken all or not at all, and what is not taken is nobody's loss.
func TestStoreIsAllOrNothing(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), MaxPending: 5})
	defer l.end()
	big := make([]byte, MaxPayload+1)
	for name, frames := range map[string][]Frame{
		"one too many":        {{[]byte("x"), 3}, {[]byte("x"), 3}},
		"far too many":        {{[]byte("x"), 1 << 62}, {[]byte("x"), 1 << 62}},
		"none in one of them": {{[]byte("x"), 2}, {[]byte("x"), 0}},
		"too long":            {{[]byte("x"), 1}, {big, 1}},
	} {
		if err := l.Store(t.Context(), frames); !errors.Is(err, ErrNoRoom) || l.lost(t, "all", "queue_full") != 0 {
			t.Errorf("%s: Store() = %v, %d are counted as lost", name, err, l.lost(t, "all", "queue_full"))
		}
		l.flush()
	}
	if l.MaxPending() != 5 {
		t.Errorf("MaxPending() = %d", l.MaxPending())
	}
	if got := drain(t, l.Reader("a")); len(got) != 0 {
		t.Errorf("read %q", got)
	}
}

// Store returns when its frames are in the file, and says so where they will never be.
func TestStoreWaits(t *testing.T) {
	store := func(l *life, n int) <-chan error {
		t.Helper()
		ended, before := make(chan error, 1), l.Pending()
		go func() { ended <- l.Store(context.Background(), []Frame{{[]byte("one"), n}, {[]byte("two"), n}}) }()
		testenv.Eventually(t, time.Minute, "waiting to be written", func() error {
			if l.Pending() != before+2*n {
				return fmt.Errorf("%d wait", l.Pending())
			}
			return nil
		})
		return ended
	}
	t.Run("written", func(t *testing.T) {
		l := open(t, Config{Dir: t.TempDir()})
		defer l.end()
		l.mustAppend(t, "before", 1)
		first, second := store(l, 1), store(l, 2)
		if len(first)+len(second) > 0 {
			t.Error("it did not wait")
		}
		l.flush()
		if err := errors.Join(<-first, <-second); err != nil {
			t.Error(err)
		}
		if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"before", "one", "two", "one", "two"}) {
			t.Errorf("read %q", got)
		}
	})
	t.Run("the disk fails", func(t *testing.T) {
		l := open(t, Config{Dir: t.TempDir()})
		defer l.end()
		l.disk.write = func(*os.File, []byte, int64) (int, error) { return 0, syscall.EIO }
		l.mustAppend(t, "before", 2)
		ended := store(l, 3)
		l.mustAppend(t, "behind", 1)
		l.flush()
		if err := <-ended; !errors.Is(err, ErrNotWritten) || l.lost(t, "all", "disk") != 3 {
			t.Errorf("Store() = %v, %d are lost, want the 3 that nobody waits for", err, l.lost(t, "all", "disk"))
		}
		ended = store(l, 1)
		l.flush()
		if err := <-ended; !errors.Is(err, ErrNotWritten) || l.lost(t, "all", "disk") != 3 || !strings.Contains(l.logged.String(), "who sent them was told") {
			t.Errorf("Store() = %v, %d are lost, logs %s", err, l.lost(t, "all", "disk"), l.logged)
		}
	})
	t.Run("the disk fails for a part of it", func(t *testing.T) {
		l := open(t, Config{Dir: t.TempDir(), SegmentSize: int64(headSize + 2*frameHead)}) // each frame is a write of its own
		defer l.end()
		write, writes := l.disk.write, 0
		l.disk.write = func(f *os.File, b []byte, at int64) (int, error) {
			if writes++; writes == 2 { // after the head of the segment
				return 0, syscall.EIO
			}
			return write(f, b, at)
		}
		first, second := store(l, 1), store(l, 2)
		l.flush()
		if err := <-first; !errors.Is(err, ErrNotWritten) {
			t.Errorf("half of it is written: Store() = %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the one behind it: Store() = %v", err)
		}
		if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"two", "one", "two"}) || l.lost(t, "all", "disk") != 0 {
			t.Errorf("read %q, %d are lost", got, l.lost(t, "all", "disk"))
		}
	})
	t.Run("the log ends", func(t *testing.T) {
		l := open(t, Config{Dir: t.TempDir()})
		l.mustAppend(t, "nobody's", 4)
		ended := store(l, 1)
		if lost := l.close(); lost != 4 {
			t.Errorf("close() = %d, want the 4 that nobody waits for", lost)
		}
		if err := <-ended; !errors.Is(err, ErrNotWritten) {
			t.Errorf("Store() = %v", err)
		}
		if err := l.Store(t.Context(), []Frame{{[]byte("x"), 1}}); !errors.Is(err, ErrNoRoom) {
			t.Errorf("after the end: Store() = %v", err)
		}
	})
	t.Run("nobody waits any more", func(t *testing.T) {
		l := open(t, Config{Dir: t.TempDir()})
		defer l.end()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Store(ctx, []Frame{{[]byte("x"), 1}}); !errors.Is(err, context.Canceled) {
			t.Errorf("Store() = %v", err)
		}
		l.flush()
		if len(l.waiting) > 0 {
			t.Errorf("%d are still told", len(l.waiting))
		}
	})
}

// Whatever the number of records, the bytes in memory are bounded, and so are those of a chunk.
func TestBytesAreBounded(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir()})
	defer l.end()
	payload, taken := make([]byte, MaxPayload/2), 0
	for taken < 10 && l.Append(payload, 1) {
		taken++
	}
	if taken != 7 || len(l.queue) > maxQueue {
		t.Errorf("%d frames of 8 MiB are taken, %d bytes wait", taken, len(l.queue))
	}
	l.flush()
	c, err := l.Reader("a").Read(100)
	if err != nil || c.N != 1 {
		t.Errorf("a chunk has %d frames of 8 MiB: %v", c.N, err)
	}
}

// An idle process makes no file but cursors; frames go to new segments as these fill.
func TestSegments(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, SegmentSize: int64(headSize) + 2*(frameHead+4)})
	if got := segments(t, dir); got != nil {
		t.Errorf("there are %v", got)
	}
	for _, p := range []string{"four", "five", "nine", "a longer one than there is room for", "end"} {
		l.mustAppend(t, p, 2)
	}
	l.flush()
	var got []string
	for _, s := range segments(t, dir) {
		_, offset, _ := strings.Cut(strings.TrimSuffix(filepath.Base(s), segmentEnd)[runLength:], "-")
		got = append(got, strings.TrimLeft(offset, "0"))
	}
	if want := []string{"", "4", "6", "8"}; !slices.Equal(got, want) {
		t.Errorf("segments begin at %q, want %q", got, want)
	}
	l.end()
	if got := l.figure(t, "bytes"); got != 4*int64(headSize)+5*frameHead+4*3+35+3 {
		t.Errorf("there are %d bytes", got)
	}
}

// A segment that is written to goes, too, when all have read it and it is large.
func TestActiveSegmentGoes(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, SegmentSize: 1 << 30})
	defer l.end()
	payload := strings.Repeat("x", smallestSegment)
	l.mustAppend(t, "small", 1)
	l.flush()
	drain(t, l.Reader("a"))
	l.flush()
	if got := segments(t, dir); len(got) != 1 {
		t.Errorf("a small one has gone: %v", got)
	}
	l.mustAppend(t, payload, 1)
	l.flush()
	<-l.wake // that of Append
	if got := drain(t, l.Reader("a")); len(got) != 1 {
		t.Errorf("read %d frames", len(got))
	}
	if len(l.wake) != 1 {
		t.Error("the writer is not woken")
	}
	l.flush()
	if got := segments(t, dir); got != nil || l.figure(t, "bytes") != 0 || len(l.open) != 0 {
		t.Errorf("%v are left, %d bytes, %d open files", got, l.figure(t, "bytes"), len(l.open))
	}
	l.mustAppend(t, "next", 1)
	l.flush()
	wantRead(t, l.Reader("a"), 9, "2+1-0 next")
}

func TestWithoutReaders(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	l.mustAppend(t, "one", 1)
	l.end()
	none := open(t, Config{Dir: dir, Readers: []string{}})
	if none.Append([]byte("x"), 1) || none.Pending() != 0 || none.lost(t, "all", "queue_full") != 0 {
		t.Errorf("without readers a frame is taken or counted")
	}
	none.end()
	l = open(t, Config{Dir: dir})
	defer l.end()
	wantRead(t, l.Reader("a"), 9, "0+1-0 one")
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	ok := Config{Dir: dir, Max: 1 << 40, Readers: []string{"a"}}
	l := open(t, ok)
	if c := l.cfg; c.SegmentSize < smallestSegment || c.SegmentSize > largestSegment || c.SyncEvery != 100*time.Millisecond || c.MaxPending != 10_000 {
		t.Errorf("defaults are %+v", c)
	}
	if size := fileSystemSize(dir); size < 1<<20 || size > 1<<50 || fileSystemSize(filepath.Join(dir, "none", "below")) != size {
		t.Errorf("the file system has %d bytes", size)
	}
	for _, tt := range []struct{ max, want int64 }{{2 << 20, 1 << 20}, {1000, 1000}, {160 << 20, 10 << 20}} {
		c := Config{Dir: dir, Max: tt.max}
		if c.complete(); c.SegmentSize != tt.want {
			t.Errorf("of %d bytes a segment has %d, want %d", tt.max, c.SegmentSize, tt.want)
		}
	}
	bad := []string{"b", "b", "all", "A", "../x", ""}
	_, err := tryOpen(Config{Max: -1, SegmentSize: -1, SyncEvery: -1, StopTime: -1, MaxPending: -1, Readers: bad})
	want := `configuring the spool: the directory has no name
the bound of -1 bytes is not above 0
the segment size of -1 bytes is below 0
the time between two syncs, -1ns, is below 0
the time to stop, -1ns, is below 0
the bound of -1 waiting records is below 0
two readers are called "b"
"all" is no name for a reader
"A" is no name for a reader
"../x" is no name for a reader
"" is no name for a reader`
	if err == nil || err.Error() != want {
		t.Errorf("a bad config: %v", cmp.Diff(want, err.Error()))
	}
	file := filepath.Join(dir, "file")
	writeFile(t, file, nil)
	if _, err := tryOpen(Config{Dir: file}); err == nil {
		t.Error("a file passes for a directory")
	}
	if err := os.MkdirAll(filepath.Join(dir, "b.cursor"), 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := tryOpen(Config{Dir: dir, Readers: []string{"b"}}); err == nil {
		t.Error("a directory passes for a cursor")
	}
}

func TestMetricsAreThereFromTheStart(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), Readers: []string{"a", "b"}})
	defer l.end()
	for _, labels := range [][]string{
		{"bytes"},
		{"waiting", "a"},
		{"waiting", "b"},
		{"lost_total", "all", "queue_full"},
		{"lost_total", "all", "disk"},
		{"lost_total", "a", "spool_full"},
		{"lost_total", "b", "damaged"},
		{"errors_total", "write"},
		{"errors_total", "sync"},
		{"errors_total", "cursor"},
		{"errors_total", "read"},
	} {
		if got := l.figure(t, labels[0], labels[1:]...); got != 0 {
			t.Errorf("%v = %d", labels, got)
		}
	}
	if _, err := Open(l.cfg, l.registry, l.log); err == nil {
		t.Error("two logs have the same metrics")
	}
}

// Payloads stay as they are until the next Read, however large the chunk.
func TestChunkOfManyFrames(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, MaxPending: 1 << 20})
	var want [][]byte
	for i := range 3000 {
		want = append(want, bytes.Repeat([]byte{byte(i), byte(i >> 8)}, i%1000))
		l.mustAppend(t, string(want[i]), 1)
	}
	l.flush()
	r := l.Reader("a")
	for range 2 {
		c, err := r.Read(3000)
		if err != nil || c.N != 3000 || !slices.EqualFunc(c.Payloads, want, bytes.Equal) {
			t.Fatalf("a chunk of %d frames is not what was appended: %v", c.N, err)
		}
	}
	for i := range int64(3000) {
		if i == 2000 { // the frame is searched from the begin of the file
			l.end()
			l = open(t, Config{Dir: dir})
			r = l.Reader("a")
		}
		c, err := r.Read(1)
		if err != nil || c.N != 1 || !bytes.Equal(c.Payloads[0], want[i]) {
			t.Fatalf("frame %d is not what was appended: %v", i, err)
		}
		commit(t, r, c.Next())
	}
	l.end()
}
