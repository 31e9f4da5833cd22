package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxChunk is the most bytes of the frames of a chunk that has more than one.
	maxChunk = MaxPayload
	// patience is how long a segment that cannot be read is tried, before the rest of it is given up:
	// else a bad sector would stop its reader for ever.
	patience = time.Minute
)

// Reader goes through the log from the oldest record on. Read and Commit are for one goroutine at a
// time, the other methods for any.
type Reader struct {
	l                  *Log
	name               string
	cursor             *cursor
	arrived            chan struct{}
	spoolFull, damaged prometheus.Counter

	// Log.mu guards these.

	at    int64 // index of the first record that is not committed
	marks marks
	held  span // of the last chunk, what is not committed
	limbo span // of it, what was dropped meanwhile: it may still be committed

	// The goroutine that reads has these.

	buf      []byte // of the last chunk
	payloads [][]byte
	segment  *segment // of the last chunk
	spots    []spot   // its frames, and what is after them
	failing  failing
}

// failing says since when a segment cannot be read.
type failing struct {
	segment *segment // nil = there is none
	since   time.Time
}

// Chunk is consecutive records of one run. Its payloads stay until the next Read.
type Chunk struct {
	Run      string
	First    int64 // offset of the first record of the first payload
	N        int   // records of all payloads; 0 = there is nothing to read
	Skip     int   // so many of them, the first ones, are committed already; less than N
	Payloads [][]byte
}

// Next is the position after the chunk.
func (c *Chunk) Next() Position { return Position{c.Run, c.First + int64(c.N)} }

// span is consecutive records of one run.
type span struct {
	run      string
	from, to int64 // indexes; to is that of the first one behind
	offset   int64 // of from
}

// pass takes what is before p off.
func (s *span) pass(p Position) {
	if s.run == p.Run {
		s.skip(p.Offset - s.offset)
	}
}

// skip takes the first n records off, none if n is below 0.
func (s *span) skip(n int64) {
	n = min(max(n, 0), s.to-s.from)
	s.from, s.offset = s.from+n, s.offset+n
}

// Waiting returns the number of records that are written and not committed.
func (r *Reader) Waiting() int64 {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	return r.l.end - r.at
}

// Since returns about when the oldest record that waits was written, rather too early than too late;
// of one of an earlier life, when the log was opened. It is the zero time while none waits.
func (r *Reader) Since() time.Time {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if r.at == r.l.end {
		return time.Time{}
	}
	return r.marks.of(r.at, r.l.opened)
}

// Arrived has an element after records were written, and after some were lost: whoever waits for
// these waits no more.
func (r *Reader) Arrived() <-chan struct{} { return r.arrived }

// passLocked moves the reader to an index, unless it is there or beyond, and returns over how many
// records.
func (r *Reader) passLocked(index int64) (n int64) {
	n = max(index-r.at, 0)
	r.at += n
	r.marks.forget(r.at)
	return n
}

// Read returns the frames after what is committed, whole ones: as many as have no more than most
// records, at least one if there is any. They may be fewer, since a chunk ends where a segment does,
// and at 16 MiB. Without a Commit the next Read returns the same. What cannot be read because it is
// damaged is passed over, counted and logged. An error is one of the system and may go away; after a
// minute of errors of a file that can be opened, what is left of it is taken for damaged.
func (r *Reader) Read(most int) (Chunk, error) {
	r.giveUp()
	for {
		p, ok := r.place()
		if !ok {
			return Chunk{}, nil
		}
		c, err := r.readAt(p, int64(most))
		if c.N > 0 {
			r.failing = failing{}
			if !r.hold(p, &c) {
				continue
			}
			return c, nil
		}
		if err = r.judge(p.segment, err); err != nil {
			return Chunk{}, err
		}
		r.passDamage(p)
	}
}

// hold remembers what whoever reads is about to deal with; false where it was dropped while it was
// read, and is counted as lost by now.
func (r *Reader) hold(p place, c *Chunk) bool {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if p.segment.removed {
		return false
	}
	r.held = span{run: c.Run, from: p.at, to: p.at + int64(c.N-c.Skip), offset: c.First + int64(c.Skip)}
	return true
}

// giveUp counts what was dropped under the hands of whoever has read it, and was not committed.
func (r *Reader) giveUp() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.spoolFull.Add(float64(r.limbo.to - r.limbo.from))
	r.held, r.limbo = span{}, span{}
}

// dropLocked passes over all before an index, and returns how many records are lost with that. What
// is being dealt with may still come to a good end.
func (r *Reader) dropLocked(index int64) (lost int64) {
	part := r.held
	part.skip(r.at - part.from) // passed by a commit of another run
	part.to = min(part.to, index)
	lost = r.passLocked(index)
	if part.from < part.to {
		lost -= part.to - part.from
		r.limbo, r.held = part, span{}
	}
	r.spoolFull.Add(float64(lost))
	return lost
}

// place is where a reader goes on, and how far it may read there.
type place struct {
	segment *segment
	base    int64
	at      int64
	end     spot
}

func (r *Reader) place() (place, bool) {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.l.segments, r.at, func(s *segment, at int64) int {
		if s.endLocked() <= at {
			return -1
		}
		return 1
	})
	if i == len(r.l.segments) {
		return place{}, false
	}
	s := r.l.segments[i]
	return place{s, s.base, r.at, spot{s.endLocked(), s.size}}, true
}

// readAt reads a chunk. A chunk with records comes without an error, whatever follows them.
func (r *Reader) readAt(p place, most int64) (Chunk, error) {
	file, err := os.Open(p.segment.path) // kept open, a removed segment would keep its room
	if err != nil {
		return Chunk{}, err
	}
	defer func() { _ = file.Close() }() // it was only read
	f := p.segment.frames(file, r.nearest(p), p.end.pos)
	f.buf = r.buf[:0]
	if err = p.find(f); err != nil {
		return Chunk{}, err
	}
	return r.collect(p, f, most)
}

// nearest is the last frame before the place of which it is known where it begins.
func (r *Reader) nearest(p place) spot {
	near := spot{p.base, int64(headSize)}
	if r.segment != p.segment {
		return near
	}
	for _, s := range r.spots {
		if s.index > p.at {
			break
		}
		near = s
	}
	return near
}

// index is that of the next frame's first record.
func (p *place) index(f *frames) int64 { return p.base + f.next - p.segment.first }

// find reads up to the frame that has the record of the place.
func (p *place) find(f *frames) error {
	for {
		_, n, err := f.peek()
		if err != nil || p.index(f)+n > p.at {
			return err
		}
		if _, _, err = f.read(); err != nil {
			return err
		}
		f.drop()
	}
}

// collect reads the frames of a chunk.
func (r *Reader) collect(p place, f *frames, most int64) (Chunk, error) {
	c := Chunk{Run: p.segment.run, First: f.next, Skip: int(p.at - p.index(f))}
	r.segment, r.payloads, r.spots = p.segment, r.payloads[:0], append(r.spots[:0], spot{p.index(f), f.pos})
	limit := f.pos + maxChunk
	for p.index(f) < p.end.index {
		n, err := r.collectOne(p, f, most-int64(c.N), limit)
		if c.N == 0 && err != nil {
			return Chunk{}, err
		}
		if n == 0 {
			break
		}
		c.N += int(n)
	}
	r.keep(f.buf)
	c.Payloads = r.payloads
	return c, nil
}

// collectOne reads one frame of a chunk and returns its number of records; 0 = it has more than most,
// or ends after limit, and is not the first.
func (r *Reader) collectOne(p place, f *frames, most, limit int64) (int64, error) {
	size, n, err := f.peek()
	switch {
	case err != nil:
		return 0, err
	case p.index(f)+n > p.end.index: // the next segment has these records, too
		return 0, errDamaged
	case len(r.payloads) > 0 && (n > most || f.pos+size > limit):
		return 0, nil
	}
	payload, n, err := f.read()
	if err != nil {
		return 0, err
	}
	r.payloads = append(r.payloads, payload)
	r.spots = append(r.spots, spot{p.index(f), f.pos})
	return n, nil
}

// keep keeps the buffer for the next chunk, unless it is a huge one.
func (r *Reader) keep(buf []byte) {
	r.buf = nil
	if cap(buf) <= keepBuffer {
		r.buf = buf
	}
}

// judge returns nil where err means that the segment has less than was written to it, else the error
// for the caller.
func (r *Reader) judge(s *segment, err error) error {
	r.l.mu.Lock()
	removed := s.removed
	r.l.mu.Unlock()
	if removed || errors.Is(err, errDamaged) || errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r.l.metrics.readErrors.Inc()
	if r.failing.segment != s {
		r.failing = failing{s, time.Now()}
	}
	if !isOpening(err) && time.Since(r.failing.since) >= patience {
		return nil
	}
	return fmt.Errorf("reading the spool: %w", err)
}

// isOpening tells whether a file could not be opened: its bytes may well be good.
func isOpening(err error) bool {
	fault, ok := errors.AsType[*fs.PathError](err)
	return ok && fault.Op == "open"
}

// passDamage moves the reader to the end of what it cannot read. If the segment was dropped meanwhile,
// the reader has been moved already.
func (r *Reader) passDamage(p place) {
	r.l.mu.Lock()
	var lost int64
	if !p.segment.removed {
		lost = r.passLocked(p.end.index)
	}
	first := !p.segment.noted && !p.segment.removed
	p.segment.noted, p.segment.unsound = true, true
	r.l.mu.Unlock()
	r.segment, r.spots = p.segment, append(r.spots[:0], p.end)
	r.damaged.Add(float64(lost))
	notify(r.arrived)
	if first {
		r.l.log.Warn("a segment of the spool is damaged; what follows in it is lost",
			slog.String("file", p.segment.path), slog.Int64("lost", lost))
	}
	r.l.tidy()
}

// Commit says that all records before p are dealt with. A position that the reader has passed changes
// nothing, but for what was dropped since it was read, at Config.Max: what is committed of that is not
// lost. A position after the last record of its run is taken for the end of that record. After an error
// the position holds for this life of the log, but a later one may begin at an older one.
func (r *Reader) Commit(p Position) error {
	if !r.moveTo(&p) {
		return nil
	}
	err := r.cursor.write(p)
	if err != nil {
		r.l.metrics.cursorErrors.Inc()
	}
	r.l.tidy()
	return err
}

// moveTo moves the reader to p, which it corrects; false = it has passed p.
func (r *Reader) moveTo(p *Position) bool {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.held.pass(*p)
	r.limbo.pass(*p)
	for _, s := range slices.Backward(r.l.segments) {
		if s.run == p.Run && s.first <= p.Offset && s.size > 0 { // one that was set aside is nobody's place
			p.Offset = min(p.Offset, s.first+s.records)
			return r.passLocked(s.base+p.Offset-s.first) > 0
		}
	}
	return false
}
