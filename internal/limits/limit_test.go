package limits

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func valid() Limit { return Limit{Key: Key{Gateway: "shop"}, MaxTPS: 5, Enabled: true} }

func TestValidateTakesWhatIsWithinBounds(t *testing.T) {
	longest := strings.Repeat("x", MaxNameBytes)
	for name, change := range map[string]func(*Limit){
		"as it is":           func(*Limit) {},
		"no domain":          func(l *Limit) { l.Domain = "" },
		"longest domain":     func(l *Limit) { l.Domain = longest },
		"longest gateway":    func(l *Limit) { l.Gateway = longest },
		"longest endpoint":   func(l *Limit) { l.Endpoint = longest },
		"longest per":        func(l *Limit) { l.Per = longest },
		"umlauts and blanks": func(l *Limit) { l.Gateway, l.Endpoint = "Ä ö", " " },
		"only a star":        func(l *Limit) { l.Gateway, l.Endpoint = "*", "**" },
		"least max_tps":      func(l *Limit) { l.MaxTPS = 0 },
		"most max_tps":       func(l *Limit) { l.MaxTPS = MaxMaxTPS },
		"no burst":           func(l *Limit) { l.Burst = 0 },
		"least burst":        func(l *Limit) { l.Burst = 1 },
		"most burst":         func(l *Limit) { l.Burst = MaxBurst },
		"most max_wait_ms":   func(l *Limit) { l.MaxWaitMS = MaxMaxWaitMS },
		"longest note":       func(l *Limit) { l.Note = strings.Repeat("x", MaxNoteBytes) },
		"lines in the note":  func(l *Limit) { l.Note = "one\ntwo\tthree" },
	} {
		l := valid()
		if change(&l); l.Validate() != nil {
			t.Errorf("%s: %+v is refused: %v", name, l, l.Validate())
		}
	}
}

func TestValidateNamesTheFault(t *testing.T) {
	tooLong := strings.Repeat("x", MaxNameBytes+1)
	cut := fmt.Sprintf("%q… (256 bytes): is longer than 255 bytes", tooLong[:64])
	longNote := strings.Repeat("n", MaxNoteBytes+1)
	for _, c := range []struct {
		change func(*Limit)
		want   string
	}{
		{func(l *Limit) { l.Domain = tooLong }, "domain " + cut},
		{func(l *Limit) { l.Domain = "a\x00b" }, `domain "a\x00b": has a control character`},
		{func(l *Limit) { l.Domain = "\xff" }, `domain "\xff": is not valid UTF-8`},
		{func(l *Limit) { l.Gateway = "" }, `gateway "": is empty`},
		{func(l *Limit) { l.Gateway = tooLong }, "gateway " + cut},
		{func(l *Limit) { l.Gateway = "a\nb" }, `gateway "a\nb": has a control character`},
		{func(l *Limit) { l.Gateway = "a\u0085b" }, `gateway "a\u0085b": has a control character`},
		{func(l *Limit) { l.Gateway = "a\xc3" }, `gateway "a\xc3": is not valid UTF-8`},
		{func(l *Limit) { l.Endpoint = tooLong }, "endpoint " + cut},
		{func(l *Limit) { l.Endpoint = "\x7f" }, `endpoint "\x7f": has a control character`},
		{func(l *Limit) { l.Endpoint = "\x80" }, `endpoint "\x80": is not valid UTF-8`},
		{func(l *Limit) { l.Per = tooLong }, "per " + cut},
		{func(l *Limit) { l.Per = "\t" }, `per "\t": has a control character`},
		{func(l *Limit) { l.Per = "\xed\xa0\x80" }, `per "\xed\xa0\x80": is not valid UTF-8`},
		{func(l *Limit) { l.MaxTPS = -1 }, "max_tps -1: is not within 0 to 1000000000"},
		{func(l *Limit) { l.MaxTPS = MaxMaxTPS + 1 }, "max_tps 1000000001: is not within 0 to 1000000000"},
		{func(l *Limit) { l.MaxTPS = math.MinInt64 }, "max_tps -9223372036854775808: is not within 0 to 1000000000"},
		{func(l *Limit) { l.Burst = -1 }, "burst -1: is not within 1 to 1000000000"},
		{func(l *Limit) { l.Burst = MaxBurst + 1 }, "burst 1000000001: is not within 1 to 1000000000"},
		{func(l *Limit) { l.MaxWaitMS = -1 }, "max_wait_ms -1: is not within 0 to 1800000"},
		{func(l *Limit) { l.MaxWaitMS = MaxMaxWaitMS + 1 }, "max_wait_ms 1800001: is not within 0 to 1800000"},
		{func(l *Limit) { l.Note = longNote }, fmt.Sprintf("note %q… (4097 bytes): is longer than 4096 bytes", longNote[:64])},
		{func(l *Limit) { l.Note = "a\x00" }, `note "a\x00": is not valid UTF-8 text`},
		{func(l *Limit) { l.Note = "\xff" }, `note "\xff": is not valid UTF-8 text`},
	} {
		l := valid()
		c.change(&l)
		err := l.Validate()
		if err == nil || err.Error() != c.want {
			t.Errorf("%+v\n got %v\nwant %s", l, err, c.want)
		}
		if _, ok := errors.AsType[*FieldError](err); !ok {
			t.Errorf("%s: %T holds no FieldError", c.want, err)
		}
	}
}

func TestValidateNamesAllFaultsAtOnce(t *testing.T) {
	l := Limit{Key: Key{Domain: "\n", Endpoint: "\n", Per: "\n"}, MaxTPS: -1, Burst: -1, MaxWaitMS: -1, Note: "\x00"}
	var got []string
	for line := range strings.SplitSeq(l.Validate().Error(), "\n") {
		field, _, _ := strings.Cut(line, " ")
		got = append(got, field)
	}
	want := []string{"domain", "gateway", "endpoint", "per", "max_tps", "max_wait_ms", "note", "burst"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields with a fault (-want +got):\n%s", diff)
	}
}

func TestDefaultBurst(t *testing.T) {
	for tps, want := range map[int64]int64{
		0: 0, 1: 1, 2: 2, 9: 9, 10: 10, 11: 10, 99: 10, 100: 10, 101: 11, 109: 11, 110: 11, 111: 12,
		1000: 100, 999_999: 100_000, MaxMaxTPS: MaxMaxTPS / 10,
	} {
		if got := DefaultBurst(tps); got != want {
			t.Errorf("DefaultBurst(%d) = %d, want %d", tps, got, want)
		}
	}
}

func TestCompile(t *testing.T) {
	for _, c := range []struct {
		tps, burst int64
		rate       Rate
		capacity   uint64
	}{
		{500, 0, Rate{1, 2_000_000}, 50},
		{500, 7, Rate{1, 2_000_000}, 7},
		{3, 0, Rate{3, 1_000_000_000}, 3},
		{999_999, 0, Rate{999_999, 1_000_000_000}, 100_000},
		{MaxMaxTPS, MaxBurst, Rate{1, 1}, MaxBurst},
		{0, 0, Rate{}, 0},
		{0, 50, Rate{}, 0}, // refuses everything, whatever burst says
		{-5, -5, Rate{}, 0},
	} {
		in := Limit{Key: Key{Gateway: "g"}, MaxTPS: c.tps, Burst: c.burst}
		got := in.Compile(77)
		if got.Rate() != c.rate || got.Capacity() != c.capacity || got.SinceNS() != 77 || got.Name() != "g" {
			t.Errorf("max_tps %d, burst %d: rate %+v, capacity %d, since %d, name %q; want %+v, %d, 77, g",
				c.tps, c.burst, got.Rate(), got.Capacity(), got.SinceNS(), got.Name(), c.rate, c.capacity)
		}
		if in.Capacity() != 0 || in.SinceNS() != 0 {
			t.Errorf("Compile has written to its receiver: %+v", in)
		}
	}
}

func TestOverride(t *testing.T) {
	for _, c := range []struct {
		n        uint32
		window   time.Duration
		rate     Rate
		capacity uint64
	}{
		{500, time.Second, Rate{1, 2_000_000}, 50},
		{5, time.Second, Rate{1, 200_000_000}, 5},
		{500, time.Minute, Rate{1, 120_000_000}, 500},
		{7, 24 * time.Hour, Rate{7, 86_400_000_000_000}, 7},
		{0, time.Second, Rate{}, 0},
		{0, time.Hour, Rate{}, 0},
		{math.MaxUint32, time.Second, Rate{4294967295 / 5, 1_000_000_000 / 5}, 429_496_730},
		{math.MaxUint32, 365 * 24 * time.Hour, NewRate(math.MaxUint32, int64(365*24*time.Hour)), math.MaxUint32},
	} {
		got := Override(c.n, int64(c.window), 9)
		if got.Rate() != c.rate || got.Capacity() != c.capacity || got.SinceNS() != 9 || got.Name() != "" || !got.Enabled || got.Shadow || got.MaxWaitMS != 0 || got.MaxTPS != int64(c.n) {
			t.Errorf("Override(%d, %v): %+v, want rate %+v, capacity %d", c.n, c.window, got, c.rate, c.capacity)
		}
	}
}

func TestNamesOfKeys(t *testing.T) {
	for _, c := range []struct {
		key          Key
		label, texts string
	}{
		{Key{Gateway: "g"}, "g", `(domain "", gateway "g", endpoint "", per "")`},
		{Key{Domain: "d", Gateway: "g", Endpoint: "e"}, "g/e", `(domain "d", gateway "g", endpoint "e", per "")`},
		{Key{Gateway: "g", Per: "user"}, "g{user}", `(domain "", gateway "g", endpoint "", per "user")`},
		{Key{Gateway: "g*", Endpoint: "/pay/*", Per: "user"}, "g*//pay/*{user}", `(domain "", gateway "g*", endpoint "/pay/*", per "user")`},
	} {
		if got := c.key.Label(); got != c.label {
			t.Errorf("%#v: label %q, want %q", c.key, got, c.label)
		}
		if got := c.key.String(); got != c.texts {
			t.Errorf("%#v: String %q, want %q", c.key, got, c.texts)
		}
	}
}

// TestHeaderSafe wants a name that is fit for a header and tells the bytes that it stands for.
func TestHeaderSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }), rapid.String(), rapid.StringMatching(`[a-z"\\% ~]*`)).Draw(t, "name")
		got := HeaderSafe(s)
		for i := range len(got) {
			if c := got[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
				t.Errorf("HeaderSafe(%q) = %q: has the byte %#x", s, got, c)
			}
		}
		if back, err := url.PathUnescape(got); err != nil || back != s {
			t.Errorf("HeaderSafe(%q) = %q, which stands for %q (%v)", s, got, back, err)
		}
	})
	if got, want := HeaderSafe("a b/ö\"\\%\r\n"), "a b/%C3%B6%22%5C%25%0D%0A"; got != want {
		t.Errorf("HeaderSafe = %q, want %q", got, want)
	}
}

func TestCompareOrdersByField(t *testing.T) {
	keys := []Key{
		{"", "a", "", "", 0},
		{"", "a", "", "", 60},
		{"", "a", "", "p", 0},
		{"", "a", "e", "", 0},
		{"", "b", "", "", 0},
		{"d", "a", "", "", 0},
	}
	for i, a := range keys {
		for j, b := range keys {
			got, want := a.Compare(b), 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got != want {
				t.Errorf("%v.Compare(%v) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestClockNeverStandsAtZero(t *testing.T) {
	c := NewClock()
	first := c.NowNS()
	if second := c.NowNS(); first < 1 || second < first {
		t.Errorf("the clock says %d, then %d; want at least 1, and no step back", first, second)
	}
}

// TestSameLooksAtEveryField: a field that it forgot would keep an old row in force.
func TestSameLooksAtEveryField(t *testing.T) {
	for field, change := range map[string]func(*Limit){
		"domain": func(l *Limit) { l.Domain = "d" }, "gateway": func(l *Limit) { l.Gateway = "h" },
		"endpoint": func(l *Limit) { l.Endpoint = "e" }, "per": func(l *Limit) { l.Per = "p" },
		"max_tps": func(l *Limit) { l.MaxTPS = 6 }, "enabled": func(l *Limit) { l.Enabled = false },
		"burst": func(l *Limit) { l.Burst = 1 }, "max_wait_ms": func(l *Limit) { l.MaxWaitMS = 1 },
		"shadow": func(l *Limit) { l.Shadow = true }, "note": func(l *Limit) { l.Note = "n" },
		"created_at": func(l *Limit) { l.CreatedAt = time.Unix(1, 0) }, "updated_at": func(l *Limit) { l.UpdatedAt = time.Unix(1, 0) },
		"version": func(l *Limit) { l.Version = 1 },
	} {
		a, b := valid(), valid()
		if !a.same(&b) {
			t.Fatalf("%+v is not the same as itself", a)
		}
		if change(&b); a.same(&b) || b.same(&a) {
			t.Errorf("%s: %+v is the same as %+v", field, a, b)
		}
	}
}
