package main

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/rivo/uniseg"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/client"
)

// viewOf is a view at noon.
func viewOf(endpoints ...client.NamedFigures) *topView {
	total := client.Figures{TPS: 1234, P95MS: new(12.5), SuccessRate: new(0.9999), Throttled: 12}
	return &topView{server: "http://localhost:8080", window: 10 * time.Second, sort: "tps", stats: client.Stats{
		To: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), Source: "memory", Total: total, Gateways: make([]client.NamedFigures, 2), Endpoints: endpoints,
	}}
}

func measured(gateway, endpoint string, tps int64, p95 float64) client.NamedFigures {
	return client.NamedFigures{Domain: "edge", Gateway: gateway, Endpoint: endpoint, PeakTPS: 2 * tps, Figures: client.Figures{
		TPS: tps, P50MS: new(p95 / 2), P95MS: &p95, P99MS: new(2 * p95), Requests: 10 * tps, SuccessRate: new(max(0, 1-p95/1000)), Throttled: tps / 10, Held: tps / 100,
	}}
}

func shop() []client.NamedFigures {
	return []client.NamedFigures{
		measured("shop", "pay", 900, 12.5),
		measured("shop", "", 300, 3),
		measured("search", "/v1/products/{id}", 34, 250),
		{Domain: "edge", Gateway: "refused", Endpoint: "all", Figures: client.Figures{Throttled: 7, SuccessRate: new(0.0)}},
		{Domain: "edge", Gateway: "silent", Endpoint: "none"},
	}
}

func odd() []client.NamedFigures {
	return []client.NamedFigures{
		measured("payments-gateway-of-the-northern-region", "POST /v2/customers/{id}/orders/{order}/refunds", 123456, 99.96),
		measured("支付网关支付网关支付网关", "日本語のエンドポイント名はとても長い", 1234567, 123456),
		measured("evil\x1b[2J\x07\u202egnp\u009b1m", "👨‍👩‍👧🏽\ufe0f🇩🇪e\u0301\u0302\u0303\u0304", 5, 0.001),
	}
}

// text is a screen without what tells a terminal where things are.
func text(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.plain() + "\n")
	}
	return b.String()
}

func TestScreens(t *testing.T) {
	paused := viewOf(shop()...)
	paused.paused, paused.sort, paused.fault = true, "success", "not connected: connection refused"
	domains := viewOf(append(shop()[:2:2], measured("shop", "pay", 1, 1))...)
	domains.stats.Endpoints[2].Domain = "other domain"
	for _, c := range []struct {
		name          string
		view          *topView
		width, height int
		want          string
	}{
		{"80 columns", viewOf(shop()...), 80, 24, `
http://localhost:8080   last 10s   12:00:00 UTC   sorted by tps
1234 tps   p95 12.5 ms   99.9% success   12 throttled   0 held

GATEWAY ENDPOINT        TPS   PEAK P50 ms P95 ms P99 ms SUCCESS THROTTLED   HELD
shop    pay             900   1800   6.25   12.5   25.0   98.7%        90      9
shop    -               300    600   1.50   3.00   6.00   99.7%        30      3
search  /v1/pr…/{id}     34     68    125    250    500   75.0%         3      0
refused all               0      0      -      -      -    0.0%         7      0
silent  none              0      0      -      -      -       -         0      0
q quit   s sort   space pause
`},
		{"paused, without its server", paused, 80, 24, `
http://localhost:8080   paused   last 10s   12:00:00 UTC   sorted by success
1234 tps   p95 12.5 ms   99.9% success   12 throttled   0 held
not connected: connection refused
GATEWAY ENDPOINT        TPS   PEAK P50 ms P95 ms P99 ms SUCCESS THROTTLED   HELD
refused all               0      0      -      -      -    0.0%         7      0
search  /v1/pr…/{id}     34     68    125    250    500   75.0%         3      0
shop    pay             900   1800   6.25   12.5   25.0   98.7%        90      9
shop    -               300    600   1.50   3.00   6.00   99.7%        30      3
silent  none              0      0      -      -      -       -         0      0
q quit   s sort   space pause
`},
		{"several domains", domains, 80, 24, `
http://localhost:8080   last 10s   12:00:00 UTC   sorted by tps
1234 tps   p95 12.5 ms   99.9% success   12 throttled   0 held

DOMAIN       GATEWAY ENDPOINT    TPS   PEAK P95 ms P99 ms SUCCESS THROTTLED
edge         shop    pay         900   1800   12.5   25.0   98.7%        90
edge         shop    -           300    600   3.00   6.00   99.7%        30
other domain shop    pay           1      2   1.00   2.00   99.9%         0
q quit   s sort   space pause
`},
		{"long, wide and evil names", viewOf(odd()...), 80, 24, `
http://localhost:8080   last 10s   12:00:00 UTC   sorted by tps
1234 tps   p95 12.5 ms   99.9% success   12 throttled   0 held

GATEWAY       ENDPOINT         TPS   PEAK P50 ms P95 ms P99 ms SUCCESS THROTTLED
支付网…付网关 日本語…も長い  1.23M  2.47M  61728   123s   247s    0.0%    123456
paymen…region POST /…efunds 123456 246912   50.0    100    200   90.0%     12345
evil�[…gnp�1m 👨👩👧��é̂          5     10   0.00   0.00   0.00   99.9%         0
q quit   s sort   space pause
`},
		{"the same with room", viewOf(odd()...), 200, 24, `
http://localhost:8080   last 10s   12:00:00 UTC   sorted by tps
1234 tps   p95 12.5 ms   99.9% success   12 throttled   0 held   3 endpoints of 2 gateways

GATEWAY                                  ENDPOINT                                           TPS    PEAK  P50 ms  P95 ms  P99 ms  SUCCESS  THROTTLED    HELD
支付网关支付网关支付网关                 日本語のエンドポイント名はとても長い             1.23M   2.47M   61728    123s    247s     0.0%     123456   12345
payments-gateway-of-the-northern-region  POST /v2/customers/{id}/orders/{order}/refunds  123456  246912    50.0     100     200    90.0%      12345    1234
evil�[2J��gnp�1m                         👨👩👧��é̂                                            5      10    0.00    0.00    0.00    99.9%          0       0
q quit   s sort   space pause
`},
		{"40 columns", viewOf(odd()...), 40, 24, `
http://localhost:8080   last 10s
1234 tps   p95 12.5 ms   99.9% success

GATEWAY      ENDPOINT         TPS P95 ms
支付网…网关  日本語…も長い  1.23M   123s
paymen…egion POST /…efunds 123456    100
evil�[…np�1m 👨👩👧��é̂          5   0.00
q quit   s sort   space pause
`},
		{"7 lines", viewOf(shop()...), 80, 7, `
http://localhost:8080   last 10s   12:00:00 UTC   sorted by tps
1234 tps   p95 12.5 ms   99.9% success   12 throttled   0 held

GATEWAY ENDPOINT    TPS   PEAK P50 ms P95 ms P99 ms SUCCESS THROTTLED   HELD
shop    pay         900   1800   6.25   12.5   25.0   98.7%        90      9
shop    -           300    600   1.50   3.00   6.00   99.7%        30      3
q quit   s sort   space pause   3 more below
`},
		{"nothing measured", viewOf(), 80, 24, `
http://localhost:8080   last 10s   12:00:00 UTC   sorted by tps
1234 tps   p95 12.5 ms   99.9% success   12 throttled   0 held

GATEWAY ENDPOINT    TPS   PEAK P50 ms P95 ms P99 ms SUCCESS THROTTLED   HELD
q quit   s sort   space pause
`},
	} {
		if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), text(c.view.screen(c.width, c.height))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestPrintedTableIsWhole(t *testing.T) {
	want := `
http://localhost:8080   last 10s   12:00:00 UTC   sorted by name
1234 tps   p95 12.5 ms   99.9% success   12 throttled   0 held   5 endpoints of 2 gateways
GATEWAY  ENDPOINT              TPS    PEAK  P50 ms  P95 ms  P99 ms  SUCCESS  THROTTLED    HELD
refused  all                     0       0       -       -       -     0.0%          7       0
search   /v1/products/{id}      34      68     125     250     500    75.0%          3       0
shop     -                     300     600    1.50    3.00    6.00    99.7%         30       3
shop     pay                   900    1800    6.25    12.5    25.0    98.7%         90       9
silent   none                    0       0       -       -       -        -          0       0
`
	v := viewOf(shop()...)
	v.sort = "name"
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), v.print()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A screen fits, whatever the names are and however small it is: no line is too long, no cell
// begins inside of another, and there is nothing that a terminal obeys.
func TestScreensFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width, height := rapid.IntRange(1, 250).Draw(t, "width"), rapid.IntRange(1, 60).Draw(t, "height")
		v := viewOf()
		for range rapid.IntRange(0, 10).Draw(t, "rows") {
			e := measured(rapid.String().Draw(t, "gateway"), rapid.String().Draw(t, "endpoint"), rapid.Int64Min(0).Draw(t, "tps")/2, rapid.Float64Range(0, 1e12).Draw(t, "p95"))
			e.Domain = rapid.String().Draw(t, "domain")
			v.stats.Endpoints = append(v.stats.Endpoints, e)
		}
		v.fault, v.sort = visible(rapid.String().Draw(t, "fault")), rapid.SampledFrom([]string{"tps", "p95", "success", "name"}).Draw(t, "sort")
		lines := v.screen(width, height)
		if len(lines) > height {
			t.Fatalf("%d lines, of %d", len(lines), height)
		}
		for _, l := range lines {
			end := 0
			for _, c := range l.cells {
				if c.at < end || strings.ContainsFunc(c.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Fatalf("cell %q at %d, where the one before ends at %d, in %q", c.text, c.at, end, l.plain())
				}
				end = c.at + uniseg.StringWidth(c.text)
			}
			if end > width && width > 16 { // below that not even the numbers have room
				t.Fatalf("%q is %d wide, of %d", l.plain(), end, width)
			}
		}
	})
}

func TestCutMiddle(t *testing.T) {
	for _, c := range []struct {
		s     string
		width int
		want  string
	}{
		{"abcdef", 6, "abcdef"},
		{"abcdef", 5, "ab…ef"},
		{"abcdef", 4, "ab…f"},
		{"abcdef", 1, "…"},
		{"abcdef", 0, ""},
		{"abcdef", -1, ""},
		{"", 0, ""},
		{"日本語日本語", 6, "日…語"},
		{"日本語日本語", 5, "日…語"},
		{"日本語日本語", 4, "日…"},
		{"日本", 3, "…本"},
		{"e\u0301e\u0301e\u0301e\u0301", 3, "e\u0301…e\u0301"},
	} {
		if got := cutMiddle(c.s, c.width); got != c.want || uniseg.StringWidth(got) > max(c.width, 0) {
			t.Errorf("cutMiddle(%q, %d) = %q, want %q", c.s, c.width, got, c.want)
		}
	}
}

func TestShortNumbers(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999_999: "999999", 1_000_000: "1.00M", 12_345_678: "12.3M", 999_999_999: "1000M", 1_000_000_000: "1.00G", math.MaxInt64: "9.22E"} {
		if got := shortCount(n); got != want {
			t.Errorf("shortCount(%d) = %q, want %q", n, got, want)
		}
	}
	for ms, want := range map[float64]string{0: "0.00", 0.004: "0.00", 9.994: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 99998: "99998", 99999: "100s", 99_998_000: "99998s", 99_999_000: "28h", 1e300: "99999h"} {
		if got := shortMS(&ms); got != want {
			t.Errorf("shortMS(%v) = %q, want %q", ms, got, want)
		}
	}
	for share, want := range map[float64]string{0: "0.0%", 0.5: "50.0%", 0.99999: "99.9%", 1: "100%"} {
		if got := shortShare(&share); got != want {
			t.Errorf("shortShare(%v) = %q, want %q", share, got, want)
		}
	}
	for d, want := range map[time.Duration]string{10 * time.Second: "10s", 5 * time.Minute: "5m", time.Hour: "1h", 90 * time.Minute: "1h30m", 61 * time.Second: "1m1s"} {
		if got := shortDuration(d); got != want {
			t.Errorf("shortDuration(%v) = %q, want %q", d, got, want)
		}
	}
}

// s goes through every order, and back to the first.
func TestOrders(t *testing.T) {
	v, seen := viewOf(), []string{}
	for range 9 {
		seen = append(seen, v.sort)
		v.press('s')
	}
	if diff := cmp.Diff([]string{"tps", "peak", "p50", "p95", "p99", "success", "throttled", "held", "name"}, seen); diff != "" || v.sort != "tps" {
		t.Errorf("then %s; -want +got:\n%s", v.sort, diff)
	}
}

// A paused view stays as it is.
func TestPause(t *testing.T) {
	v := viewOf(shop()...)
	v.press(' ')
	if v.take(update{err: errors.New("away")}) || v.take(update{}) || v.fault != "" || len(v.stats.Endpoints) != 5 || v.press('x') {
		t.Errorf("paused, it changed to %+v", v)
	}
	v.press(' ')
	if !v.take(update{err: errors.New("a\x1bb")}) || v.fault != "not connected: a\ufffdb" || len(v.stats.Endpoints) != 5 {
		t.Errorf("after a fault: %+v", v)
	}
	if !v.take(update{stats: client.Stats{Source: "memory"}}) || v.fault != "" || len(v.stats.Endpoints) != 0 {
		t.Errorf("after new figures: %+v", v)
	}
}
