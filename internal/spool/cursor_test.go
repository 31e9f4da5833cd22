package spool

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// While a slot is written, the other one has the position before: whichever is torn, a good one is
// left.
func TestCursorSlots(t *testing.T) {
	dir, run := t.TempDir(), newRun(time.Now(), "")
	path := filepath.Join(dir, "a"+cursorEnd)
	for offset := range int64(5) {
		c, was, err := openCursor(dir, "a")
		if err == nil {
			err = c.write(Position{run, offset})
		}
		if err != nil || offset > 0 && was != (Position{run, offset - 1}) {
			t.Fatalf("before offset %d is %v: %v", offset, was, err)
		}
	}
	whole := readFile(t, path)
	if len(whole) != 2*slotSize {
		t.Errorf("the file has %d bytes", len(whole))
	}
	found := map[Position]bool{}
	for slot := range 2 {
		torn := append([]byte(nil), whole...)
		clear(torn[slot*slotSize+20:][:slotSize/2])
		writeFile(t, path, torn)
		_, p, err := openCursor(dir, "a")
		if err != nil {
			t.Fatal(err)
		}
		found[p] = true
	}
	if !found[Position{run, 3}] || !found[Position{run, 4}] {
		t.Errorf("with one slot torn and the other the positions are %v", found)
	}
}

// A cursor says that earlier runs are dealt with, also when nothing is left of its own run.
func TestCursorOfARunThatIsGone(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, Readers: []string{"a", "b"}})
	l.mustAppend(t, "one", 2)
	l.end()
	c, _, err := openCursor(dir, "a")
	if err == nil {
		err = c.write(Position{newRun(time.Now(), l.run), 5})
	}
	if err != nil {
		t.Fatal(err)
	}
	l = open(t, Config{Dir: dir, Readers: []string{"a", "b"}})
	defer l.end()
	if a, b := l.Reader("a").Waiting(), l.Reader("b").Waiting(); a != 0 || b != 2 {
		t.Errorf("%d wait for a, %d for b", a, b)
	}
}

// What waits for a reader that is no longer configured is lost, and that is counted and said.
func TestReaderThatIsGone(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, Readers: []string{"a", "b", "c"}})
	l.mustAppend(t, "one", 2)
	l.mustAppend(t, "two", 3)
	l.flush()
	for name, offset := range map[string]int64{"a": 2, "b": 2, "c": 5} {
		if err := l.Reader(name).Commit(Position{l.run, offset}); err != nil {
			t.Fatal(err)
		}
	}
	l.end()
	l = open(t, Config{Dir: dir, Readers: []string{"a"}})
	if got := l.lost(t, "b", "removed"); got != 3 || strings.Count(l.logged.String(), "a sink is no longer configured") != 1 || !strings.Contains(l.logged.String(), "sink=b lost=3") {
		t.Errorf("%d records are counted as lost, want the 3 of b; logs:\n%s", got, l.logged)
	}
	if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"two"}) {
		t.Errorf("a reads %q", got)
	}
	l.end()
	if l = open(t, Config{Dir: dir, Readers: []string{"a"}}); strings.Contains(l.logged.String(), "no longer configured") {
		t.Error("it is said again at the next start")
	}
	l.end()
}
