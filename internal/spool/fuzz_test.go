package spool

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzSegment takes any bytes for a segment: with mend they follow a good head, and their frames have
// good checksums as far as they are frames. The log opens, and a reader gets to the end of it; what it
// reads is in the file.
func FuzzSegment(f *testing.F) {
	run := newRun(time.Unix(1_800_000_000, 0), "")
	s := newSegment("", run, 3)
	body := append(s.head(), appendFrame(appendFrame(nil, []byte("one"), 2), nil, 1)...)
	stamp(s.seed, 3, body[headSize:])
	f.Add(body, false)
	f.Add(body[:len(body)-3], false)
	f.Add(body[headSize:], true)
	f.Add([]byte{}, true)
	f.Add(appendFrame(appendFrame(nil, bytes.Repeat([]byte{7}, 300), 1<<31-1), []byte("x"), 1<<31-1), true)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0}, true)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body []byte, mend bool) {
		if mend {
			body = mended(s, body)
		}
		for _, name := range files(t, dir) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		writeFile(t, filepath.Join(dir, segmentName(run, 3)), body)
		l := open(t, Config{Dir: dir})
		defer l.end()
		r := l.Reader("a")
		for waiting := r.Waiting(); waiting > 0; waiting = r.Waiting() {
			c, err := r.Read(1 << 40)
			if err != nil || c.N == 0 || c.First < 3 || int64(c.N) > waiting {
				t.Fatalf("%d wait, Read() = %d records at %d, %v", waiting, c.N, c.First, err)
			}
			for _, p := range c.Payloads {
				if !bytes.Contains(body, p) {
					t.Fatalf("%q is not in the file", p)
				}
			}
			commit(t, r, c.Next())
		}
		if c, err := r.Read(1); c.N != 0 || err != nil {
			t.Fatalf("after the end: %q, %v", text(c), err)
		}
	})
}

// mended puts the head of s before frames, and checksums into them.
func mended(s *segment, frames []byte) []byte {
	body := append(s.head(), frames...)
	offset := s.first
	for rest := body[headSize:]; len(rest) >= frameHead; {
		size, n := frameSize(rest)
		if size > int64(len(rest)) {
			break
		}
		stamp(s.seed, offset, rest[:size])
		rest, offset = rest[size:], offset+n
	}
	return body
}
