package spool

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// At Max the oldest segment goes, and readers go on after it.
func TestSpoolFull(t *testing.T) {
	const frame = frameHead + 4
	c := Config{Dir: t.TempDir(), Max: 3 * (int64(headSize) + 2*frame), SegmentSize: int64(headSize) + 2*frame, Readers: []string{"a", "b"}}
	l := open(t, c)
	defer l.end()
	for i := range 6 {
		l.mustAppend(t, "abc"+string(rune('0'+i)), 1)
	}
	l.flush()
	a, b := l.Reader("a"), l.Reader("b")
	old := wantRead(t, a, 100, "0+2-0 abc0,abc1")
	commit(t, a, Position{old.Run, 1})
	l.mustAppend(t, "abc6", 1)
	l.flush()
	if got := []int64{l.lost(t, "a", "spool_full"), l.lost(t, "b", "spool_full"), a.Waiting(), b.Waiting()}; !slices.Equal(got, []int64{0, 2, 5, 5}) {
		t.Errorf("lost to a and b, and waiting: %v", got)
	}
	commit(t, a, old.Next()) // of what was dropped
	if got := a.Waiting(); got != 5 {
		t.Errorf("%d wait after a commit in the segment that was dropped", got)
	}
	wantRead(t, a, 100, "2+2-0 abc2,abc3")
	if got := l.lost(t, "a", "spool_full"); got != 0 {
		t.Errorf("%d are lost, though a had read all that was dropped and committed it later", got)
	}
	if got := drain(t, b); !slices.Equal(got, []string{"abc2", "abc3", "abc4", "abc5", "abc6"}) {
		t.Errorf("b reads %q", got)
	}
	if !strings.Contains(l.logged.String(), "the spool is full") {
		t.Errorf("logged: %s", l.logged)
	}
}

// The only segment goes, too, and what is larger than all of the log is lost alone.
func TestSpoolFullOfOneSegment(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), Max: 200})
	defer l.end()
	l.mustAppend(t, strings.Repeat("x", 90), 1)
	l.flush()
	l.mustAppend(t, strings.Repeat("y", 109), 2)
	l.flush()
	if l.lost(t, "a", "spool_full") != 2 || l.Reader("a").Waiting() != 1 {
		t.Errorf("%d are lost, %d wait", l.lost(t, "a", "spool_full"), l.Reader("a").Waiting())
	}
	l.mustAppend(t, strings.Repeat("z", 108), 4)
	l.flush()
	if l.lost(t, "a", "spool_full") != 3 || l.Pending() != 0 {
		t.Errorf("%d are lost, %d pending", l.lost(t, "a", "spool_full"), l.Pending())
	}
	wantRead(t, l.Reader("a"), 9, "1+4-0 "+strings.Repeat("z", 108))
}

// What is dropped while a reader deals with it is lost only where it does not commit it after all.
func TestDroppedUnderTheHands(t *testing.T) {
	const frame = frameHead + 4
	for name, c := range map[string]struct {
		committed int64 // of the three that were read
		lost      int64
	}{"all is committed": {3, 0}, "a part": {2, 1}, "nothing": {-1, 3}} {
		t.Run(name, func(t *testing.T) {
			l := open(t, Config{Dir: t.TempDir(), Max: 2 * (int64(headSize) + 3*frame), SegmentSize: int64(headSize) + 3*frame, Readers: []string{"a"}})
			defer l.end()
			for i := range 6 {
				l.mustAppend(t, "abc"+string(rune('0'+i)), 1)
			}
			l.flush()
			a := l.Reader("a")
			read := wantRead(t, a, 3, "0+3-0 abc0,abc1,abc2")
			l.mustAppend(t, "abc6", 1)
			l.flush()
			if c.committed >= 0 {
				commit(t, a, Position{read.Run, c.committed})
			}
			if got := l.lost(t, "a", "spool_full"); got != 0 {
				t.Errorf("%d are lost while they are dealt with", got)
			}
			wantRead(t, a, 100, "3+3-0 abc3,abc4,abc5")
			if got := l.lost(t, "a", "spool_full"); got != c.lost {
				t.Errorf("%d are lost, want %d", got, c.lost)
			}
		})
	}
}

// What is dropped between the look at the list and the return of a chunk is counted, and not handed
// out.
func TestDroppedWhileItIsRead(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir()})
	defer l.end()
	l.mustAppend(t, "one", 3)
	l.flush()
	r := l.Reader("a")
	p, _ := r.place()
	c, err := r.readAt(p, 9)
	l.dropOldest()
	if r.hold(p, &c) || err != nil || c.N != 3 || l.lost(t, "a", "spool_full") != 3 {
		t.Errorf("%d records were dropped, %d are lost, and they are handed out: %v", c.N, l.lost(t, "a", "spool_full"), err)
	}
}

// A commit of a later run passes what the reader has in its hands, too.
func TestCommitOfALaterRun(t *testing.T) {
	c := Config{Dir: t.TempDir(), Readers: []string{"a", "b"}}
	l := open(t, c)
	l.mustAppend(t, "one", 3)
	l.end()
	l = open(t, c)
	defer l.end()
	l.mustAppend(t, "two", 3)
	l.flush()
	a := l.Reader("a")
	wantRead(t, a, 9, "0+3-0 one")
	commit(t, a, Position{l.run, 1})
	l.dropOldest()
	l.dropOldest()
	wantRead(t, a, 9, "nothing")
	if got := []int64{l.lost(t, "a", "spool_full"), l.lost(t, "b", "spool_full")}; !slices.Equal(got, []int64{2, 6}) {
		t.Errorf("a and b have lost %v", got)
	}
}

// The number of segments is bounded, too.
func TestManySegments(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), SegmentSize: 1})
	defer l.end()
	l.disk.sync = func(*os.File) error { return nil }
	for i := range maxSegments + 5 {
		l.mustAppend(t, "x", 1)
		if l.flush(); i%100 == 0 {
			l.syncAll() // closes files
		}
	}
	if got := []int64{int64(len(l.segments)), l.lost(t, "a", "spool_full")}; !slices.Equal(got, []int64{maxSegments, 5}) {
		t.Errorf("segments and lost records: %v", got)
	}
}
