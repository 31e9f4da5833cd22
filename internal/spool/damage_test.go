package spool

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sample is a log of two runs in five segments, and what is in it.
type sample struct {
	files map[string][]byte     // by name
	want  map[Position][]string // by the place of the first record: payload and number of records
	all   int64                 // records; reader b has committed none of them
	left  int64                 // those that reader a has not committed
}

// makeSample also commits, so that both slots of both cursors say something.
func makeSample(t *testing.T) *sample {
	t.Helper()
	s := &sample{want: map[Position][]string{}, files: map[string][]byte{}}
	c := Config{Dir: t.TempDir(), SegmentSize: int64(headSize) + 40, Readers: []string{"a", "b"}}
	for run, payloads := range [][]string{{"zero", "one", "two", "three", "four"}, {"five", "six", "seven and more"}} {
		l := open(t, c)
		offset := int64(0)
		for i, p := range payloads {
			l.mustAppend(t, p, i+1)
			s.want[Position{l.run, offset}] = []string{p, strconv.Itoa(i + 1)}
			offset += int64(i + 1)
		}
		l.flush()
		if run == 1 {
			for _, offset := range []int64{1, 3} {
				commit(t, l.Reader("a"), Position{segmentRun(t, c.Dir), offset})
			}
		}
		s.left, s.all = l.Reader("a").Waiting(), l.Reader("b").Waiting()
		l.end()
	}
	for _, name := range files(t, c.Dir) {
		s.files[name] = readFile(t, filepath.Join(c.Dir, name))
	}
	if len(s.files) != 7 {
		t.Fatalf("the sample has %d files: %v", len(s.files), slices.Sorted(maps.Keys(s.files)))
	}
	return s
}

// segmentRun is the run of the oldest segment.
func segmentRun(t tb, dir string) string {
	t.Helper()
	return filepath.Base(segments(t, dir)[0])[:runLength]
}

func files(t tb, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// open puts the files into a directory, one of them with other content, and opens it.
func (s *sample) open(t tb, dir, changed string, content []byte) *life {
	t.Helper()
	for _, name := range files(t, dir) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatalf("%v", err)
		}
	}
	for name, body := range s.files {
		if name == changed {
			body = content
		}
		writeFile(t, filepath.Join(dir, name), body)
	}
	return open(t, Config{Dir: dir, Readers: []string{"a", "b"}})
}

// segmentNames are the names of the segments, oldest first.
func (s *sample) segmentNames() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.files)), func(name string) bool { return !strings.HasSuffix(name, segmentEnd) })
}

// drain reads to the end and fails for anything that was not appended, or comes twice. It returns how
// many records were read.
func (s *sample) drain(t tb, r *Reader) (n int64) {
	t.Helper()
	var last Position
	for {
		c, err := r.Read(4)
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if c.N == 0 {
			return n
		}
		at := Position{c.Run, c.First}
		if cmp.Or(strings.Compare(at.Run, last.Run), cmp.Compare(at.Offset+int64(c.Skip), last.Offset)) < 0 {
			t.Fatalf("%v comes after %v", at, last)
		}
		for _, p := range c.Payloads {
			want, ok := s.want[at]
			if !ok || want[0] != string(p) {
				t.Fatalf("at %v is %q, want %q", at, p, want)
			}
			var records int64
			_, _ = fmt.Sscan(want[1], &records)
			at.Offset += records
		}
		if last = c.Next(); at != last {
			t.Fatalf("the chunk ends at %v, its frames at %v", last, at)
		}
		n += int64(c.N - c.Skip)
		commit(t, r, last)
	}
}

// Any one byte of any file may change: nothing that was not appended is read, and what is missing is
// known.
func TestEveryByteFlipped(t *testing.T) {
	s, dir := makeSample(t), t.TempDir()
	for name, body := range s.files {
		isSegment := strings.HasSuffix(name, segmentEnd)
		lastOfRun := name == s.segmentNames()[2] || name == s.segmentNames()[4]
		for i := range body {
			if !isSegment && i%slotSize > slotUsed && i%slotSize < slotSize-1 {
				continue // nobody looks at what is between the slots
			}
			changed := bytes.Clone(body)
			changed[i] ^= 1 << (i % 8)
			l := s.open(t, dir, name, changed)
			for reader, all := range map[string]int64{"a": s.left, "b": s.all} {
				waiting := l.Reader(reader).Waiting()
				got, lost := s.drain(t, l.Reader(reader)), l.lost(t, reader, "damaged")
				if got+lost != waiting || waiting < all && !lastOfRun {
					t.Fatalf("%s with another byte %d: %s has read %d and lost %d of %d, of %d", name, i, reader, got, lost, waiting, all)
				}
				if !isSegment && got < all || isSegment && reader == "b" && got >= all {
					t.Fatalf("%s with another byte %d: %s has read %d of %d", name, i, reader, got, all)
				}
			}
			if isSegment != strings.Contains(l.logged.String(), "a segment of the spool") {
				t.Fatalf("%s with another byte %d: logged %s", name, i, l.logged)
			}
			l.end()
		}
	}
}

// A segment may end at any byte: frames before that are read, later segments are read, and what is
// missing is counted where the next segment of the run tells of it.
func TestTruncatedAtEveryByte(t *testing.T) {
	s, dir := makeSample(t), t.TempDir()
	for i, name := range s.segmentNames() {
		lastOfRun := i == 2 || i == 4
		before := int64(-1)
		for size := range s.files[name] {
			l := s.open(t, dir, name, s.files[name][:size])
			waiting, got := l.Reader("b").Waiting(), s.drain(t, l.Reader("b"))
			lost := l.lost(t, "b", "damaged")
			if got+lost != waiting || (lost > 0) == lastOfRun || got >= s.all || got < before {
				t.Fatalf("%s cut off at %d: %d were read and %d lost of %d, %d before", name, size, got, lost, waiting, before)
			}
			before = got
			l.end()
		}
	}
}

// What is damaged is lost once for each reader, and said once.
func TestDamageIsSaidOnce(t *testing.T) {
	s, dir := makeSample(t), t.TempDir()
	name := s.segmentNames()[1]
	body := bytes.Clone(s.files[name])
	body[len(body)-1]++
	l := s.open(t, dir, name, body)
	defer l.end()
	for _, r := range []string{"a", "b"} {
		s.drain(t, l.Reader(r))
	}
	if got := []int64{l.lost(t, "a", "damaged"), l.lost(t, "b", "damaged"), int64(strings.Count(l.logged.String(), "is damaged"))}; !slices.Equal(got, []int64{4, 4, 1}) {
		t.Errorf("lost to a, to b, logged: %v", got)
	}
	if left := segments(t, dir); left != nil {
		t.Errorf("files are left: %v", left)
	}
}

func TestDamageAtTheStartIsCounted(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	l.mustAppend(t, "one", 1)
	l.mustAppend(t, "two", 1)
	l.end()
	path := l.segments[0].path
	if err := os.Truncate(path, l.segments[0].size-1); err != nil {
		t.Fatal(err)
	}
	l = open(t, Config{Dir: dir})
	defer l.end()
	if got := l.figure(t, "errors_total", "read"); got != 1 || !strings.Contains(l.logged.String(), "ends before the end of its file") {
		t.Errorf("%d faults are counted, want 1; logs %s", got, l.logged)
	}
}

func TestUnknownFilesAreLeftAlone(t *testing.T) {
	s, dir := makeSample(t), t.TempDir()
	l := s.open(t, dir, "", nil)
	l.end()
	run := newRun(time.Now(), "")
	unknown := []string{"lock", "x.seg", "x.cursor.old", "X.cursor", "all.cursor", run + ".seg", segmentName(run, 0) + ".tmp", "x.bad"}
	for _, name := range unknown {
		writeFile(t, filepath.Join(dir, name), []byte(name))
	}
	for _, name := range []string{segmentName(run, 7), segmentName(run, 8) + badEnd, "dir.cursor"} {
		writeFile(t, filepath.Join(dir, name, "x"), nil)
		unknown = append(unknown, name)
	}
	writeFile(t, filepath.Join(dir, "old.cursor"), nil)
	l = open(t, Config{Dir: dir, Readers: []string{"a", "b"}})
	s.drain(t, l.Reader("a"))
	s.drain(t, l.Reader("b"))
	l.end()
	slices.Sort(unknown)
	left := slices.DeleteFunc(files(t, dir), func(name string) bool { return name == "a.cursor" || name == "b.cursor" })
	if !slices.Equal(left, unknown) {
		t.Errorf("left are\n%s\nwant\n%s", strings.Join(left, "\n"), strings.Join(unknown, "\n"))
	}
}

// A segment with a bad head is kept for whoever wants to look at it, but not many of them.
func TestBadHeads(t *testing.T) {
	dir := t.TempDir()
	var names []string
	run := ""
	for i := range 5 {
		run = newRun(time.Now(), run)
		names = append(names, segmentName(run, 0))
		writeFile(t, filepath.Join(dir, names[i]), fmt.Appendf(nil, "no head %d", i))
	}
	empty := segmentName(newRun(time.Now(), run), 0)
	writeFile(t, filepath.Join(dir, empty), nil)
	l := open(t, Config{Dir: dir})
	l.end()
	want := []string{names[2] + badEnd, names[3] + badEnd, names[4] + badEnd, "a.cursor"}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("there are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := readFile(t, filepath.Join(dir, want[0])); string(got) != "no head 2" || strings.Count(l.logged.String(), "bad head") != 6 || strings.Count(l.logged.String(), "\n") != 6 || l.figure(t, "errors_total", "read") != 6 {
		t.Errorf("set aside is %q, logged\n%s", got, l.logged)
	}
}

// A segment that somebody removes costs its records, and no more.
func TestRemovedSegments(t *testing.T) {
	s, dir := makeSample(t), t.TempDir()
	l := s.open(t, dir, "", nil)
	gone := s.segmentNames()[1]
	if err := os.Remove(filepath.Join(dir, gone)); err != nil {
		t.Fatal(err)
	}
	if got, lost := s.drain(t, l.Reader("b")), l.lost(t, "b", "damaged"); got != 14 || lost != 7 {
		t.Errorf("read %d, lost %d", got, lost)
	}
	l.end()

	// It may be missing from the start, too.
	s.files[gone] = s.files[gone][:0]
	l = s.open(t, dir, "", nil)
	defer l.end()
	if got, lost := s.drain(t, l.Reader("b")), l.lost(t, "b", "damaged"); got != 14 || lost != 7 {
		t.Errorf("after a restart: read %d, lost %d", got, lost)
	}
}

// Damage in the segment that is being written to costs what is in it by then; another one is begun.
func TestActiveSegmentIsDamaged(t *testing.T) {
	damages := map[string]func(path string) error{
		"removed":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, int64(headSize)+20) },
		"changed": func(path string) error {
			body, err := os.ReadFile(path)
			if err == nil {
				body[headSize+20]++
				err = os.WriteFile(path, body, 0o600)
			}
			return err
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, Config{Dir: dir, Readers: []string{"a", "b"}})
			defer l.end()
			l.mustAppend(t, "one", 1)
			l.mustAppend(t, "two", 2)
			l.flush()
			if err := damage(segments(t, dir)[0]); err != nil {
				t.Fatal(err)
			}
			read := len(drain(t, l.Reader("a")))
			if lost := l.lost(t, "a", "damaged"); lost < 2 || lost+int64(read) != 3 || l.Reader("a").Waiting() != 0 {
				t.Errorf("%d are lost, %d read, %d wait", lost, read, l.Reader("a").Waiting())
			}
			l.mustAppend(t, "three", 1)
			l.flush()
			wantRead(t, l.Reader("a"), 9, "3+1-0 three")
			if got := drain(t, l.Reader("b")); got[len(got)-1] != "three" {
				t.Errorf("b reads %q", got)
			}
		})
	}
}

// A good frame counts only where it was written: in its segment, at its offset. A file system may show
// old blocks after a crash.
func TestFramesOfAnotherPlace(t *testing.T) {
	run := newRun(time.Now(), "")
	for name, from := range map[string]struct {
		first, offset int64
		want          int64
	}{"its own": {0, 0, 2}, "another segment": {7, 0, 0}, "another offset": {0, 7, 0}} {
		dir := t.TempDir()
		frame := appendFrame(nil, []byte("x"), 2)
		stamp(newSegment(dir, run, from.first).seed, from.offset, frame)
		s := newSegment(dir, run, 0)
		writeFile(t, s.path, append(s.head(), frame...))
		l := open(t, Config{Dir: dir})
		if got := l.Reader("a").Waiting(); got != from.want {
			t.Errorf("of a frame of %s %d records are taken, want %d", name, got, from.want)
		}
		l.end()
	}
}

// A frame that reaches into the next segment was lost when it was written, and its offsets are given to
// others.
func TestFrameReachesIntoTheNextSegment(t *testing.T) {
	dir, run := t.TempDir(), newRun(time.Now(), "")
	for first, frames := range map[int64][]string{0: {"good", "lost"}, 3: {"next"}} {
		s := newSegment(dir, run, first)
		var body []byte
		for _, payload := range frames {
			body = appendFrame(body, []byte(payload), 2)
		}
		stamp(s.seed, first, body)
		writeFile(t, s.path, append(s.head(), body...))
	}
	l := open(t, Config{Dir: dir})
	defer l.end()
	c := wantRead(t, l.Reader("a"), 99, "0+2-0 good")
	commit(t, l.Reader("a"), c.Next())
	wantRead(t, l.Reader("a"), 99, "3+2-0 next")
	if got := l.lost(t, "a", "damaged"); got != 1 {
		t.Errorf("%d are lost, want 1", got)
	}
}
