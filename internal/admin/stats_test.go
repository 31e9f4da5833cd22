package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// figures are the JSON of what was measured, as the API documents it.
type figures struct {
	Domain, Gateway, Endpoint string
	TPS                       int64
	PeakTPS                   int64    `json:"peak_tps"`
	AverageTPS                float64  `json:"average_tps"`
	P50MS                     *float64 `json:"p50_ms"`
	P95MS                     *float64 `json:"p95_ms"`
	P99MS                     *float64 `json:"p99_ms"`
	Requests, Successes       int64
	SuccessRate               *float64 `json:"success_rate"`
	Throttled, Held           int64
	WaitedMS                  int64 `json:"waited_ms"`
}

type statsBody struct {
	From, To            time.Time
	Source              string
	Total               figures
	Gateways, Endpoints []figures
}

func transaction(domain, gateway, endpoint string) *traffic.Transaction {
	return &traffic.Transaction{Domain: domain, Gateway: gateway, Endpoint: endpoint, Duration: 30 * time.Millisecond, Success: true}
}

// count brings n transactions into windows.
func count(w *rollup.Windows, n int, t *traffic.Transaction) {
	for range n {
		w.Add(time.Now(), t, rollup.Key{Domain: t.Domain, Gateway: t.Gateway, Endpoint: t.Endpoint})
	}
}

// traffic3 is: pay 2 then 4 a second, of which one failed, one was refused and one was held; search 5; and
// one of another domain.
func traffic3(w *rollup.Windows) {
	count(w, 2, transaction("edge", "shop", "pay"))
	count(w, 5, transaction("edge", "shop", "search"))
	<-time.After(time.Second)
	count(w, 1, transaction("edge", "shop", "pay"))
	failed, refused, held := *transaction("edge", "shop", "pay"), *transaction("edge", "shop", "pay"), *transaction("edge", "shop", "pay")
	failed.Success = false
	refused.Success, refused.Throttled = false, true
	held.Waited, held.Duration = 250*time.Millisecond, time.Second
	count(w, 1, &failed)
	count(w, 1, &refused)
	count(w, 1, &held)
	count(w, 1, transaction("other", "shop", "pay"))
	<-time.After(time.Second)
}

// handler is the API without a server around it.
func handler(deps admin.Deps) http.Handler {
	deps.Gatherer, deps.JSON, deps.Log = prometheus.NewRegistry(), http.NotFoundHandler(), slog.New(slog.DiscardHandler)
	return admin.New(admin.Config{}, deps)
}

// ask calls the handler in the test's own goroutine, so that it may run in a bubble of synctest.
func ask(tb testing.TB, h http.Handler, path string) (code int, body string) {
	tb.Helper()
	return call(tb, h, http.MethodGet, path, "")
}

func call(tb testing.TB, h http.Handler, method, path, body string) (code int, answered string) {
	tb.Helper()
	w := &answer{header: http.Header{}}
	r, err := http.NewRequestWithContext(tb.Context(), method, path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	h.ServeHTTP(w, r)
	return w.code, w.body.String()
}

type answer struct {
	header http.Header
	code   int
	body   strings.Builder
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) { a.code = code }

func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

func TestStatsOfAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := rollup.NewWindows(rollup.NewNames(100))
		h := handler(admin.Deps{Stats: inMemory(w)})
		traffic3(w)
		code, body := ask(t, h, "/api/v1/stats?window=10")
		got := decode[statsBody](t, body)
		now := time.Now().UTC()
		ms := func(d time.Duration) *float64 {
			return new(float64(rollup.Value(rollup.BucketOf(d)).Microseconds()) / 1000)
		}
		p30, p1000 := ms(30*time.Millisecond), ms(time.Second)
		pay := figures{
			TPS: 4, AverageTPS: 0.6, P50MS: p30, P95MS: p1000, P99MS: p1000, Requests: 6, Successes: 4, SuccessRate: new(4.0 / 6), Throttled: 1, Held: 1, WaitedMS: 250,
		}
		search := figures{AverageTPS: 0.5, P50MS: p30, P95MS: p30, P99MS: p30, Requests: 5, Successes: 5, SuccessRate: new(1.0)}
		other := figures{TPS: 1, AverageTPS: 0.1, P50MS: p30, P95MS: p30, P99MS: p30, Requests: 1, Successes: 1, SuccessRate: new(1.0)}
		shop := figures{
			TPS: 4, AverageTPS: 1.1, P50MS: p30, P95MS: p1000, P99MS: p1000, Requests: 11, Successes: 9, SuccessRate: new(9.0 / 11), Throttled: 1, Held: 1, WaitedMS: 250,
		}
		total := shop
		total.TPS, total.AverageTPS, total.Requests, total.Successes, total.SuccessRate = 5, 1.2000000000000002, 12, 10, new(10.0/12)
		named := func(f figures, domain, endpoint string, peak int64) figures {
			f.Domain, f.Gateway, f.Endpoint, f.PeakTPS = domain, "shop", endpoint, peak
			return f
		}
		want := statsBody{
			From: now.Add(-10 * time.Second), To: now, Source: "memory", Total: total,
			Gateways:  []figures{named(shop, "edge", "", 7), named(other, "other", "", 1)},
			Endpoints: []figures{named(pay, "edge", "pay", 4), named(search, "edge", "search", 5), named(other, "other", "pay", 1)},
		}
		if diff := cmp.Diff(want, got); code != http.StatusOK || diff != "" {
			t.Errorf("%d (-want +got):\n%s", code, diff)
		}
		for query, n := range map[string][2]int{
			"window=1m": {2, 3}, "domain=edge": {1, 2}, "gateway=shop": {2, 3}, "gateway=sho": {0, 0}, "endpoint=pay": {2, 2}, "domain=edge&gateway=shop&endpoint=search": {1, 1}, "domain=&endpoint=": {2, 3},
		} {
			_, body := ask(t, h, "/api/v1/stats?window=10&"+strings.TrimPrefix(query, "window=1m"))
			b := decode[statsBody](t, body)
			if len(b.Gateways) != n[0] || len(b.Endpoints) != n[1] || !strings.Contains(body, `"gateways":[`) || !strings.Contains(body, `"endpoints":[`) {
				t.Errorf("?%s: %d gateways, %d endpoints, want %v: %s", query, len(b.Gateways), len(b.Endpoints), n, body)
			}
		}
		_, body = ask(t, h, "/api/v1/stats?window=10&endpoint=search")
		gateway := decode[statsBody](t, body).Gateways
		if diff := cmp.Diff([]figures{named(search, "edge", "", 5)}, gateway); diff != "" {
			t.Errorf("the gateway of one endpoint (-want +got):\n%s", diff)
		}
	})
}

// Where all were throttled there is no duration, and without requests no rate.
func TestStatsOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := rollup.NewWindows(rollup.NewNames(100))
		h := handler(admin.Deps{Stats: inMemory(w)})
		_, body := ask(t, h, "/api/v1/stats?window=5m")
		const none = `"tps":0,"average_tps":0,"p50_ms":null,"p95_ms":null,"p99_ms":null,"requests":0,"successes":0,"success_rate":null,"throttled":0,"held":0,"waited_ms":0}`
		if !strings.HasSuffix(body, `"source":"memory","total":{`+none+`,"gateways":[],"endpoints":[]}`+"\n") {
			t.Errorf("nothing measured: %s", body)
		}
		refused := transaction("edge", "shop", "pay")
		refused.Success, refused.Throttled = false, true
		count(w, 3, refused)
		<-time.After(time.Second)
		_, body = ask(t, h, "/api/v1/stats?window=5m")
		if want := `"p50_ms":null,"p95_ms":null,"p99_ms":null,"requests":3,"successes":0,"success_rate":0,"throttled":3,`; strings.Count(body, want) != 3 {
			t.Errorf("all throttled: %s, want %s", body, want)
		}
	})
}

func TestStatsSinceTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := rollup.NewWindows(rollup.NewNames(100))
		h := handler(admin.Deps{Stats: inMemory(w), Received: func() (uint64, any) { return 7, []int{1, 2} }})
		traffic3(w)
		_, body := ask(t, h, "/api/v1/stats")
		got := decode[struct {
			Transactions int
			Endpoints    []int
			Window       statsBody
		}](t, body)
		if got.Transactions != 7 || len(got.Endpoints) != 2 || got.Window.To.Sub(got.Window.From) != time.Minute || got.Window.Total.Requests != 12 {
			t.Errorf("got %s", body)
		}
	})
}

func TestStatsQueries(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		query string
		want  admin.StatsQuery
		fault string
	}{
		{"window=30", admin.StatsQuery{Window: 30 * time.Second}, ""},
		{"window=1h30m", admin.StatsQuery{Window: 90 * time.Minute}, ""},
		{"window=7d&gateway=a%20b", admin.StatsQuery{Window: 7 * 24 * time.Hour, Gateway: "a b"}, ""},
		{"gateway=shop", admin.StatsQuery{Window: time.Minute, Gateway: "shop"}, ""},
		{"from=2026-07-01T10:00:00Z", admin.StatsQuery{From: now.Add(-2 * time.Hour), To: now}, ""},
		{"from=2026-07-01T10:00:00Z&to=2026-07-01T13:00:00%2b02:00", admin.StatsQuery{From: now.Add(-2 * time.Hour), To: now.Add(-time.Hour)}, ""},
		{"window=", admin.StatsQuery{Window: time.Minute}, ""},

		{"window=5x", admin.StatsQuery{}, `window "5x": is not a duration of whole seconds from 1s to 3660d, such as 30, 30s, 5m, 1h or 7d`},
		{"window=0", admin.StatsQuery{}, `window "0": is not`},
		{"window=-5s", admin.StatsQuery{}, `window "-5s": is not`},
		{"window=1500ms", admin.StatsQuery{}, `window "1500ms": is not`},
		{"window=3661d", admin.StatsQuery{}, `window "3661d": is not`},
		{"window=99999999999", admin.StatsQuery{}, `is not a duration`},
		{"window=" + strings.Repeat("9", 200), admin.StatsQuery{}, strings.Repeat("9", 64) + `"…: is not`},
		{"window=5m&window=6m", admin.StatsQuery{}, "query parameter window: comes 2 times"},
		{"windows=5m", admin.StatsQuery{}, `query parameter "windows": is none of [window from to domain gateway endpoint]`},
		{"window=5m&from=2026-07-01T10:00:00Z", admin.StatsQuery{}, "window 5m0s: comes with from or to, which mean another time"},
		{"from=yesterday", admin.StatsQuery{}, `from "yesterday": is no time such as 2006-01-02T15:04:05Z (RFC 3339)`},
		{"to=2026-07-01T10:00:00Z", admin.StatsQuery{}, `from "": is missing beside to`},
		{"from=2026-07-01T10:00:00Z&to=x", admin.StatsQuery{}, `to "x": is no time`},
		{"from=2026-07-01T10:00:00Z&to=2026-07-01T10:00:00Z", admin.StatsQuery{}, `is not before the end of the range`},
		{"from=2026-07-01T13:00:00Z", admin.StatsQuery{}, `is not before the end of the range`},
		{"from=0001-01-01T00:00:00Z", admin.StatsQuery{}, `is no time`},
		{"from=1971-01-01T00:00:00Z", admin.StatsQuery{}, `or more than 3660d before it`},
		{"gateway=" + strings.Repeat("x", 256), admin.StatsQuery{}, "is longer than 255 bytes"},
	} {
		synctest.Test(t, func(t *testing.T) {
			<-time.After(time.Until(now))
			var asked *admin.StatsQuery
			h := handler(admin.Deps{Stats: func(_ context.Context, q admin.StatsQuery) (admin.StatsAnswer, error) {
				asked = &q
				return admin.StatsAnswer{}, nil
			}, Received: func() (uint64, any) { return 0, nil }})
			code, body := ask(t, h, "/api/v1/stats?"+c.query)
			var problem struct{ Detail string }
			_ = json.Unmarshal([]byte(body), &problem)
			switch {
			case c.fault != "":
				if code != http.StatusUnprocessableEntity || !strings.Contains(problem.Detail, c.fault) || asked != nil {
					t.Errorf("?%s: %d %s, want 422 with %s", c.query, code, body, c.fault)
				}
			case code != http.StatusOK || asked == nil || *asked != c.want:
				t.Errorf("?%s: %d %s, asked for %+v, want %+v", c.query, code, body, asked, c.want)
			}
		})
	}
}

func TestStatsThatCannotBeHad(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		want string
	}{
		{(&admin.StatsQuery{Window: 7 * 24 * time.Hour}).Refuse("needs Postgres"), 422, "window 168h0m0s: needs Postgres"},
		{(&admin.StatsQuery{From: time.Unix(0, 0).UTC()}).Refuse("needs Postgres"), 422, "from 1970-01-01T00:00:00Z: needs Postgres"},
		{errors.Join(awayError(true), errors.New("no route")), 503, "the store is away; no route"},
		{awayError(false), 500, "the store is away"},
		{context.DeadlineExceeded, 503, "deadline exceeded"},
		{errors.New("bad"), 500, "bad"},
	} {
		s := start(t, options{stats: func(ctx context.Context, _ admin.StatsQuery) (admin.StatsAnswer, error) {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the question has no deadline")
			}
			return admin.StatsAnswer{}, c.err
		}})
		for _, path := range []string{"/api/v1/stats", "/api/v1/stats?window=5m", "/api/v1/stats/stream?window=5m"} {
			s.get(t, path).wantProblem(t, c.code, c.want)
		}
	}
}

// However many questions hang in a store, those to the memory are answered.
func TestStatsOfMemoryDoNotWaitForAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		h := handler(admin.Deps{Stats: func(_ context.Context, q admin.StatsQuery) (admin.StatsAnswer, error) {
			if q.Window > time.Hour {
				<-hung
			}
			return admin.StatsAnswer{Source: admin.SourceMemory}, nil
		}})
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { ask(t, h, "/api/v1/stats?window=7d") })
		}
		synctest.Wait()
		if code, body := ask(t, h, "/api/v1/stats?window=10s"); code != http.StatusOK {
			t.Errorf("a question to the memory is answered with %d %s", code, body)
		}
		close(hung)
		all.Wait()
	})
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"0": 0, "30": 30 * time.Second, "30s": 30 * time.Second, "5m": 5 * time.Minute, "7d": 7 * day, "1h30m": 90 * time.Minute, "250ms": 250 * time.Millisecond,
		"-5": -5 * time.Second, "2147483647": 2147483647 * time.Second, "32767d": 32767 * day, "1.5s": 1500 * time.Millisecond,
	} {
		if got, err := admin.ParseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "x", "30 s", "5M", "d", "1.5d", "2147483648", "32768d", "1d12h", "0x10", "٣"} {
		if got, err := admin.ParseDuration(s); err == nil {
			t.Errorf("%q is %v, want an error", s, got)
		}
	}
}
