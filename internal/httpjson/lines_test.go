package httpjson_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
)

const tooLong = "(too long)"

// read returns all lines, with tooLong in place of those, and the error that ended them.
func read(r io.Reader, longest int) (lines []string, end error) {
	l := httpjson.NewLines(r, longest)
	for {
		line, err := l.Next()
		switch {
		case errors.Is(err, httpjson.ErrLongLine):
			lines = append(lines, tooLong)
		case err != nil:
			return lines, err
		default:
			lines = append(lines, string(line))
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	const buffer = 64 << 10
	a := func(n int) string { return strings.Repeat("a", n) }
	for _, c := range []struct {
		in      string
		longest int
		want    []string
	}{
		{"", 9, nil},
		{"\n", 9, []string{""}},
		{"a", 9, []string{"a"}},
		{"a\n", 9, []string{"a"}},
		{"a\r\nb\r\n\r\nc\r", 9, []string{"a", "b", "", "c"}},
		{"aaa\naaaa\naaa\r\naaaa\r\naaa\naaaa", 3, []string{"aaa", tooLong, "aaa", tooLong, "aaa", tooLong}},
		{a(buffer-1) + "\n" + a(buffer) + "\n" + a(3*buffer) + "\nb", 1 << 20, []string{a(buffer - 1), a(buffer), a(3 * buffer), "b"}},
		{a(3*buffer) + "\nb", 3 * buffer, []string{a(3 * buffer), "b"}},
		{a(3*buffer+1) + "\nb", 3 * buffer, []string{tooLong, "b"}},
		{a(buffer) + "\nb\n" + a(buffer) + "\n" + a(9*buffer), 3, []string{tooLong, "b", tooLong, tooLong}},
	} {
		got, err := read(strings.NewReader(c.in), c.longest)
		if diff := cmp.Diff(c.want, got); !errors.Is(err, io.EOF) || diff != "" {
			t.Errorf("%.50q, at most %d: %v (-want +got):\n%.500s", c.in, c.longest, err, diff)
		}
	}
	broken := io.MultiReader(strings.NewReader("a\nhalf"), iotest.ErrReader(io.ErrClosedPipe))
	if got, err := read(broken, 9); !errors.Is(err, io.ErrClosedPipe) || !cmp.Equal(got, []string{"a"}) {
		t.Errorf("a reader that fails: %q, %v", got, err)
	}
}

// FuzzLines: whatever is read, and in whatever pieces it comes, the lines are what bytes.Split finds.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nccc"), 2)
	f.Add(bytes.Repeat([]byte("0123456789abcdef\r\n"), 5000), 16)
	f.Fuzz(func(t *testing.T, b []byte, longest int) {
		if longest < 0 || longest > 1<<20 {
			return
		}
		var want []string
		for line := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{'\n'}), []byte{'\n'}) {
			if line = bytes.TrimSuffix(line, []byte{'\r'}); len(line) > longest {
				line = []byte(tooLong)
			}
			want = append(want, string(line))
		}
		if len(b) == 0 {
			want = nil
		}
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(b), "in halves": iotest.HalfReader(bytes.NewReader(b)), "with the end": iotest.DataErrReader(bytes.NewReader(b))} {
			got, err := read(r, longest)
			if diff := cmp.Diff(want, got); !errors.Is(err, io.EOF) || diff != "" {
				t.Fatalf("%q, at most %d, %s: %v (-want +got):\n%s", b, longest, name, err, diff)
			}
		}
	})
}
