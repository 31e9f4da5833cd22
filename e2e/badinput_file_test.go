//go:build e2e

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func fileVictim(tb testing.TB) *victim {
	tb.Helper()
	v := &victim{file: filepath.Join(tb.TempDir(), "limits.yaml")}
	v.replaceFile(tb, goodFile)
	v.daemon = newDaemon(tb, "TPS_LIMITS_FILE="+v.file)
	v.start(tb)
	v.begin(tb)
	return v
}

// replaceFile writes the limits file as a whole.
func (v *victim) replaceFile(tb testing.TB, body string) {
	tb.Helper()
	if err := os.WriteFile(v.file+".new", []byte(body), 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(v.file+".new", v.file); err != nil {
		tb.Fatal(err)
	}
}

// badFile is a limits file that is refused: readiness says why, and the limits stay.
func badFile(name, body, fault string) badInput {
	return badPath(name, "the limits file $file: "+fault, func(tb testing.TB, v *victim) {
		tb.Helper()
		v.replaceFile(tb, body)
	})
}

// badPath is something else that happens to the limits file. `$file` in the fault is its path.
func badPath(name, fault string, spoil func(tb testing.TB, v *victim)) badInput {
	return badInput{name, func(tb testing.TB, v *victim) {
		tb.Helper()
		spoil(tb, v)
		want := "the last good limits are served: " + strings.ReplaceAll(fault, "$file", v.file)
		v.awaitSource(tb, want)
		if n := v.metric(tb, "ratelimitd_limits"); n != 2 {
			tb.Errorf("%g limits are in force, want the 2 of the last good file", n)
		}
		if n := v.metric(tb, "ratelimitd_limits_stale"); n != 1 {
			tb.Errorf("ratelimitd_limits_stale is %g, want 1", n)
		}
		v.assertServes(tb)
		_ = os.Remove(v.file) // what no file can be renamed over
		v.replaceFile(tb, goodFile)
		v.awaitSource(tb, "")
	}}
}

// awaitSource returns when readiness says this of the limits file, "" = that all is well.
func (v *victim) awaitSource(tb testing.TB, want string) {
	tb.Helper()
	testenv.Eventually(tb, 20*time.Second, "what /readyz says of the file", func() error {
		status, body, err := v.get(tb.Context(), "/readyz")
		if err != nil {
			return err
		}
		var answer struct {
			Checks []struct{ Name, Message string }
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			return err
		}
		if got := answer.Checks[1].Message; status != 200 || answer.Checks[1].Name != "source" || got != want {
			return fmt.Errorf("%d, %q, want %q", status, got, want)
		}
		return nil
	})
}

// harmlessFile is a file with odd bytes that is read all the same: it holds a row of 3 TPS for its name.
func harmlessFile(name, body string) badInput {
	return badInput{name, func(tb testing.TB, v *victim) {
		tb.Helper()
		v.replaceFile(tb, body)
		want := `OK {OK "row/odd" 3/SECOND, 3 left, reset 0s} domain="edge" endpoint="odd" gateway="row" limit="row/odd"`
		testenv.Eventually(tb, 20*time.Second, "the limits of the file", func() error {
			if got := v.ask(tb, asks("edge", gateway("row", entry("endpoint", "odd"), hits(0)))); got != want {
				return fmt.Errorf("got %s, want %s", got, want)
			}
			return nil
		})
		v.awaitSource(tb, "")
		v.assertServes(tb)
		v.replaceFile(tb, goodFile)
		testenv.Eventually(tb, 20*time.Second, "the good file", func() error {
			if n := v.metric(tb, "ratelimitd_limits"); n != 2 {
				return fmt.Errorf("%g limits are in force, want 2", n)
			}
			return nil
		})
	}}
}

func fileInputs() []badInput {
	inputs := append(filesOfOddRows(), filesOfOddYAML()...)
	return append(inputs, oddPaths()...)
}

// columnIn is a row with an odd column in the fourth line of a good file.
func columnIn(name, column, fault string) badInput {
	return badFile(name, goodFile+"- {gateway: row, "+column+"}\n", "line 4, column "+fault)
}

func filesOfOddRows() []badInput {
	const whole = ": is no whole number"
	long := strings.Repeat("n", 256)
	return []badInput{
		columnIn("max_tps 10^9+1", "max_tps: 1000000001", "27: max_tps 1000000001: is not within 0 to 1000000000"),
		columnIn("max_tps -1", "max_tps: -1", "27: max_tps -1: is not within 0 to 1000000000"),
		columnIn("max_tps 2^63", "max_tps: 9223372036854775808", "27: max_tps 9223372036854775808"+whole),
		columnIn("max_tps 1e400", "max_tps: 1e400", `27: max_tps "1e400"`+whole),
		columnIn("max_tps NaN", "max_tps: .nan", "27: max_tps .nan"+whole),
		columnIn("max_tps 1.5", "max_tps: 1.5", "27: max_tps 1.5"+whole),
		columnIn("max_tps 0x10", "max_tps: 0x10", "27: max_tps 0x10"+whole),
		columnIn("max_tps 1_000", "max_tps: 1_000", "27: max_tps 1_000"+whole),
		columnIn("max_tps as text", `max_tps: "5"`, `27: max_tps "5"`+whole),
		columnIn("max_tps as a list", "max_tps: [5]", "27: max_tps (a list)"+whole),
		columnIn("burst 0", "burst: 0", "25: burst 0: is not within 1 to 1000000000"),
		columnIn("max_wait_ms with its unit", "max_wait_ms: 5s", `31: max_wait_ms "5s"`+whole),
		columnIn("enabled yes", "enabled: yes", `27: enabled "yes": is not true or false`),
		columnIn("version -1", "version: -1", "27: version -1: is not within 0 to 9007199254740991"),
		columnIn("created_at of yesterday", "created_at: yesterday", `30: created_at "yesterday": is no time as in RFC 3339`),
		columnIn("unknown column", "max-tps: 5", `18: key "max-tps": is no column of a limit`),
		columnIn("per_seconds 0", "per_seconds: 0", "31: per_seconds 0: is not within 1 to 31622400"),
		columnIn("per_seconds as text", `per_seconds: "60"`, `31: per_seconds "60": is no whole number`),
		columnIn("algorithm that is none", "algorithm: leaky_bucket", `29: algorithm "leaky_bucket": is not token_bucket, fixed_window or sliding_window`),
		columnIn("column twice", "burst: 1, burst: 2", "28: burst 2: comes twice in the row"),
		columnIn("an endpoint that is a mapping", "endpoint: {a: b}", "28: endpoint (a mapping): is no text"),
		columnIn("an endpoint of binary", "endpoint: !!binary gIGC", "28: endpoint gIGC: is no text"),
		columnIn("a note of 5000 bytes", "note: "+strings.Repeat("x", 5000), `24: note "`+strings.Repeat("x", 64)+`"… (5000 bytes): is longer than 4096 bytes`),
		badFile("gateway with CR LF", `limits: [{gateway: "a\r\nb"}]`, `line 1, column 20: gateway "a\r\nb": has a control character`),
		badFile("gateway with NUL", `limits: [{gateway: "a\0b"}]`, `line 1, column 20: gateway "a\x00b": has a control character`),
		badFile("gateway of 256 bytes", `limits: [{gateway: `+long+`}]`, fmt.Sprintf("line 1, column 20: gateway %q… (256 bytes): is longer than 255 bytes", long[:64])),
		badFile("gateway null", `limits: [{gateway: ~}]`, `line 1, column 20: gateway "": is empty`),
		badFile("no gateway", `limits: [{max_tps: 5}]`, `line 1, column 10: gateway "": is empty`),
		badFile("the same row twice", goodFile+"- {gateway: good, endpoint: kept}\n", `line 4, column 3: the row (domain "", gateway "good", endpoint "kept", per ""): stands in line 2 already`),
		badFile("a row that is text", "limits:\n- shop\n", `line 2, column 3: row "shop": is no mapping of columns to values`),
		badFile("two bad rows", "limits:\n- {gateway: a, burst: 0}\n- {}\n", "line 2, column 23: burst 0: is not within 1 to 1000000000\nline 3, column 3: gateway \"\": is empty"),
		harmlessFile("numbers where names stand", goodFile+"- {gateway: row, endpoint: odd, max_tps: 3}\n- {gateway: 1e400, endpoint: 007, max_tps: 0}\n"),
	}
}

func filesOfOddYAML() []badInput {
	utf16le := []byte("\xff\xfe")
	for _, unit := range utf16.Encode([]rune(goodFile)) {
		utf16le = append(utf16le, byte(unit), byte(unit>>8))
	}
	odd := goodFile + "- {gateway: row, endpoint: odd, max_tps: 3}\n"
	var bomb strings.Builder
	bomb.WriteString("limits:\n- gateway:\n    a: &a [x, x, x, x, x, x, x, x, x]\n")
	for c := 'b'; c <= 'j'; c++ {
		fmt.Fprintf(&bomb, "    %c: &%c [%s*%c]\n", c, c, strings.Repeat(fmt.Sprintf("*%c, ", c-1), 8), c-1)
	}
	return []badInput{
		harmlessFile("BOM", "\ufeff"+odd),
		harmlessFile("CR LF", strings.ReplaceAll(odd, "\n", "\r\n")),
		badFile("UTF-16", string(utf16le), "line 1: has bytes that are no UTF-8"),
		badFile("Latin-1", goodFile+"# M\xfcller\n", "line 4: has bytes that are no UTF-8"),
		badFile("a tab", "limits:\n\t- {gateway: a}\n", "reading YAML: line 2: found character that cannot start any token"),
		badFile("NUL", goodFile+"\x00", "reading YAML: control characters are not allowed"),
		badFile("a quote that does not end", "limits:\n- {gateway: \"a}\n", "reading YAML: line 2: found unexpected end of stream"),
		badFile("a list at the top", "- {gateway: a}\n", "line 1, column 1: the file (a list): is no mapping with the key limits"),
		badFile("text", "all of them\n", `line 1, column 1: the file "all of them": is no mapping with the key limits`),
		badFile("limits as a mapping", "limits: {shop: 5}\n", "line 1, column 9: limits (a mapping): is no list"),
		badFile("limits twice", goodFile+"limits: []\n", "line 4, column 1: key limits: comes twice"),
		badFile("another key", goodFile+"limit: []\n", `line 4, column 1: key "limit": is unknown; the only one is limits`),
		badFile("a second document", goodFile+"---\nlimits: []\n", "line 4: a second YAML document begins; a limits file is one"),
		badFile("an anchor", "limits:\n- {gateway: &g a}\n- {gateway: *g, endpoint: e}\n", "line 2, column 13: gateway \"a\": anchors and aliases are not read\nline 3, column 13: gateway *g: anchors and aliases are not read"),
		badFile("a merge", "limits:\n- {<<: {gateway: a}}\n", `line 2, column 4: key "<<": is no column of a limit`),
		badFile("an alias of nothing", "limits: [*none]\n", "reading YAML: unknown anchor 'none' referenced"),
		badFile("an alias of itself", "limits: &a [*a]\n", "line 1, column 13: row *a: is no mapping of columns to values"),
		badFile("nine aliases of nine aliases, ten times", bomb.String(), "line 3, column 5: gateway (a mapping): is no text"),
		badFile("100,000 lists within each other", "limits: "+strings.Repeat("[", 100_000), "reading YAML: exceeded max depth of 10000"),
		badFile("17 MiB", goodFile+strings.Repeat("# some comment\n", 17<<20/15), "is larger than 16777216 bytes"),
	}
}

func oddPaths() []badInput {
	remove := func(tb testing.TB, v *victim) {
		tb.Helper()
		if err := os.Remove(v.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			tb.Fatal(err)
		}
	}
	instead := func(put func(path string) error) func(testing.TB, *victim) {
		return func(tb testing.TB, v *victim) {
			tb.Helper()
			remove(tb, v)
			if err := put(v.file); err != nil {
				tb.Fatal(err)
			}
		}
	}
	holds := func(body string) func(testing.TB, *victim) {
		return func(tb testing.TB, v *victim) { tb.Helper(); v.replaceFile(tb, body) }
	}
	const gone = "the limits file $file is gone: put it back, or one with `limits: []` if there are to be none"
	const nothing = "the limits file $file says nothing: write `limits: []` if there are to be none"
	const notRegular = "reading the limits file $file: is no regular file"
	return []badInput{
		badPath("no file", gone, remove),
		badPath("an empty file", nothing, holds("")),
		badPath("a comment alone", nothing, holds("# limits: []\n")),
		badPath("limits null", nothing, holds("limits:\n")),
		badPath("a directory", notRegular, instead(func(path string) error { return os.Mkdir(path, 0o755) })),
		badPath("a pipe", notRegular, instead(func(path string) error { return syscall.Mkfifo(path, 0o644) })),
		badPath("a link to itself", "reading the limits file: stat $file: too many levels of symbolic links", instead(func(path string) error { return os.Symlink(path, path) })),
		badPath("a link to nothing", gone, instead(func(path string) error { return os.Symlink(path+".none", path) })),
		badPath("/dev/zero", notRegular, instead(func(path string) error { return os.Symlink("/dev/zero", path) })),
	}
}
