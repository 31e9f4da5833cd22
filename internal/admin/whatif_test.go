package admin_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// minute is a whole minute of the past.
var minute = time.Now().UTC().Truncate(time.Hour).Add(-30 * time.Minute)

// measured is what there was in each second after minute, by key.
type measured map[rollup.Key]map[int64]int64

// per adds n requests in each of some seconds from one on.
func (m measured) per(key rollup.Key, from, seconds, n int64) {
	if m[key] == nil {
		m[key] = map[int64]int64{}
	}
	for s := range seconds {
		m[key][minute.Unix()+from+s] += n
	}
}

func (m measured) stats(_ context.Context, q admin.StatsQuery) (admin.StatsAnswer, error) {
	if q.Window > time.Hour {
		return admin.StatsAnswer{}, q.Refuse("needs Postgres")
	}
	a := admin.StatsAnswer{Source: admin.SourceMemory}
	gateways := map[rollup.Key]bool{}
	for _, k := range slices.SortedFunc(maps.Keys(m), rollup.Key.Compare) {
		a.Keys = append(a.Keys, rollup.Stats{Key: k})
		if g := (rollup.Key{Domain: k.Domain, Gateway: k.Gateway}); !gateways[g] {
			gateways[g] = true
			a.Gateways = append(a.Gateways, rollup.Stats{Key: g})
		}
	}
	return a, nil
}

func (m measured) seconds(_ context.Context, q admin.SecondsQuery) (admin.SecondsAnswer, error) {
	counts := map[int64]int64{}
	for k, all := range m {
		if k.Domain != q.Domain || k.Gateway != q.Gateway || q.Endpoint != "" && k.Endpoint != q.Endpoint {
			continue
		}
		for second, n := range all {
			if !time.Unix(second, 0).Before(q.From) && time.Unix(second, 0).Before(q.To) {
				counts[second] += n
			}
		}
	}
	a := admin.SecondsAnswer{From: q.From, To: q.To, Source: admin.SourceMemory}
	if len(counts) > 0 {
		a.Counts = func(yield func(int64, int64) bool) {
			for _, second := range slices.Sorted(maps.Keys(counts)) {
				if !yield(second, counts[second]) {
					return
				}
			}
		}
	}
	return a, nil
}

type whatIfBody struct {
	Offered      int64
	Refused      struct{ Least, Estimate, Most int64 }
	RefusedShare struct{ Least, Estimate, Most float64 } `json:"refused_share"`
	Held         int64
	Worst        *worstMinute
	WorstMinutes []worstMinute `json:"worst_minutes"`
	Buckets      int
	From, To     time.Time
	Source       string
	ErrorBound   string `json:"error_bound"`
	Sentence     string
}

type worstMinute struct {
	At               time.Time
	Offered, Refused int64
	Share            float64
}

func (s *server) whatIf(tb testing.TB, limit string) whatIfBody {
	tb.Helper()
	const utc = "2006-01-02T15:04:05Z"
	body := fmt.Sprintf(`{"limit":%s,"from":%q,"to":%q}`, limit, minute.Format(utc), minute.Add(10*time.Minute).Format(utc))
	got := s.do(tb, request{method: http.MethodPost, path: "/api/v1/whatif", body: body})
	got.want(tb, http.StatusOK, `"worst_minutes":[`)
	return decode[whatIfBody](tb, got.body)
}

func TestWhatIf(t *testing.T) {
	m := measured{}
	m.per(rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"}, 0, 600, 10)
	m.per(rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"}, 240, 30, 190) // 200 a second in minute 4
	m.per(rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"}, 400, 10, 190) // 200 a second in minute 6
	s := start(t, options{stats: m.stats, seconds: m.seconds})
	got := s.whatIf(t, `{"gateway":"shop","endpoint":"pay","domain":"edge","max_tps":100,"burst":100,"note":"ignored","shadow":true}`)
	const offered = 600*10 + 30*190 + 10*190
	if got.Offered != offered || got.Buckets != 1 || got.Source != "memory" || !got.From.Equal(minute) || !got.To.Equal(minute.Add(10*time.Minute)) || got.Held != 0 {
		t.Errorf("got %+v", got)
	}
	// 30 seconds with 100 a second too many, of which the full bucket takes 100, and 10 more of them.
	if r := got.Refused; r.Least != 3800 || r.Estimate < 3800 || r.Estimate > 3900 || r.Most < r.Estimate || r.Most > offered/2 {
		t.Errorf("refused %+v, want about 3800 to 3900", r)
	}
	if got.RefusedShare.Least != 3800.0/offered || got.RefusedShare.Most != float64(got.Refused.Most)/offered {
		t.Errorf("shares %+v of %+v", got.RefusedShare, got.Refused)
	}
	if w := got.Worst; w == nil || !w.At.Equal(minute.Add(4*time.Minute)) || w.Offered != 60*10+30*190 || w.Share != float64(w.Refused)/float64(w.Offered) || len(got.WorstMinutes) != 2 || got.WorstMinutes[0] != *w || !got.WorstMinutes[1].At.Equal(minute.Add(6*time.Minute)) {
		t.Errorf("worst %+v of %+v", got.Worst, got.WorstMinutes)
	}
	wants := []string{
		"would have refused 28 % (between 28 and ", " %) of 13,600 requests from " + minute.Format("2006-01-02 15:04:05 UTC") + " to " + minute.Add(10*time.Minute).Format("2006-01-02 15:04:05 UTC"),
		", most at " + minute.Add(4*time.Minute).Format("15:04 UTC") + " (4",
	}
	for _, want := range wants {
		if !strings.Contains(got.Sentence, want) {
			t.Errorf("the sentence is %q, want %q", got.Sentence, want)
		}
	}
	if !strings.Contains(got.ErrorBound, "no fewer than least and no more than most") {
		t.Errorf("the error bound is %q", got.ErrorBound)
	}
}

func TestWhatIfRefusesNothingOrEverything(t *testing.T) {
	m := measured{}
	m.per(rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"}, 0, 60, 10)
	s := start(t, options{stats: m.stats, seconds: m.seconds})
	enough := s.whatIf(t, `{"gateway":"shop","max_tps":1000}`)
	if enough.Refused.Most != 0 || enough.Worst != nil || !strings.HasPrefix(enough.Sentence, "would have refused none of 600 requests from ") || strings.Contains(enough.Sentence, "most") {
		t.Errorf("a limit that is never reached: %+v", enough)
	}
	closed := s.whatIf(t, `{"gateway":"shop","max_tps":0}`)
	if closed.Refused.Least != 600 || !strings.HasPrefix(closed.Sentence, "would have refused 100 % of 600 requests from ") {
		t.Errorf("a limit of nothing: %+v", closed)
	}
	waits := s.whatIf(t, `{"gateway":"shop","max_tps":9,"burst":1,"max_wait_ms":30000}`)
	if waits.Held == 0 || !strings.Contains(waits.Sentence, ", and held about ") {
		t.Errorf("a limit that holds: %+v", waits)
	}
	for name, limit := range map[string]string{"another gateway": `{"gateway":"other"}`, "another domain": `{"gateway":"shop","domain":"other"}`, "another endpoint": `{"gateway":"shop","endpoint":"other"}`} {
		none := s.whatIf(t, limit)
		if none.Offered != 0 || none.Buckets != 0 || none.Source != "memory" || !none.From.Equal(minute) || !strings.HasPrefix(none.Sentence, "nothing was measured from ") || !strings.Contains(none.Sentence, "other") != (name == "another domain") {
			t.Errorf("%s: %+v", name, none)
		}
	}
}

// A limit has a bucket for each domain and name that it is for, and other rows may take these.
func TestWhatIfCountsAsTheLimitWould(t *testing.T) {
	m := measured{}
	m.per(rollup.Key{Domain: "a", Gateway: "shop", Endpoint: "pay"}, 0, 60, 10)
	m.per(rollup.Key{Domain: "a", Gateway: "shop", Endpoint: "search"}, 0, 60, 10)
	m.per(rollup.Key{Domain: "a", Gateway: "shop", Endpoint: ""}, 0, 60, 10)
	m.per(rollup.Key{Domain: "b", Gateway: "shop", Endpoint: "pay"}, 0, 60, 10)
	m.per(rollup.Key{Domain: "own", Gateway: "shop", Endpoint: "pay"}, 0, 60, 10)
	m.per(rollup.Key{Domain: "own", Gateway: "shopping", Endpoint: "pay"}, 0, 60, 10)
	s := start(t, options{stats: m.stats, seconds: m.seconds})
	for _, row := range []string{`{"domain":"own","gateway":"shop"}`, `{"domain":"own","gateway":"shop","endpoint":"pay"}`} {
		s.put(t, row).want(t, http.StatusOK, "")
	}
	for _, c := range []struct {
		limit            string
		buckets          int
		offered, refused int64
	}{
		{`"domain":"a","gateway":"shop","max_tps":30`, 1, 1800, 0},
		{`"domain":"a","gateway":"shop","max_tps":29`, 1, 1800, 60 - 10},
		{`"domain":"a","gateway":"shop","endpoint":"pay","max_tps":10`, 1, 600, 0},
		{`"gateway":"shop","max_tps":30`, 2, 2400, 0}, // a and b, each by itself; own has another row
		{`"gateway":"shop","endpoint":"pay","max_tps":10`, 2, 1200, 0},
		{`"gateway":"shop","endpoint":"*","max_tps":10`, 3, 1800, 0}, // what names no endpoint is counted by none
		{`"gateway":"shop*","max_tps":30`, 3, 3000, 0},
		{`"domain":"own","gateway":"*","max_tps":30`, 1, 600, 0},
		{`"domain":"own","gateway":"shop","max_tps":9`, 1, 600, 60 - 9},                // the row that there is, changed
		{`"gateway":"shop","per_seconds":60,"max_tps":500`, 3, 3000, 1800 - 500 - 500}, // beside the rows of a second
	} {
		got := s.whatIf(t, `{`+c.limit+`}`)
		if got.Buckets != c.buckets || got.Offered != c.offered || got.Refused.Least != c.refused {
			t.Errorf("%s: %d buckets, %d offered, %+v refused; want %d, %d, at least %d", c.limit, got.Buckets, got.Offered, got.Refused, c.buckets, c.offered, c.refused)
		}
		if several := strings.HasSuffix(got.Sentence, fmt.Sprintf("; each domain and name has a bucket of its own, %d in all", c.buckets)); several != (c.buckets > 1) {
			t.Errorf("%s: the sentence is %q", c.limit, got.Sentence)
		}
	}
}

// A limit that says no burst has the one that it would be in force with.
func TestWhatIfHasTheBurstOfTheLimit(t *testing.T) {
	m := measured{}
	m.per(rollup.Key{Domain: "edge", Gateway: "shop"}, 0, 1, 1000)
	s := start(t, options{stats: m.stats, seconds: m.seconds})
	for limit, want := range map[string]int64{ // of the one second there is, refused if all come at its begin
		`"max_tps":0`: 1000, `"max_tps":0,"burst":5`: 1000, `"max_tps":0,"max_wait_ms":1000`: 1000,
		`"max_tps":3`: 997, `"max_tps":95`: 990, `"max_tps":101`: 989,
		`"max_tps":500,"per_seconds":60`: 500, `"max_tps":500,"burst":70`: 930, `"max_tps":100,"burst":10,"max_wait_ms":2000`: 790,
	} {
		if got := s.whatIf(t, `{"gateway":"shop",`+limit+`}`); got.Offered != 1000 || got.Refused.Most != want {
			t.Errorf("%s: %d offered, %+v refused; want 1000 and at most %d", limit, got.Offered, got.Refused, want)
		}
	}
}

func TestWhatIfBodies(t *testing.T) {
	var asked *admin.SecondsQuery
	m := measured{}
	m.per(rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"}, 0, 1, 1)
	s := start(t, options{stats: m.stats, seconds: func(_ context.Context, q admin.SecondsQuery) (admin.SecondsAnswer, error) {
		asked = &q
		return admin.SecondsAnswer{From: q.From, To: q.To, Source: "memory"}, nil
	}})
	post := func(body string) reply {
		return s.do(t, request{method: http.MethodPost, path: "/api/v1/whatif", body: body})
	}
	for _, c := range []struct {
		body string
		code int
		want string
	}{
		{`{"limit":{"gateway":"shop"}}`, 200, "1h0m0s"},
		{`{"limit":{"gateway":"shop"},"range":null,"from":null}`, 200, "1h0m0s"},
		{`{"limit":{"gateway":"shop"},"range":"30m"}`, 200, "30m0s"},
		{`{"limit":{"gateway":"shop","version":7,"created_at":"x"},"range":"90"}`, 200, "1m30s"},
		{`{"limit":{"gateway":"shop"},"from":"2026-01-01T00:00:00.7Z","to":"2026-01-02T02:00:00+02:00"}`, 200, "24h0m0s"},

		{``, 400, "body: is empty"},
		{`{`, 400, "body: is not JSON"},
		{`[]`, 422, `body "[]": is no JSON object`},
		{`{}`, 422, `limit "": is missing`},
		{`{"limit":null}`, 422, `body "null": is no JSON object`},
		{`{"limit":{}}`, 422, `gateway "": is empty`},
		{`{"limit":{"gateway":"shop","max_tsp":5}}`, 422, `field "max_tsp": is no column of a limit`},
		{`{"limit":{"gateway":"shop","max_tps":-1}}`, 422, "max_tps -1: is not within"},
		{`{"limit":{"gateway":"shop","per":"user"}}`, 422, `per "user": cannot be replayed: what was measured does not tell its values`},
		{`{"limit":{"gateway":"shop","algorithm":"fixed_window"}}`, 422, `algorithm "fixed_window": cannot be replayed`},
		{`{"limit":{"gateway":"shop","enabled":false}}`, 422, "enabled false: would refuse nothing"},
		{`{"limit":{"gateway":"shop"},"rnage":"1h"}`, 422, `rnage "1h": is no part of a what-if`},
		{`{"limit":{"gateway":"shop"},"range":3600}`, 422, "range 3600: is no text"},
		{`{"limit":{"gateway":"shop"},"range":"x"}`, 422, `range "x": is not a duration`},
		{`{"limit":{"gateway":"shop"},"range":"32d"}`, 422, `range 768h0m0s: gives a range that is not within 1s to 31d`},
		{`{"limit":{"gateway":"shop"},"range":"24h"}`, 422, `range 24h0m0s: needs Postgres`},
		{`{"limit":{"gateway":"shop"},"range":"1h","from":"2026-01-01T00:00:00Z"}`, 422, `range "1h": comes with from or to`},
		{`{"limit":{"gateway":"shop"},"from":"2026-01-01T00:00:00Z","to":"2026-03-01T00:00:00Z"}`, 422, `from 1416h0m0s: gives a range`},
		{`{"limit":{"gateway":"shop"},"from":"2026-01-01T00:00:00.1Z","to":"2026-01-01T00:00:00.9Z"}`, 422, `from 0s: gives a range`},
		{`{"limit":{"gateway":"shop"},"to":"2026-01-01T00:00:00Z"}`, 422, `from "": is missing beside to`},
		{`{"limit":{"gateway":"shop"},"from":"x"}`, 422, `from "x": is no time`},
	} {
		asked = nil
		got := post(c.body)
		if c.code != http.StatusOK {
			got.wantProblem(t, c.code, c.want)
			continue
		}
		if got.code != http.StatusOK || asked == nil || asked.To.Sub(asked.From).String() != c.want {
			t.Errorf("%s: %d %s, asked for %+v, want a range of %s", c.body, got.code, got.body, asked, c.want)
		}
	}
	for i := range 201 {
		m.per(rollup.Key{Domain: "edge", Gateway: fmt.Sprint("many", i), Endpoint: "pay"}, 0, 1, 1)
	}
	post(`{"limit":{"gateway":"many*"}}`).wantProblem(t, http.StatusUnprocessableEntity, `limit "many*": would have had 201 buckets; at most 200 can be replayed`)
}

func TestWhatIfThatCannotBeTold(t *testing.T) {
	m := measured{}
	m.per(rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"}, 0, 1, 1)
	for _, c := range []struct {
		err  error
		code int
		want string
	}{
		{awayError(true), 503, "the store is away"},
		{context.DeadlineExceeded, 503, "deadline"},
		{errors.New("bad"), 500, "bad"},
		{nil, 500, "must ascend"},
	} {
		s := start(t, options{stats: m.stats, seconds: func(context.Context, admin.SecondsQuery) (admin.SecondsAnswer, error) {
			return admin.SecondsAnswer{Counts: iter.Seq2[int64, int64](func(yield func(int64, int64) bool) { _ = yield(5, 1) && yield(4, 1) })}, c.err
		}})
		s.do(t, request{method: http.MethodPost, path: "/api/v1/whatif", body: `{"limit":{"gateway":"shop"}}`}).wantProblem(t, c.code, c.want)
	}
}

// A minute is that of all buckets.
func TestWhatIfAddsUpMinutes(t *testing.T) {
	m := measured{}
	m.per(rollup.Key{Domain: "a", Gateway: "shop", Endpoint: "pay"}, 0, 60, 10)
	m.per(rollup.Key{Domain: "b", Gateway: "shop", Endpoint: "pay"}, 0, 90, 20)
	got := start(t, options{stats: m.stats, seconds: m.seconds}).whatIf(t, `{"gateway":"shop","max_tps":0}`)
	want := []worstMinute{{minute, 1800, 1800, 1}, {minute.Add(time.Minute), 600, 600, 1}}
	if diff := cmp.Diff(want, got.WorstMinutes); diff != "" || got.Refused.Least != 2400 {
		t.Errorf("refused %+v; -want +got:\n%s", got.Refused, diff)
	}
}

// TestWhatIfOfMemory replays what real windows have: a second ago 30 requests, of which a full bucket
// of 10 takes its burst and what comes in that second.
func TestWhatIfOfMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := rollup.NewWindows(rollup.NewNames(100))
		h := handler(admin.Deps{
			Current: new(limits.Current), Stats: inMemory(w), WhatIfRange: 2 * time.Minute,
			Seconds: func(_ context.Context, q admin.SecondsQuery) (admin.SecondsAnswer, error) {
				counts, from, to := w.Seconds(time.Now(), q.Key)
				return admin.SecondsAnswer{From: from, To: to, Source: admin.SourceMemory, Counts: counts}, nil
			},
		})
		<-time.After(time.Hour)
		count(w, 20, transaction("edge", "shop", "pay"))
		count(w, 10, transaction("edge", "shop", "search"))
		<-time.After(time.Second)
		code, body := call(t, h, http.MethodPost, "/api/v1/whatif", `{"limit":{"gateway":"shop","max_tps":10}}`)
		got := decode[whatIfBody](t, body)
		if code != http.StatusOK || got.Offered != 30 || got.Refused.Least != 10 || got.Refused.Most != 20 || got.To.Sub(got.From) != 2*time.Minute {
			t.Errorf("%d %s", code, body)
		}
		if want := " % (between 33 and 67 %) of 30 requests from 2000-01-01 00:58:01 UTC to 2000-01-01 01:00:01 UTC, most at 01:00 UTC ("; !strings.Contains(got.Sentence, want) {
			t.Errorf("the sentence is %q, want %q", got.Sentence, want)
		}
		const cut = "; counts per second reach back no further"
		for span, want := range map[string]bool{"30m": true, "2m": false, "30s": false} {
			_, body := call(t, h, http.MethodPost, "/api/v1/whatif", `{"limit":{"gateway":"shop","max_tps":10},"range":"`+span+`"}`)
			if got := decode[whatIfBody](t, body); strings.HasSuffix(got.Sentence, cut) != want {
				t.Errorf("of %s, where two minutes are known, the sentence is %q", span, got.Sentence)
			}
		}
	})
}

// Before any limits were loaded a limit can be tried, too.
func TestWhatIfWithoutLimits(t *testing.T) {
	m := measured{}
	m.per(rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"}, 0, 60, 10)
	s := start(t, options{stats: m.stats, seconds: m.seconds, empty: true})
	if got := s.whatIf(t, `{"gateway":"shop","max_tps":0}`); got.Offered != 600 || s.current.Load() != nil {
		t.Errorf("got %+v, and the table %v", got, s.current.Load())
	}
}

// A question changes nothing.
func TestWhatIfWritesNothing(t *testing.T) {
	m := measured{}
	s := start(t, options{stats: m.stats, seconds: m.seconds})
	before := s.current.Load()
	s.whatIf(t, `{"gateway":"shop"}`)
	if after := s.current.Load(); after != before || after.Find(limits.Key{Gateway: "shop"}) != nil {
		t.Error("the limits in force have changed")
	}
}

func BenchmarkWhatIfOfADay(b *testing.B) {
	m := measured{}
	key := rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"}
	m[key] = map[int64]int64{}
	for s := range int64(24 * 3600) {
		m[key][minute.Unix()-24*3600+s] = rand.Int64N(200)
	}
	s := start(b, options{stats: m.stats, seconds: m.seconds})
	body := fmt.Sprintf(`{"limit":{"gateway":"shop","max_tps":100},"from":%q,"to":%q}`, minute.Add(-24*time.Hour).Format(time.RFC3339), minute.Format(time.RFC3339))
	b.ReportAllocs()
	for b.Loop() {
		s.do(b, request{method: http.MethodPost, path: "/api/v1/whatif", body: body}).want(b, http.StatusOK, "requests")
	}
}
