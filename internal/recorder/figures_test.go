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
)

// counting is a Recorder without a sink: what it has are figures.
func counting(tb testing.TB, change func(*recorder.Config)) (*recorder.Recorder, *prometheus.Registry) {
	tb.Helper()
	cfg := config()
	change(&cfg)
	reg := prometheus.NewRegistry()
	r, err := recorder.New(cfg, nil, reg, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	return r, reg
}

func recordAll(r *recorder.Recorder, all ...recorder.Transaction) {
	for i := range all {
		r.Record(&all[i])
	}
}

// paid are transactions of one endpoint, of every outcome.
var paid = []recorder.Transaction{
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", Duration: 10 * time.Millisecond, StatusCode: 200, Success: true},
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", Duration: 20 * time.Millisecond, StatusCode: 200, Success: true, Waited: 1500 * time.Millisecond},
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", Duration: 30 * time.Millisecond, StatusCode: 503},
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", Duration: 60 * time.Millisecond, StatusCode: 429},
	{Domain: "edge", Gateway: "gw", Endpoint: "pay", StatusCode: 429, Throttled: true, Waited: 500 * time.Millisecond},
}

func TestStats(t *testing.T) {
	r, _ := counting(t, func(*recorder.Config) {})
	recordAll(r, paid...)
	recordAll(
		r,
		recorder.Transaction{Domain: "edge", Gateway: "gw", Duration: time.Second, Success: true},
		recorder.Transaction{Gateway: "-", Success: true}, recorder.Transaction{Gateway: "-", Success: true, Duration: time.Microsecond},
		recorder.Transaction{Domain: "edge", Gateway: "g", Endpoint: "z", Success: true},
	)
	want := recorder.Stats{Transactions: 9, Endpoints: []recorder.EndpointStats{
		{Gateway: "-", Transactions: 2, MeanMS: 0.0005},
		{Domain: "edge", Gateway: "g", Endpoint: "z", Transactions: 1},
		{Domain: "edge", Gateway: "gw", Transactions: 1, MeanMS: 1000},
		{Domain: "edge", Gateway: "gw", Endpoint: "pay", Transactions: 5, Failed: 3, Throttled: 1, Held: 2, MeanMS: 24},
	}}
	if diff := cmp.Diff(want, r.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

// GET /api/v1/stats shows Stats as they are.
func TestStatsAsJSON(t *testing.T) {
	r, _ := counting(t, func(*recorder.Config) {})
	for _, c := range []struct {
		record []recorder.Transaction
		want   string
	}{
		{nil, `{"transactions":0,"endpoints":[]}`},
		{paid, `{"transactions":5,"endpoints":[{"domain":"edge","gateway":"gw","endpoint":"pay","transactions":5,"failed":3,"throttled":1,"held":2,"mean_duration_ms":24}]}`},
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
	r, _ := counting(t, func(*recorder.Config) {})
	const each = 366 * 24 * time.Hour
	for range 1000 {
		recordAll(r, recorder.Transaction{Gateway: "gw", Duration: each, Success: true})
	}
	if got, want := r.Stats().Endpoints[0].MeanMS, float64(each/time.Millisecond); math.Abs(got-want) > 1 {
		t.Errorf("mean of %d times %s: %v ms, want %v", 1000, each, got, want)
	}
}

func TestPrometheus(t *testing.T) {
	r, reg := counting(t, func(*recorder.Config) {})
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
	assertMetric(t, reg, 5, "ratelimitd_transaction_duration_seconds", series...)
	h := histogram(t, reg, "ratelimitd_transaction_duration_seconds")
	if got := h.GetSampleSum(); math.Abs(got-0.12) > 1e-9 {
		t.Errorf("sum of durations %v s, want 0.12", got)
	}
	for _, b := range h.GetBucket() {
		if b.GetUpperBound() == .025 && b.GetCumulativeCount() != 3 {
			t.Errorf("%d transactions took up to 25 ms, want 3", b.GetCumulativeCount())
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
	r, reg := counting(t, func(*recorder.Config) {})
	recordAll(r, recorder.Transaction{Gateway: "gw", Success: true, Throttled: true})
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
	r, reg := counting(t, func(c *recorder.Config) { c.Prometheus = false })
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
	const most, invented = 20, 300
	r, reg := counting(t, func(c *recorder.Config) { c.MaxSeries = most })
	for i := range most {
		recordAll(r, recorder.Transaction{Domain: "edge", Gateway: "gw", Endpoint: fmt.Sprint("known", i), Success: true})
	}
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range invented {
				recordAll(r, recorder.Transaction{Domain: strconv.Itoa(g), Gateway: "gw", Endpoint: strconv.Itoa(i), Success: i%2 == 0, Waited: time.Second})
			}
		})
	}
	all.Wait()
	recordAll(r, recorder.Transaction{Domain: "edge", Gateway: "gw", Endpoint: "known7", Success: true})
	other := []string{"domain", "other", "gateway", "other", "endpoint", "other"}
	assertMetric(t, reg, 4*invented, "ratelimitd_transactions_total", other...)
	assertMetric(t, reg, 4*invented, "ratelimitd_transaction_waited_seconds_total", other...)
	assertMetric(t, reg, 4*invented, "ratelimitd_transaction_duration_seconds", other...)
	assertMetric(t, reg, 2, "ratelimitd_transactions_total", "endpoint", "known7")
	for family, want := range map[string]int{
		"ratelimitd_transactions_total": 3 * (most + 1), "ratelimitd_transaction_duration_seconds": most + 1, "ratelimitd_transaction_waited_seconds_total": most + 1,
	} {
		if got := seriesOf(t, reg, family); got != want {
			t.Errorf("%d series of %s, want %d", got, family, want)
		}
	}
	got := r.Stats()
	if len(got.Endpoints) != most+1 || got.Transactions != most+4*invented+1 {
		t.Errorf("stats of %d names and %d transactions, want %d and %d", len(got.Endpoints), got.Transactions, most+1, most+4*invented+1)
	}
	want := recorder.EndpointStats{Domain: "other", Gateway: "other", Endpoint: "other", Transactions: 4 * invented, Failed: 2 * invented, Held: 4 * invented}
	if last := got.Endpoints[len(got.Endpoints)-1]; last != want {
		t.Errorf("the last endpoint is %+v, want %+v", last, want)
	}
}

// Each reason has its series from the start, so that an increase from 0 is seen.
func TestReasonsAreThereFromTheStart(t *testing.T) {
	_, reg := counting(t, func(*recorder.Config) {})
	if got := seriesOf(t, reg, "ratelimitd_recorder_dropped_total"); got != 4 {
		t.Errorf("ratelimitd_recorder_dropped_total has %d series, want 4", got)
	}
	for _, reason := range []string{"queue_full", "malformed", "refused", "shutdown"} {
		assertMetric(t, reg, 0, "ratelimitd_recorder_dropped_total", "reason", reason)
	}
}
