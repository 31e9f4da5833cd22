package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"
)

const (
	// stopTime is how long the last write and sync may take by default. A disk that hangs cannot be
	// interrupted.
	stopTime = 5 * time.Second
	// maxWrite is the most bytes of one write of several frames: all of it is lost where it fails.
	maxWrite = 1 << 20
	// keepBuffer is the largest buffer that is kept for the next frames.
	keepBuffer = 4 << 20
	// maxSegments bounds their number, for a process that starts again and again.
	maxSegments = 10_000
)

// Run writes what is appended, and syncs it, until ctx ends; then it writes and syncs what still
// waits, for at most a few seconds, and returns nil. What could not be written by then is counted as
// lost, though on a disk that hangs the write under way may still end well. Appends after the end
// are lost. It is to be called once.
func (l *Log) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.work(ctx)
	}()
	<-ctx.Done()
	timer := time.NewTimer(cmp.Or(l.cfg.StopTime, stopTime))
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	if lost := l.close(); lost > 0 {
		l.metrics.disk.Add(float64(lost))
		l.log.ErrorContext(ctx, "records are lost: they could not be written to the spool before the stop", slog.Int("lost", lost))
	}
	return nil
}

func (l *Log) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// close lets nothing more in or out, and returns how many records were not written.
func (l *Log) close() (lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, l.pending = int(l.tellLocked(int64(l.pending), false)), 0
	l.queue, l.spare, l.closed = nil, nil, true
	return lost
}

// work is Run without a bound on the time of its end.
func (l *Log) work(ctx context.Context) {
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		l.syncUntil(ctx)
	}()
	l.writeUntil(ctx)
	l.seal()
	<-synced
	l.syncAll()
}

// writeUntil writes frames as they come, until ctx ends, and then those that still wait.
func (l *Log) writeUntil(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-l.wake:
		}
		l.writePending()
		l.retire()
	}
}

// writePending writes until nothing waits.
func (l *Log) writePending() {
	for batch := l.take(); len(batch) > 0; batch = l.take() {
		for rest := batch; len(rest) > 0; {
			chunk, n := cut(rest, min(maxWrite, l.cfg.SegmentSize-int64(headSize)))
			rest = rest[len(chunk):]
			l.writeOrLose(chunk, n)
		}
		l.giveBack(batch)
	}
}

// take returns the frames that wait.
func (l *Log) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	batch := l.queue
	l.queue, l.spare = l.spare[:0], nil
	return batch
}

// giveBack keeps a buffer for later, unless it is a huge one.
func (l *Log) giveBack(batch []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cap(batch) <= keepBuffer && !l.closed {
		l.spare = batch
	}
}

// errTooLarge says that frames have no room within Config.Max, even if they are alone.
var errTooLarge = errors.New("it is larger than the log may be")

// writeOrLose writes frames of n records, or counts these as lost. After close, which has counted them, it
// does nothing.
func (l *Log) writeOrLose(chunk []byte, n int64) {
	if l.isClosed() {
		return
	}
	err := l.write(chunk, n)
	if isFull(err) && l.freeUp() {
		err = l.write(chunk, n)
	}
	if err == nil {
		return
	}
	switch lost, ok := l.lose(n, err); {
	case lost > 0:
		l.rarely.warn("records could not be written to the spool and are lost", slog.Int64("lost", lost), slog.Any("error", err))
	case ok:
		l.rarely.warn("records could not be written to the spool; who sent them was told", slog.Int64("records", n), slog.Any("error", err))
	}
}

// lose counts n records as not written, and as lost those that nobody waits for; false after close, which
// has counted them. Whoever sees that they are not pending any more sees them among the lost ones.
func (l *Log) lose(n int64, err error) (lost int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lost, ok = l.settleLocked(n, false); !ok {
		return 0, false
	}
	if errors.Is(err, errTooLarge) {
		for _, r := range l.readers {
			r.spoolFull.Add(float64(lost))
		}
		return lost, true
	}
	l.metrics.writeErrors.Inc()
	l.metrics.disk.Add(float64(lost))
	return lost, true
}

// settleLocked takes n records off those that are pending, since they are written or not, and returns for
// how many of them nobody waits; false after close.
func (l *Log) settleLocked(n int64, written bool) (nobodys int64, ok bool) {
	if l.closed {
		return 0, false
	}
	l.pending -= int(n)
	nobodys = l.tellLocked(n, written)
	for _, r := range l.readers {
		notify(r.arrived)
	}
	return nobodys, true
}

// write writes frames of n records to the active segment.
func (l *Log) write(chunk []byte, n int64) error {
	s, err := l.segmentFor(int64(len(chunk)))
	if err != nil {
		return err
	}
	stamp(s.seed, l.offset, chunk)
	if _, err := l.disk.write(s.file, chunk, s.size); err != nil {
		l.cutOff(s)
		return fmt.Errorf("writing to %s: %w", s.path, err)
	}
	l.wrote(s, int64(len(chunk)), n)
	return nil
}

// cutOff takes what a failed write has left off the file. Where that fails, the segment ends here:
// readers do not go beyond its last record, and after a restart not beyond the first of the next.
func (l *Log) cutOff(s *segment) {
	err := l.disk.truncate(s.file, s.size)
	if err == nil {
		return
	}
	l.rarely.warn("a torn frame could not be taken off a segment of the spool; another one is begun", slog.Any("error", err))
	info, err := s.file.Stat()
	l.mu.Lock()
	defer l.mu.Unlock()
	s.unsound = true
	if err == nil {
		l.bytes += info.Size() - s.onDisk
		s.onDisk = info.Size()
	}
}

// wrote lets readers see what was written.
func (l *Log) wrote(s *segment, bytes, n int64) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.settleLocked(n, true); !ok {
		return
	}
	for _, r := range l.readers {
		r.marks.add(l.end, now)
	}
	s.size, s.onDisk, l.bytes = s.size+bytes, s.onDisk+bytes, l.bytes+bytes
	s.records, l.end, l.offset = s.records+n, l.end+n, l.offset+n
	s.unsynced, l.full = true, false
	notify(l.dirty)
}

// segmentFor returns the segment for so many bytes, and makes room for them.
func (l *Log) segmentFor(bytes int64) (*segment, error) {
	if int64(headSize)+bytes > l.cfg.Max {
		return nil, errTooLarge
	}
	if !l.fits(bytes) {
		l.seal()
	}
	for !l.hasRoom(bytes) {
		l.dropOldest()
	}
	l.mu.Lock()
	active := l.active
	l.mu.Unlock()
	if active != nil {
		return active, nil
	}
	return l.begin()
}

// fits tells whether the active segment, if there is one, can take so many bytes.
func (l *Log) fits(bytes int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.active
	return s == nil || !s.unsound && (s.records == 0 || s.size+bytes <= l.cfg.SegmentSize)
}

// hasRoom tells whether so many bytes can be written within the bounds.
func (l *Log) hasRoom(bytes int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active == nil {
		bytes += int64(headSize)
	}
	return len(l.segments) == 0 || l.bytes+bytes <= l.cfg.Max && (l.active != nil || len(l.segments) < maxSegments)
}

// dropOldest removes the oldest segment, the active one if there is no other, and counts what readers
// had not dealt with.
func (l *Log) dropOldest() {
	s, lost := l.takeOldest()
	l.remove(s)
	l.tidy() // the next one may have no records
	if lost > 0 {
		l.rarely.warn("the spool is full: its oldest segment is dropped, and readers lose what they have not read of it",
			slog.Int64("lost", lost), slog.Int64("max_bytes", l.cfg.Max))
	}
}

// takeOldest takes the oldest segment out of the list, and returns the most that a reader loses.
func (l *Log) takeOldest() (s *segment, lost int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s = l.segments[0]
	l.forgetLocked(s)
	for _, r := range l.readers {
		lost = max(lost, r.dropLocked(s.endLocked()))
	}
	return s, lost
}

// begin makes a segment and its file.
func (l *Log) begin() (*segment, error) {
	if l.cfg.Prepare != nil {
		if err := l.cfg.Prepare(); err != nil {
			return nil, err
		}
	}
	if err := l.makeDir(); err != nil { // it was there at Open, unless the disk took nothing
		return nil, err
	}
	s := newSegment(l.cfg.Dir, l.run, l.offset)
	file, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a segment: %w", err)
	}
	if _, err := l.disk.write(file, s.head(), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("beginning %s: %w", s.path, err), file.Close(), os.Remove(s.path))
	}
	s.file, s.fresh, s.size, s.onDisk = file, true, int64(headSize), int64(headSize)
	l.mu.Lock()
	defer l.mu.Unlock()
	s.base = l.end
	l.segments, l.open, l.active = append(l.segments, s), append(l.open, s), s
	l.bytes += s.onDisk
	return s, nil
}

// seal ends the active segment, if there is one. One without records goes, since the next has its
// name.
func (l *Log) seal() {
	l.mu.Lock()
	s := l.active
	l.active = nil
	empty := s != nil && s.records == 0
	if empty {
		l.forgetLocked(s)
	}
	l.mu.Unlock()
	if empty {
		l.remove(s)
	}
	notify(l.dirty) // its file is to be closed
	l.tidy()
}

// retire ends the active segment where it is to go.
func (l *Log) retire() {
	l.mu.Lock()
	passed := l.activePassedLocked()
	l.mu.Unlock()
	if passed {
		l.seal()
	}
}

// freeUp makes room on a disk that is full: segments that all have read go. It tells whether there
// was one.
func (l *Log) freeUp() bool {
	l.mu.Lock()
	l.full = true
	before := l.bytes
	l.mu.Unlock()
	l.retire()
	l.tidy()
	return l.size() < before
}

// isFull tells whether a write failed for want of room: of the disk, of a quota, of a bound on files.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// DiskFault tells whether err says that a disk takes nothing at this time: it is full, read-only or
// broken. Whatever is wrong with a path will be so at the next try, too, and is none.
func DiskFault(err error) bool {
	return isFull(err) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO)
}
