package recorder_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/recorder"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/spool"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// memory is a sink that keeps the endpoints of what it was given.
type memory struct {
	began time.Time
	// write and maintain may refuse, fail or block; nil = all is well.
	write    func(ctx context.Context, endpoints []string) error
	maintain func() error

	mu         sync.Mutex
	writes     []write
	maintained []time.Duration // after the start
	next       map[traffic.Source]int64
}

// write is a batch that was taken.
type write struct {
	after     time.Duration // of the start
	endpoints []string
}

func (s *memory) Maintain(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maintained = append(s.maintained, time.Since(s.began))
	if s.maintain != nil {
		return s.maintain()
	}
	return nil
}

func (s *memory) Write(ctx context.Context, b traffic.Batch) (fresh int, err error) {
	s.mu.Lock()
	left := b.From(s.next[b.Source])
	s.mu.Unlock()
	endpoints := make([]string, len(left.Transactions))
	for i := range left.Transactions {
		endpoints[i] = left.Transactions[i].Endpoint
	}
	if s.write != nil {
		if err := s.write(ctx, endpoints); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = map[traffic.Source]int64{}
	}
	s.next[b.Source] = max(s.next[b.Source], b.Next())
	s.writes = append(s.writes, write{time.Since(s.began), endpoints})
	return len(endpoints), nil
}

// taken are all endpoints, in order.
func (s *memory) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, w := range s.writes {
		all = append(all, w.endpoints...)
	}
	return all
}

// running is a Recorder that runs.
type running struct {
	*recorder.Recorder
	reg  *prometheus.Registry
	logs *testenv.Logs
	stop func() // returns when Run has returned; may be called twice
}

// options are what a test changes of a Recorder.
type options struct {
	recorder.Config
	maxSeries int
	maxQueue  int
	dir       string // of the log; empty = a fresh one
}

// config writes ten at a time, or after 30 s.
func config() options {
	return options{Config: recorder.Config{ServerID: "test", BatchSize: 10, FlushInterval: 30 * time.Second, FlushTimeout: 5 * time.Second, Prometheus: true}, maxSeries: 100, maxQueue: 100_000}
}

// sinks are these, called a, b and so on; none where the first is nil.
func sinks(all ...*memory) (named []recorder.NamedSink) {
	for i, s := range all {
		if s != nil {
			named = append(named, recorder.NamedSink{Name: string(rune('a' + i)), Sink: s, Maintain: s.Maintain})
		}
	}
	return named
}

// newRecorder makes one that does not run yet.
func newRecorder(tb testing.TB, o options, sinks []recorder.NamedSink, reg prometheus.Registerer, log *slog.Logger) (*recorder.Recorder, error) {
	tb.Helper()
	deps := recorder.Deps{Names: rollup.NewNames(o.maxSeries), Sinks: sinks}
	if len(sinks) > 0 {
		if o.dir == "" {
			o.dir = tb.TempDir()
		}
		c := spool.Config{Dir: o.dir, Max: 1 << 30, MaxPending: o.maxQueue}
		for _, s := range sinks {
			c.Readers = append(c.Readers, s.Name)
		}
		var err error
		if deps.Log, err = spool.Open(c, reg, log); err != nil {
			tb.Fatal(err)
		}
	}
	return recorder.New(o.Config, deps, reg, log)
}

// run starts a Recorder, which ends with the test or when it is stopped.
func run(tb testing.TB, o options, sinks ...recorder.NamedSink) *running {
	tb.Helper()
	r := &running{reg: prometheus.NewRegistry(), logs: new(testenv.Logs)}
	var err error
	if r.Recorder, err = newRecorder(tb, o, sinks, r.reg, slog.New(slog.NewTextHandler(r.logs, nil))); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Run returned %v, want nil", err)
		}
	})
	tb.Cleanup(func() {
		r.stop()
		if tb.Failed() {
			tb.Logf("logs:\n%s", r.logs)
		}
	})
	return r
}

// record takes transactions of these endpoints, one by one.
func (r *running) record(endpoints ...string) {
	for _, t := range transactionsOf(endpoints...) {
		r.Record([]traffic.Transaction{t})
	}
}

func transactionsOf(endpoints ...string) []traffic.Transaction {
	all := make([]traffic.Transaction, len(endpoints))
	for i, e := range endpoints {
		all[i] = traffic.Transaction{Domain: "edge", Gateway: "gw", Endpoint: e, At: time.Now(), Duration: time.Millisecond, StatusCode: 200, Success: true}
	}
	return all
}

// numbered are n endpoints from first on.
func numbered(first, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("e%05d", first+i)
	}
	return all
}

// metric adds up the metrics of a family whose labels are these pairs, among others.
func metric(tb testing.TB, reg prometheus.Gatherer, family string, pairs ...string) float64 {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != family {
			continue
		}
		sum := 0.0
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			match := true
			for i := 0; i < len(pairs); i += 2 {
				match = match && labels[pairs[i]] == pairs[i+1]
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		return sum
	}
	tb.Fatalf("there is no metric %s", family)
	return 0
}

func assertMetric(tb testing.TB, reg prometheus.Gatherer, want float64, family string, pairs ...string) {
	tb.Helper()
	if got := metric(tb, reg, family, pairs...); got != want {
		tb.Errorf("%s%v = %v, want %v", family, pairs, got, want)
	}
}

func assertTaken(tb testing.TB, sink *memory, want []string) {
	tb.Helper()
	if diff := cmp.Diff(want, sink.taken()); diff != "" {
		tb.Errorf("what the sink has (-want +got):\n%s", diff)
	}
}
