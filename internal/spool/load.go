package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxBad is how many segments with a bad head are kept for whoever wants to look at them.
const maxBad = 3

// load finds the segments and cursors of earlier runs and names the new one.
func (l *Log) load() error {
	entries, err := os.ReadDir(l.cfg.Dir)     // sorted by name, and so by age
	missing := errors.Is(err, fs.ErrNotExist) // it could not be made: see Open
	if err != nil && !missing {
		return fmt.Errorf("reading the directory of the spool: %w", err)
	}
	for _, e := range entries {
		if err := l.adopt(e); err != nil {
			return err
		}
	}
	l.measure()
	l.removeBad()
	for _, e := range entries {
		if err := l.dismiss(e); err != nil {
			return err
		}
	}
	newest, err := l.loadCursors()
	if err != nil {
		return err
	}
	if n := len(l.segments); n > 0 {
		newest = max(newest, l.segments[n-1].run)
	}
	l.run = newRun(time.Now(), newest)
	l.tidy()
	return nil
}

// adopt looks at one file of the directory. What is not the log's own is left alone.
func (l *Log) adopt(e fs.DirEntry) error {
	if !e.Type().IsRegular() {
		return nil
	}
	run, first, ok := parseSegmentName(e.Name())
	if !ok {
		return nil
	}
	s := newSegment(l.cfg.Dir, run, first)
	err := s.check()
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("reading a segment of the spool: %w", err)
	}
	if err != nil {
		l.setAside(s, err)
	}
	l.segments = append(l.segments, s)
	return nil
}

// dismiss removes the cursor of a reader that is no longer configured, and counts what waited for it as lost.
func (l *Log) dismiss(e fs.DirEntry) error {
	name, ok := strings.CutSuffix(e.Name(), cursorEnd)
	if !ok || !e.Type().IsRegular() || !isReaderName(name) || l.Reader(name) != nil {
		return nil
	}
	c := &cursor{path: filepath.Join(l.cfg.Dir, e.Name())}
	said, _ := os.ReadFile(c.path) // what cannot be read says that nothing was dealt with
	body := make([]byte, 2*slotSize)
	copy(body, said)
	if lost := l.end - l.foundAt(c.newest(body)); lost > 0 {
		l.metrics.lost.WithLabelValues(name, lostRemoved).Add(float64(lost))
		l.log.Warn("a sink is no longer configured: what waited for it is lost", slog.String("sink", name), slog.Int64("lost", lost))
	}
	if err := os.Remove(c.path); err != nil && !DiskFault(err) {
		return fmt.Errorf("removing the cursor of a reader that is no longer configured: %w", err)
	}
	return nil
}

// check reads the head and notes the size of the file.
func (s *segment) check() error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s.size, s.onDisk = info.Size(), info.Size()
	head := make([]byte, headSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return fmt.Errorf("reading the head of %s: %w", s.path, err)
	}
	if !bytes.Equal(head, s.head()) {
		return fmt.Errorf("%s does not begin as its name says", s.path)
	}
	return nil
}

// setAside renames a segment with a bad head. An empty file holds nothing to look at and goes: it is
// what is left of one that was made just before the power went. The segment stays in the list, with a
// size of 0: if the next one is of the same run, it tells how many records are lost.
func (l *Log) setAside(s *segment, fault error) {
	var err error
	if s.onDisk == 0 && errors.Is(fault, io.EOF) {
		err = os.Remove(s.path)
	} else {
		err = os.Rename(s.path, s.path+badEnd)
	}
	s.size, s.onDisk, s.noted = 0, 0, true
	l.metrics.readErrors.Inc()
	l.log.Warn("a segment of the spool has a bad head; it is set aside and its records are lost",
		slog.String("file", s.path), slog.Any("error", errors.Join(fault, err)))
}

// removeBad leaves the newest of the segments that were set aside.
func (l *Log) removeBad() {
	entries, _ := os.ReadDir(l.cfg.Dir) // it was read a moment ago
	var bad []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), badEnd); ok && e.Type().IsRegular() {
			if _, _, ok := parseSegmentName(name); ok {
				bad = append(bad, filepath.Join(l.cfg.Dir, e.Name()))
			}
		}
	}
	for len(bad) > maxBad {
		_ = os.Remove(bad[0]) // it only takes room
		bad = bad[1:]
	}
}

// measure finds out how many records each segment has: all up to the next one of its run, or, in the
// last one of a run, as many as can be read.
func (l *Log) measure() {
	for i, s := range l.segments {
		s.base = l.end
		if next := i + 1; next < len(l.segments) && l.segments[next].run == s.run {
			s.records = l.segments[next].first - s.first
		} else if s.size > 0 {
			l.scan(s)
		}
		l.end += s.records
		l.bytes += s.onDisk
	}
}

// scan reads a segment to its end, or to where it is damaged.
func (l *Log) scan(s *segment) {
	file, err := os.Open(s.path)
	if err == nil {
		defer func() { _ = file.Close() }() // it was only read
		f := s.frames(file, s.beginLocked(), s.size)
		for err == nil {
			_, _, err = f.read()
			f.drop()
		}
		s.records, s.size = f.next-s.first, f.pos
	}
	if !errors.Is(err, io.EOF) {
		s.noted = true
		l.metrics.readErrors.Inc()
		l.log.Warn("a segment of the spool ends before the end of its file; what follows is lost",
			slog.String("file", s.path), slog.Int64("bytes", s.onDisk-s.size), slog.Any("error", err))
	}
}

// loadCursors puts the readers where they were, and returns the newest run that one of them names.
func (l *Log) loadCursors() (newest string, err error) {
	for _, r := range l.readers {
		var p Position
		r.cursor, p, err = openCursor(l.cfg.Dir, r.name)
		if err != nil && !l.tolerates(err) && !errors.Is(err, fs.ErrNotExist) { // the directory could not be made
			return "", err
		}
		newest = max(newest, p.Run)
		r.at = l.foundAt(p)
		if r.at < l.end {
			notify(r.arrived)
		}
	}
	return newest, nil
}

// foundAt is the index that a position of an earlier life has now.
func (l *Log) foundAt(p Position) (at int64) {
	for _, s := range l.segments {
		switch {
		case s.run < p.Run:
			at = s.endLocked()
		case s.run == p.Run && s.first <= p.Offset:
			at = s.base + min(p.Offset-s.first, s.records)
		}
	}
	return at
}
