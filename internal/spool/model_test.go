package spool

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// modelFrame is a frame in the model. Records are numbered over all runs.
type modelFrame struct {
	id, n   int64
	payload string
}

func (f *modelFrame) size() int64 { return frameHead + int64(len(f.payload)) }

// modelSegment is a segment in the model.
type modelSegment struct {
	run    string
	first  int64
	frames []modelFrame
	size   int64 // of the file
}

// model is what the log should hold, by the rules of the documentation and nothing else.
type model struct {
	max, segmentSize int64
	run              string
	offset, id       int64
	segments         []*modelSegment
	active           *modelSegment
	at               map[string]int64 // by reader: id of the next record
	lost             map[string]int64 // by reader, since the log was opened
}

var modelReaders = []string{"a", "b"}

func (m *model) total() (n int64) {
	for _, s := range m.segments {
		n += s.size
	}
	return n
}

// unread is how many records of a segment a reader has not dealt with.
func (m *model) unread(reader string, s *modelSegment) (n int64) {
	for _, f := range s.frames {
		n += min(max(f.id+f.n-m.at[reader], 0), f.n)
	}
	return n
}

func (m *model) passed(s *modelSegment) bool {
	return m.unread("a", s)+m.unread("b", s) == 0
}

func (m *model) tidy() {
	for len(m.segments) > 0 && m.segments[0] != m.active && m.passed(m.segments[0]) {
		m.segments = m.segments[1:]
	}
}

func (m *model) drop() {
	s := m.segments[0]
	for _, r := range modelReaders {
		m.lost[r] += m.unread(r, s)
		for _, f := range s.frames {
			m.at[r] = max(m.at[r], f.id+f.n)
		}
	}
	m.segments = m.segments[1:]
	if s == m.active {
		m.active = nil
	}
	m.tidy()
}

// write writes frames in one go.
func (m *model) write(chunk []modelFrame) {
	var size, n int64
	for _, f := range chunk {
		size, n = size+f.size(), n+f.n
	}
	if size+int64(headSize) > m.max {
		m.lost["a"] += n
		m.lost["b"] += n
		return
	}
	if m.active != nil && m.active.size+size > m.segmentSize {
		m.active = nil
		m.tidy()
	}
	for {
		need := size
		if m.active == nil {
			need += int64(headSize)
		}
		if m.total()+need <= m.max {
			break
		}
		m.drop()
	}
	if m.active == nil {
		m.active = &modelSegment{run: m.run, first: m.offset, size: int64(headSize)}
		m.segments = append(m.segments, m.active)
	}
	m.active.frames = append(m.active.frames, chunk...)
	m.active.size += size
	m.offset += n
}

// flush writes frames, as many in one go as have room in a segment.
func (m *model) flush(frames []modelFrame) {
	for len(frames) > 0 {
		n, size := 1, frames[0].size()
		for n < len(frames) && size+frames[n].size()+int64(headSize) <= m.segmentSize {
			size += frames[n].size()
			n++
		}
		m.write(frames[:n])
		frames = frames[n:]
	}
	if m.active != nil && m.passed(m.active) && m.active.size > m.segmentSize {
		m.active = nil
		m.tidy()
	}
}

// read is the text of the chunk that a reader should get, and where it ends.
func (m *model) read(reader string, most int64) (string, Position) {
	for _, s := range m.segments {
		if m.unread(reader, s) == 0 {
			continue
		}
		first, i := s.first, 0
		for ; s.frames[i].id+s.frames[i].n <= m.at[reader]; i++ {
			first += s.frames[i].n
		}
		var n int64
		var payloads []string
		for _, f := range s.frames[i:] {
			if n > 0 && n+f.n > most {
				break
			}
			n, payloads = n+f.n, append(payloads, f.payload)
		}
		skip := max(m.at[reader]-s.frames[i].id, 0)
		return fmt.Sprintf("%d+%d-%d %s", first, n, skip, strings.Join(payloads, ",")), Position{s.run, first + n}
	}
	return "nothing", Position{}
}

// commit moves a reader over all that is before a position, if the segment of that is still there.
func (m *model) commit(reader string, p Position) {
	var to, end int64 // end is that of the segments before
	for _, s := range m.segments {
		at, is := s.first, s.run == p.Run && s.first <= p.Offset && s.size > 0
		if is {
			to = end
		}
		for _, f := range s.frames {
			if is && at < p.Offset {
				to = f.id + min(f.n, p.Offset-at)
			}
			at, end = at+f.n, f.id+f.n
		}
	}
	m.at[reader] = max(m.at[reader], to)
	m.tidy()
}

// end forgets segments of which only the name was left.
func (m *model) end() {
	m.segments = slices.DeleteFunc(m.segments, func(s *modelSegment) bool { return s.size == 0 })
}

// tear cuts the file of the newest segment off. If that leaves no good head, there is its name.
func (m *model) tear(size int64) {
	s := m.segments[len(m.segments)-1]
	if s.size = size; size < int64(headSize) {
		s.size = 0
	}
	end, keep := int64(headSize), 0
	for keep < len(s.frames) && end+s.frames[keep].size() <= size {
		end += s.frames[keep].size()
		keep++
	}
	s.frames = s.frames[:keep]
}

// machine drives a log and its model.
type machine struct {
	c     Config
	l     *life
	m     *model
	old   []Position // that were once read
	torn  int
	drops bool
}

func (s *machine) open(t tb) {
	s.l = open(t, s.c)
	s.l.disk.sync = func(*os.File) error { return nil } // it takes most of the time, and loses nothing here
	s.m.run, s.m.offset, s.m.active = s.l.run, 0, nil
	s.m.lost = map[string]int64{}
	s.m.tidy()
}

func (s *machine) append(t *rapid.T) {
	var frames []modelFrame
	for range rapid.IntRange(1, 4).Draw(t, "frames") {
		f := modelFrame{id: s.m.id, n: rapid.Int64Range(1, 4).Draw(t, "records"), payload: fmt.Sprint(s.m.id, strings.Repeat(".", rapid.IntRange(0, 90).Draw(t, "size")))}
		s.m.id += f.n
		frames = append(frames, f)
		s.l.mustAppend(t, f.payload, int(f.n))
	}
	s.l.flush()
	s.m.flush(frames)
}

func (s *machine) read(t *rapid.T) {
	name, most := rapid.SampledFrom(modelReaders).Draw(t, "reader"), rapid.Int64Range(0, 12).Draw(t, "most")
	want, end := s.m.read(name, most)
	r := s.l.Reader(name)
	c := wantRead(t, r, int(most), want)
	if c.N == 0 {
		return
	}
	if c.Run != end.Run || c.Next() != end {
		t.Fatalf("the chunk ends at %v, want %v", c.Next(), end)
	}
	p := Position{c.Run, c.First + rapid.Int64Range(0, int64(c.N)).Draw(t, "done")}
	if rapid.Bool().Draw(t, "all") {
		p = c.Next()
	}
	s.old = append(s.old, p)
	commit(t, r, p)
	s.m.commit(name, p)
	r.giveUp() // TestDroppedUnderTheHands is about what is being dealt with
}

// commitOld commits what a reader has passed, perhaps in a segment that is gone.
func (s *machine) commitOld(t *rapid.T) {
	if len(s.old) == 0 {
		t.Skip("nothing was read yet")
	}
	name, p := rapid.SampledFrom(modelReaders).Draw(t, "reader"), rapid.SampledFrom(s.old).Draw(t, "position")
	commit(t, s.l.Reader(name), p)
	s.m.commit(name, p)
}

func (s *machine) restart(t *rapid.T) {
	s.l.end()
	s.m.end()
	s.open(t)
}

func (s *machine) killed(t *rapid.T) {
	s.l.kill()
	s.m.end()
	s.open(t)
}

// losePower cuts the newest segment off at any byte.
func (s *machine) losePower(t *rapid.T) {
	s.l.kill()
	s.m.end()
	if n := len(s.m.segments); n > 0 {
		size := rapid.Int64Range(0, s.m.segments[n-1].size).Draw(t, "size")
		files := segments(t, s.c.Dir)
		if err := os.Truncate(files[len(files)-1], size); err != nil {
			t.Fatal(err)
		}
		s.m.tear(size)
		s.torn++
	}
	s.open(t)
}

// check compares what can be asked without reading.
func (s *machine) check(t *rapid.T) {
	for _, name := range modelReaders {
		var waiting int64
		for _, segment := range s.m.segments {
			waiting += s.m.unread(name, segment)
		}
		r := s.l.Reader(name)
		if got := r.Waiting(); got != waiting || r.Since().IsZero() != (waiting == 0) {
			t.Fatalf("%d wait for %s since %v, want %d", got, name, r.Since(), waiting)
		}
		if got := s.l.lost(t, name, "spool_full"); got != s.m.lost[name] {
			t.Fatalf("%s has lost %d, want %d", name, got, s.m.lost[name])
		}
		s.drops = s.drops || s.m.lost[name] > 0
		for _, never := range []int64{s.l.lost(t, name, "damaged"), s.l.lost(t, "all", "disk"), s.l.lost(t, "all", "queue_full"), int64(s.l.Pending())} {
			if never != 0 {
				t.Fatalf("%d are damaged, not written, not taken, or pending", never)
			}
		}
	}
	s.checkFiles(t)
}

func (s *machine) checkFiles(t *rapid.T) {
	var bytes int64
	for _, file := range segments(t, s.c.Dir) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	if got := s.l.figure(t, "bytes"); got != s.m.total() || bytes != got || bytes > s.c.Max {
		t.Fatalf("files have %d bytes, the log says %d, want %d of at most %d", bytes, got, s.m.total(), s.c.Max)
	}
	if len(s.l.open) > len(s.m.segments) {
		t.Fatalf("%d files are open for %d segments", len(s.l.open), len(s.m.segments))
	}
}

// Any sequence of appends, reads, commits, stops and losses of power does what the model does.
func TestModel(t *testing.T) {
	var torn, dropped int
	rapid.Check(t, func(rt *rapid.T) {
		s := &machine{
			c: Config{Dir: t.TempDir(), Max: rapid.Int64Range(150, 3000).Draw(rt, "max"), SegmentSize: rapid.Int64Range(100, 800).Draw(rt, "segment"), Readers: modelReaders},
			m: &model{at: map[string]int64{}},
		}
		s.m.max, s.m.segmentSize = s.c.Max, min(s.c.SegmentSize, s.c.Max)
		s.open(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"append": s.append, "append more": s.append, "read": s.read, "read more": s.read, "commit old": s.commitOld,
			"restart": s.restart, "kill -9": s.killed, "lose power": s.losePower, "": s.check,
		})
		for _, name := range modelReaders {
			for want, p := s.m.read(name, 5); want != "nothing"; want, p = s.m.read(name, 5) {
				wantRead(rt, s.l.Reader(name), 5, want)
				commit(rt, s.l.Reader(name), p)
				s.m.commit(name, p)
			}
			wantRead(rt, s.l.Reader(name), 5, "nothing")
		}
		s.l.end()
		torn += s.torn
		if s.drops {
			dropped++
		}
	})
	if !t.Failed() && (torn == 0 || dropped == 0) {
		t.Errorf("power was lost %d times, segments were dropped in %d runs: the test has not seen much", torn, dropped)
	}
}

// What a reader has committed does not come again, in whatever order it commits.
func TestCommitsOnlyGoForward(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, SegmentSize: int64(headSize) + frameHead + 1})
	for _, p := range []string{"1", "2", "3"} {
		l.mustAppend(t, p, 2)
	}
	l.flush()
	for _, offset := range []int64{3, 1, 0, 2, 3} {
		commit(t, l.Reader("a"), Position{l.run, offset})
		wantRead(t, l.Reader("a"), 9, "2+2-1 2")
	}
	l.kill()
	l = open(t, Config{Dir: dir})
	defer l.end()
	wantRead(t, l.Reader("a"), 9, "2+2-1 2")
	if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("read %q", got)
	}
}
