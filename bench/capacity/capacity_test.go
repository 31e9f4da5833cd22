// Package capacity_test measures what one ratelimitd needs, for docs/operations.md: memory for limits,
// buckets, held requests and waiting transactions, series of metrics, transactions per second into
// Postgres, disk for rows.
//
// Each benchmark runs the real binary once (-benchtime 1x) and asks it: live is what its heap and its
// stacks hold after a garbage collection, RSS what the system counts. Both are differences to the same
// process before.
package capacity_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

var (
	rows     = flag.Int("rows", 100_000, "transactions that BenchmarkTransactions writes")
	database = flag.String("database", "", "address of a Postgres for BenchmarkTransactions; empty = one without fsync")
)

func TestMain(m *testing.M) { testenv.Main(m) }

// daemon is a ratelimitd that runs.
type daemon struct {
	server *testenv.Server
	client http.Client
	grpc   string
	http   string
	debug  string
	rows   string // its limits file
}

// start runs ratelimitd with a limits file of these rows, and waits until it answers.
func start(tb testing.TB, limits string, env ...string) *daemon {
	tb.Helper()
	binary := filepath.Join(testenv.Root(tb), ".cache", "capacity", "ratelimitd")
	build := exec.Command("go", "build", "-o", binary, "./cmd/ratelimitd")
	build.Dir = testenv.Root(tb)
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("building ratelimitd: %v\n%s", err, out)
	}
	addr := func() string { return "127.0.0.1:" + strconv.Itoa(testenv.FreePort(tb)) }
	dir := tb.TempDir()
	d := &daemon{
		grpc: addr(), http: addr(), debug: addr(), rows: filepath.Join(dir, "limits.yaml"),
		client: http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	if err := os.WriteFile(d.rows, []byte("limits: ["+limits+"]\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	d.server = testenv.StartServer(tb, append([]string{
		"TPS_GRPC_ADDR=" + d.grpc, "TPS_HTTP_ADDR=" + d.http, "TPS_DEBUG_ADDR=" + d.debug,
		"TPS_LIMITS_FILE=" + d.rows, "TPS_DATA_DIR=" + filepath.Join(dir, "data"), "TPS_DRAIN_DELAY=0", "TPS_DRAIN_TIME=2",
	}, env...), binary)
	testenv.Eventually(tb, 30*time.Second, "starting ratelimitd", func() error {
		if !d.server.Running() {
			tb.Fatalf("ratelimitd has ended:\n%s", d.server.Output())
		}
		_, err := d.get(tb.Context(), "http://"+d.http+"/healthz")
		return err
	})
	return d
}

func (d *daemon) get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}

// metrics are all series of /metrics, and its size.
func (d *daemon) metrics(tb testing.TB) (series map[string]float64, size int) {
	tb.Helper()
	body, err := d.get(tb.Context(), "http://"+d.http+"/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	series = map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
		line := lines.Text()
		i := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || i < 0 {
			continue
		}
		if series[line[:i]], err = strconv.ParseFloat(line[i+1:], 64); err != nil {
			tb.Fatalf("/metrics: %s: %v", line, err)
		}
	}
	return series, len(body)
}

// await returns when a series has reached a value.
func (d *daemon) await(tb testing.TB, name string, least float64) {
	tb.Helper()
	testenv.Eventually(tb, 5*time.Minute, name, func() error {
		series, _ := d.metrics(tb)
		if v := series[name]; v < least {
			return fmt.Errorf("is %v, want %v", v, least)
		}
		return nil
	})
}

// memory of a process, in bytes.
type memory struct{ live, rss float64 }

// memory collects garbage first, twice for what has finalizers.
func (d *daemon) memory(tb testing.TB) memory {
	tb.Helper()
	for range 2 {
		if _, err := d.get(tb.Context(), "http://"+d.debug+"/debug/pprof/heap?gc=1"); err != nil {
			tb.Fatal(err)
		}
	}
	series, _ := d.metrics(tb)
	return memory{series["go_memstats_heap_alloc_bytes"] + series["go_memstats_stack_inuse_bytes"], series["process_resident_memory_bytes"]}
}

// reportMemory reports what n things have added to what was before.
func (d *daemon) reportMemory(b *testing.B, before memory, n float64) {
	b.Helper()
	now := d.memory(b)
	b.ReportMetric((now.live-before.live)/n, "live-B/each")
	b.ReportMetric((now.rss-before.rss)/n, "RSS-B/each")
	b.ReportMetric(d.peak(b)/1e6, "peak-RSS-MB")
	b.ReportMetric(0, "ns/op") // says nothing here
}

// peak is the most memory that the process ever had, in bytes (VmHWM, proc(5)).
func (d *daemon) peak(tb testing.TB) float64 {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.server.PID()))
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		tb.Fatal(err)
	}
	return kib * 1024
}

// dial opens n connections.
func (d *daemon) dial(tb testing.TB, n int) []*grpc.ClientConn {
	tb.Helper()
	var conns []*grpc.ClientConn
	for range n {
		conn, err := grpc.NewClient("passthrough:///"+d.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
	}
	return conns
}
