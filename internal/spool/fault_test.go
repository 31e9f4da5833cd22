package spool

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// What cannot be read now may be readable later; but a reader does not stay at a bad sector for ever.
// A directory in the place of a segment can be opened and not be read.
func TestReadErrors(t *testing.T) {
	s, dir := makeSample(t), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := s.open(t, dir, "", nil)
		defer l.end()
		path := filepath.Join(dir, s.segmentNames()[0])
		replace(t, path, func() error { return os.Mkdir(path, 0o750) })
		r := l.Reader("b")
		for range 2 {
			if c, err := r.Read(9); err == nil || c.N != 0 {
				t.Errorf("Read() = %q", text(c))
			}
			time.Sleep(patience - time.Second)
		}
		if got := l.figure(t, "errors_total", "read"); got != 2 || r.Waiting() != 21 {
			t.Errorf("%d errors are counted, %d wait", got, r.Waiting())
		}
		time.Sleep(2 * time.Second)
		if got, lost := s.drain(t, r), l.lost(t, "b", "damaged"); got != 18 || lost != 3 {
			t.Errorf("read %d, lost %d", got, lost)
		}
	})
}

// A file that cannot be opened may be a good one: it is tried for as long as that takes. A link to
// itself cannot be opened.
func TestSegmentsThatCannotBeOpened(t *testing.T) {
	s, dir := makeSample(t), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := s.open(t, dir, "", nil)
		defer l.end()
		path := filepath.Join(dir, s.segmentNames()[0])
		replace(t, path, func() error { return os.Symlink(path, path) })
		for range 5 {
			if c, err := l.Reader("b").Read(9); err == nil {
				t.Errorf("Read() = %q", text(c))
			}
			time.Sleep(patience)
		}
		replace(t, path, func() error { return os.WriteFile(path, s.files[filepath.Base(path)], 0o600) })
		if got := s.drain(t, l.Reader("b")); got != 21 {
			t.Errorf("read %d", got)
		}
	})
}

// replace puts something else in the place of a file.
func replace(t *testing.T, path string, by func() error) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := by(); err != nil {
		t.Fatal(err)
	}
}

// A cursor whose file cannot be written holds for this life of the log; one that was removed is made
// again.
func TestCursorCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	l.mustAppend(t, "one", 1)
	l.mustAppend(t, "two", 1)
	l.mustAppend(t, "three", 1)
	l.flush()
	path := filepath.Join(dir, "a"+cursorEnd)
	replace(t, path, func() error { return os.Mkdir(path, 0o750) })
	r := l.Reader("a")
	if err := r.Commit(Position{l.run, 1}); err == nil || l.figure(t, "errors_total", "cursor") != 1 {
		t.Errorf("Commit: %v; %d are counted", err, l.figure(t, "errors_total", "cursor"))
	}
	wantRead(t, r, 1, "1+1-0 two")
	replace(t, path, func() error { return nil })
	commit(t, r, Position{l.run, 2})
	l.kill()
	l = open(t, Config{Dir: dir})
	defer l.end()
	wantRead(t, l.Reader("a"), 1, "2+1-0 three")
}
