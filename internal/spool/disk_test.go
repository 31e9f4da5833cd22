package spool

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failWrites lets writes fail in their middle while fails says so.
func failWrites(l *life, fails func() error) {
	write := l.disk.write
	l.disk.write = func(f *os.File, b []byte, at int64) (int, error) {
		if err := fails(); err != nil {
			n, _ := write(f, b[:len(b)-1], at)
			return n, err
		}
		return write(f, b, at)
	}
}

// A write that fails costs its own records; the offsets of the next go on where they were.
func TestWriteFails(t *testing.T) {
	for _, fault := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
		t.Run(fault.Error(), func(t *testing.T) {
			dir, failing := t.TempDir(), false
			l := open(t, Config{Dir: dir})
			failWrites(l, func() error {
				if failing {
					return fault
				}
				return nil
			})
			for i := range 6 { // the first write of a segment fails, and a later one
				failing = i%3 == 0
				l.mustAppend(t, fmt.Sprint("frame ", i), i+1)
				l.flush()
			}
			if got := []int64{l.lost(t, "all", "disk"), l.figure(t, "errors_total", "write"), int64(l.Pending()), l.Reader("a").Waiting()}; !slices.Equal(got, []int64{5, 2, 0, 16}) {
				t.Errorf("lost, errors, pending, waiting: %v", got)
			}
			wantRead(t, l.Reader("a"), 99, "0+16-0 frame 1,frame 2,frame 4,frame 5")
			if n := strings.Count(l.logged.String(), "could not be written to the spool"); n != 1 {
				t.Errorf("logged %d times: %s", n, l.logged)
			}
			l.kill()
			l = open(t, Config{Dir: dir})
			defer l.end()
			wantRead(t, l.Reader("a"), 99, "0+16-0 frame 1,frame 2,frame 4,frame 5")
		})
	}
}

// Where the torn frame cannot be taken off, a new segment is begun, and what was counted as lost does
// not come back: neither now nor after a restart.
func TestTruncateFails(t *testing.T) {
	dir, failing := t.TempDir(), false
	l := open(t, Config{Dir: dir, MaxPending: 100})
	failWrites(l, func() error {
		if failing {
			return syscall.EIO
		}
		return nil
	})
	l.disk.truncate = func(*os.File, int64) error { return syscall.EIO }
	appendTwo := func(fails bool, a, b string) {
		failing = fails
		l.mustAppend(t, a, 2)
		l.mustAppend(t, b, 2)
		l.flush()
	}
	failing = true
	l.mustAppend(t, "the first of a segment", 1)
	l.flush()
	appendTwo(false, "one", "two")
	appendTwo(true, "lost", "lost in the middle")
	appendTwo(false, "three", "four")
	if got := l.lost(t, "all", "disk"); got != 5 {
		t.Errorf("%d are lost, want 5", got)
	}
	var bytes int64
	for _, s := range segments(t, dir) {
		bytes += int64(len(readFile(t, s)))
	}
	if got := l.figure(t, "bytes"); got != bytes || len(segments(t, dir)) != 2 {
		t.Errorf("the log says %d bytes, there are %d in %v", got, bytes, segments(t, dir))
	}
	wantRead(t, l.Reader("a"), 99, "0+4-0 one,two")
	l.kill()
	l = open(t, Config{Dir: dir})
	defer l.end()
	if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"one", "two", "three", "four"}) || l.lost(t, "a", "damaged") != 0 {
		t.Errorf("after a restart: read %q, %d are lost", got, l.lost(t, "a", "damaged"))
	}
}

// On a disk that is full, what all have read goes, and the write is tried again.
func TestDiskFullFreesWhatIsRead(t *testing.T) {
	dir, full := t.TempDir(), false
	l := open(t, Config{Dir: dir})
	defer l.end()
	failWrites(l, func() error {
		if full && len(segments(t, dir)) > 0 && l.Reader("a").Waiting() == 0 && l.active != nil && l.active.records > 0 {
			return syscall.ENOSPC
		}
		return nil
	})
	l.mustAppend(t, "one", 1)
	l.flush()
	old := segments(t, dir)
	drain(t, l.Reader("a"))
	full = true
	l.mustAppend(t, "two", 1)
	l.flush()
	if now := segments(t, dir); len(now) != 1 || now[0] == old[0] || l.lost(t, "all", "disk") != 0 || l.full {
		t.Errorf("segments %v, before %v; lost %d", now, old, l.lost(t, "all", "disk"))
	}
	wantRead(t, l.Reader("a"), 9, "1+1-0 two")
}

// After a sync that failed nothing more goes into that segment.
func TestSyncFails(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	defer l.end()
	sync := l.disk.sync
	l.disk.sync = func(*os.File) error { return syscall.EIO }
	l.mustAppend(t, "one", 1)
	l.flush()
	l.syncAll()
	l.disk.sync = sync
	l.mustAppend(t, "two", 1)
	l.flush()
	if got := len(segments(t, dir)); got != 2 || l.figure(t, "errors_total", "sync") != 1 || !strings.Contains(l.logged.String(), "could not be synced") {
		t.Errorf("%d segments, %d errors, logged %s", got, l.figure(t, "errors_total", "sync"), l.logged)
	}
	l.syncAll()
	if len(l.open) != 1 {
		t.Errorf("%d files are open", len(l.open))
	}
	if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("read %q", got)
	}
}

// While frames come, there is one fsync in each SyncEvery, and none when nothing was written.
func TestSyncs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Dir: dir, SyncEvery: time.Second})
		var syncs, ofDir atomic.Int64
		l.disk.sync = func(f *os.File) error {
			if f.Name() == dir {
				ofDir.Add(1)
			} else {
				syncs.Add(1)
			}
			return f.Sync()
		}
		stop := running(t, l)
		time.Sleep(time.Hour)
		for range 100 {
			l.mustAppend(t, "x", 1)
			time.Sleep(100 * time.Millisecond)
		}
		if got := syncs.Load(); got < 9 || got > 10 {
			t.Errorf("%d syncs in 10 s of writing", got)
		}
		time.Sleep(time.Hour)
		l.mustAppend(t, "x", 1)
		synctest.Wait()
		before := syncs.Load()
		stop()
		if got := syncs.Load(); before > 11 || got != before+1 || ofDir.Load() != 1 {
			t.Errorf("%d syncs at the end, %d before the last frame, %d of the directory", got, before, ofDir.Load())
		}
		wantRead(t, l.Reader("a"), 1, "0+1-0 x")
		if got := l.Reader("a").Waiting(); got != 101 || len(l.open) != 0 {
			t.Errorf("%d wait, %d files are open", got, len(l.open))
		}
	})
}

// A disk that hangs costs what has no room in memory. Nothing but the writer waits for it, and the
// stop only for a while.
func TestDiskHangs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Dir: dir, MaxPending: 10, SegmentSize: 1, Readers: []string{"a", "b"}}) // each frame is a write
		hang, begin := make(chan struct{}), time.Now()
		l.mustAppend(t, "before", 1)
		l.flush()
		var writes atomic.Int64
		write := l.disk.write
		l.disk.write = func(f *os.File, b []byte, at int64) (int, error) {
			<-hang
			writes.Add(1)
			return write(f, b, at)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		for range 5 {
			l.mustAppend(t, "x", 1)
		}
		go func() { done <- l.Run(ctx) }()
		for i := 5; i < 12; i++ {
			if got := l.Append([]byte("x"), 1); got != (i < 10) {
				t.Errorf("Append %d = %v", i, got)
			}
			synctest.Wait()
		}
		if got := []int64{int64(l.Pending()), l.Reader("a").Waiting(), l.figure(t, "waiting", "b"), l.lost(t, "all", "queue_full")}; !slices.Equal(got, []int64{10, 1, 1, 2}) {
			t.Errorf("pending, waiting, waiting, lost: %v", got)
		}
		c := wantRead(t, l.Reader("a"), 9, "0+1-0 before")
		commit(t, l.Reader("a"), c.Next())
		cancel()
		if err := <-done; err != nil || time.Since(begin) != stopTime {
			t.Errorf("Run: %v after %v", err, time.Since(begin))
		}
		if got := []int64{int64(l.Pending()), l.lost(t, "all", "disk")}; !slices.Equal(got, []int64{0, 10}) {
			t.Errorf("pending, lost: %v", got)
		}
		if l.Append([]byte("x"), 1) {
			t.Error("a log that has ended takes a frame")
		}
		close(hang)
		synctest.Wait()
		if got := l.Reader("b").Waiting(); got != 1 || len(l.open) != 0 || writes.Load() > 2 {
			t.Errorf("%d wait after the disk came back, %d files are open, %d writes", got, len(l.open), writes.Load())
		}
	})
}

// A sync that hangs does not keep frames in memory.
func TestSyncHangs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Dir: dir})
		hang := make(chan struct{})
		l.disk.sync = func(*os.File) error {
			<-hang
			return nil
		}
		stop := running(t, l)
		for range 5 {
			l.mustAppend(t, "x", 1)
			time.Sleep(time.Second)
		}
		if l.Pending() != 0 || l.Reader("a").Waiting() != 5 {
			t.Errorf("%d are pending, %d wait", l.Pending(), l.Reader("a").Waiting())
		}
		stop()
		close(hang)
		synctest.Wait()
	})
}

// childVariable has the directory for a test that runs in a process of its own.
const childVariable = "RATELIMITD_TEST_SPOOL"

// inChild runs the test of this name in another process, which is to pass there.
func inChild(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v:\n%s", err, out)
	}
}

// child is the command for the test of this name in another process.
func child(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	return cmd
}
