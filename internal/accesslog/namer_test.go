package accesslog

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func remembering() namer { return namer{mapping: defaultMapping, known: map[string]string{}} }

// Whether a name was seen before makes no difference.
func TestNamerCleans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := remembering()
		plain := namer{}
		for _, raw := range rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "a\x00", "\xff", strings.Repeat("é", 200), strings.Repeat("😀", 100), strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("x", 300)}), 1, 50).Draw(t, "names") {
			want := traffic.Clean(raw)
			if got, without := n.name(raw), plain.name(raw); got != want || without != want {
				t.Fatalf("name(%q) = %q, without memory %q, want %q", raw, got, without, want)
			}
		}
	})
}

func TestNamerCleansAnyBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := remembering()
		raw := string(rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "bytes"))
		for range 2 {
			if got := n.name(raw); got != traffic.Clean(raw) {
				t.Fatalf("name(%q) = %q, want %q", raw, got, traffic.Clean(raw))
			}
		}
	})
}

func TestNamesComeAgainInTheSameMemory(t *testing.T) {
	n := remembering()
	for _, raw := range []string{"pay", "caf\xe9", strings.Repeat("x", 1000)} {
		first, second := n.name(raw), n.name(strings.Clone(raw))
		if unsafe.StringData(first) != unsafe.StringData(second) {
			t.Errorf("name %.20q: was made twice", raw)
		}
		if unsafe.StringData(first) == unsafe.StringData(raw) {
			t.Errorf("name %.20q: has the memory of what came in", raw)
		}
		for key := range n.known {
			if unsafe.StringData(key) == unsafe.StringData(raw) {
				t.Errorf("name %.20q: is remembered by the memory of what came in", raw)
			}
		}
	}
}

// However many names there are, and however long, few are remembered, and none is mixed up.
func TestNamerIsBounded(t *testing.T) {
	n := remembering()
	long := strings.Repeat("x", 1000)
	for i := range 100_000 {
		raw := fmt.Sprint(i, long[:i%2*len(long)])
		if got, want := n.name(raw), traffic.Clean(raw); got != want {
			t.Fatalf("name %d: %q, want %q", i, got, want)
		}
	}
	bytes := 0
	for raw, name := range n.known {
		bytes += len(raw) + len(name)
	}
	if len(n.known) > mostNames || bytes > mostNames*2*(traffic.MaxName+1) {
		t.Errorf("%d names of %d bytes are remembered, want at most %d", len(n.known), bytes, mostNames)
	}
}
