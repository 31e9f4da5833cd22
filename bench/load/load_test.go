//go:build e2e

package load

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ratelimitv3common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var (
	rows = flag.Int("rows", 1_000_000, "rows of tps_limits")
	out  = flag.String("out", "", "write the result to this Markdown file")
)

const (
	perGateway = 100 // rows: its own and those of 99 endpoints
	changes    = 200

	loadTarget   = 5 * time.Second
	changeTarget = 100 * time.Millisecond
)

// bench is a database and the ratelimitd that follows it.
type bench struct {
	binary, dir string
	postgres    *testenv.Postgres
	database    string
	conn        *pgx.Conn
	result      strings.Builder
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		s := &bench{binary: measure.Build(b), dir: b.TempDir(), postgres: testenv.NewPostgres(b)}
		s.database = s.postgres.Database(b)
		s.conn = testenv.Connect(b, s.database)
		s.run(b)
	}
}

func (s *bench) run(b *testing.B) {
	b.Helper()
	s.say("| what | took | target | RSS | peak of RSS |\n|---|---|---|---|---|\n")
	empty := s.start(b, "TPS_DATA_DIR="+filepath.Join(s.dir, "empty"))
	s.add(b, "start, no rows", empty.AwaitReady(b), 0, empty)
	empty.Stop(b)

	s.insert(b)
	r := s.start(b)
	s.add(b, "start from Postgres", r.AwaitReady(b), loadTarget, r)
	began := time.Now()
	s.awaitState(b)
	s.add(b, "until the state file is written", time.Since(began), 0, r)
	s.change(b, r)
	s.reload(b, r)
	r.Stop(b)

	s.postgres.Hang()
	r = s.start(b)
	s.add(b, "start from the state file, Postgres hangs (2 s of waiting for it)", r.AwaitReady(b), 0, r)
	r.Server.Kill()
	s.postgres.Continue()
	s.postgres.Kill()
	r = s.start(b)
	s.add(b, "start from the state file, Postgres is down", r.AwaitReady(b), loadTarget, r)
	s.finish(b)
}

func (s *bench) say(format string, args ...any) { fmt.Fprintf(&s.result, format, args...) }

func (s *bench) start(b *testing.B, env ...string) *measure.Ratelimitd {
	b.Helper()
	return measure.Start(b, s.binary, s.dir, append([]string{"TPS_DATABASE_URL=" + s.database, "TPS_SINKS=prometheus"}, env...)...)
}

// add notes a step, and makes the peak of memory count from here.
func (s *bench) add(b *testing.B, what string, took, target time.Duration, r *measure.Ratelimitd) {
	b.Helper()
	m := r.Memory(b)
	wanted := "-"
	if target > 0 {
		wanted = target.String()
	}
	s.say("| %s | %s | %s | %s | %s |\n", what, took.Round(100*time.Microsecond), wanted, measure.MiB(m.Now), measure.MiB(m.Peak))
	b.Logf("%s: %s, RSS %s, peak %s", what, took, measure.MiB(m.Now), measure.MiB(m.Peak))
	if target > 0 && took > target {
		b.Errorf("%s: %s, want at most %s", what, took, target)
	}
	if err := measure.ResetPeak(r.Server.PID()); err != nil {
		b.Fatal(err)
	}
}

// insert makes the rows without their history, which nobody has for a million rows made at once,
// and changes one of them with it.
func (s *bench) insert(b *testing.B) {
	b.Helper()
	for _, sql := range []string{
		"ALTER TABLE tps_limits DISABLE TRIGGER USER",
		fmt.Sprintf(`INSERT INTO tps_limits (gateway, endpoint, max_tps, note)
			SELECT 'gateway-' || i / %[1]d, CASE WHEN i %% %[1]d > 0 THEN '/api/v1/endpoint-' || i %% %[1]d END, 1000, 'team ' || i %% 50
			FROM generate_series(0, %[2]d) i`, perGateway, *rows-1),
		"ALTER TABLE tps_limits ENABLE TRIGGER USER",
		"VACUUM ANALYZE tps_limits",
		"UPDATE tps_limits SET max_tps = 1001 WHERE gateway = 'gateway-0' AND endpoint IS NULL",
	} {
		if _, err := s.conn.Exec(b.Context(), sql); err != nil {
			b.Fatalf("%s: %v", sql, err)
		}
	}
}

func (s *bench) awaitState(b *testing.B) {
	b.Helper()
	testenv.Eventually(b, time.Minute, "writing the state file", func() error {
		info, err := os.Stat(filepath.Join(s.dir, "data", "limits.json"))
		if err == nil {
			b.ReportMetric(float64(info.Size())/float64(*rows), "file-B/row")
		}
		return err
	})
}

// change measures from COMMIT to the first answer that shows the new limit.
func (s *bench) change(b *testing.B, r *measure.Ratelimitd) {
	b.Helper()
	conn, err := grpc.NewClient("passthrough:///"+r.GRPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // all answers are there
	client := ratelimitv3.NewRateLimitServiceClient(conn)
	var delays []time.Duration
	for i := range changes {
		gateway, want := fmt.Sprint("gateway-", rand.IntN(*rows/perGateway)), 2000+i
		if _, err := s.conn.Exec(b.Context(), "UPDATE tps_limits SET max_tps = $1 WHERE gateway = $2 AND endpoint IS NULL", want, gateway); err != nil {
			b.Fatal(err)
		}
		committed := time.Now()
		awaitLimit(b, client, gateway, want)
		delays = append(delays, time.Since(committed))
	}
	s.add(b, fmt.Sprintf("COMMIT of one row to force, p50 of %d", changes), measure.Quantile(delays, 0.5), changeTarget, r)
	s.add(b, "the same, p99", measure.Quantile(delays, 0.99), changeTarget, r)
	s.add(b, "the same, longest", measure.Quantile(delays, 1), 0, r)
}

// awaitLimit asks until an answer shows the limit.
func awaitLimit(b *testing.B, client ratelimitv3.RateLimitServiceClient, gateway string, want int) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	request := &ratelimitv3.RateLimitRequest{Domain: "edge", Descriptors: []*ratelimitv3common.RateLimitDescriptor{{
		Entries: []*ratelimitv3common.RateLimitDescriptor_Entry{{Key: "gateway", Value: gateway}},
	}}}
	for {
		answer, err := client.ShouldRateLimit(ctx, request)
		if err != nil {
			b.Fatalf("waiting for the limit of %s: %v", gateway, err)
		}
		if answer.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit() == uint32(want) {
			return
		}
	}
}

// reload cuts the connection that follows, so that all rows are read once more beside the table in
// force. The change that is waited for can only be seen after it.
func (s *bench) reload(b *testing.B, r *measure.Ratelimitd) {
	b.Helper()
	began := time.Now()
	for _, sql := range []string{
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
		"UPDATE tps_limits SET max_tps = 3000 WHERE gateway = 'gateway-0' AND endpoint IS NULL",
	} {
		if _, err := s.conn.Exec(b.Context(), sql); err != nil {
			b.Fatalf("%s: %v", sql, err)
		}
	}
	want := float64(0)
	if err := s.conn.QueryRow(b.Context(), "SELECT max(id) FROM tps_limits_history").Scan(&want); err != nil {
		b.Fatal(err)
	}
	testenv.Eventually(b, time.Minute, "loading all rows again", func() error {
		if got := r.Metric(b, "ratelimitd_snapshot_id"); got != want {
			return fmt.Errorf("change %g is in force, want %g", got, want)
		}
		return nil
	})
	s.add(b, "all rows again after the connection was lost (its pause included)", time.Since(began), 0, r)
}

func (s *bench) finish(b *testing.B) {
	b.Helper()
	body := measure.Head("Loading a million limits", fmt.Sprintf("go test -tags e2e -run '^$' -bench . -benchtime 1x ./bench/load -args -rows %d", *rows)) + s.result.String()
	b.Log("\n" + body)
	if *out == "" {
		return
	}
	if err := os.WriteFile(*out, []byte(body), 0o600); err != nil {
		b.Fatal(err)
	}
}
