//go:build e2e

package recorder

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

var (
	entries = flag.Int("entries", 1_000_000, "entries of a round of BenchmarkServer")
	rounds  = flag.Int("rounds", 3, "rounds of BenchmarkServer in each state")
	profile = flag.String("profile", "", "write CPU profiles of ratelimitd under BenchmarkServer to this directory")
)

const (
	cpuTarget = 3.0 // µs of CPU for each entry, figures only
	streams   = 2   // of workers of Envoy, each on its own connection
	warming   = 20_000
)

// state is what ratelimitd does with transactions.
type state struct {
	name   string
	file   string // of the profile
	sinks  string // TPS_SINKS
	away   bool   // Postgres is
	target string
}

func states() []state {
	return []state{
		{name: "figures and windows", file: "figures.pprof", sinks: "prometheus", target: fmt.Sprintf("≤ %g", cpuTarget)},
		{name: "with the log, Postgres away", file: "log.pprof", sinks: "prometheus,postgres", away: true, target: "-"},
		{name: "with the log and Postgres", file: "postgres.pprof", sinks: "prometheus,postgres", target: "-"},
	}
}

// measured is one round.
type measured struct {
	cpu       float64 // µs of each entry
	perSecond float64 // entries, until they were where they belong
	before    int64   // RSS
	peak      int64   // of RSS
}

func BenchmarkServer(b *testing.B) {
	if *entries < 1 || *entries%(streams*perMessage) != 0 || *rounds < 1 {
		b.Fatalf("-entries %d is no multiple of %d, or -rounds %d below 1", *entries, streams*perMessage, *rounds)
	}
	binary, postgres := measure.Build(b), testenv.NewPostgres(b)
	found := make([][]measured, len(states()))
	for b.Loop() {
		for i := range *rounds * len(found) {
			n := i % len(found)
			found[n] = append(found[n], measureState(b, binary, postgres, states()[n]))
		}
	}
	cpu := median(found[0], func(m measured) float64 { return m.cpu })
	if cpu > cpuTarget {
		b.Errorf("an entry costs %.2f µs of CPU, want at most %g", cpu, cpuTarget)
	}
	b.ReportMetric(cpu, "µs-CPU/entry")
	b.ReportMetric(0, "ns/op") // says nothing here
	keep(b, serverTable(found))
}

func serverTable(found [][]measured) string {
	var body strings.Builder
	fmt.Fprintf(&body, "## CPU for each entry of an access log\n\n%d entries of 794 bytes and 200 names in messages of %d over %d streams, as fast as they are taken; medians of %d rounds, fresh processes by turns.\n",
		*entries, perMessage, streams, len(found[0]))
	body.WriteString("CPU is that of ratelimitd, user and system, gRPC included. The client and Postgres share the machine.\n\n")
	body.WriteString(row("what ratelimitd does", "µs of CPU for each", "target", "least to greatest", "entries/s", "RSS before", "peak of RSS") + row("---", "---", "---", "---", "---", "---", "---"))
	for i, s := range states() {
		cpu := func(m measured) float64 { return m.cpu }
		body.WriteString(row(s.name, fmt.Sprintf("%.2f", median(found[i], cpu)), s.target, fmt.Sprintf("%.2f to %.2f", quantile(found[i], 0, cpu), quantile(found[i], 1, cpu)),
			fmt.Sprintf("%.0f", median(found[i], func(m measured) float64 { return m.perSecond })),
			measure.MiB(median(found[i], func(m measured) int64 { return m.before })), measure.MiB(median(found[i], func(m measured) int64 { return m.peak }))))
	}
	return body.String()
}

func median[M any, T int64 | float64 | time.Duration](rounds []M, of func(M) T) T {
	return quantile(rounds, 0.5, of)
}

func quantile[M any, T int64 | float64 | time.Duration](rounds []M, q float64, of func(M) T) T {
	var values []T
	for _, m := range rounds {
		values = append(values, of(m))
	}
	return measure.Quantile(values, q)
}

// measureState sends one round of entries to a fresh ratelimitd.
func measureState(b *testing.B, binary string, postgres *testenv.Postgres, s state) (m measured) {
	b.Helper()
	database := postgres.Database(b)
	conn := testenv.Connect(b, database)
	debug := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(b))
	// No entry is to be lost, which would cost less than one that is kept.
	r := measure.Start(b, binary, b.TempDir(), "TPS_DATABASE_URL="+database, "TPS_SINKS="+s.sinks, "TPS_DEBUG_ADDR="+debug,
		"TPS_MAX_QUEUE_SIZE=10000000", "TPS_FLUSH_INTERVAL=1s", "TPS_STREAM_MAX_AGE=0")
	r.AwaitReady(b)
	if s.away {
		postgres.Kill()
		defer postgres.Start(b)
	}
	send(b, r.GRPCAddr, warming)
	awaitStored(b, conn, s, warming)
	m.before = r.Memory(b).Now
	if err := measure.ResetPeak(r.Server.PID()); err != nil {
		b.Fatal(err)
	}
	profiled := startProfile(b, debug, s.file)
	before, began := cpuOf(b, r), time.Now()
	send(b, r.GRPCAddr, *entries)
	ended := awaitStored(b, conn, s, warming+*entries)
	m.perSecond = float64(*entries) / ended.Sub(began).Seconds()
	m.cpu = (cpuOf(b, r) - before).Seconds() * 1e6 / float64(*entries)
	m.peak = r.Memory(b).Peak
	if err := profiled(); err != nil {
		b.Fatal(err)
	}
	checkKept(b, r, s)
	b.Logf("%s: %.2f µs, %.0f entries/s, RSS %s, peak %s", s.name, m.cpu, m.perSecond, measure.MiB(m.before), measure.MiB(m.peak))
	r.Stop(b)
	return m
}

func cpuOf(b *testing.B, r *measure.Ratelimitd) time.Duration {
	b.Helper()
	cpu, err := measure.CPUOf(r.Server.PID())
	if err != nil {
		b.Fatal(err)
	}
	return cpu
}

// send returns when ratelimitd has read all entries.
func send(b *testing.B, addr string, n int) {
	b.Helper()
	workers, ctx := errgroup.WithContext(b.Context())
	for range streams {
		s := &sender{addr: addr, entries: int64(n / streams)}
		workers.Go(func() error { return s.run(ctx) })
	}
	if err := workers.Wait(); err != nil {
		b.Fatal(err)
	}
}

// awaitStored waits until n transactions are where they belong, and returns when the last one was sent
// or, with Postgres, stored. Asking ratelimitd would cost it CPU.
func awaitStored(b *testing.B, conn *pgx.Conn, s state, n int) time.Time {
	b.Helper()
	switch {
	case s.away:
		const writing = time.Second // the rest of them to the log; checkKept sees whether that was long enough
		sent := time.Now()
		<-time.After(writing)
		return sent
	case !strings.Contains(s.sinks, "postgres"):
		return time.Now()
	}
	testenv.Eventually(b, 5*time.Minute, "storing transactions", func() error {
		var stored int
		err := conn.QueryRow(b.Context(), "SELECT coalesce(sum(next_offset), 0) FROM tps_offsets").Scan(&stored)
		if err == nil && stored != n {
			err = fmt.Errorf("%d are stored, want %d", stored, n)
		}
		return err
	})
	return time.Now()
}

// checkKept fails where not every entry was counted and, where it is to be, kept.
func checkKept(b *testing.B, r *measure.Ratelimitd, s state) {
	b.Helper()
	f := r.Figures(b)
	want := float64(warming + *entries)
	if got := f["ratelimitd_recorder_received_total"]; got != want {
		b.Errorf("%s: %.0f transactions were received, want %.0f", s.name, got, want)
	}
	if got := lost(f); got != 0 {
		b.Errorf("%s: %.0f transactions were lost", s.name, got)
	}
	if got := f[`ratelimitd_spool_waiting{reader="postgres"}`]; s.away && got != want {
		b.Errorf("%s: %.0f transactions are in the log, want %.0f", s.name, got, want)
	}
}

// lost is how many transactions were received, and will never be stored.
func lost(f measure.Figures) float64 {
	return f.Sum("ratelimitd_spool_lost_total") + f[`ratelimitd_recorder_dropped_total{reason="refused"}`] + f[`ratelimitd_recorder_dropped_total{reason="unreadable"}`]
}

// startProfile profiles ratelimitd for some seconds; end waits for that. Without -profile nothing
// happens.
func startProfile(b *testing.B, debug, name string) (end func() error) {
	b.Helper()
	if *profile == "" {
		return func() error { return nil }
	}
	var g errgroup.Group
	g.Go(func() error { return writeProfile(b.Context(), debug, filepath.Join(*profile, name)) })
	return g.Wait
}

func writeProfile(ctx context.Context, debug, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+debug+"/debug/pprof/profile?seconds=2", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(path, body, 0o600)
}
