package spool

import (
	"testing"
	"testing/synctest"
	"time"
)

// Since is about the time at which the oldest record that waits was written.
func TestSince(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Dir: dir})
		defer l.end()
		r, begin := l.Reader("a"), time.Now()
		if !r.Since().IsZero() {
			t.Errorf("nothing waits since %v", r.Since())
		}
		const frames = 5000
		for range frames { // one a second
			l.mustAppend(t, "x", 1)
			l.flush()
			time.Sleep(time.Second)
		}
		for i := range int64(frames) {
			want := begin.Add(time.Duration(i) * time.Second)
			if got := r.Since(); got.After(want) || want.Sub(got) > 128*time.Second {
				t.Fatalf("record %d waits since %v, want %v", i, got, want)
			}
			commit(t, r, Position{l.run, i + 1})
		}
		if !r.Since().IsZero() || len(r.marks.all) > maxMarks {
			t.Errorf("nothing waits since %v; %d marks", r.Since(), len(r.marks.all))
		}
		time.Sleep(time.Hour)
		l.mustAppend(t, "x", 1)
		l.flush()
		if got := r.Since(); !got.Equal(time.Now()) {
			t.Errorf("what is written now waits since %v before", time.Since(got))
		}
	})
}

func TestMarksAreBounded(t *testing.T) {
	var m marks
	now := time.Now()
	for i := range int64(100_000) {
		m.add(i, now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(m.all) > maxMarks || m.of(0, time.Time{}) != now {
		t.Errorf("%d marks, the first one at %v, want %v", len(m.all), m.of(0, time.Time{}), now)
	}
	if got := m.of(50_000, time.Time{}).Sub(now); got > 50*time.Second || got < 48*time.Second {
		t.Errorf("what was written after 50 s is said to be from %v", got)
	}
	m.forget(200_000)
	later := now.Add(time.Hour)
	m.add(200_000, later)
	m.add(200_001, later.Add(markEvery))
	if got := m.of(200_001, time.Time{}); !got.Equal(later.Add(markEvery)) {
		t.Errorf("after all else is forgotten, a record is said to be %v older", later.Add(markEvery).Sub(got))
	}
}
