package traffic_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func TestCleanNames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw := string(rapid.SliceOfN(rapid.Byte(), 0, 800).Draw(t, "bytes"))
		if rapid.Bool().Draw(t, "text") {
			raw = rapid.StringN(0, 400, 800).Draw(t, "string")
		}
		got := traffic.Clean(raw)
		if len(got) > traffic.MaxName || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Fatalf("Clean(%q) = %q (%d bytes): want at most %d bytes of UTF-8 without control characters", raw, got, len(got), traffic.MaxName)
		}
		if utf8.ValidString(raw) && len(raw) <= traffic.MaxName && !strings.ContainsFunc(raw, unicode.IsControl) && got != raw {
			t.Fatalf("traffic.Clean(%q) = %q, want it unchanged", raw, got)
		}
		if traffic.Clean(got) != got {
			t.Fatalf("traffic.Clean(%q) = %q, want it unchanged", got, traffic.Clean(got))
		}
		if len(raw) > 0 && got == "" {
			t.Fatalf("nothing is left of %q", raw)
		}
	})
}
