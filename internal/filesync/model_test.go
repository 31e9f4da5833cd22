package filesync_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/filesync"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// names are those that YAML may take for something else.
var names = rapid.OneOf(
	rapid.StringMatching(`[a-z*/{}.-]{1,8}`),
	rapid.SampledFrom([]string{
		"~", "null", "true", "yes", "-", "--- ", "...", "#x", " x ", "a: b", "[a]", "{a}", "&a", "*a", "!!int", "1e3", "0x1f", "0o7", "1_000", "2026-11-24", ".nan", "<<", "'", "\"", "\\n",
		"\u00e9", "\U0001f4b3", "\u2028", "\ufeff", "\u00a0", "%", "@", "`", "|", ">", "? ", ",", strings.Repeat("x ", 120),
	}),
	rapid.StringN(1, 60, limits.MaxNameBytes),
)

func drawLimit(t *rapid.T) limits.Limit {
	optional := rapid.OneOf(rapid.Just(""), names)
	return limits.Limit{
		Key: limits.Key{
			Domain: optional.Draw(t, "domain"), Gateway: names.Draw(t, "gateway"),
			Endpoint: optional.Draw(t, "endpoint"), Per: optional.Draw(t, "per"),
		},
		MaxTPS: rapid.Int64Range(0, limits.MaxMaxTPS).Draw(t, "max_tps"), Enabled: rapid.Bool().Draw(t, "enabled"),
		Burst: rapid.Int64Range(0, limits.MaxBurst).Draw(t, "burst"), MaxWaitMS: rapid.Int64Range(0, limits.MaxMaxWaitMS).Draw(t, "max_wait_ms"),
		Shadow: rapid.Bool().Draw(t, "shadow"),
		Note:   rapid.OneOf(optional, rapid.StringN(0, 40, 200), rapid.SampledFrom([]string{"two\n lines\n\n", "\t\nx", "\n\tx", " \n x", "x\n\t\n"})).Draw(t, "note"),
	}
}

// Any sequence of valid writes leaves exactly the rows that a map would hold, in force and in
// the file.
func TestWritesAgainstAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := idle(t, filesync.Config{Path: filepath.Join(t.TempDir(), "limits.yaml")})
		model := map[limits.Key]limits.Limit{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			l := drawLimit(rt)
			if len(model) > 0 && rapid.Bool().Draw(rt, "again") {
				l.Key = rapid.SampledFrom(keys(model)).Draw(rt, "key")
			}
			if err := l.Validate(); err != nil {
				continue // a control character
			}
			if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
				err := s.Delete(t.Context(), l.Key, "test")
				if _, there := model[l.Key]; there != (err == nil) {
					rt.Fatalf("Delete(%v): %v", l.Key, err)
				}
				delete(model, l.Key)
				continue
			}
			stored, err := s.Put(t.Context(), l, "test")
			if err != nil {
				rt.Fatalf("Put(%v): %v", limits.RowOf(&l), err)
			}
			model[l.Key] = stored
		}
		fresh := idle(t, filesync.Config{Path: s.path})
		if err := fresh.Delete(t.Context(), limits.Key{Gateway: "no such"}, "test"); !errors.Is(err, limits.ErrNotFound) {
			rt.Fatal(err)
		}
		fresh.put(t, gateway("read", 1)) // makes it read the file
		for _, s := range []*store{s, fresh} {
			if table := s.current.Load(); table != nil {
				for key, want := range model {
					got := table.Find(key)
					if got == nil {
						rt.Fatalf("%v is lost\n%s", key, s.read(t))
					}
					if diff := cmp.Diff(limits.RowOf(&want), limits.RowOf(got)); diff != "" {
						rt.Fatalf("%v (-want +got):\n%s", key, diff)
					}
				}
			}
		}
		if got := fresh.current.Load().Len(); got != len(model)+1 {
			rt.Fatalf("the file has %d rows, want %d", got-1, len(model))
		}
	})
}

func keys(m map[limits.Key]limits.Limit) []limits.Key {
	var out []limits.Key
	for k := range m {
		out = append(out, k)
	}
	return out
}
