//go:build e2e

package recorder

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

var (
	pairs     = flag.Int("pairs", 10, "pairs of rounds of BenchmarkDecisions")
	round     = flag.Duration("round", 5*time.Second, "length of a round of BenchmarkDecisions")
	decisions = flag.Int("decisions", 2000, "decisions per second of BenchmarkDecisions")
	foreign   = flag.Float64("foreign", 0.2, "cores that others may use during a pair, Postgres and the kernel among them; else it does not count")
)

const (
	ratioTarget = 1.5              // median of p99 while saturated to p99 while idle, pair by pair
	p99Target   = time.Millisecond // median while saturated

	spoolMax  = "4MiB" // a few seconds of the entries that come
	leastRate = 0.95   // part of the entries of a round that must have come, else it was not saturated

	mostAttempts = 20 // for each pair
)

// stand is a ratelimitd with a Postgres of its own.
type stand struct {
	*measure.Ratelimitd
	postgres *testenv.Postgres
	caller   *caller
	found    []latencies
}

// latencies are those of one round.
type latencies struct {
	p50, p99, p999, longest time.Duration
	cpu                     float64 // of ratelimitd, in cores
}

func BenchmarkDecisions(b *testing.B) {
	binary := measure.Build(b)
	for b.Loop() {
		idle, busy := newStand(b, binary), newStand(b, binary)
		busy.saturate(b)
		attempts := 0
		for ; len(idle.found) < *pairs && attempts < mostAttempts**pairs; attempts++ {
			measurePair(b, idle, busy, attempts)
		}
		idle.checkIdle(b)
		if len(idle.found) < *pairs {
			b.Fatalf("only %d of %d pairs had the machine for themselves", len(idle.found), attempts)
		}
		finishDecisions(b, idle.found, busy.found, attempts)
	}
}

// measurePair forgets a pair during which others have used the machine.
func measurePair(b *testing.B, idle, busy *stand, number int) {
	b.Helper()
	before, began := usedByOthers(b, idle, busy), time.Now()
	for i := range 2 { // each begins a pair as often as the other
		if (number+i)%2 == 0 {
			idle.measure(b, "idle")
		} else {
			busy.measureBusy(b)
		}
	}
	share := (usedByOthers(b, idle, busy) - before).Seconds() / time.Since(began).Seconds()
	b.Logf("others have used %.2f cores meanwhile", share)
	if share > *foreign {
		idle.found, busy.found = idle.found[:len(idle.found)-1], busy.found[:len(busy.found)-1]
	}
}

// usedByOthers is the CPU that nobody here has used: neither this process, nor those that it has waited
// for, nor the two servers.
func usedByOthers(b *testing.B, servers ...*stand) time.Duration {
	b.Helper()
	all, err := measure.Busy()
	if err != nil {
		b.Fatal(err)
	}
	var children syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children); err != nil {
		b.Fatal(err)
	}
	self, err := measure.CPUOf(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	all -= self + time.Duration(children.Utime.Nano()+children.Stime.Nano())
	for _, s := range servers {
		all -= cpuOf(b, s.Ratelimitd)
	}
	return all
}

func newStand(b *testing.B, binary string) *stand {
	b.Helper()
	s := &stand{postgres: testenv.NewPostgres(b)}
	database := s.postgres.Database(b)
	if _, err := testenv.Connect(b, database).Exec(b.Context(), `INSERT INTO tps_limits (gateway, endpoint, max_tps)
		SELECT 'gw-' || n, e, 1000000 FROM generate_series(0, 19) n, unnest(ARRAY[NULL, '*']) e`); err != nil {
		b.Fatal(err)
	}
	s.Ratelimitd = measure.Start(b, binary, b.TempDir(), "TPS_DATABASE_URL="+database, "TPS_SPOOL_MAX="+spoolMax, "TPS_STREAM_MAX_AGE=0")
	s.AwaitReady(b)
	s.caller = newCaller(b, s.GRPCAddr)
	return s
}

// saturate stops Postgres in the middle of everything and fills the log.
func (s *stand) saturate(b *testing.B) {
	b.Helper()
	s.postgres.Hang()
	b.Cleanup(s.postgres.Continue) // what hangs cannot end
	child := s.startSender(b)
	defer child.Kill()
	testenv.Eventually(b, time.Minute, "filling the log", func() error {
		if s.lost(b) == 0 {
			return errors.New("nothing is lost yet")
		}
		return nil
	})
}

// startSender runs this very program as one that sends access logs: were it in this process, it would
// delay decisions before they are sent.
func (s *stand) startSender(b *testing.B) *testenv.Server {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	return testenv.StartServer(b, nil, self, "-send", s.GRPCAddr, "-rate", strconv.Itoa(*rate))
}

func (s *stand) received(b *testing.B) float64 {
	b.Helper()
	return s.Metric(b, "ratelimitd_recorder_received_total")
}

func (s *stand) lost(b *testing.B) float64 {
	b.Helper()
	return s.Figures(b)[`ratelimitd_spool_lost_total{reader="postgres",reason="spool_full"}`]
}

// measure asks for decisions for one round.
func (s *stand) measure(b *testing.B, name string) {
	b.Helper()
	runtime.GC() // what the round before has left is not to be paid by this one
	before := cpuOf(b, s.Ratelimitd)
	all, err := s.caller.round(b.Context(), *decisions, *round)
	if err != nil {
		b.Fatal(err)
	}
	m := latencies{cpu: (cpuOf(b, s.Ratelimitd) - before).Seconds() / round.Seconds()}
	m.p50, m.p99, m.p999, m.longest = measure.Quantile(all, 0.5), measure.Quantile(all, 0.99), measure.Quantile(all, 0.999), measure.Quantile(all, 1)
	s.found = append(s.found, m)
	b.Logf("%s: p50 %s, p99 %s, p99.9 %s, longest %s, %.2f cores", name, m.p50, m.p99, m.p999, m.longest, m.cpu)
}

// measureBusy does it while entries come, and fails where that was not what it is meant to be.
func (s *stand) measureBusy(b *testing.B) {
	b.Helper()
	child := s.startSender(b)
	defer child.Kill()
	before := s.received(b)
	testenv.Eventually(b, time.Minute, "entries that come", func() error {
		if got := s.received(b) - before; got < float64(*rate)/10 {
			return fmt.Errorf("only %.0f", got)
		}
		return nil
	})
	before, lost := s.received(b), s.lost(b)
	s.measure(b, "saturated")
	if got, want := s.received(b)-before, leastRate*float64(*rate)*round.Seconds(); got < want {
		b.Errorf("%.0f entries came in a round, want at least %.0f", got, want)
	}
	if s.lost(b) == lost {
		b.Error("the log was not at its bound")
	}
}

// checkIdle fails where a round was disturbed.
func (s *stand) checkIdle(b *testing.B) {
	b.Helper()
	if got := s.received(b); got != 0 {
		b.Errorf("the idle recorder has received %.0f transactions", got)
	}
}

func finishDecisions(b *testing.B, idle, busy []latencies, attempts int) {
	b.Helper()
	p99 := func(m latencies) time.Duration { return m.p99 }
	var ratios []float64
	for i := range idle {
		ratios = append(ratios, float64(busy[i].p99)/float64(idle[i].p99))
	}
	ratio, absolute := measure.Quantile(ratios, 0.5), median(busy, p99)
	if ratio > ratioTarget {
		b.Errorf("the median ratio of p99 is %.2f, want at most %g", ratio, ratioTarget)
	}
	if absolute >= p99Target {
		b.Errorf("the median p99 while saturated is %s, want less than %s", absolute, p99Target)
	}
	b.ReportMetric(ratio, "ratio-of-p99")
	b.ReportMetric(absolute.Seconds()*1e3, "ms-p99")
	b.ReportMetric(0, "ns/op") // says nothing here

	var body strings.Builder
	fmt.Fprintf(&body, "## Decisions while the recorder is saturated\n\n%d decisions/s over %d connections in rounds of %s, each timed from when it was due; %d pairs of rounds by turns, medians.\n", *decisions, connections, *round, len(idle))
	fmt.Fprintf(&body, "Saturated: %d entries/s, the log at its bound of %s so that its oldest are dropped, Postgres stopped in the middle of a write.\nIdle: another process, which records nothing, with a Postgres that answers.\n", *rate, spoolMax)
	fmt.Fprintf(&body, "%d pairs during which others used more than %g cores are not counted.\n\n", attempts-len(idle), *foreign)
	body.WriteString(row("recorder", "p50", "p99", "p99.9", "longest", "CPU of ratelimitd, cores") + row("---", "---", "---", "---", "---", "---"))
	body.WriteString(decisionsRow("idle", idle) + decisionsRow("saturated", busy))
	fmt.Fprintf(&body, "\nMedian of the ratios of p99, pair by pair: %.2f (target ≤ %g; least to greatest %.2f to %.2f). Median p99 while saturated: %s (target < %s).\n",
		ratio, ratioTarget, measure.Quantile(ratios, 0), measure.Quantile(ratios, 1), absolute.Round(time.Microsecond), p99Target)
	keep(b, body.String())
}

func decisionsRow(name string, found []latencies) string {
	d := func(of func(latencies) time.Duration) time.Duration { return median(found, of).Round(time.Microsecond) }
	return row(name, d(func(m latencies) time.Duration { return m.p50 }), d(func(m latencies) time.Duration { return m.p99 }), d(func(m latencies) time.Duration { return m.p999 }),
		d(func(m latencies) time.Duration { return m.longest }), fmt.Sprintf("%.2f", median(found, func(m latencies) float64 { return m.cpu })))
}
