package rollup

import (
	"sync"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// A ring has more slots than a window shows: the second that is not over yet, and what the clock may
// go back by, 3 s or into the minute before. Both are multiples of chunkSlots.
const (
	ringSeconds = 124
	ringMinutes = 64
	chunkSlots  = 4 // slots that are made together: fewer pointers, and less lost to size classes

	keepSeconds = 120  // what the seconds of a ring are good for
	keepMinutes = 3600 // and the minutes, in seconds
)

// series are the rings of a key.
type series struct {
	load *load // of its gateway

	mu      sync.Mutex
	newest  uint32 // the second in which the last transaction was received
	late    tally  // of the second of the last one that came too late for the seconds
	seconds *[ringSeconds / chunkSlots]*chunk
	minutes *[ringMinutes / chunkSlots]*chunk
}

type chunk [chunkSlots]slot

// slot are the counts of a second, or of a minute. They have 32 bits where no process can fill
// them: 70 million requests a second.
type slot struct {
	at         uint32 // the second or the minute since 1970; 0 = unused
	peak       uint32 // of a minute: the requests of its largest second
	requests   uint32
	successes  uint32
	throttled  uint32
	held       uint32
	waitedUS   int64
	durationUS int64
	histogram  Histogram
}

// add counts a transaction that is received now in a second of the last hour.
func (s *series) add(now, second uint32, t *traffic.Transaction) {
	bucket := BucketOf(t.Duration)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now/60 > s.newest/60 {
		s.dropStaleLocked(now)
	}
	s.newest = now
	minute := s.minuteLocked(second / 60)
	minute.add(t, bucket)
	if second+keepSeconds < now {
		minute.peak = max(minute.peak, s.late.count(second))
		return
	}
	sec := s.secondLocked(second)
	sec.add(t, bucket)
	minute.peak = max(minute.peak, sec.requests)
}

// secondLocked returns the slot of a second, empty where its place was another one's.
func (s *series) secondLocked(second uint32) *slot {
	if s.seconds == nil {
		s.seconds = &[ringSeconds / chunkSlots]*chunk{}
	}
	return take(&s.seconds[second%ringSeconds/chunkSlots], second)
}

func (s *series) minuteLocked(minute uint32) *slot {
	if s.minutes == nil {
		s.minutes = &[ringMinutes / chunkSlots]*chunk{}
	}
	return take(&s.minutes[minute%ringMinutes/chunkSlots], minute)
}

// take returns the slot of a time in its chunk.
func take(place **chunk, at uint32) *slot {
	if *place == nil {
		*place = &chunk{}
	}
	c := &(*place)[at%chunkSlots]
	if c.at != at {
		c.reset(at)
	}
	return c
}

// dropStaleLocked forgets the chunks whose slots have all left their window. The clock that has
// been set back by far makes chunks of its future, which go when it gets there.
func (s *series) dropStaleLocked(second uint32) {
	if s.seconds != nil {
		dropStale(s.seconds[:], second, ringSeconds)
	}
	if s.minutes != nil {
		dropStale(s.minutes[:], second/60, ringMinutes)
	}
}

func dropStale(ring []*chunk, at, size uint32) {
	for i, c := range ring {
		if c != nil && c.newest()+size <= at {
			ring[i] = nil
		}
	}
}

func (c *chunk) newest() (at uint32) {
	for i := range c {
		at = max(at, c[i].at)
	}
	return at
}

// sweep gives back the rings of a key of which there has been nothing for long.
func (s *series) sweep(second uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest+keepSeconds < second {
		s.seconds = nil
	}
	if s.newest+keepMinutes < second {
		s.minutes = nil
	}
}

func (c *slot) reset(at uint32) {
	h := c.histogram
	h.reset()
	*c = slot{at: at, histogram: h}
}

// add is [Counts.Add] for a slot. bucket is that of the duration.
func (c *slot) add(t *traffic.Transaction, bucket uint8) {
	c.requests++
	if t.Success {
		c.successes++
	}
	if t.Waited > 0 {
		c.held++
		c.waitedUS = addUp(c.waitedUS, t.Waited.Microseconds())
	}
	if t.Throttled {
		c.throttled++
		return
	}
	c.durationUS = addUp(c.durationUS, max(t.Duration, 0).Microseconds())
	c.histogram.add(bucket, 1)
}

// load counts the requests of a gateway: the largest second of all its endpoints together cannot be
// told from the largest of each.
type load struct {
	mu      sync.Mutex
	newest  uint32
	late    tally // as that of a series
	seconds *[ringSeconds]tally
	minutes *[ringMinutes]tally
}

// tally is a number of requests of a second, or of the largest second of a minute.
type tally struct{ at, n uint32 }

// add is that of a series.
func (l *load) add(now, second uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seconds == nil {
		l.seconds = &[ringSeconds]tally{}
	}
	if l.minutes == nil {
		l.minutes = &[ringMinutes]tally{}
	}
	l.newest = now
	sec := &l.seconds[second%ringSeconds]
	if second+keepSeconds < now {
		sec = &l.late
	}
	l.minutes[second/60%ringMinutes].raise(second/60, sec.count(second))
}

// of returns the number of that time, 0 where the tally is another one's.
func (t *tally) of(at uint32) uint32 {
	if t.at != at {
		return 0
	}
	return t.n
}

// count counts one more of that time, and returns how many there are.
func (t *tally) count(at uint32) uint32 {
	*t = tally{at, t.of(at) + 1}
	return t.n
}

func (t *tally) raise(at, n uint32) { *t = tally{at, max(t.of(at), n)} }

func (l *load) sweep(second uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.newest+keepSeconds < second {
		l.seconds = nil
	}
	if l.newest+keepMinutes < second {
		l.minutes = nil
	}
}
