package rollup

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// noon is a Wednesday.
var noon = time.Date(2025, 11, 26, 12, 0, 0, 0, time.UTC)

// received is a transaction as the model keeps it.
type received struct {
	second int64
	traffic.Transaction
}

// model answers as Windows do, from a list of everything.
type model []received

func (r *received) key() Key { return Key{r.Domain, r.Gateway, r.Endpoint} }

func (r *received) gateway() Key { return r.key().gateway() }

func (m model) snapshot(now time.Time, window time.Duration) Snapshot {
	first, last := now.Unix()-int64(math.Ceil(window.Seconds())), now.Unix()-1
	s := Snapshot{From: time.Unix(first, 0).UTC(), To: time.Unix(last+1, 0).UTC()}
	if window > 2*time.Minute {
		last = now.Unix() - now.Unix()%60 + 59 // the clock may have been later than now
		first = last + 1 - 60*int64(math.Ceil(window.Minutes()))
		s = Snapshot{From: time.Unix(first, 0).UTC(), To: now}
	}
	var in model
	for _, r := range m {
		if first <= r.second && r.second <= last {
			in = append(in, r)
		}
	}
	seconds := s.To.Sub(s.From).Seconds()
	s.Keys = in.stats((*received).key, m.bySecond((*received).key), now.Unix()-1, seconds)
	s.Gateways = in.stats((*received).gateway, m.bySecond((*received).gateway), now.Unix()-1, seconds)
	return s
}

// busySecond is a second of a key.
type busySecond struct {
	key    Key
	second int64
}

func (m model) bySecond(key func(*received) Key) map[busySecond]int64 {
	n := map[busySecond]int64{}
	for i := range m {
		n[busySecond{key(&m[i]), m[i].second}]++
	}
	return n
}

func (m model) stats(key func(*received) Key, bySecond map[busySecond]int64, over int64, seconds float64) (all []Stats) {
	of := map[Key]*Stats{}
	for i := range m {
		key := key(&m[i])
		if of[key] == nil {
			of[key] = &Stats{Key: key}
		}
		of[key].Add(&m[i].Transaction)
		of[key].Waited.NS, of[key].Duration.NS = 0, 0 // windows count whole microseconds
		of[key].PeakTPS = max(of[key].PeakTPS, bySecond[busySecond{key, m[i].second}])
	}
	for key, st := range of {
		st.TPS = bySecond[busySecond{key, over}]
		st.AverageTPS = float64(st.Requests) / seconds
		st.P50, st.P95, st.P99 = st.Histogram.Quantile(.5), st.Histogram.Quantile(.95), st.Histogram.Quantile(.99)
		all = append(all, *st)
	}
	slices.SortFunc(all, func(a, b Stats) int { return a.Compare(b.Key) })
	return all
}

func anyTransaction() *rapid.Generator[traffic.Transaction] {
	return rapid.Custom(func(t *rapid.T) traffic.Transaction {
		tr := traffic.Transaction{
			Domain:    rapid.SampledFrom([]string{"", "d"}).Draw(t, "domain"),
			Gateway:   rapid.SampledFrom([]string{"a", "b"}).Draw(t, "gateway"),
			Endpoint:  rapid.SampledFrom([]string{"", "x"}).Draw(t, "endpoint"),
			Duration:  someDuration().Draw(t, "duration"),
			Throttled: rapid.Bool().Draw(t, "throttled"),
		}
		if rapid.Bool().Draw(t, "held") {
			tr.Waited = time.Duration(rapid.IntRange(1, 1e9).Draw(t, "waited"))
		}
		tr.Success = !tr.Throttled && rapid.Bool().Draw(t, "success")
		return tr
	})
}

// anyTime draws up to limit, small ones as often as large ones.
func anyTime(t *rapid.T, limit time.Duration) time.Duration {
	ms := func(d time.Duration) *rapid.Generator[int] {
		return rapid.IntRange(0, int(min(d, limit)/time.Millisecond))
	}
	return time.Duration(rapid.OneOf(ms(3*time.Second), ms(2*time.Minute), ms(limit)).Draw(t, "ms")) * time.Millisecond
}

func TestWindowsAnswerAsAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, m := NewWindows(NewNames(100)), model{}
		newest := noon.Add(anyTime(t, time.Hour))
		now := newest
		add := func(tr traffic.Transaction) {
			r := received{now.Unix(), tr}
			w.Add(now, &tr, r.key())
			m = append(m, r)
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for _, tr := range rapid.SliceOfN(anyTransaction(), 1, 5).Draw(t, "transactions") {
					add(tr)
				}
			},
			"be told of what is over": func(t *rapid.T) {
				late := anyTime(t, 2*time.Minute)
				for _, tr := range rapid.SliceOfN(anyTransaction(), 1, 5).Draw(t, "transactions") {
					tr.At = now.Add(-late)
					r := received{now.Unix(), tr}
					if late > LateAfter {
						r.second = tr.At.Unix()
					}
					w.AddTold(now, &tr, r.key())
					m = append(m, r)
				}
			},
			"go on for a while": func(t *rapid.T) { // so that slots are used again
				tr := anyTransaction().Draw(t, "transaction")
				for range rapid.IntRange(1, 130).Draw(t, "seconds") {
					now = now.Add(time.Second)
					add(tr)
				}
				newest = latest(newest, now)
			},
			"time goes on": func(t *rapid.T) {
				now = now.Add(anyTime(t, 70*time.Minute))
				newest = latest(newest, now)
			},
			"and back a little": func(t *rapid.T) { now = newest.Add(-min(anyTime(t, 3*time.Second), newest.Sub(noon))) },
			"show": func(t *rapid.T) {
				window := min(MinWindow+anyTime(t, MaxWindow), MaxWindow)
				got, err := w.Snapshot(now, window)
				if diff := cmp.Diff(m.snapshot(now, window), got); diff != "" || err != nil {
					t.Fatalf("%v at %v: error %v, -want +got:\n%s", window, now, err, diff)
				}
			},
		})
	})
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
