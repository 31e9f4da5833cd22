package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Log is a log in a directory.
type Log struct {
	cfg     Config
	run     string
	opened  time.Time
	disk    disk
	readers []*Reader
	metrics *metrics
	rarely  *rarely
	log     *slog.Logger

	wake  chan struct{} // has one element when the writer has something to do
	dirty chan struct{} // has one element when there is something to be synced

	mu      sync.Mutex // never held during I/O
	queue   []byte     // frames that wait, checksums still to be put in
	spare   []byte     // the other buffer, while nothing is being written
	pending int        // records in queue and of what is being written
	settled int64      // records that were taken before the pending ones, since the start
	waiting []waiter   // in the order of their records
	closed  bool

	segments []*segment // oldest first
	active   *segment   // the one that is written to, the last of them; nil = none yet
	open     []*segment // those whose file is open for writing
	bytes    int64      // on disk, of all segments
	end      int64      // index of the next record
	offset   int64      // of the next record
	full     bool       // the last write found the disk full
}

// disk is what a Log asks of files that it writes. Tests put faults here that no disk of theirs has.
type disk struct {
	write    func(f *os.File, b []byte, at int64) (int, error)
	truncate func(f *os.File, size int64) error
	sync     func(f *os.File) error
}

// Open reads what is in the directory and begins a run. Nothing is written until Run. A segment
// whose head is bad is renamed, so that it is not looked at again; damage after that shows when it is
// read. Errors: a bad Config, a directory that cannot be read, and a directory or cursor that cannot be
// made, but for a [DiskFault]: then records are lost and counted until the disk takes them.
func Open(cfg Config, reg prometheus.Registerer, log *slog.Logger) (*Log, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the spool: %w", err)
	}
	cfg.complete()
	l := &Log{
		cfg: cfg, opened: time.Now(), log: log, rarely: newRarely(log), disk: disk{(*os.File).WriteAt, (*os.File).Truncate, (*os.File).Sync},
		wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1),
	}
	for _, name := range cfg.Readers {
		l.readers = append(l.readers, &Reader{l: l, name: name, arrived: make(chan struct{}, 1)})
	}
	var err error
	if l.metrics, err = newMetrics(reg, l.size, l.readers); err != nil {
		return nil, err
	}
	if err := l.makeDir(); err != nil && !l.tolerates(err) {
		return nil, err
	}
	if err := l.load(); err != nil {
		return nil, err
	}
	return l, nil
}

// tolerates logs a fault of the disk, and tells whether err is one.
func (l *Log) tolerates(err error) bool {
	if !DiskFault(err) {
		return false
	}
	l.rarely.warn("the disk of the spool takes nothing: records are lost until it does", slog.Any("error", err))
	return true
}

func (l *Log) makeDir() error {
	if err := os.MkdirAll(l.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("making the directory of the spool: %w", err)
	}
	return nil
}

// Append takes a frame of n records, which it copies; it never waits for the disk. It returns false
// where the frame is lost: too many records wait, Run has ended, or the frame has more than
// MaxPayload bytes. Without readers, and for an n below 1, it returns false and counts nothing.
func (l *Log) Append(payload []byte, n int) bool {
	if len(l.readers) == 0 || n < 1 {
		return false
	}
	if !l.put(nil, Frame{payload, n}) {
		l.metrics.queueFull.Add(float64(n))
		return false
	}
	notify(l.wake)
	return true
}

// Frame is the bytes of N records.
type Frame struct {
	Payload []byte
	N       int // at least 1
}

// MaxPending is how many records can wait in memory, at most.
func (l *Log) MaxPending() int { return min(l.cfg.MaxPending, maxRecords) }

// maxQueue is the most bytes that wait, whatever their number of records.
const maxQueue = 4 * MaxPayload

// put takes all frames or none. What becomes of them is told to stored, which may be nil.
func (l *Log) put(stored chan<- bool, frames ...Frame) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, n := 0, 0
	for _, f := range frames {
		if len(f.Payload) > MaxPayload || f.N < 1 || f.N > l.MaxPending() {
			return false
		}
		size, n = size+frameHead+len(f.Payload), n+f.N
	}
	if l.closed || n > l.MaxPending()-l.pending || len(l.queue)+size > maxQueue {
		return false
	}
	for _, f := range frames {
		l.queue = appendFrame(l.queue, f.Payload, f.N)
	}
	l.pending += n
	if stored != nil {
		to := l.settled + int64(l.pending)
		l.waiting = append(l.waiting, waiter{from: to - int64(n), to: to, stored: stored})
	}
	return true
}

// Pending returns the number of records in memory that are not written yet.
func (l *Log) Pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending
}

// Reader returns the reader of this name, nil for one that is not in Config.Readers.
func (l *Log) Reader(name string) *Reader {
	for _, r := range l.readers {
		if r.name == name {
			return r
		}
	}
	return nil
}

func (l *Log) size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// notify puts an element into a channel that has room for one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// passedLocked is the index that all readers have come to. Without readers nothing is passed.
func (l *Log) passedLocked() int64 {
	passed := int64(math.MaxInt64)
	for _, r := range l.readers {
		passed = min(passed, r.at)
	}
	if len(l.readers) == 0 {
		return -1
	}
	return passed
}

// tidy removes the segments that all readers have passed. The active one is left to the writer,
// which is woken.
func (l *Log) tidy() {
	l.mu.Lock()
	var passed []*segment
	for len(l.segments) > 0 && l.segments[0] != l.active && l.segments[0].endLocked() <= l.passedLocked() {
		passed = append(passed, l.segments[0])
		l.forgetLocked(l.segments[0])
	}
	wake := l.activePassedLocked()
	l.mu.Unlock()
	for _, s := range passed {
		l.remove(s)
	}
	if wake {
		notify(l.wake)
	}
}

// activePassedLocked tells whether the active segment is to go, since all have read it and its room
// is of use.
func (l *Log) activePassedLocked() bool {
	s := l.active
	return s != nil && s.records > 0 && s.endLocked() <= l.passedLocked() &&
		(l.full || s.size > min(l.cfg.SegmentSize, smallestSegment))
}

// forgetLocked takes a segment out of the list; remove is to follow.
func (l *Log) forgetLocked(s *segment) {
	l.segments = slices.DeleteFunc(l.segments, func(other *segment) bool { return other == s })
	l.bytes -= s.onDisk
	s.removed = true
	if l.active == s {
		l.active = nil
	}
}

// remove closes and deletes a segment that is not in the list any more. Its file must not stay open,
// or the disk would have no more room than before; one that is being synced is closed after that.
func (l *Log) remove(s *segment) {
	l.closeDone()
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.metrics.writeErrors.Inc()
		l.rarely.warn("a segment of the spool could not be removed", slog.Any("error", err))
	}
}

// closeDone closes the files for writing that are of no use any more.
func (l *Log) closeDone() {
	l.mu.Lock()
	var done, open []*segment
	for _, s := range l.open {
		if s.syncing || !s.removed && (s == l.active || s.unsynced) {
			open = append(open, s)
		} else {
			done = append(done, s)
		}
	}
	l.open = open
	l.mu.Unlock()
	for _, s := range done {
		if err := s.file.Close(); err != nil {
			l.metrics.syncErrors.Inc()
			l.rarely.warn("a segment of the spool could not be closed", slog.Any("error", err))
		}
	}
}
