package descsync

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file is read again unless it is for sure what it was: also after a write in place that leaves size
// and time as they were, as `cp -p` and `tar` make it, and where the last change was just before the look.
func TestUnchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	long := time.Now().Add(-time.Hour)
	look := func(body string, modTime time.Time) stat {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(body); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, modTime, modTime); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return statOf(info)
	}
	info := func() stat {
		t.Helper()
		i, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return statOf(i)
	}
	later := func(s stat) stat { s.at = s.at.Add(racy + time.Second); return s } // as if it was looked at later
	first := look("one", long)
	if !info().same(later(first)) {
		t.Error("a file that nobody has touched is not the same")
	}
	if info().same(first) || info().same(stat{}) {
		t.Error("a file that was changed just before it was looked at, or never looked at, is the same")
	}
	if look("two", long).same(later(first)) {
		t.Error("a write that leaves size and time is not seen")
	}
	future := look("two", time.Now().Add(time.Hour))
	if !info().same(later(future)) {
		t.Error("a file with a time to come is never the same")
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if info().same(later(future)) {
		t.Error("another mode is not seen")
	}
}
