//go:build e2e

package recorder

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

var soakFor = flag.Duration("soak", 0, "length of TestSoak, at least 20s; 0 = it is skipped")

const (
	// The last third may be above the first one by both. The windows in memory grow by design: for each
	// name by a slot a second, until they have those of two minutes, and a minute, until they have those of
	// an hour.
	growthPart  = 0.20
	growthBytes = 16 << 20
	fillBytes   = 16 << 20 // more, where the windows of seconds still fill in the last third

	fillTime      = 2 * time.Minute
	shortestSoak  = 20 * time.Second
	longestWarmUp = 30 * time.Second
	longestPhase  = 15 * time.Second // of Postgres
	sampleEvery   = time.Second
	ending        = 2 * time.Minute // for what is under way at the end

	soakSpool  = "4MiB"
	soakQueue  = 10_000
	soakSeries = 2000 // twice the names that are known
	knownEach  = 50   // endpoints of each of the 20 gateways
	inventEach = 20   // of so many entries one has a name that nobody has seen
)

// sample is what ratelimitd has in memory, in bytes.
type sample struct {
	at   time.Duration // since the start of the soak
	rss  int64         // the most since the sample before
	heap int64
}

// soak is one run.
type soak struct {
	*measure.Ratelimitd
	postgres *testenv.Postgres
	samples  []sample
	began    time.Time
	dropped  int // samples in which the log was found to drop its oldest
	written  int // in which Postgres was found to get something
	last     measure.Figures
}

// TestSoak fails where memory grows, or where a transaction is neither written nor counted as lost.
func TestSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("runs with -soak only: `make soak`")
	}
	if *soakFor < shortestSoak {
		t.Fatalf("-soak %s is shorter than %s", *soakFor, shortestSoak)
	}
	s := &soak{postgres: testenv.NewPostgres(t)}
	s.Ratelimitd = measure.Start(t, measure.Build(t), t.TempDir(), "TPS_DATABASE_URL="+s.postgres.Database(t), "TPS_SPOOL_MAX="+soakSpool,
		fmt.Sprint("TPS_MAX_QUEUE_SIZE=", soakQueue), fmt.Sprint("TPS_MAX_SERIES=", soakSeries), "TPS_STREAM_MAX_AGE=5s", "TPS_FLUSH_INTERVAL=1s")
	s.AwaitReady(t)
	t.Cleanup(s.postgres.Continue) // what hangs cannot end
	sent := s.load(t, func() { s.run(t) })
	s.finish(t, sent)
}

// load sends as much as is taken while do runs, and returns how many entries that were.
func (s *soak) load(t *testing.T, do func()) (sent int64) {
	t.Helper()
	stop := make(chan struct{})
	within, cancel := context.WithTimeout(t.Context(), *soakFor+ending)
	defer cancel()
	workers, ctx := errgroup.WithContext(within)
	var all []*sender
	for i := range streams {
		w := &sender{addr: s.GRPCAddr, rename: soakName, stop: stop, next: int64(i) * 1e9}
		all = append(all, w)
		workers.Go(func() error { return w.run(ctx) })
	}
	do()
	close(stop)
	if err := workers.Wait(); err != nil {
		t.Error(err)
	}
	for _, w := range all {
		sent += w.sent.Load()
	}
	return sent
}

// soakName is one of the endpoints of each gateway, or an invented one.
func soakName(i int) string {
	turn := i / 20 // of all gateways
	if turn%inventEach == inventEach-1 {
		return inventedFor + anyNumber
	}
	return fmt.Sprint("/v1/items/", turn%knownEach)
}

// run lets Postgres come and go: first while everything warms up, then alike in each third.
func (s *soak) run(t *testing.T) {
	t.Helper()
	s.began = time.Now()
	s.cycles(t, 0, warmUp())
	for i := range 3 {
		s.cycles(t, endOf(i-1), endOf(i))
	}
}

func warmUp() time.Duration { return min(*soakFor/5, longestWarmUp) }

// endOf is when a third ends; number -1 is the time of warming up.
func endOf(third int) time.Duration {
	return warmUp() + (*soakFor-warmUp())*time.Duration(third+1)/3
}

// cycles fills some time with few rounds of all that can happen to Postgres.
func (s *soak) cycles(t *testing.T, from, to time.Duration) {
	t.Helper()
	phases := []func(){s.postgres.Kill, func() { s.postgres.Start(t) }, s.postgres.Hang, s.postgres.Continue}
	n := len(phases) * (1 + int((to-from).Seconds()/longestPhase.Seconds())/len(phases))
	for i := range n {
		phases[i%len(phases)]()
		s.sampleUntil(t, from+time.Duration(i+1)*((to-from)/time.Duration(n)))
	}
}

func (s *soak) sampleUntil(t *testing.T, end time.Duration) {
	t.Helper()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for s.sample(t); time.Since(s.began) < end; s.sample(t) {
		select {
		case <-tick.C:
		case <-time.After(end - time.Since(s.began)):
		}
	}
}

// sample notes how much memory is in use. The most of RSS counts, so that nothing between two samples
// is missed.
func (s *soak) sample(t *testing.T) {
	t.Helper()
	f, m := s.Figures(t), s.Memory(t)
	if err := measure.ResetPeak(s.Server.PID()); err != nil {
		t.Fatal(err)
	}
	s.samples = append(s.samples, sample{at: time.Since(s.began), rss: m.Peak, heap: int64(f["go_memstats_heap_inuse_bytes"])})
	if f[spoolFull] > s.last[spoolFull] {
		s.dropped++
	}
	if f[written] > s.last[written] {
		s.written++
	}
	s.last = f
}

const (
	received  = "ratelimitd_recorder_received_total"
	written   = `ratelimitd_recorder_written_total{sink="postgres"}`
	spoolFull = `ratelimitd_spool_lost_total{reader="postgres",reason="spool_full"}`
	waiting   = `ratelimitd_spool_waiting{reader="postgres"}`
	queued    = "ratelimitd_recorder_queue_length"
)

// finish waits until nothing is on its way any more.
func (s *soak) finish(t *testing.T, sent int64) {
	t.Helper()
	testenv.Eventually(t, ending, "writing what waits", func() error {
		s.last = s.Figures(t)
		if s.last[waiting]+s.last[queued] > 0 {
			return fmt.Errorf("%.0f wait in the log and %.0f for it", s.last[waiting], s.last[queued])
		}
		if missing := s.last[received] - s.last[written] - lost(s.last); missing > 0 { // a write may be under way
			return fmt.Errorf("%.0f of the %.0f that were received are neither written nor lost", missing, s.last[received])
		}
		return nil
	})
	s.checkCounts(t, sent)
	if s.dropped == 0 || s.written == 0 {
		t.Errorf("of %d samples the log was at its bound in %d, and Postgres got something in %d: want both", len(s.samples), s.dropped, s.written)
	}
	rss := s.each(func(m sample) int64 { return m.rss }, func(sorted []int64) int64 { return sorted[len(sorted)/2] })
	heap := s.each(func(m sample) int64 { return m.heap }, func(sorted []int64) int64 { return sorted[0] })
	checkGrowth(t, "RSS", rss)
	checkGrowth(t, "heap in use", heap)
	keep(t, s.table(rss, heap, sent))
}

// checkCounts fails where a transaction is both written and counted as lost.
func (s *soak) checkCounts(t *testing.T, sent int64) {
	t.Helper()
	if got, want := s.last[written]+lost(s.last), s.last[received]; got != want {
		t.Errorf("%.0f written + %.0f lost = %.0f, want the %.0f that were received\n%s", s.last[written], lost(s.last), got, want, s.Server.Output())
	}
	if s.last[received] > float64(sent) {
		t.Errorf("%.0f transactions were received, and %d sent", s.last[received], sent)
	}
}

// each is what stands for the samples of the time of warming up, and of each third.
func (s *soak) each(of func(sample) int64, one func(sorted []int64) int64) (each [4]int64) {
	var parts [4][]int64
	part := 0
	for _, m := range s.samples {
		for part < 3 && m.at > endOf(part-1) {
			part++
		}
		parts[part] = append(parts[part], of(m))
	}
	for i, part := range parts {
		slices.Sort(part)
		each[i] = one(part)
	}
	return each
}

func checkGrowth(t *testing.T, what string, each [4]int64) {
	t.Helper()
	first, last := each[1], each[3]
	if bound := int64(float64(first)*(1+growthPart)) + growth(); last > bound {
		t.Errorf("%s: %s in the last third, %s in the first: want at most %s", what, measure.MiB(last), measure.MiB(first), measure.MiB(bound))
	}
}

// growth is by how many bytes the last third may be above the first one.
func growth() int64 {
	if endOf(1) < fillTime {
		return growthBytes + fillBytes
	}
	return growthBytes
}

func (s *soak) table(rss, heap [4]int64, sent int64) string {
	var body strings.Builder
	fmt.Fprintf(&body, "## Memory at full queue, for %s\n\nThe log at its bound of %s, %d entries in memory on their way to it, %d names for which there is room and no end of others; entries as fast as they are taken over %d streams that end every 5 s.\n",
		*soakFor, soakSpool, soakQueue, soakSeries, streams)
	fmt.Fprintf(&body, "Postgres is killed, starts, hangs and goes on by turns. A sample each second: of RSS the most since the one before, of which the median stands here; of the heap the least, which is near to what lives. What leaks raises both. Target: the last third is less than %g %% + %s above the first.\n\n", 100*growthPart, measure.MiB(growth()))
	body.WriteString(row("", fmt.Sprintf("warming up, %s", warmUp()), "first third", "second third", "last third") + row("---", "---", "---", "---", "---"))
	body.WriteString(soakRow("RSS", rss) + soakRow("heap in use", heap))
	fmt.Fprintf(&body, "\n%d entries were sent, %.0f received (%.0f a second), %.0f written, %.0f counted as lost: written + lost - received = %.0f.\n",
		sent, s.last[received], s.last[received]/soakFor.Seconds(), s.last[written], lost(s.last), s.last[written]+lost(s.last)-s.last[received])
	return body.String()
}

func soakRow(what string, each [4]int64) string {
	return row(what, measure.MiB(each[0]), measure.MiB(each[1]), measure.MiB(each[2]), measure.MiB(each[3]))
}
