package recorder_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/tps-agent/ratelimitd/internal/recorder"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// counting is a Recorder without a sink: what it has are figures.
func counting(tb testing.TB, change func(*options)) (*recorder.Recorder, *prometheus.Registry) {
	tb.Helper()
	cfg := config()
	change(&cfg)
	reg := prometheus.NewRegistry()
	r, err := newRecorder(tb, cfg, nil, reg, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	return r, reg
}

func recordAll(r *recorder.Recorder, all ...traffic.Transaction) {
	r.Record(all)
}

// paid are transactions of one endpoint, of every outcome.
var paid = []traffic.Transaction{
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", Duration: 10 * time.Millisecond, StatusCode: 200, Success: true},
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", Duration: 20 * time.Millisecond, StatusCode: 200, Success: true, Waited: 1500 * time.Millisecond},
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", Duration: 30 * time.Millisecond, StatusCode: 503},
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", Duration: 60 * time.Millisecond, StatusCode: 429},
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", StatusCode: 429, Throttled: true, Waited: 500 * time.Millisecond},
}

func TestStats(t *testing.T) {
	r, _ := counting(t, func(*options) {})
	recordAll(r, paid...)
	recordAll(
		r,
		traffic.Transaction{Domain: "edge", Gateway: "gw", Duration: time.Second, Success: true},
		traffic.Transaction{Gateway: "-", Success: true}, traffic.Transaction{Gateway: "-", Success: true, Duration: time.Microsecond},
		traffic.Transaction{Domain: "edge", Gateway: "g", Endpoint: "z", Success: true},
	)
	want := recorder.Stats{Transactions: 9, Endpoints: []recorder.EndpointStats{
		{Gateway: "-", Transactions: 2, MeanMS: 0.0005},
		{Domain: "edge", Gateway: "g", Endpoint: "z", Transactions: 1},
		{Domain: "edge", Gateway: "gw", Transactions: 1, MeanMS: 1000},
		{Domain: "edge", Gateway: "gw", Endpoint: "pay", Transactions: 5, Failed: 3, Throttled: 1, Held: 2, MeanMS: 30},
	}}
	if diff := cmp.Diff(want, r.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

// GET /api/v1/stats shows Stats as they are.
func TestStatsAsJSON(t *testing.T) {
	r, _ := counting(t, func(*options) {})
	for _, c := range []struct {
		record []traffic.Transaction
		want   string
	}{
		{nil, `{"transactions":0,"endpoints":[]}`},
		{paid, `{"transactions":5,"endpoints":[{"domain":"edge","gateway":"gw","endpoint":"pay","transactions":5,"failed":3,"throttled":1,"held":2,"mean_duration_ms":30}]}`},
	} {
		recordAll(r, c.record...)
		got, err := json.Marshal(r.Stats())
		if err != nil || string(got) != c.want {
			t.Errorf("after %d more: %s, error %v, want %s", len(c.record), got, err, c.want)
		}
	}
}

// Sums of a year of long transactions stay right.
func TestMeanOfHugeDurations(t *testing.T) {
	r, _ := counting(t, func(*options) {})
	const each = 366 * 24 * time.Hour
	for range 1000 {
		recordAll(r, traffic.Transaction{Gateway: "gw", Duration: each, Success: true})
	}
	if got, want := r.Stats().Endpoints[0].MeanMS, float64(each/time.Millisecond); math.Abs(got-want) > 1 {
		t.Errorf("mean of %d times %s: %v ms, want %v", 1000, each, got, want)
	}
}

func TestPrometheus(t *testing.T) {
	r, reg := counting(t, func(*options) {})
	recordAll(r, paid...)
	series := []string{"domain", "edge", "gateway", "gw", "endpoint", "pay"}
	for _, c := range []struct {
		success, throttled string
		want               float64
	}{{"true", "false", 2}, {"false", "false", 2}, {"false", "true", 1}, {"true", "true", 0}} {
		assertMetric(t, reg, c.want, "ratelimitd_transactions_total", append(series, "success", c.success, "throttled", c.throttled)...)
	}
	assertMetric(t, reg, 5, "ratelimitd_transactions_total", series...)
	assertMetric(t, reg, 2, "ratelimitd_transaction_waited_seconds_total", series...)
	assertMetric(t, reg, 4, "ratelimitd_transaction_duration_seconds", series...) // not of the one that was throttled
	h := histogram(t, reg, "ratelimitd_transaction_duration_seconds")
	if got := h.GetSampleSum(); math.Abs(got-0.12) > 1e-9 {
		t.Errorf("sum of durations %v s, want 0.12", got)
	}
	for _, b := range h.GetBucket() {
		if b.GetUpperBound() == .025 && b.GetCumulativeCount() != 2 {
			t.Errorf("%d transactions took up to 25 ms, want 2", b.GetCumulativeCount())
		}
	}
	if len(h.GetBucket()) == 0 || h.GetSchema() < 3 {
		t.Errorf("histogram %v: want classic buckets, and native ones of at most a tenth", h)
	}
}

func histogram(tb testing.TB, reg prometheus.Gatherer, family string) *dto.Histogram {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == family {
			return f.GetMetric()[0].GetHistogram()
		}
	}
	tb.Fatalf("there is no metric %s", family)
	return nil
}

// A refused transaction is no success, whatever its maker says, and has no series of its own.
func TestThrottledIsNoSuccess(t *testing.T) {
	r, reg := counting(t, func(*options) {})
	recordAll(r, traffic.Transaction{Gateway: "gw", Success: true, Throttled: true})
	assertMetric(t, reg, 1, "ratelimitd_transactions_total", "success", "false", "throttled", "true")
	if n := seriesOf(t, reg, "ratelimitd_transactions_total"); n != 3 {
		t.Errorf("%d series of one endpoint, want 3", n)
	}
}

// seriesOf counts the series of a family.
func seriesOf(tb testing.TB, reg prometheus.Gatherer, family string) int {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == family {
			return len(f.GetMetric())
		}
	}
	return 0
}

// With the Prometheus sink off there are no series of transactions, but figures, and the metrics
// of the recorder itself.
func TestWithoutPrometheus(t *testing.T) {
	r, reg := counting(t, func(c *options) { c.Prometheus = false })
	recordAll(r, paid...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "ratelimitd_transaction") {
			t.Errorf("there is a metric %s", f.GetName())
		}
	}
	assertMetric(t, reg, 5, "ratelimitd_recorder_received_total")
	if got := r.Stats(); got.Transactions != 5 || len(got.Endpoints) != 1 {
		t.Errorf("stats %+v, want five transactions of one endpoint", got)
	}
}

// Names that clients invent count as `other` beyond the bound; names known before keep their series.
func TestSeriesAreBounded(t *testing.T) {
	const most, known, domains, invented = 20, 10, 4, 300
	r, reg := counting(t, func(c *options) { c.maxSeries = most })
	for i := range known {
		recordAll(r, traffic.Transaction{Domain: "edge", Gateway: "gw", Endpoint: fmt.Sprint("known", i), Success: true})
	}
	var all sync.WaitGroup
	for g := range domains {
		all.Go(func() {
			for i := range invented {
				recordAll(r, traffic.Transaction{Domain: strconv.Itoa(g), Gateway: "gw", Endpoint: strconv.Itoa(i), Success: i%2 == 0, Waited: time.Second})
			}
		})
	}
	all.Wait()
	recordAll(r, traffic.Transaction{Domain: "edge", Gateway: "gw", Endpoint: "known7", Success: true})
	const total, names = known + domains*invented + 1, most + domains + 2
	for family, want := range map[string]float64{
		"ratelimitd_transactions_total": total, "ratelimitd_transaction_duration_seconds": total, "ratelimitd_transaction_waited_seconds_total": domains * invented,
	} {
		assertMetric(t, reg, want, family)
		if got := seriesOf(t, reg, family); got > 3*names {
			t.Errorf("%d series of %s, want at most three for each of %d names", got, family, names)
		}
	}
	assertMetric(t, reg, 2, "ratelimitd_transactions_total", "endpoint", "known7")
	if n := metric(t, reg, "ratelimitd_transactions_total", "endpoint", "other"); n < domains*invented-most {
		t.Errorf("%g transactions count as other, want all of %d but %d", n, domains*invented, most)
	}
	if got := r.Stats(); len(got.Endpoints) > names || got.Transactions != total {
		t.Errorf("stats of %d names and %d transactions, want at most %d and %d", len(got.Endpoints), got.Transactions, names, total)
	}
}

// Each reason has its series from the start, so that an increase from 0 is seen.
func TestReasonsAreThereFromTheStart(t *testing.T) {
	_, reg := counting(t, func(*options) {})
	if got := seriesOf(t, reg, "ratelimitd_recorder_dropped_total"); got != 3 {
		t.Errorf("ratelimitd_recorder_dropped_total has %d series, want 3", got)
	}
	for _, reason := range []string{"malformed", "refused", "unreadable"} {
		assertMetric(t, reg, 0, "ratelimitd_recorder_dropped_total", "reason", reason)
	}
}
