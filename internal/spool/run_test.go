package spool

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Runs are read one after the other, each from offset 0.
func TestRuns(t *testing.T) {
	dir := t.TempDir()
	var runs []string
	for _, p := range []string{"one", "two", "three"} {
		l := open(t, Config{Dir: dir})
		l.mustAppend(t, p, 5)
		l.flush()
		runs = append(runs, l.run)
		l.kill()
	}
	if !slices.IsSorted(runs) || runs[0] == runs[1] {
		t.Errorf("runs are called %v", runs)
	}
	l := open(t, Config{Dir: dir})
	defer l.end()
	r := l.Reader("a")
	if got := r.Since(); !got.Equal(l.opened) || r.Waiting() != 15 || len(r.Arrived()) != 1 {
		t.Errorf("of an earlier life %d wait since %v, opened at %v; %d signals", r.Waiting(), got, l.opened, len(r.Arrived()))
	}
	for i, p := range []string{"one", "two", "three"} {
		c := wantRead(t, r, 100, "0+5-0 "+p)
		if c.Run != runs[i] {
			t.Errorf("run %d is %s, want %s", i, c.Run, runs[i])
		}
		commit(t, r, Position{c.Run, 2})
		wantRead(t, r, 100, "0+5-2 "+p)
		commit(t, r, Position{c.Run, 7}) // a store may have more than the log after a loss of power
	}
	wantRead(t, r, 100, "nothing")
	if left := segments(t, dir); left != nil {
		t.Errorf("files are left: %v", left)
	}
}

// A clock that goes back must not make a run that sorts before what readers have passed.
func TestRunsSortWhateverTheClock(t *testing.T) {
	dir := t.TempDir()
	future := newRun(time.Now().Add(24*time.Hour), "")
	s := newSegment(dir, future, 0)
	body := append(s.head(), appendFrame(nil, []byte("old"), 1)...)
	stamp(s.seed, 0, body[headSize:])
	writeFile(t, s.path, body)
	l := open(t, Config{Dir: dir})
	if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"old"}) {
		t.Errorf("read %q", got)
	}
	l.end()
	l = open(t, Config{Dir: dir}) // only the cursor tells of it now
	l.mustAppend(t, "new", 1)
	l.end()
	l = open(t, Config{Dir: dir})
	defer l.end()
	if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"new"}) || l.run < future {
		t.Errorf("read %q in run %s after %s", got, l.run, future)
	}
}

func TestRunNames(t *testing.T) {
	at := time.Date(2026, 11, 26, 0, 51, 49, 123456999, time.UTC)
	run := newRun(at, "no run")
	if begin, ok := beginOf(run); !ok || !begin.Equal(at.Truncate(time.Microsecond)) || !strings.HasPrefix(run, "20261126T005149.123456Z-") {
		t.Errorf("a run of %v is called %s, which began at %v, %v", at, run, begin, ok)
	}
	if next := newRun(at.Add(-time.Hour), run); next[:23] != "20261126T005149.123457Z" {
		t.Errorf("the next run is called %s", next)
	}
	name := segmentName(run, 12)
	if gotRun, first, ok := parseSegmentName(name); !ok || gotRun != run || first != 12 {
		t.Errorf("%s is %s, %d, %v", name, gotRun, first, ok)
	}
	for _, bad := range []string{
		"", "x", name + "x", name[:len(name)-1], strings.ToUpper(name), strings.Replace(name, ".123", ",123", 1),
		strings.Replace(name, "2026", "9999", 1), strings.Replace(name, "202611", "202613", 1), strings.Replace(name, "-00000", "-+0000", 1),
		strings.Replace(name, "-0000000000", "-9000000000", 1), strings.Replace(name, "Z-", "Zx", 1),
	} {
		if _, _, ok := parseSegmentName(bad); ok {
			t.Errorf("%q passes for a segment", bad)
		}
	}
}
