package history_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// model are transactions by the server that measured them.
type model map[string][]traffic.Transaction

// putAll stores all that there is, in pieces.
func (m model) putAll(tb testing.TB, s *store) {
	tb.Helper()
	for server, ts := range m {
		s.source, s.next = traffic.Source{Server: server, Run: "run of " + server}, 0
		for piece := range slices.Chunk(ts, 97) {
			if err := s.put(tb.Context(), piece); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// stats are the figures of a range, of whatever key keyOf tells; it leaves out what it gives false for.
func (m model) stats(from, to time.Time, slot time.Duration, keyOf func(*traffic.Transaction) (rollup.Key, bool)) []rollup.Stats {
	type place struct {
		key              rollup.Key
		server, endpoint string
		at               int64
	}
	all, seconds := map[rollup.Key]*rollup.Stats{}, map[place]int64{}
	for server, ts := range m {
		for i := range ts {
			key, ok := keyOf(&ts[i])
			if at := ts[i].At; !ok || at.Before(from) || !at.Before(to) {
				continue
			}
			if all[key] == nil {
				all[key] = &rollup.Stats{Key: key}
			}
			all[key].Add(&ts[i])
			seconds[place{key, server, ts[i].Endpoint, ts[i].At.Unix()}]++
		}
	}
	// A slot's peak of one server and endpoint is its largest second; those of several add up.
	largest, sums := map[place]int64{}, map[place]int64{}
	for p, n := range seconds {
		p.at = time.Unix(p.at, 0).Truncate(slot).Unix()
		largest[p] = max(largest[p], n)
	}
	for p, n := range largest {
		sums[place{key: p.key, at: p.at}] += n
	}
	for p, n := range sums {
		all[p.key].PeakTPS = max(all[p.key].PeakTPS, n)
	}
	var list []rollup.Stats
	for _, st := range all {
		st.AverageTPS = float64(st.Requests) / to.Sub(from).Seconds()
		st.P50, st.P95, st.P99 = st.Histogram.Quantile(0.5), st.Histogram.Quantile(0.95), st.Histogram.Quantile(0.99)
		list = append(list, *st)
	}
	slices.SortFunc(list, func(a, b rollup.Stats) int { return a.Compare(b.Key) })
	return list
}

// measured are transactions of two servers that are spread over some time.
func measured(n int, from time.Time, length time.Duration) model {
	r, m := rand.New(rand.NewPCG(3, 4)), model{}
	for _, server := range []string{"edge-1", "edge-2"} {
		ts := random(r, n, from)
		for i := range ts {
			ts[i].At = from.Add(time.Duration(r.Int64N(int64(length)))).Truncate(time.Microsecond)
			ts[i].Duration, ts[i].Waited = ts[i].Duration.Truncate(time.Microsecond), ts[i].Waited.Truncate(time.Microsecond)
		}
		m[server] = ts
	}
	return m
}

// Figures of a range are those of its transactions, whatever resolution they are read from.
func TestStatsAreThoseOfTheTransactions(t *testing.T) {
	noon := today().Add(-36 * time.Hour) // so that no range reaches to now
	for name, c := range map[string]struct {
		from, to, slot time.Duration // from and to are those of the question, after noon
	}{
		"seconds":          {3*time.Minute + 300*time.Millisecond, 13 * time.Minute, time.Second},
		"minutes":          {90 * time.Second, 3*time.Hour + time.Second, time.Minute},
		"a day in minutes": {-12 * time.Hour, 12 * time.Hour, time.Minute},
		"hours":            {-11*time.Hour - 5*time.Minute, 14 * time.Hour, time.Hour},
		"nothing":          {-24 * time.Hour, -23 * time.Hour, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, testenv.Database(t))
			s.maintain(t)
			m := measured(2000, noon, 20*time.Minute)
			for server, ts := range measured(1000, noon.Add(-10*time.Hour), 20*time.Hour) {
				m[server] = append(m[server], ts...)
			}
			m.putAll(t, s)
			from, to := noon.Add(c.from).Truncate(c.slot), noon.Add(c.to+c.slot-1).Truncate(c.slot)
			for _, f := range []history.Filter{{}, {Domain: "edge"}, {Gateway: "gw1"}, {Domain: "edge", Gateway: "gw2", Endpoint: "a"}, {Endpoint: "unknown"}} {
				got, err := s.Stats(t.Context(), noon.Add(c.from), noon.Add(c.to), f)
				if err != nil {
					t.Fatal(err)
				}
				wants := func(x *traffic.Transaction) bool {
					return (f.Domain == "" || f.Domain == x.Domain) && (f.Gateway == "" || f.Gateway == x.Gateway) && (f.Endpoint == "" || f.Endpoint == x.Endpoint)
				}
				want := rollup.Snapshot{
					From: from, To: to,
					Keys: m.stats(from, to, c.slot, func(x *traffic.Transaction) (rollup.Key, bool) {
						return rollup.Key{Domain: x.Domain, Gateway: x.Gateway, Endpoint: x.Endpoint}, wants(x)
					}),
					Gateways: m.stats(from, to, c.slot, func(x *traffic.Transaction) (rollup.Key, bool) {
						return rollup.Key{Domain: x.Domain, Gateway: x.Gateway}, wants(x)
					}),
				}
				if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-12, 0)); diff != "" {
					t.Errorf("filter %+v, from %s to %s (-want +got):\n%s", f, from, to, diff)
				}
			}
		})
	}
}

// TPS are of now, where the range reaches there.
func TestStatsOfNow(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.maintain(t)
	now := time.Now().Truncate(time.Second)
	m := model{}
	for i, server := range []string{"edge-1", "edge-2"} {
		for second := range 120 { // half of them are still to come, for a machine that is slow
			if i == 0 && second%2 == 0 { // half a transaction a second is shown as one
				m[server] = append(m[server], traffic.Transaction{Gateway: "slow", At: now.Add(time.Duration(60-second) * time.Second)})
			}
			for n := range 10*i + 5 {
				m[server] = append(m[server], traffic.Transaction{Gateway: "gw", Endpoint: string(rune('a' + n%3)), At: now.Add(time.Duration(60-second) * time.Second)})
			}
		}
	}
	m.putAll(t, s)
	late := history.New(history.Config{FlushInterval: time.Hour}, s.pool, rollup.NewNames(10))
	tpsOf := func(store *history.Store, from, to time.Time, f history.Filter) (all []int64) {
		t.Helper()
		got, err := store.Stats(t.Context(), from, to, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range slices.Concat(got.Gateways, got.Keys) {
			all = append(all, st.TPS)
		}
		return all
	}
	tps := func(from, to time.Time, f history.Filter) []int64 { return tpsOf(s.Store, from, to, f) }
	for name, c := range map[string]struct {
		got, want []int64
	}{
		"writers who wait": {tpsOf(late, now.Add(-2*time.Hour), time.Now(), history.Filter{}), []int64{0, 0, 0, 0, 0, 0}}, // an hour ago there was nothing
		"a long window":    {tps(now.Add(-2*time.Hour), time.Now(), history.Filter{}), []int64{20, 1, 7, 7, 6, 1}},
		"a short window":   {tps(now.Add(-10*time.Second), time.Now(), history.Filter{}), []int64{20, 1, 7, 7, 6, 1}},
		"one endpoint":     {tps(now.Add(-2*time.Hour), time.Now(), history.Filter{Endpoint: "c"}), []int64{6, 6}},
		"the past":         {tps(now.Add(-2*time.Hour), now.Add(-10*time.Second), history.Filter{}), []int64{0, 0, 0, 0, 0, 0}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: TPS of the gateway and its endpoints (-want +got):\n%s", name, diff)
		}
	}
}

// A range is read as finely as its length and its age let it be.
func TestResolutionOfARange(t *testing.T) {
	const day = 24 * time.Hour
	keeps := history.Retention{Second: 7 * day, Minute: 90 * day, Hour: 400 * day}
	for _, c := range []struct {
		keeps       history.Retention
		age, length time.Duration // of the begin, and from there
		want        string
	}{
		{keeps, time.Hour, time.Second, "second"},
		{keeps, time.Hour, 10 * time.Minute, "second"},
		{keeps, time.Hour, 10*time.Minute + 1, "minute"},
		{keeps, day, day, "minute"},
		{keeps, 2 * day, day + 1, "hour"},
		{keeps, 8 * day, time.Minute, "minute"},
		{keeps, 91 * day, time.Minute, "hour"},
		{keeps, 1000 * day, time.Minute, "hour"},
		{history.Retention{}, 1000 * day, time.Minute, "second"},
		{history.Retention{Second: day}, 2 * day, time.Minute, "minute"},
		{history.Retention{Minute: day}, 2 * day, time.Hour, "hour"},
	} {
		now := time.Now()
		if got := history.ResolutionOf(c.keeps, now.Add(-c.age), now.Add(-c.age+c.length), now); got != c.want {
			t.Errorf("%s from %s ago, where %+v is kept: %s, want %s", c.length, c.age, c.keeps, got, c.want)
		}
	}
}

// Seconds are those of one endpoint, or of all of a gateway, from one time to before another.
func TestSeconds(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.maintain(t)
	noon := today().Add(12 * time.Hour)
	m := measured(3000, noon, 5*time.Minute)
	m.putAll(t, s)
	from, to := noon.Add(time.Minute), noon.Add(3*time.Minute)
	for _, key := range []rollup.Key{{Domain: "edge", Gateway: "gw1", Endpoint: "a"}, {Domain: "edge", Gateway: "gw1"}, {Gateway: "gw0", Endpoint: "b"}, {Gateway: "unknown"}} {
		want := map[int64]int64{}
		for _, ts := range m {
			for _, x := range ts {
				if x.Domain == key.Domain && x.Gateway == key.Gateway && (key.Endpoint == "" || x.Endpoint == key.Endpoint) && !x.At.Before(from) && x.At.Before(to) {
					want[x.At.Unix()]++
				}
			}
		}
		got, err := s.Seconds(t.Context(), key, from, to)
		if err != nil {
			t.Fatal(err)
		}
		last := int64(0)
		for second := range got {
			if second <= last {
				t.Errorf("%+v: second %d comes after %d", key, second, last)
			}
			last = second
		}
		if diff := cmp.Diff(want, maps.Collect(got)); diff != "" {
			t.Errorf("%+v: seconds (-want +got):\n%s", key, diff)
		}
	}
}

// While Postgres is away a question can be asked again later.
func TestQuestionsWithoutPostgres(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), fmt.Sprintf("postgres://tps@127.0.0.1:%d/none?sslmode=disable", testenv.FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s := history.New(history.Config{}, pool, rollup.NewNames(1))
	now := time.Now()
	_, stats := s.Stats(t.Context(), now.Add(-time.Hour), now, history.Filter{})
	_, seconds := s.Seconds(t.Context(), rollup.Key{Gateway: "gw"}, now.Add(-time.Hour), now)
	for what, err := range map[string]error{"Stats": stats, "Seconds": seconds} {
		if away, ok := errors.AsType[*history.UnavailableError](err); !ok || !away.Unavailable() {
			t.Errorf("%s without Postgres: error %v, want one that tells so", what, err)
		}
	}
}
